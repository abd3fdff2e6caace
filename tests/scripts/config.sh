#!/usr/bin/env bash
# config.sh COMPILER   every configuration macro is documented, registered and builds alone
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"

config_names | sort >"$scratch/registered"
grep -hE '^ *# *(if|ifdef|ifndef|elif)' "$root"/awq{,_simd}.h | grep -oE '\bAWQ[A-Z0-9_]*' |
    grep -vE '^AWQ__|^AWQ_H$' | sort -u >"$scratch/tested"
# The table in the manual: from the word CONFIGURATION to the next heading.
awk '/\*\//                           { exit }
     inside && /^ *[A-Z][A-Z ]+[A-Z]\>/ && !/^ +AWQ/ { exit }
     /CONFIGURATION/                  { inside = 1 }
     inside && match($0, /^ +AWQ[A-Z0-9_]*/) { print $1 }' "$root/awq.h" |
    sed 's/(.*//' | sort -u >"$scratch/documented"

diff "$scratch/registered" "$scratch/tested" ||
    fail "config.txt (<) and the conditionals in the headers (>) name different macros"
diff "$scratch/registered" "$scratch/documented" ||
    fail "config.txt (<) and the CONFIGURATION table of awq.h (>) name different macros"

while read -r name; do
    # shellcheck disable=SC2046   # flags are words
    for file in implementation header_then_implementation; do
        for dialect in "c -std=c99" "c++ -std=c++11"; do
            # shellcheck disable=SC2086
            "$compiler" -x $dialect "${warnings[@]}" -I"$root" $(config_flags "$name") -c \
                "$sources/$file.c" -o "$scratch/o" || fail "$name alone does not build ($dialect)"
        done
    done
done <"$scratch/registered"

# Who copies one file needs AWQ_NO_SIMD, and hears of awq_simd.h without it.
mkdir "$scratch/alone"
cp "$root/awq.h" "$scratch/alone"
alone() { "$compiler" "${warnings[@]}" -I"$scratch/alone" -c -o "$scratch/o" "$@" "$sources/implementation.c"; }
for mode in '' -DAWQ_INFERENCE_ONLY -DAWQ_STATIC; do
    alone -std=c99 -DAWQ_NO_SIMD $mode || fail "awq.h alone does not build with AWQ_NO_SIMD $mode"
done
! alone -std=c99 2>"$scratch/log" || fail "awq.h alone builds without AWQ_NO_SIMD"
grep -q 'awq_simd\.h' "$scratch/log" || fail "awq.h alone does not say what is missing"
echo "$(wc -l <"$scratch/registered") macros, each documented, each built alone; one file suffices"
