#!/usr/bin/env bash
# count.sh BUILD [TARGET...]   instructions per multiply-accumulate of awq_matmul (4 bits, group
#                              128), as emulators execute them, for every kernel set of a target of
#                              isa-targets.sh. In "inner loop" are those executed at least half as
#                              often as any. Of wasm, what engines keep in registers (locals and
#                              constants) does not count.
source "$(dirname "$0")/common.sh"
source "$(dirname "$0")/isa-targets.sh"
build=$1
shift
mkdir -p "$build"
macs_per_token=$((32 * 1024))       # of count.c

program() {                 # target, compiler, then -D...
    local out=$build/${1//\//-} flags library
    read -ra flags <<<"$(compiler "$2" | tr '\n' ' ')"
    library=$build/$2.o
    if [[ $1 == wasm* ]]; then flags+=(-nostartfiles -Wl,--no-entry -Wl,--export=run); fi
    [[ -e $scratch/$2 ]] || "${flags[0]}" -std=c99 -O3 -I"$root" "${flags[@]:1}" -c \
        "$root/tests/implementation.c" -o "$library" || return 1
    touch "$scratch/$2"
    "${flags[0]}" -std=c99 -O2 -I"$root" "${flags[@]:1}" "${@:3}" "$root/tests/isa/count.c" \
        "$library" -o "$out" -lm || return 1
    echo "$out"
}

# The address of every instruction executed, one per line. The status is that of run().
trace() {                   # emulator and program
    if [[ $1 == wasi ]]; then
        wasm-interp --dummy-import-func --run-all-exports --trace "$2" |
            awk '/^#/ { op = $0; sub(/.*[|] */, "", op)
                        if (op !~ /^(local|global)[.]|[.]const |^(return|alloca|drop)/) print $2 }
                 / => / { status = substr($0, index($0, "i32:") + 4) }
                 END    { exit status }'
    else
        "${@:1:$#-1}" -singlestep -d exec,nochain -D /dev/stderr "${!#}" 2>&1 >"$scratch/name" |
            awk -F/ '/^Trace/ { print $2 }'
    fi
}
histogram() { trace "$@" | awk '{ n[$1]++ } END { for (pc in n) print pc, n[pc] }'; }

# What three calls execute more than one does: instructions per MAC, all and in the inner loop.
per_mac() {                 # tokens
    awk -v macs=$((2 * macs_per_token * $1)) '
        NR == FNR { once[$1] = $2; next }
        { more = $2 - once[$1]; n[$1] = more; all += more; if (more > most) most = more }
        END { for (pc in n) if (2 * n[pc] >= most) { inner += n[pc]; length_++ }
              printf "%8.3f %8.3f   %d instructions\n", all / macs, inner / macs, length_ }' \
        "$scratch/1" "$scratch/3"
}

count() {                   # target, compiler, command
    local target=$1 compiler=$2 set precision tokens calls flags binary
    shift 2
    for set in 0 1 2 3 4 5; do
        for precision in A8 A16; do
            for tokens in 1 16; do
                for calls in 1 3; do
                    flags=("-DCOUNT_SET=$set" "-DCOUNT_PRECISION=AWQ_$precision"
                           "-DCOUNT_TOKENS=$tokens" "-DCOUNT_CALLS=$calls")
                    binary=$(program "$target" "$compiler" "${flags[@]}") || return 1
                    histogram "$@" "$binary" >"$scratch/$calls" || return $?
                done
                [[ $1 != wasi ]] || echo "set $set" >"$scratch/name"
                printf '%-18s %-14s %-4s %6d %s\n' "$target" "$(cat "$scratch/name")" $precision \
                    $tokens "$(per_mac $tokens)"
            done
        done
    done
}

printf '%-18s %-14s %-4s %6s %8s %8s   %s\n' target 'kernel set' '' tokens all inner 'inner loop'
while IFS='|' read -r target compiler run; do
    target=${target// /} compiler=${compiler// /}
    if [[ -z $target ]] || ! chosen "$target" "$@"; then continue; fi
    # shellcheck disable=SC2046,SC2086   # names are words
    "$root/tests/scripts/need.sh" $(tools "$compiler") $(set -- $run; echo "${1/wasi/wabt}") ||
        fail "$target needs: $(tools "$compiler") $run"
    # shellcheck disable=SC2086   # a command is words
    count "$target" "$compiler" $run </dev/null || [[ $? == 2 ]] ||
        fail "$target: does not compile or run"         # 2: it has no more sets
done <<<"$targets"
