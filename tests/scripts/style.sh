#!/usr/bin/env bash
# style.sh   what a machine can say: sources are ASCII without tabs or trailing blanks; awq.h keeps
#            to 100 columns, and its local macros do not outlive it
source "$(dirname "$0")/common.sh"
cd "$root"

files=$(find awq*.h awq*.cuh examples tests bench cmake -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' | sort)
bad=0
report() { [[ -z ${2//[[:space:]]/} ]] || { printf '%s:\n%s\n' "$1" "$2" >&2; bad=1; }; }
# shellcheck disable=SC2086   # a list of words
{
    report 'not ASCII' "$(grep -nHP '[^\x00-\x7F]' $files)"
    report 'a tab' "$(grep -nHP '\t' $files)"
    report 'trailing blanks' "$(grep -nHE ' +$' $files)"
}
report 'more than 100 columns' "$(grep -nHE '^.{101,}' awq*.h awq*.cuh)"
gcc=${CC:-cc}
need_tool "$gcc"
left=$("$gcc" -E -dM "$sources/implementation.c" -I. | grep -oiE 'AWQ__[a-z0-9_]+' | sort -u)
[[ $left == *AWQ__IMPLEMENTED* ]] || fail "the preprocessor shows no macro of awq.h"
left=${left/AWQ__IMPLEMENTED/}
report 'local macros without #undef at the end of awq.h' "$left"
[[ $bad == 0 ]] || fail "see above"
echo "$(wc -w <<<"$files") files"
