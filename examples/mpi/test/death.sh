#!/bin/sh
# death.sh MPIEXEC TEST_MPI HOST EXPORT_TINY   a rank is killed in the middle of its work: the others
#          end, an error says what was not written, and nothing of it is there
set -eu

[ $# = 4 ] || { echo 'skipped: there is no Open MPI (openmpi-bin libopenmpi-dev)'; exit 77; }
if [ "$1" = rank ]; then        # what every rank runs
    if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then
        (
            until grep -q '^quantizing with' "$4/log"; do sleep 0.1; done
            sleep 0.2
            kill -9 $$
        ) &
    fi
    exec "$3" quantize "$4/original.gguf" "$4/never.gguf" --calib "$4/long" --group 32 --threads 1
fi
MPIEXEC=$1 host=$3 export_tiny=$4
export MPIEXEC
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"    # MPI's own
here=$(dirname "$0")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/awq-mpi.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
die() { echo "death.sh: $*"; cat "$scratch/log"; exit 1; }

"$export_tiny" "$scratch" "$here/../../data/calibration.txt" >/dev/null 2>&1
i=0
while [ $i -lt 40 ]; do         # more text than can be seen before the kill
    cat "$here/../../data/calibration.txt"
    i=$((i + 1))
done >"$scratch/long"
if sh "$here/../mpirun.sh" 3 sh "$0" rank - "$host" "$scratch" >"$scratch/log" 2>&1; then
    die 'a job that lost a rank ends as if all were well'
fi
grep -q 'never.gguf was not written' "$scratch/log" || die 'it is not said what was not written'
[ -z "$(find "$scratch" -name 'never*')" ] || die "something was written: $(ls "$scratch")"
grep 'not written' "$scratch/log"
