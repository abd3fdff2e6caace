#!/usr/bin/env bash
# cuda.sh   the header compiles under nvcc
source "$(dirname "$0")/common.sh"
need_tool nvcc

compile() {
    nvcc -x cu -std=c++17 --Werror all-warnings -Xcompiler -Wall,-Wextra,-Wconversion,-Werror \
        -I"$root" -c -o "$scratch/o" "$@"
}
compile "$sources/header_then_implementation.c"
compile "$sources/user.c"
for config in AWQ_STATIC AWQ_INFERENCE_ONLY; do
    compile -D$config "$sources/implementation.c"
done
