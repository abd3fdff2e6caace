#!/usr/bin/env bash
# nccl.sh   examples/cuda/nccl.cu compiles and links against NVIDIA's own nccl.h; skipped without it.
#           NCCL=folder names one with include/ and lib/, such as nvidia/nccl in the site-packages of
#           pip install nvidia-nccl-cu13
source "$(dirname "$0")/common.sh"
need_tool nvcc

folder=${NCCL:-/usr}
if [[ ! -e $folder/include/nccl.h ]]; then
    folder=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0])' 2>/dev/null || true)
    [[ -e $folder/include/nccl.h ]] ||
        skip 'no nccl.h (libnccl-dev, or pip install nvidia-nccl-cu13 and NCCL=.../nvidia/nccl)'
fi
library=$(find -L "$folder/lib" "$folder/lib/$(uname -m)-linux-gnu" -maxdepth 1 -name 'libnccl.so*' \
               2>/dev/null | head -1 || true)
[[ -n $library ]] || skip "nccl.h in $folder/include has no libnccl.so beside it"
cd "$root"
nvcc -std=c++17 -arch=sm_90 -I. -I"$folder/include" --Werror all-warnings \
    -Xcompiler -Wall,-Wextra,-Werror examples/cuda/nccl.cu \
    -L"$(dirname "$library")" -l:"$(basename "$library")" -o "$scratch/nccl"
echo "compiled with $(sed -nE 's/#define (NCCL_M[A-Z]+) ([0-9]+)/\2/p' "$folder/include/nccl.h" |
                      head -2 | paste -sd.)"
