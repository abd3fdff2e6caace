#!/usr/bin/env bash
# board.sh BUILD   the test bodies on an emulated Cortex-M4: 32-bit sizes, no operating system
source "$(dirname "$0")/common.sh"
build=$1
mkdir -p "$build"

arm-none-eabi-gcc -std=c99 -O2 -ffp-contract=off -mcpu=cortex-m4 -mthumb -mfloat-abi=hard \
    -mfpu=fpv4-sp-d16 --specs=picolibc.specs --oslib=semihost --crt0=hosted \
    -DPICOLIBC_DOUBLE_PRINTF_SCANF -I"$root" \
    "$root"/tests/{implementation,check,product,foreign,bodies,bodies_main}.c -o "$build/bodies.elf" -lm \
    -Wl,--defsym=__flash=0x0,--defsym=__flash_size=0x400000 \
    -Wl,--defsym=__ram=0x21000000,--defsym=__ram_size=0x1000000,--defsym=__stack_size=0x10000

timeout 600 qemu-system-arm -M mps2-an386 -display none -chardev stdio,id=console \
    -semihosting-config enable=on,target=native,chardev=console -monitor none -serial none \
    -kernel "$build/bodies.elf"
