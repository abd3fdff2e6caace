#!/bin/sh
# get_ggml.sh FOLDER   print the name of llama.cpp's libggml-base.so; download it if needed
#
# It comes from the Python package pywhispercpp (PyPI, MIT): ggml is whisper.cpp's too, and unlike
# llama-cpp-python's this package is compiled already. GGML= names another one.
set -eu

folder=$1/ggml
package=pywhispercpp==1.5.1

if [ -n "${GGML:-}" ]; then
    echo "$GGML"
    exit
fi
if ! [ -s "$folder/libggml-base.so" ]; then
    echo "downloading $package from PyPI (5 MB) ..." >&2
    sh "$(dirname "$0")/../common/from_pypi.sh" $package "$folder" libggml-base.so \
        'pywhispercpp.libs/libgomp*'
fi
echo "$folder/libggml-base.so"
