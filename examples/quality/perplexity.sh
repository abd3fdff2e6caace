#!/bin/sh
# perplexity.sh BUILD GROUP...   the language model over group sizes: perplexity above that of fp32
#
# CALIB and TEXT name the texts, MODEL another model. A model takes minutes for every group size.
set -eu

build=$1
shift
here=$(dirname "$0")
echo
echo '| group | fp32 | nearest, above it | AWQ + clip | ours | ours / AWQ | ours / nearest |'
echo '|---:|---:|---:|---:|---:|---:|---:|'
for group in "$@"; do
    sh "$here/../llm/run.sh" "$build/llm" --tokens 1 --group "$group" >"$build/quality/perplexity"
    awk -F '|' -v group="$group" '
        /^\|/ && $3 + 0 > 0 { perplexity[count++] = $3 + 0 }
        END {
            if (count < 4) {
                print "error: llm printed no table of four rows" >"/dev/stderr"
                exit 1
            }
            for (i = 1; i < 4; i++) above[i] = perplexity[i] - perplexity[0]
            printf "| %d | %.3f | %.3f | %.3f | %.3f | %.2f | %.2f |\n", group, perplexity[0],
                above[1], above[2], above[3], above[3] / above[2], above[3] / above[1]
        }' "$build/quality/perplexity"
done
