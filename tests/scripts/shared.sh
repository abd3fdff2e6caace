#!/usr/bin/env bash
# shared.sh COMPILER   the shared library exports the functions of awq.h and nothing else: the one
#                      of this system by COMPILER, or, by a mingw32 compiler, the DLL of Windows
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"
need_tool cmake
need_tool nm
flags=()
[[ $compiler != *-mingw32-gcc ]] || flags=(-DCMAKE_SYSTEM_NAME=Windows)

exported() {
    case $1 in
        *.dll) "${compiler%gcc}objdump" -p "$1" |
                   awk '!NF { on = 0 } on { print $NF } /Ordinal.Name Pointer/ { on = 1 }' ;;
        *)     nm -D --defined-only "$1" | awk '{ print $NF }' ;;
    esac | sort
}

quiet cmake -S "$root" -B "$scratch/build" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Debug \
    -DAWQ_BUILD_TESTS=OFF -DBUILD_SHARED_LIBS=ON "${flags[@]}"
quiet cmake --build "$scratch/build"
library=$(find "$scratch/build" -type f '(' -name 'libawq.so*' -o -name '*awq*.dll' ')')
[[ -n $library ]] || fail "cmake built no shared library"

declared "$compiler" >"$scratch/declared"
exported "$library" >"$scratch/exported"
diff "$scratch/declared" "$scratch/exported" >"$scratch/diff" ||
    fail "declared (<) and exported (>) functions differ in ${library##*/}:
$(cat "$scratch/diff")"
echo "${library##*/} exports $(wc -l <"$scratch/exported") functions, those of awq.h"
