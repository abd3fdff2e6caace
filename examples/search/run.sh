#!/bin/sh
# run.sh BUILD [OPTION...]   what `make search` does: get the model, quantize it, index texts, ask, and
# compare with fp32
#
# MODEL= names a directory of yours with model.safetensors, vocab.txt, config.json; FOLDER= the texts
# to search instead of this project's own. Options are those of `search quantize`.
set -eu

build=$1
shift
here=$(dirname "$0")
search=$build/search/search
model=${MODEL:-$(sh "$here/get_model.sh" "$build/models")}
folder=${FOLDER:-}
if [ -z "$folder" ]; then
    folder=$build/search/texts
    mkdir -p "$folder"
    cp "$here/../data/heldout.txt" "$here"/../../docs/*.md "$folder"
fi
quantized=$(sh "$here/quantized.sh" "$build" "$@")

"$search" index "$quantized" "$folder" "$build/search/texts.awqi"
"$search" query "$quantized" "$build/search/texts.awqi" --top 3 \
    "how is a scale folded into a norm?" "what did the children do in the snow?" \
    "which processors are supported?"
"$search" compare "$model" "$folder" "$quantized"
