#!/bin/sh
# hf_export.sh EXPORT_TINY FOLDER   a tiny model is exported and read by check_hf_export.py; 77 where
#                                   its Python packages are not installed. PYTHON names another one.
set -eu

here=$(dirname "$0")
text=$here/../../data/heldout.txt
python=${PYTHON:-python3}
"$python" -c 'import numpy, safetensors' 2>/dev/null || {
    echo 'skipped: pip install numpy safetensors, or PYTHON=a python that has them'
    exit 77
}
rm -rf "$2"
mkdir -p "$2"
perplexity=$("$1" "$2" "$text")
"$python" -B "$here/../check_hf_export.py" "$2/directory" "$2/saved.gguf" "$2/ids" "$text" \
    "$perplexity"
