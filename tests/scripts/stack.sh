#!/usr/bin/env bash
# stack.sh COMPILER [FLAG...]   no function of the inference-only build takes much stack
source "$(dirname "$0")/common.sh"
compiler=$1
shift
need_tool "$compiler"
limit=2048

cd "$scratch"
for level in -O2 -Os -O3; do
    "$compiler" "$@" -std=c99 $level "${plain[@]}" -DAWQ_INFERENCE_ONLY -fstack-usage -I"$root" \
        -c "$sources/implementation.c" -o awq.o 2>/dev/null || skip "$compiler has no -fstack-usage"
    [[ -s awq.su ]] || fail "$compiler wrote no stack usage"
    ! grep -vE '(static|bounded)$' awq.su || fail "stack of unknown size at $level"
    awk -v limit=$limit '$2 > limit { print; bad = 1 } END { exit bad }' awq.su ||
        fail "more than $limit bytes of stack at $level"
    echo "$level: most in one function: $(sort -t$'\t' -k2 -n awq.su | tail -1 | cut -f1,2)"
done
