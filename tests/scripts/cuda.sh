#!/usr/bin/env bash
# cuda.sh [ARCHITECTURE...]   awq.h and awq_cuda.cuh under nvcc: no warning, no register spilled, a
#                             program of two files links, the example and what make gpu runs compile;
#                             lists the registers of every kernel. An architecture is 80, 90a ... or ptx
source "$(dirname "$0")/common.sh"
need_tool nvcc
need_tool c++filt
architectures=("$@")
[[ $# -gt 0 ]] || architectures=(75 90a)

cuda=$(dirname "$(readlink -f "$(command -v nvcc)")")/../include
nvcc=(nvcc -std=c++17 --Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror -I"$root" -c)

check_awq_h() {
    local compile=("${nvcc[@]}" -x cu -Xcompiler -Wconversion -o "$scratch/o")
    "${compile[@]}" "$sources/header_then_implementation.c"
    "${compile[@]}" "$sources/user.c"
    for config in AWQ_STATIC AWQ_INFERENCE_ONLY; do
        "${compile[@]}" -D$config "$sources/implementation.c"
    done
}

# ptxas -v speaks of a kernel in four lines; here it is one: registers, architecture, name.
registers() {
    c++filt <"$1" | awk '
        /Compiling entry function/ { split($0, part, "\047"); name = part[2]; arch = part[4] }
        / bytes spill stores/ && ($1 || $5 || $9) { print "spills: " name " for " arch ":" $0; next }
        / Used [0-9]+ registers/ { sub(/\(.*/, "", name); sub(/^void /, "", name)
            match($0, /Used [0-9]+/); printf "%4d %s %s\n", substr($0, RSTART + 5, RLENGTH - 5), arch, name }'
}

compile_for() {
    local code=arch=compute_$1,code=sm_$1 output=$scratch/$1.o log=$scratch/$1.log
    [[ $1 != ptx ]] || code=arch=compute_80,code=compute_80
    "${nvcc[@]}" -gencode "$code" -Xptxas -v -o "$output" "$sources/cuda_implementation.cu" \
        >"$log" 2>&1 || { cat "$log"; fail "does not compile for $1"; }
    ! grep -E 'wgmma.*serialized' "$log" >&2 || fail "ptxas lets wgmma wait for one another: see above"
    [[ $1 != ptx ]] || return 0
    registers "$log" | sort -k2,2 -k3 >"$scratch/registers"
    [[ -s $scratch/registers ]] || fail "ptxas said nothing of registers"
    cat "$scratch/registers"
    ! grep '^spills' "$scratch/registers" >&2 || fail "registers are spilled: see above"
}

link_two_files() {
    gcc -std=c99 "${warnings[@]}" -isystem "$cuda" -I"$root" -c "$sources/cuda_user.c" \
        -o "$scratch/user.o"
    gcc -std=c99 -I"$root" -c "$sources/implementation.c" -o "$scratch/awq.o"
    nvcc "$scratch/${architectures[0]}.o" "$scratch/user.o" "$scratch/awq.o" -o "$scratch/program"
    nm -g --defined-only "$scratch/${architectures[0]}.o" | awk '$2 !~ /^[wWVu]$/ { print $3 }' |
        grep -v '^awq_cuda_[a-z]' >"$scratch/foreign" || true
    [[ ! -s $scratch/foreign ]] || fail "exports more than awq_cuda_*: $(head -3 "$scratch/foreign")"
}

# As PTX: their kernels have been through ptxas above.
compile_programs() {
    local file
    for file in examples/cuda/linear.cu bench/gpu/library.cu; do
        "${nvcc[@]}" -gencode arch=compute_80,code=compute_80 -o "$scratch/o" "$root/$file" \
            >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "$file does not compile"; }
    done
}

check_awq_h
for architecture in "${architectures[@]}"; do compile_for "$architecture"; done
link_two_files
compile_programs
echo "compiled for ${architectures[*]}"
