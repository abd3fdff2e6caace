#!/usr/bin/env bash
# gpu_table.sh   what make gpu does around the GPU: bench/gpu/*.py compile, arguments are checked, and
#                made-up times become the table, its verdicts and the JSON
source "$(dirname "$0")/common.sh"
need_tool python3
cd "$root/bench/gpu"
export PYTHONDONTWRITEBYTECODE=1

for file in *.py; do
    python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$file" ||
        fail "bench/gpu/$file is no Python"
done
bash -n run.sh
if python3 measure.py 2>"$scratch/said"; then fail 'measure.py runs without a library'; fi
grep -q -- '--library is missing' "$scratch/said" || fail "no library, but: $(cat "$scratch/said")"

python3 measure.py --dry-run --json "$scratch/results.json" >"$scratch/table"
python3 - "$scratch/results.json" "$scratch/table" <<'END'
import json
import sys

rows = json.load(open(sys.argv[1]))["rows"]
text = open(sys.argv[2]).read().splitlines()
table = [line for line in text if "x" in line and ("float16" in line)]
by_work = {(r["work"], r["dtype"]): r for r in rows}
assert len(by_work) == len(rows) == len(table), (len(by_work), len(rows), len(table))
assert {r["dtype"] for r in rows} == {"float16", "bfloat16"}

first = by_work["1 x 8192 x 8192", "float16"]           # 34.9 MB at 4 TB/s, three times
assert first["kernel"] == "gemv" and abs(first["awq us"] - 26.1) < 0.1, first
assert first["target"] == "<= 13.0 us" and first["met"] is False, first
small = by_work["1 x 4096 x 4096", "float16"]           # 5 / 3 of cuBLAS, 2.5 wanted
assert small["target"] == ">= 2.50 x cuBLAS" and small["met"] is False, small
large = by_work["1024 x 8192 x 8192", "bfloat16"]       # 0.90 wanted
assert large["kernel"] == "wgmma" and large["met"] is True, large
split = by_work["1024 x 8192 x 8192, dequantize + GEMM", "bfloat16"]    # 5 / 6, 0.97 wanted
assert split["met"] is False and split["target"] == ">= 0.97 x cuBLAS", split
assert by_work["8 x 8192 x 8192", "float16"]["met"] is None
assert sum(line.endswith(" MISSED") for line in table) == sum(r["met"] is False for r in rows)
assert sum(line.endswith(" met") for line in table) == sum(r["met"] is True for r in rows)
END
python3 measure.py --dry-run --quick | tail -5 | grep -c float16 | grep -qx 5 || fail '--quick is not five rows'
echo "$(wc -l <"$scratch/table") lines"
