#!/usr/bin/env bash
# demo.sh   `make demo` runs, ends well, and leaves a picture
source "$(dirname "$0")/common.sh"

make -s -C "$root" demo BUILD="$scratch" | tee "$scratch/output"
[[ $(wc -l <"$scratch/output") -ge 5 ]] || fail "printed no table"
picture=$(find "$scratch" -name '*.svg')
[[ -n $picture ]] || fail "wrote no picture into its build folder"
head -c 400 "$picture" | grep -q '<svg' || fail "$picture is not an SVG"
tail -c 20 "$picture" | grep -q '</svg>' || fail "$picture is cut short"
