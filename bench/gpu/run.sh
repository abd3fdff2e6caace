#!/bin/sh
# run.sh BUILD-FOLDER [MEASURE-OPTION...]   builds awq_cuda.cuh for the GPU of this machine, checks it,
#                                           measures it beside torch's kernels (make gpu)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1
shift

die() { echo "make gpu: $*" >&2; exit 1; }
names=$(nvidia-smi -L 2>/dev/null) || die "there is no NVIDIA GPU here (nvidia-smi -L fails)"
command -v nvcc >/dev/null || die "there is no nvcc here; install the CUDA toolkit, 12.4 or later"
python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null ||
    die "python3 here has no torch that sees the GPU; the peers and the float64 check need it"
sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
case $sm in 90|100|120) arch=${sm}a ;; *) arch=$sm ;; esac
echo "$names" | head -1
mkdir -p "$build"

compile() {
    nvcc -std=c++17 -O3 -gencode "arch=compute_$arch,code=sm_$arch" -I"$root" "$@"
}
compile -lineinfo -shared -Xcompiler -fPIC "$root/bench/gpu/library.cu" -o "$build/libawq_cuda.so"
compile "$root/examples/cuda/linear.cu" -o "$build/linear"
"$build/linear"
found=''
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        if compute-sanitizer --tool $tool --error-exitcode 1 "$build/linear" >"$build/$tool.log" 2>&1; then
            echo "$tool: clean"
        else
            tail -5 "$build/$tool.log"
            found="$found $build/$tool.log"
        fi
    done
else
    echo "compute-sanitizer is not here: memcheck and racecheck did not run"
fi
python3 "$root/bench/gpu/measure.py" --library "$build/libawq_cuda.so" \
    --json "$build/results.json" "$@"
[ -z "$found" ] || die "the sanitizers found something, or could not run: see$found"
