#!/usr/bin/env bash
# portable.sh COMPILER   built for plain x86-64, the code runs on plain x86-64: no VEX instruction
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"
need_tool objdump
[[ $("$compiler" -dumpmachine) == x86_64* ]] || skip "not an x86-64 compiler"

# Counts VEX and EVEX instructions: the ones whose mnemonic begins with v.
vex() {
    objdump -d --no-show-raw-insn "$1" |
        awk '/^[0-9a-f]+ </ { name = $2 } $2 ~ /^v/ && $1 ~ /:$/ { print name, $2 }'
}
compile() {
    "$compiler" -std=c99 -I"$root" -DAWQ_IMPLEMENTATION -c "$sources/implementation.c" \
        -o "$scratch/o" -w "$@"
}

compile -O3 -march=x86-64
vex "$scratch/o" >"$scratch/vex"
[[ ! -s $scratch/vex ]] || fail "VEX instructions in: $(sort "$scratch/vex" | uniq -c)"
compile -O1 -march=x86-64-v3        # the check can see them
[[ -n $(vex "$scratch/o") ]] || fail "sees no VEX instruction in an AVX2 build"
echo "no VEX instruction in a -O3 build for plain x86-64"
