#!/bin/sh
# run.sh FOLDER [OPTION...]   what `make mpi` does: a model quantized by 1, 2, 3, 4 ranks (RANKS names
#                             others) into one and the same file, then run by as many
#
# MODEL and CALIB name files of yours instead of the defaults; options go to both commands.
set -eu

build=$1
shift
here=$(dirname "$0")
data=$(dirname "$here")/data
ranks=${RANKS:-1 2 3 4}
model=${MODEL:-}
if [ -z "$model" ]; then
    model=$(sh "$here/../llm/get_model.sh" "$(dirname "$build")/models")
fi

start() {               # RANKS COMMAND...
    n=$1
    shift
    sh "$here/mpirun.sh" "$n" "$build/mpi" "$@" || exit 1
}

first='' row=''
for n in $ranks; do
    # shellcheck disable=SC2086   # a word or none
    start "$n" quantize "$model" "$build/$n.gguf" --calib "${CALIB:-$data/calibration.txt}" \
        --report "$build/$n.tsv" $row "$@"
    if [ -z "$first" ]; then first=$n
    else
        cmp "$build/$first.gguf" "$build/$n.gguf" || exit 1
        rm "$build/$n.gguf"
    fi
    row=--row
done
echo "
All ranks made the same bytes: $build/$first.gguf"

row=''
for n in $ranks; do
    # shellcheck disable=SC2086
    start "$n" run "$build/$first.gguf" --compare "$data/heldout.txt" $row
    row=--row
done
