#!/usr/bin/env bash
# symbols.sh COMPILER   what an object file of awq.h exports, needs and keeps in writable memory
source "$(dirname "$0")/common.sh"
compiler=$1
need_tool "$compiler"
need_tool nm
need_tool size
object=$scratch/awq.o

compile() { "$compiler" -std=c99 "${plain[@]}" -I"$root" -c "$@"; }
exported() { nm -g --defined-only "$1" | awk '{ print $NF }' | sort; }
undefined() { nm -u "$1" | awk '{ print $NF }' | grep -v '^_GLOBAL_OFFSET_TABLE_$' | sort || true; }

# .data and .bss of every kind, relocated constants (tables of pointers) included.
writable_bytes() {
    size -A "$1" | awk '$1 ~ /^\.(t?data|t?bss|sdata|sbss)/ { n += $2 } END { print n + 0 }'
    nm "$1" | awk '$(NF - 1) == "C"'
}

check_exports() {
    compile "$@" "$sources/implementation.c" -o "$object"
    declared "$compiler" "$@" >"$scratch/declared"
    exported "$object" >"$scratch/exported"
    diff "$scratch/declared" "$scratch/exported" >"$scratch/diff" ||
        fail "declared (<) and exported (>) functions differ, with '$*':
$(cat "$scratch/diff")"
    ! grep -v '^awq_[a-z]' "$scratch/exported" || fail "exports something that is not awq_*"
    echo "exports, '$*': $(wc -l <"$scratch/exported") functions, all declared"
}

check_nothing_writable() {
    compile "$@" "$sources/implementation.c" -o "$object"
    local bytes
    bytes=$(writable_bytes "$object")
    [[ $bytes == 0 ]] || fail ".data + .bss is $bytes, not 0, with '$*':
$(nm "$object" | awk '$(NF - 1) ~ /[bBdDC]/')"
}

check_needs_only() {       # pattern of allowed symbols, then flags
    local allowed=$1
    shift
    compile "$@" "$sources/implementation.c" -o "$object"
    local extra
    extra=$(undefined "$object" | grep -vxE "$allowed" || true)
    [[ -z $extra ]] || fail "needs more than '$allowed' with '$*':
$extra"
    echo "needs, '$*': $(undefined "$object" | tr '\n' ' ')"
}

check_exports
check_exports -DAWQ_INFERENCE_ONLY

compile -O2 -DAWQ_STATIC "$sources/implementation.c" -o "$object"
[[ -z $(exported "$object") ]] || fail "an AWQ_STATIC build exports: $(exported "$object")"

for config in $(config_names); do
    # shellcheck disable=SC2046   # flags are words
    check_nothing_writable -O0 -fno-pic $(config_flags "$config")
    # shellcheck disable=SC2046
    check_nothing_writable -O1 -fPIC $(config_flags "$config")      # -fPIC: where relocations show
done
echo ".data + .bss = 0 in every configuration"

memory='mem(cpy|set|move|cmp)'
for level in -O0 -O2 -Os; do
    check_needs_only "$memory" $level -DAWQ_INFERENCE_ONLY
done
check_needs_only "$memory" -O2 -DAWQ_INFERENCE_ONLY -ffreestanding
check_needs_only "$memory|(sqrt|pow)f?" -O2

link_and_run() {
    "$compiler" "$@" -o "$scratch/program" -lm || fail "does not link: $*"
    "$scratch/program" || fail "does not run: $*"
}
compile "$sources/implementation.c" -o "$object"
compile "$sources/user.c" -o "$scratch/user.o"
link_and_run "$object" "$scratch/user.o"
compile -DCOPY_NAME=first_copy "$sources/static_copy.c" -o "$scratch/first.o"
compile -DCOPY_NAME=second_copy "$sources/static_copy.c" -o "$scratch/second.o"
compile "$sources/static_main.c" -o "$scratch/main.o"
link_and_run "$scratch/main.o" "$scratch/first.o" "$scratch/second.o"
link_and_run "$scratch/main.o" "$scratch/first.o" "$scratch/second.o" "$object"
echo "one implementation and a user link; two private copies link, also beside a public one"
