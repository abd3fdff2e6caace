#!/bin/sh
# ranks.sh RANKS MPIEXEC TEST_MPI HOST EXPORT_TINY   the tests with so many ranks; then the program
#          itself: the file must be that of one rank, and running it must give one process's logits
set -eu

[ $# = 5 ] || { echo 'skipped: there is no Open MPI (openmpi-bin libopenmpi-dev)'; exit 77; }
ranks=$1 test_mpi=$3 host=$4 export_tiny=$5
MPIEXEC=$2
export MPIEXEC
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"    # MPI's own
here=$(dirname "$0")
data=$here/../../data
scratch=$(mktemp -d "${TMPDIR:-/tmp}/awq-mpi.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

start() {
    sh "$here/../mpirun.sh" "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
}

start "$ranks" "$test_mpi" "$scratch"
cat "$scratch/log"

head -c 5000 "$data/calibration.txt" >"$scratch/text"
"$export_tiny" "$scratch" "$scratch/text" >/dev/null 2>&1
quantize="$host quantize $scratch/original.gguf"
options="--calib $scratch/text --group 32 --threads 1 --report"
# shellcheck disable=SC2086   # lists of words
{
    start 1 $quantize "$scratch/one.gguf" $options "$scratch/one.tsv"
    start "$ranks" $quantize "$scratch/many.gguf" $options "$scratch/many.tsv"
    cmp "$scratch/one.gguf" "$scratch/many.gguf"
    cmp "$scratch/one.tsv" "$scratch/many.tsv"
    start "$ranks" $quantize "$scratch/shards.gguf" --shards "$ranks" $options "$scratch/shards.tsv"
}
# tokens, maxima and ratios exactly
cut -f 1-5 "$scratch/one.tsv" >"$scratch/one.exact"
cut -f 1-5 "$scratch/shards.tsv" | diff "$scratch/one.exact" -
start "$ranks" "$host" run "$scratch/many.gguf" --tokens 5 --compare "$scratch/text" --threads 1
grep -q '64 of 64' "$scratch/log" || { cat "$scratch/log"; exit 1; }
grep '^|' "$scratch/log"
