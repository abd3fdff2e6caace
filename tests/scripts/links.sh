#!/usr/bin/env bash
# links.sh   every relative link of every page leads to a file that exists, and to a heading of it;
#            every make target that a page names exists
source "$(dirname "$0")/common.sh"
cd "$root"

anchors() {     # of a page, as GitHub names its headings
    awk '/^```/ { code = !code } !code && /^#/' "$1" |
        sed -E 's/^#+ *//; s/\[([^]]*)\]\([^)]*\)/\1/g' |
        tr '[:upper:]' '[:lower:]' | sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}

links() {       # of a page, outside code
    awk '/^```/ { code = !code } !code' "$1" | sed 's/`[^`]*`//g' | grep -oE '\]\([^) ]+\)' |
        sed -E 's/^\]\((.*)\)$/\1/' | grep -vE '^[a-z]+:' || true
}

pages=$(find . -name '*.md' -not -path './build*' -not -path './models/*' | sort)
count=0
for page in $pages; do
    for link in $(links "$page"); do
        file=${link%%#*}
        target=$(dirname "$page")/$file
        [[ -n $file ]] || target=$page
        [[ -e $target ]] || fail "$page: no such file: $link"
        [[ $link != *#* ]] || anchors "$target" | grep -qx -- "${link#*#}" ||
            fail "$page: no such heading: $link"
        count=$((count + 1))
    done
done
[[ $count -gt 0 ]] || fail "found no link"

targets=$(sed -nE '/^\.PHONY:/,/[^\\]$/p' Makefile | tr -d '\\' | tr '\n' ' ')
for page in $pages; do
    for target in $(grep -oE '(`|^|\| *`?)make [a-z][a-z0-9-]*' "$page" | sed -E 's/.*make //'); do
        [[ " $targets " == *" $target "* ]] || fail "$page: no such target: make $target"
    done
done
echo "$count links"
