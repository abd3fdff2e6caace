#!/bin/sh
# build.sh FOLDER   compile the host to FOLDER/search-simd.wasm and FOLDER/search-plain.wasm
#
# The second is for engines without SIMD, and to compare with. Compiler and library are Debian's.
set -eu

out=$1
here=$(cd "$(dirname "$0")" && pwd)
search=$here/../search
sources="$here/web.c $search/awq.c $search/container.c $search/encoder.c $search/index.c
    $search/packed_model.c $search/passages.c $search/wordpiece.c $here/../common/dense.c"
sh "$here/../../tests/scripts/need.sh" clang-19 lld-19 wasi-libc
mkdir -p "$out"

compile() {
    name=$1
    shift
    # shellcheck disable=SC2086   # a list of files
    clang-19 --target=wasm32-wasi -std=c99 -O3 -Wall -Wextra -Werror -fvisibility=hidden "$@" \
        -nostartfiles -Wl,--no-entry -Wl,--export-dynamic -Wl,--gc-sections -Wl,--strip-all \
        -Wl,-z,stack-size=262144 $sources -o "$out/$name.wasm"
}
compile search-simd -msimd128
compile search-plain -DAWQ_NO_SIMD
