#!/usr/bin/env bash
# stack.sh COMPILER [FLAG...]   no function of the inference-only build takes more stack than the
#                               manual says: the portable kernels, then all sets of this target
source "$(dirname "$0")/common.sh"
compiler=$1
shift
need_tool "$compiler"
cd "$scratch"
check_stack() {             # most bytes in one function, then flags
    local limit=$1
    shift
    "$compiler" "$@" -std=c99 "${plain[@]}" -DAWQ_INFERENCE_ONLY -fstack-usage -I"$root" \
        -c "$sources/implementation.c" -o awq.o 2>/dev/null || skip "$compiler has no -fstack-usage"
    [[ -s awq.su ]] || fail "$compiler wrote no stack usage"
    ! grep -vE '(static|bounded)$' awq.su || fail "stack of unknown size with $*"
    awk -v limit="$limit" '$2 > limit { print; bad = 1 } END { exit bad }' awq.su ||
        fail "more than $limit bytes of stack with $*"
    echo "$*: most in one function: $(sort -t$'\t' -k2 -n awq.su | tail -1 | cut -f1,2)"
}
for level in -O2 -Os; do
    check_stack 2048 "$@" $level -DAWQ_NO_SIMD
    check_stack 65536 "$@" $level
done
