#!/bin/sh
# perplexity.sh BUILD GROUP... [OPTION...]   the language model over group sizes: perplexity above
#                                            that of fp32, by all methods up to the one asked for
#
# Options are llm's: --method tuned adds a column. CALIB and TEXT name the texts, MODEL another
# model. A model takes minutes for every group size and method.
set -eu

build=$1
shift
here=$(dirname "$0")
groups=
while [ $# -gt 0 ]; do
    case $1 in --*) break ;; esac
    groups="$groups $1"
    shift
done
head='| group | fp32 | nearest, above it | AWQ + clip | ours, / AWQ, / nearest |'
line='|---:|---:|---:|---:|---:|'
case " $* " in *' --method tuned '*) head="$head and tuned |" line="$line---:|" ;; esac
printf '\n%s\n%s\n' "$head" "$line"
for group in $groups; do
    sh "$here/../llm/run.sh" "$build/llm" --tokens 1 --group "$group" "$@" >"$build/quality/perplexity"
    awk -F '|' -v group="$group" '
        /^\|/ && $3 + 0 > 0 { perplexity[count++] = $3 + 0 }
        END {
            if (count < 4) {
                print "error: llm printed no table of four rows" >"/dev/stderr"
                exit 1
            }
            for (i = 1; i < count; i++) above[i] = perplexity[i] - perplexity[0]
            printf "| %d | %.3f | %.3f | %.3f |", group, perplexity[0], above[1], above[2]
            for (i = 3; i < count; i++)
                printf " %.3f, %.2f, %.2f |", above[i], above[i] / above[2], above[i] / above[1]
            print ""
        }' "$build/quality/perplexity"
done
