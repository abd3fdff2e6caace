#!/usr/bin/env bash
# warnings.sh COMPILER STANDARD   the header compiles without a warning in every mode and at every
#                                 optimisation level, as C and as C++
source "$(dirname "$0")/common.sh"
compiler=$1 standard=$2
need_tool "$compiler"

language=c
[[ $standard == c++* ]] && language=c++
if ! echo 'int x;' | "$compiler" -x $language "-std=$standard" -fsyntax-only - 2>/dev/null; then
    skip "$compiler does not know $standard"
fi

compile() {
    "$compiler" -x $language "-std=$standard" "${warnings[@]}" -I"$root" -c -o "$scratch/o" "$@" ||
        fail "failed: $compiler -x $language -std=$standard ${warnings[*]} -c $*"
}

for level in -O0 -Og -Os -O3; do
    compile $level "$sources/implementation.c"
    compile $level -DAWQ_INFERENCE_ONLY "$sources/implementation.c"
done
for level in -O0 -O3; do
    compile $level -DAWQ_STATIC "$sources/implementation.c"
    compile $level -DAWQ_STATIC -DAWQ_INFERENCE_ONLY "$sources/implementation.c"
done
for file in header_twice header_then_implementation user; do
    compile -O1 "$sources/$file.c"
    compile -O1 -DAWQ_INFERENCE_ONLY "$sources/$file.c"
done
