#!/usr/bin/env bash
# api_lines.sh [check|write]   how much code of its own a host of awq.h needs: for each example, the
#                              lines that call a function of the API, and those that name anything
#                              of it; without comments and tests. check: does the last column of the
#                              table in examples/README.md say so? write: makes it say so.
source "$(dirname "$0")/common.sh"
cd "$root/examples"

code() {        # a file without comments; Python's long strings are some
    case $1 in
        *.py) awk '{ quotes = gsub(/"""/, "&") } quotes % 2 { inside = !inside }
                   quotes || inside { next } { sub(/(^|  )#.*/, "") } NF' "$1" ;;
        *)    sed -E -e ':a' -e 's,/\*([^*]|\*+[^*/])*\*+/,,g' -e '/\/\*/{N;ba' -e '}' \
                  -e 's,//.*,,' "$1" ;;
    esac
}

calls() {       # in Python structs are made like calls, but functions are always something's
    case $1 in
        *.py) code "$1" | grep -E '\.awq_[a-z0-9_]+\(|\bawq\.[A-Za-z_.]+\(' ;;
        *)    code "$1" | grep -E '\b_?awq_[a-z0-9_]+ *\(' ;;
    esac || true
}

names() { code "$1" | grep -E '\b_?(awq_[a-z0-9]|AWQ_[A-Z0-9]|awq\.[A-Za-z])' || true; }

count() {       # host, how many call, how many name
    local host files file
    for host in *; do
        files=$(find "$host" -type d -name test -prune -o -type f -regextype posix-extended \
                     -regex '.*\.(c|h|cc|cu|cuh|py|js|html)$' -print)
        for file in $files; do calls "$file"; done >"$scratch/calls"
        for file in $files; do names "$file"; done >"$scratch/names"
        [[ -s $scratch/names ]] || continue
        echo "$host $(wc -l <"$scratch/calls") $(wc -l <"$scratch/names")"
    done
}

count >"$scratch/counted"
[[ -s $scratch/counted ]] || fail "found no example that uses awq.h"
if [[ $# == 0 ]]; then cat "$scratch/counted"; exit; fi

# The last cell of the row that links to the host.
awk 'FNR == NR { cell[$1] = $2 " / " $3; next }
     match($0, /\]\([a-z_.]+\) \|/) {
         host = substr($0, RSTART + 2, RLENGTH - 5)
         if (host in cell) { sub(/\|[^|]*\|$/, "| " cell[host] " |"); delete cell[host] }
     }
     { print }
     END { for (host in cell) { print host > "/dev/stderr"; missing = 1 } exit missing }' \
    "$scratch/counted" README.md >"$scratch/README.md" ||
    fail "examples/README.md has no row for these"
if [[ $1 == write ]]; then cp "$scratch/README.md" README.md; exit; fi
diff README.md "$scratch/README.md" ||
    fail "examples/README.md (<) is out of date; tests/scripts/api_lines.sh write corrects it"
echo "$(wc -l <"$scratch/counted") examples, counted as their table says"
