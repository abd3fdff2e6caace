#!/usr/bin/env bash
# fuzz.sh BUILD RUNS   the readers of other people's files under libFuzzer and both sanitizers: the
#                      inputs in fuzz/corpus, then RUNS executions of each. What is found there is
#                      kept in BUILD, so that the next run goes on.
source "$(dirname "$0")/common.sh"
build=$1
runs=$2
targets=${3:-safetensors config gguf}

clang=$(command -v clang-19 || command -v clang) || skip "there is no clang here"
flags=(-std=c99 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
       -DAWQ_NO_SIMD -I.)
echo 'int LLVMFuzzerTestOneInput(const char *b, unsigned long n) { return b && n > 9 ? 0 : 0; }' \
    >"$scratch/probe.c"
"$clang" "${flags[@]}" "$scratch/probe.c" -o "$scratch/probe" 2>/dev/null ||
    clang=$(command -v clang)
"$clang" "${flags[@]}" "$scratch/probe.c" -o "$scratch/probe" 2>/dev/null ||
    skip "$clang has no libFuzzer"
pkg-config --exists jansson || skip "there is no jansson here"
read -ra jansson <<<"$(pkg-config --cflags --libs jansson)"

# Unwinding the stack at every allocation would be most of the time.
export ASAN_OPTIONS=malloc_context_size=1:quarantine_size_mb=16

cd "$root"
formats=examples/formats
for target in $targets; do
    mkdir -p "$build/$target"
    files=("fuzz/fuzz_$target.c" $formats/gguf.c)
    [[ $target == gguf ]] ||
        files=("fuzz/fuzz_$target.c" $formats/{json,safetensors,hf,hf_write}.c
               tests/implementation.c)
    quiet "$clang" "${flags[@]}" "${files[@]}" "${jansson[@]}" -lm -o "$build/fuzz_$target"
    if ! "$build/fuzz_$target" -runs="$runs" -max_len=6000 -timeout=120 -rss_limit_mb=2048 \
        -dict="fuzz/$target.dict" -artifact_prefix="$build/$target-" -print_final_stats=1 \
        "$build/$target" "fuzz/corpus/$target" >"$build/$target.log" 2>&1; then
        tail -n 60 "$build/$target.log" >&2
        fail "fuzz_$target has a finding: $build/$target-*"
    fi
    echo "$target: $(awk '/number_of_executed_units/ { print $2 }' "$build/$target.log") executions," \
        "no finding"
done
