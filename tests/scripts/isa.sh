#!/usr/bin/env bash
# isa.sh BUILD [TARGET...]   the test bodies on emulated processors: one line for each, with the
#                            kernel sets found there. A TARGET is the beginning of a name below.
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/isa-targets.sh"
build=$1
shift
mkdir -p "$build"
export AWQ_TEST_FULL=${AWQ_TEST_FULL:-0} AWQ_SEED=${AWQ_SEED:-$((RANDOM << 15 | RANDOM))}

wasi() {                    # a program under Node, with this environment
    node --no-warnings --input-type=module -e '
        import { readFile } from "node:fs/promises";
        import { WASI } from "node:wasi";
        const args = process.argv.slice(1);
        const wasi = new WASI({ version: "preview1", args, env: process.env, returnOnExit: true });
        const module = await WebAssembly.compile(await readFile(args[0]));
        const imports = { wasi_snapshot_preview1: wasi.wasiImport };
        process.exitCode = wasi.start(await WebAssembly.instantiate(module, imports));' -- "$@"
}

# test_golden with a stand-in for cmocka, where the order of bytes is another one
programs_of() { echo bodies_main test_kernels; [[ $1 != s390x-* ]] || echo test_golden; }

compile() {                 # every program with one compiler, once per run
    local out=$build/$1 cc flags object program objects=()
    [[ ! -e $scratch/$1 ]] || return 0
    mkdir -p "$out"
    read -ra flags <<<"$(compiler "$1" | tr '\n' ' ')"
    cc=${flags[0]}
    flags=(-std=c99 -O2 -ffp-contract=off -I"$root" -I"$root/tests/isa" "${flags[@]:1}")
    "$cc" "${flags[@]}" "${warnings[@]}" -c "$root/tests/implementation.c" \
        -o "$out/implementation.o" || return 1
    for object in check product foreign bodies; do
        "$cc" "${flags[@]}" -c "$root/tests/$object.c" -o "$out/$object.o" || return 1
        objects+=("$out/$object.o")
    done
    for program in $(programs_of "$1"); do
        "$cc" "${flags[@]}" "-DGOLDEN=\"$root/tests/golden\"" "$root/tests/$program.c" \
            "$out/implementation.o" "${objects[@]}" -o "$out/$program" -lm || return 1
    done
    touch "$scratch/$1"
}

failed=0 rows=0
report() { printf '%-20s %-44s %s\n' "$@"; }
try() {                     # target, compiler, command
    local target=$1 compiler=$2 log=$build/${1//\//-}.log program missing start=$SECONDS
    local good passed failures
    shift 2
    read -ra missing <<<"$(tools "$compiler") ${1/wasi/node}"
    if ! "$root/tests/scripts/need.sh" "${missing[@]}" >"$log" 2>&1; then
        report "$target" '' "FAILED: needs ${missing[*]}, see $log"
        return 1
    fi
    if ! compile "$compiler" >"$log" 2>&1; then
        report "$target" '' "FAILED: does not compile with $compiler, see $log"
        return 1
    fi
    good=yes
    for program in $(programs_of "$compiler"); do
        "$@" "$build/$compiler/$program" >>"$log" 2>&1 || good=no
    done
    passed=$(grep -c '^ok ' "$log") failures=$(grep -c '^FAILED ' "$log")
    report "$target" "$(sed -n 's/^kernel sets: //p' "$log")" \
        "$passed passed, $failures failed, $((SECONDS - start)) s"
    [[ $good == no ]] || return 0
    echo "  FAILED: the end of $log:"
    tail -n 8 "$log" | sed 's/^/  /'
    return 1
}

echo "AWQ_SEED=$AWQ_SEED AWQ_TEST_FULL=$AWQ_TEST_FULL"
report target 'kernel sets' tests
while IFS='|' read -r target compiler run; do
    target=${target// /} compiler=${compiler// /}
    if [[ -z $target ]] || ! chosen "$target" "$@"; then continue; fi
    rows=$((rows + 1))
    # shellcheck disable=SC2086   # a command is words
    try "$target" "$compiler" $run </dev/null || failed=$((failed + 1))
done <<<"$targets"
[[ $rows -gt 0 ]] || fail "no target begins with: $*"
[[ $failed == 0 ]] || fail "$failed of $rows targets failed"
