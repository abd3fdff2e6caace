#!/usr/bin/env bash
# firmware.sh   examples/firmware passes on the emulated board, and fails there if an output is wrong
source "$(dirname "$0")/common.sh"
need_tool arm-none-eabi-gcc
need_tool qemu-system-arm
arm-none-eabi-gcc --specs=picolibc.specs -E -x c /dev/null >/dev/null 2>&1 ||
    skip "there is no picolibc here"

run() { make -s -C "$root/examples/firmware" BUILD="$scratch" run; }

run | tee "$scratch/output"
grep -qx PASS "$scratch/output" || fail "the board did not print PASS"

# One bit of one expected output: the board must notice.
awk '/expected_a16/ { at = NR + 1 }
     NR == at { $0 = substr($0, 1, 9) (substr($0, 10, 1) == "0" ? "1" : "0") substr($0, 11) }
     { print }' "$scratch/layer_data.h" >"$scratch/wrong.h"
mv "$scratch/wrong.h" "$scratch/layer_data.h"
if run >"$scratch/output" 2>&1; then fail "the board accepts a wrong output"; fi
grep -q '1 of [0-9]* outputs differ' "$scratch/output" || fail "failed for another reason:
$(cat "$scratch/output")"
echo "and it fails when one bit of one expected output is changed"
