# Sourced by the check scripts: where things are, a scratch folder that cleans up after itself, and
# how to give up.
# shellcheck shell=bash disable=SC2034   # the variables are for the scripts that source this
set -euo pipefail
export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
sources=$root/tests/compile
check=$(basename "$0" .sh)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/awq-$check.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

c_standards=(c99 c11 c17)
cxx_standards=(c++11 c++14 c++17 c++20)
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef
          -Wdouble-promotion -Wcast-align -Werror)

fail() { echo "$check: $*" >&2; exit 1; }
skip() { echo "$check: skipped: $*"; exit 77; }         # 77: CTest reports the check as skipped
quiet() { "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "failed: $*"; }; }
need_tool() { command -v "$1" >/dev/null || skip "there is no $1 here"; }

# What distributions switch on by default adds symbols that are not the library's: off where symbols
# are counted.
plain=(-fno-stack-protector -U_FORTIFY_SOURCE)

# Every configuration macro, one per line in config.txt: name, then the flags that set it.
config_names() { awk '!/^#/ && NF { print $1 }' "$sources/config.txt"; }
config_flags() { awk -v name="$1" '$1 == name { $1 = ""; print }' "$sources/config.txt"; }

# The functions that the header declares, after the preprocessor: AWQDEF is spelled as a marker.
declared() {                # compiler, flags
    "$1" -std=c99 -I"$root" -E -P "-DAWQDEF=AWQ_DECLARES" "${@:2}" "$sources/header_twice.c" |
        tr '\n' ' ' | grep -o 'AWQ_DECLARES[^(;]*(' | grep -o 'awq_[a-z0-9_]* *(' | tr -d ' (' |
        sort -u | grep . || fail "found no declaration in awq.h"
}
