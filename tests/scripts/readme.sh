#!/usr/bin/env bash
# readme.sh   every complete program in README.md and docs/ compiles without a warning and runs
source "$(dirname "$0")/common.sh"
compiler=${CC:-cc}
need_tool "$compiler"

# Writes block N of a file that contains "int main" to $scratch/NAME-LINE.c.
extract() {
    awk -v prefix="$scratch/$(basename "$1" .md)" '
        /^```c$/      { inside = 1; line = NR; block = ""; next }
        /^```/        { if (inside && block ~ /int main/) {
                            file = prefix "-" line ".c"; printf "%s", block > file; close(file) }
                        inside = 0; next }
        inside        { block = block $0 "\n" }' "$1"
}

[[ -e $root/README.md ]] || fail "there is no README.md"
for page in "$root/README.md" "$root"/docs/*.md; do
    [[ ! -e $page ]] || extract "$page"
done
ls "$scratch"/README-*.c >/dev/null 2>&1 || fail "README.md has no complete program"
cat "$scratch"/README-*.c | cmp -s - "$root/examples/quickstart.c" ||
    fail "the program in README.md is not examples/quickstart.c"

cd "$scratch"
for program in *.c; do
    line=${program##*-} where="the program at line ${line%.c} of ${program%-*}.md"
    for dialect in "c -std=c99" "c++ -std=c++11"; do
        # shellcheck disable=SC2086   # a dialect is words
        "$compiler" -x $dialect -O1 -Wall -Wextra -Wpedantic -Werror -I"$root" "$program" \
            -o program -lm || fail "$where does not compile"
        timeout 60 ./program >output || fail "$where fails"
    done
    echo "$program: $(head -1 output)"
done
