#!/usr/bin/env bash
# layouts.sh COMPILER   no configuration macro changes the size or the layout of a public struct
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"

# "struct field" for every field of every public struct that is visible with these flags.
fields() {
    "$compiler" -std=c99 -E -P -I"$root" "$@" "$sources/header_twice.c" | awk '
        { text = text " " $0 }
        END {
            while (match(text, /struct awq_[a-z0-9][a-z0-9_]* *\{[^}]*\}/)) {
                body = substr(text, RSTART + 7, RLENGTH - 8)
                text = substr(text, RSTART + RLENGTH)
                name = body; sub(/ *\{.*/, "", name)
                sub(/^[^{]*\{/, "", body)
                count = split(body, declaration, ";")
                for (d = 1; d <= count; d++) fields_of(name, declaration[d])
            }
        }
        function fields_of(name, declaration,    i, n, part) {
            if (match(declaration, /\(\*[a-z0-9_]+\)/)) {
                print name, substr(declaration, RSTART + 2, RLENGTH - 3)
                return
            }
            n = split(declaration, part, ",")
            for (i = 1; i <= n; i++) {
                sub(/ *\[.*/, "", part[i])
                if (match(part[i], /[a-z0-9_]+ *$/)) { sub(/ +$/, "", part[i])
                    match(part[i], /[a-z0-9_]+$/)
                    print name, substr(part[i], RSTART)
                }
            }
        }'
}

layout() {                  # one line per struct and field: name, offset, size
    fields "$@" >"$scratch/fields"
    {
        echo '#include "awq.h"'
        echo '#include <stdio.h>'
        echo 'int main(void) {'
        awk '{ if (!seen[$1]++) printf "printf(\"%s 0 %%d\\n\", (int)sizeof(%s));\n", $1, $1
               printf "printf(\"%s.%s %%d %%d\\n\", (int)offsetof(%s, %s), " \
                      "(int)sizeof(((%s *)0)->%s));\n", $1, $2, $1, $2, $1, $2 }' "$scratch/fields"
        echo 'return 0; }'
    } >"$scratch/layout.c"
    "$compiler" -std=c99 -w -I"$root" "$@" "$scratch/layout.c" -o "$scratch/layout" -lm
    "$scratch/layout" | sort
}

layout >"$scratch/plain"
structs=$(grep -c ' 0 ' <(grep -v '\.' "$scratch/plain"))
written=$(grep -cE '^(typedef )?struct awq_[a-z0-9][a-z0-9_]* \{' "$root/awq.h")
[[ $structs == "$written" ]] || fail "found $structs structs, awq.h has $written"

for name in $(config_names); do
    # shellcheck disable=SC2046   # flags are words
    layout $(config_flags "$name") >"$scratch/configured"
    [[ -s $scratch/configured ]] || fail "found no struct with $name"
    comm -13 "$scratch/plain" "$scratch/configured" >"$scratch/changed"
    [[ ! -s $scratch/changed ]] || fail "$name changes a layout:
$(cat "$scratch/changed")"
    echo "$name: $(wc -l <"$scratch/configured") sizes and offsets as without it"
done
