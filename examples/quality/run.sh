#!/bin/sh
# run.sh BUILD [OPTION...]   what `make quality` does: the tables of docs/quality.md
#
# First a sentence encoder, then a language model. CALIB and TEXT name files of yours. Options are those
# of the program for the first; by default groups of 128 and 64.
set -eu

build=$1
shift
here=$(dirname "$0")
data=$here/../data
encoder=$(sh "$here/../search/get_model.sh" "$build/models")
calibration=${CALIB:-$(sh "$here/texts.sh" "$build/models")}
text=${TEXT:-$build/quality/heldout.txt}
if [ -z "${TEXT:-}" ]; then cat "$data/heldout.txt" "$data/calibration.txt" >"$text"; fi
[ $# -gt 0 ] || set -- --group 128 --group 64
"$build/quality/quality" "$encoder" "$calibration" "$text" "$@"
CALIB=$calibration TEXT=$text sh "$here/../llm/run.sh" "$build/llm" --tokens 1
