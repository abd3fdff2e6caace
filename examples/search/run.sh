#!/bin/sh
# run.sh FOLDER [OPTION...]   what `make search` does: get the model, quantize it, index texts, ask,
# and compare with fp32
#
# MODEL= names a directory of yours with model.safetensors, vocab.txt, config.json; FOLDER= the texts
# to search instead of this project's own. Options are those of `search quantize`.
set -eu

build=$1
shift
here=$(dirname "$0")
data=$(dirname "$here")/data
model=${MODEL:-}
if [ -z "$model" ]; then
    model=$(sh "$here/get_model.sh" "$(dirname "$build")/models")
fi
folder=${FOLDER:-}
if [ -z "$folder" ]; then
    folder=$build/texts
    mkdir -p "$folder"
    cp "$data/heldout.txt" "$here"/../../docs/*.md "$folder"
fi

search=$build/search
quantized=$build/model.awqs
[ -f "$quantized" ] && [ $# = 0 ] && [ "$quantized" -nt "$search" ] && [ -z "${MODEL:-}" ] ||
    "$search" quantize "$model" "$quantized" --calib "$data/calibration.txt" "$@"
"$search" index "$quantized" "$folder" "$build/texts.awqi"
"$search" query "$quantized" "$build/texts.awqi" --top 3 "how is a scale folded into a norm?" \
    "what did the children do in the snow?" "which processors are supported?"
"$search" compare "$model" "$folder" "$quantized"
