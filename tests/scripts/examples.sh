#!/usr/bin/env bash
# examples.sh COMPILER   every C file of the examples compiles without a warning, and those that are
#                        a program by themselves (examples/*.c) run
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"
flags=(-std=c99 -O1 "${warnings[@]}" -I. -Iexamples/common -DBENCH_COMPILER='""' -DBENCH_FLAGS='""')

cd "$root"
count=0
read -ra mpi <<<"$(mpicc --showme:compile 2>/dev/null || true)"     # -I of Open MPI
for file in examples/*/*.c bench/*.c; do
    [[ $file != examples/firmware/main.c ]] || continue         # needs its board and generated data
    [[ $file != examples/mpi/* || ${#mpi[@]} -gt 0 ]] || continue
    "$compiler" "${flags[@]}" "${mpi[@]/#-I/-isystem}" -c "$file" -o "$scratch/o" || fail "$file does not compile cleanly"
    count=$((count + 1))
done
for file in examples/*.c; do
    [[ -e $file ]] || fail "found no examples/*.c"
    "$compiler" "${flags[@]}" "$file" -o "$scratch/program" -lm -pthread ||
        fail "$file does not compile cleanly"
    "$scratch/program" >"$scratch/output" || fail "$file ends with status $?"
    [[ -s $scratch/output ]] || fail "$file prints nothing"
    count=$((count + 1))
done

make BUILD="$scratch" CC="$compiler" CFLAGS=-O1 "$scratch/llm/llm" >"$scratch/log" 2>&1 ||
    { cat "$scratch/log"; fail "examples/llm does not link"; }
"$scratch/llm/llm" --help | grep -q '^usage:' || fail "llm --help prints no usage"
if "$scratch/llm/llm" LICENSE 2>"$scratch/log"; then fail "llm takes LICENSE for a model"; fi
grep -q LICENSE "$scratch/log" || fail "llm does not say which file is wrong: $(cat "$scratch/log")"

links() {       # an example, and it has a usage
    make BUILD="$scratch" CC="$compiler" CFLAGS='-O1 -DAWQ_NO_SIMD' "$scratch/$1/$1" \
        >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "examples/$1 does not link"; }
    "$scratch/$1/$1" --help | grep -q '^usage:' || fail "$1 --help prints no usage"
}

refuses() {     # arguments, in one line
    # shellcheck disable=SC2086   # words
    if "$scratch/$1/$1" $2 2>"$scratch/log"; then fail "$1 accepts '$2'"; fi
    [[ $(wc -l <"$scratch/log") == 1 ]] || fail "$1 $2: $(cat "$scratch/log")"
}

links search
for arguments in 'query LICENSE LICENSE' 'index examples LICENSE out' 'quantize LICENSE' 'find' \
    'query a --top' '--top x' ''; do
    refuses search "$arguments"
done

links quality
for arguments in 'LICENSE LICENSE LICENSE' 'a b' 'a b c d' 'a b c --bits 9' 'a b c --group' \
    'a b c --table x' ''; do
    refuses quality "$arguments"
done

links convert
for arguments in 'LICENSE --list' 'examples --list' 'examples out' 'a b c' '--to x' ''; do
    refuses convert "$arguments"
done
echo "$count files"
