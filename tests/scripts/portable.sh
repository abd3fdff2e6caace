#!/usr/bin/env bash
# portable.sh COMPILER   built for plain x86-64, the code runs on plain x86-64: no VEX instruction
#                        outside the functions of SIMD kernel sets, which are named after theirs
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"
need_tool objdump
[[ $("$compiler" -dumpmachine) == x86_64* ]] || skip "not an x86-64 compiler"

# VEX and EVEX instructions, whose mnemonic begins with v, with the function they are in; compilers
# append .part.0, .constprop.1 and the like to names.
vex() {
    objdump -d --no-show-raw-insn "$1" |
        awk '/^[0-9a-f]+ </ { name = $2 } $2 ~ /^v/ && $1 ~ /:$/ { print name, $2 }'
}
simd='_(amx|avx2|avxvnni|avx512|avx512vnni)(\.[a-z0-9.]+)?>:'
compile() {
    "$compiler" -std=c99 -I"$root" -DAWQ_IMPLEMENTATION -c "$sources/implementation.c" \
        -o "$scratch/o" -w "$@"
}

for level in -O0 -O2 -O3; do
    compile $level -march=x86-64
    vex "$scratch/o" | { grep -vE "^<[a-z0-9_]+$simd" || true; } >"$scratch/vex"
    [[ ! -s $scratch/vex ]] || fail "VEX instructions at $level in: $(sort "$scratch/vex" | uniq -c)"
done
sets=$(vex "$scratch/o" | sed -nE "s/^<.*$simd.*/\1/p" | sort -u | tr '\n' ' ')
compile -O1 -march=x86-64-v3        # the check can see them
[[ -n $(vex "$scratch/o" | grep portable) ]] || fail "sees no VEX instruction in an AVX2 build"
echo "no VEX instruction in a build for plain x86-64 but in functions of: ${sets:-no set}"
