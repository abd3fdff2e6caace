#!/usr/bin/env bash
# hip.sh   awq_cuda.cuh under AMD's compiler: the portable kernels, no warning
source "$(dirname "$0")/common.sh"
need_tool hipcc

hipcc -x hip --offload-arch=gfx90a -std=c++17 -Wall -Wextra -I"$root" -c -o "$scratch/hip.o" \
    "$sources/cuda_implementation.cu" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "does not compile"; }
if grep -n 'awq' "$scratch/log"; then fail "warnings: see above"; fi
nm "$scratch/hip.o" >"$scratch/symbols"
grep -q ' T awq_cuda_matmul$' "$scratch/symbols" || fail "there is no awq_cuda_matmul in it"
echo "compiled for gfx90a"
