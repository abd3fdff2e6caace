#!/bin/sh
# quantized.sh BUILD [OPTION...]   print the path of the quantized model; make it if needed
#
# BUILD/search/search must be there. MODEL= names a directory of yours instead of all-MiniLM-L6-v2;
# options are those of `search quantize`.
set -eu

build=$1
shift
here=$(dirname "$0")
search=$build/search/search
quantized=$build/search/model.awqs
calibration=$here/../data/calibration.txt

if [ -n "${MODEL:-}" ] || [ $# != 0 ]; then
    quantized=$build/search/custom.awqs
    rm -f "$quantized"
fi
if [ -z "$(find "$quantized" -newer "$search" 2>/dev/null)" ]; then   # made by another program
    model=${MODEL:-$(sh "$here/get_model.sh" "$build/models")}
    "$search" quantize "$model" "$quantized" --calib "$calibration" "$@" >&2
fi
echo "$quantized"
