#!/usr/bin/env bash
# warnings.sh COMPILER STANDARD   the header compiles without a warning in every mode, as C and as C++,
#                                 and in the oldest of each at every optimisation level
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

modes=('' -DAWQ_INFERENCE_ONLY -DAWQ_STATIC '-DAWQ_STATIC -DAWQ_INFERENCE_ONLY')
# A standard changes what is parsed; what the optimiser warns of, it finds in one of them.
# shellcheck disable=SC2086   # a mode is several words, or none
for mode in "${modes[@]}"; do
    compile -fsyntax-only $mode "$sources/implementation.c"
    compile -O3 -DAWQ_NO_SIMD $mode "$sources/implementation.c"
done
if [[ $standard == c99 || $standard == c++11 ]]; then
    for level in -O0 -Os -O3; do
        compile $level "$sources/implementation.c"
        compile $level -DAWQ_INFERENCE_ONLY "$sources/implementation.c"
    done
fi
for file in header_twice header_then_implementation user; do
    compile -O1 "$sources/$file.c"
    compile -O1 -DAWQ_INFERENCE_ONLY "$sources/$file.c"
done
