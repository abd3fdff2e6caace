#!/bin/sh
# run.sh FOLDER [OPTION...]   what `make llm` does: get the model if none is named, run FOLDER/llm
#
# MODEL, TEXT and CALIB name files of yours instead of the defaults; for options see llm --help.
set -eu

build=$1
shift
here=$(dirname "$0")
data=$(dirname "$here")/data
model=${MODEL:-}
if [ -z "$model" ]; then
    model=$(sh "$here/get_model.sh" "$(dirname "$build")/models")
fi
exec "$build/llm" "$model" \
    --text "${TEXT:-$data/heldout.txt}" \
    --calib "${CALIB:-$data/calibration.txt}" "$@"
