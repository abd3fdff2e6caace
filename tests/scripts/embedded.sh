#!/usr/bin/env bash
# embedded.sh   the inference-only header on a Cortex-M4: no warning, nothing needed but mem*, size
source "$(dirname "$0")/common.sh"
compiler=arm-none-eabi-gcc
need_tool $compiler
target=(-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 --specs=picolibc.specs)
$compiler "${target[@]}" -E -x c /dev/null >/dev/null 2>&1 || skip "there is no picolibc here"

for level in -Os -O2 -O3; do
    $compiler "${target[@]}" -std=c99 $level -ffp-contract=off "${warnings[@]}" \
        -DAWQ_INFERENCE_ONLY -I"$root" -c "$sources/implementation.c" -o "$scratch/awq.o"
    # __aeabi_mem* are mem* by another name; __aeabi_uldivmod divides 64-bit integers.
    extra=$(arm-none-eabi-nm -u "$scratch/awq.o" | awk '{ print $NF }' |
            grep -vE '^(__aeabi_)?mem(cpy|set|move|cmp|clr)[48]?$' || true)
    [[ -z $extra ]] || fail "at $level the inference-only build needs: $extra"
    arm-none-eabi-size "$scratch/awq.o" | awk -v level=$level \
        'NR == 2 { print level ": " $1 " bytes of code and constants, data " $2 ", bss " $3
                   exit $2 + $3 != 0 }' || fail "writable memory at $level"
done
"$root/tests/scripts/stack.sh" $compiler "${target[@]}"
