#!/usr/bin/env bash
# python.sh   examples/python: says what awq.h says, computes what NumPy computes, refuses in words,
#             and finds on the real layer what the C demo finds, to the byte; docs/python.md runs
source "$(dirname "$0")/common.sh"
compiler=${CC:-cc}
need_tool "$compiler"
need_tool cmake
export PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg
cd "$root"

for python in "${PYTHON:-}" build/venv/bin/python python3 /usr/bin/python3; do
    ! command -v "$python" >/dev/null || ! "$python" -c 'import numpy' 2>/dev/null || break
    python=
done
[[ -n $python ]] || skip "there is no Python with NumPy here"

quiet cmake -S . -B "$scratch/shared" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=None \
    -DCMAKE_C_FLAGS=-O1 -DAWQ_BUILD_TESTS=OFF -DBUILD_SHARED_LIBS=ON
quiet cmake --build "$scratch/shared"
AWQ_LIBRARY=$(find "$scratch/shared" -name 'libawq.so' -o -name 'libawq.dylib')
export AWQ_LIBRARY

header=("$compiler" -std=c99 "${warnings[@]}" -I. -c -x c - -o "$scratch/header.o")
"$python" examples/python/test/header.py >"$scratch/header.c"
quiet "${header[@]}" <"$scratch/header.c"
# Can it fail? Two fields of one size change places, and one argument its type.
for change in 's/"bits", c_int), ("group_size"/"group_size", c_int), ("bits"/' \
              's/awq_group_count(size_t, int)/awq_group_count(size_t, size_t)/'; do
    mkdir -p "$scratch/wrong/test"
    sed "$change" examples/python/awq.py >"$scratch/wrong/awq.py"
    cp examples/python/test/header.py "$scratch/wrong/test"
    ! cmp -s examples/python/awq.py "$scratch/wrong/awq.py" || fail "changed nothing: $change"
    "$python" "$scratch/wrong/test/header.py" >"$scratch/header.c"
    ! "${header[@]}" <"$scratch/header.c" 2>/dev/null || fail "a wrong awq.py passes: $change"
done
echo "awq.py says what awq.h says"

quiet "$python" examples/python/test/test_awq.py
grep '^Ran' "$scratch/log"

picture=()
if "$python" -c 'import matplotlib' 2>/dev/null; then picture=(--picture "$scratch/lesson.svg"); fi
"$python" examples/python/lesson.py --save "$scratch/python.awq" "${picture[@]}" >"$scratch/lesson"
[[ ${#picture[@]} == 0 ]] || grep -q '</svg>' "$scratch/lesson.svg" || fail "no whole picture"
quiet make -s demo BUILD="$scratch" CC="$compiler" CFLAGS=-O1 ARGS="--save $scratch/demo.awq"
rows() { grep -E '^  (round|  \+ clip|AWQ [a-z]+ \()' "$1" | sed -E 's/ +[0-9.]+ s$//; s/ +$//'; }
rows "$scratch/log" >"$scratch/demo.rows"
rows "$scratch/lesson" | diff "$scratch/demo.rows" - || fail "demo (<) and lesson (>) differ"
[[ $(wc -l <"$scratch/demo.rows") == 8 ]] || fail "the demo has not eight rows"
cmp "$scratch/demo.awq" "$scratch/python.awq" || fail "the demo and the lesson save other bytes"
echo "the lesson's table is the demo's, and so are the bytes it saves"

# Every block of the lesson, in order, prints what stands under it.
blocks() { awk -v kind="$1" '/^```/ { inside = $0 == "```" kind; next } inside' docs/python.md; }
blocks python >"$scratch/page.py"
[[ -s $scratch/page.py ]] || fail "docs/python.md has no program"
PYTHONPATH=examples/python "$python" "$scratch/page.py" >"$scratch/printed"
blocks text | diff - "$scratch/printed" || fail "docs/python.md (<) and what it runs to (>) differ"
echo "docs/python.md prints what it says"
