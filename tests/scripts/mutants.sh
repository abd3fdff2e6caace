#!/usr/bin/env bash
# mutants.sh BUILD [WORDS]   can the tests fail? plants each bug of mutants.txt (those with WORDS in
#                            their name) in a copy of the headers and runs the tests on it. Lists the
#                            bugs that no test notices; fails if there are any. Those named "cuda: ..."
#                            are in awq_cuda.cuh and tried only where WORDS begins like that.
source "$(dirname "$0")/common.sh"
mkdir -p "$1"
build=$(cd "$1" && pwd)
list=$root/tests/scripts/mutants.txt
words=${2:-}
jobs=$(nproc 2>/dev/null || echo 2)
copy=$build/source
headers=(awq.h awq_simd.h)
beside=() kind=host targets=(all) chosen=.
if [[ $words == cuda:* ]]; then     # under the emulator, which has its own checks of behaviour
    headers=(awq_cuda.cuh) beside=(awq.h awq_simd.h) kind=cuda chosen='^test_cuda_(80|90)$'
    targets=(test_cuda_80 test_cuda_90)
fi

mkdir -p "$copy"
rm -rf "${copy:?}"/*
cp -r "${headers[@]/#/$root/}" "${beside[@]/#/$root/}" "$root/CMakeLists.txt" "$root/LICENSE" "$root/cmake" "$root/tests" "$copy"
mkdir "$copy/examples"
cp -r "$root/examples/common" "$copy/examples"

# Some bugs show only as undefined behaviour.
flags='-O1 -fsanitize=undefined,float-cast-overflow -fno-sanitize-recover=all'
[[ $kind == host ]] || flags=-O1

give_up() { cat "$scratch/log"; fail "$@"; }
first_failed() { awk 'listed { print $3; exit } /tests FAILED:/ { listed = 1 }' "$scratch/log"; }

# Fails if the tests do; whether they were built is in $built.
run_tests() {
    built=no
    cmake --build "$build/out" --parallel "$jobs" --target "${targets[@]}" >"$scratch/log" 2>&1 ||
        return 1
    built=yes
    cd "$build/out"
    AWQ_TEST_FULL=0 ctest -R "$chosen" --stop-on-failure --timeout 300 --parallel "$jobs" \
        >"$scratch/log" 2>&1
}

plant() {                   # text, replacement: in the one line of all headers that has the text
    local header count found=0
    for header in "${headers[@]}"; do
        count=0
        awk -v from="$1" -v to="$2" '
            { at = index($0, from) }
            at { count++; $0 = substr($0, 1, at - 1) to substr($0, at + length(from)) }
            { print }
            END { exit count < 2 ? count : 2 }' "$root/$header" >"$scratch/header" || count=$?
        cmp -s "$scratch/header" "$copy/$header" || cp "$scratch/header" "$copy/$header"
        found=$((found + count))
    done
    [[ $found == 1 ]]
}

# A bug in one kernel set has its name in front: avx2: ...
can_run() { [[ $1 != [a-z0-9]*:* || " $sets " == *" ${1%%:*} "* ]]; }

names=() from=() to=()
while IFS= read -r name; do
    [[ -n $name && $name != '#'* ]] || continue
    IFS= read -r old && IFS= read -r new
    [[ $old == '- '* && $new == '+'* ]] || fail "$list: the lines after '$name' are not - and +"
    new=${new#+}
    [[ $name == *"$words"* ]] || continue
    [[ $kind == cuda || $name != cuda:* ]] || continue
    names+=("$name") from+=("${old#- }") to+=("${new# }")
    plant "${old#- }" '' || fail "'$name': this is not exactly once in ${headers[*]}: ${old#- }"
done <"$list"
cp "${headers[@]/#/$root/}" "$copy"

cmake -S "$copy" -B "$build/out" -DAWQ_CHECKS=OFF -DAWQ_BUILD_LIBRARY=OFF \
    -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_C_FLAGS_DEBUG=$flags" >"$scratch/log" || give_up "cmake failed"
run_tests || give_up "the tests fail without any bug planted"
sets=cuda
[[ $kind == cuda ]] ||
    sets=$(AWQ_TEST_FULL=0 "$build/out/tests/test_kernels" 2>/dev/null | sed -n 's/^kernel sets: //p')

survivors=0
for i in "${!names[@]}"; do
    if ! can_run "${names[i]}"; then
        echo "not tried    ${names[i]}: this processor has no such kernel set"
        continue
    fi
    plant "${from[i]}" "${to[i]}"
    case ${names[i]} in     # the same source, built for what has the bug
        'cuda: wgmma'*) targets=(test_cuda_90) chosen='^test_cuda_90$' ;;
        cuda:*)         targets=(test_cuda_80) chosen='^test_cuda_80$' ;;
    esac
    if run_tests; then
        survivors=$((survivors + 1))
        echo "NOT NOTICED  ${names[i]}"
    elif [[ $built == no ]]; then
        give_up "'${names[i]}' does not compile, so it proves nothing"
    else
        echo "noticed      ${names[i]}: $(first_failed)"
    fi
done
echo "$((${#names[@]} - survivors)) of ${#names[@]} bugs noticed"
[[ $survivors == 0 ]]
