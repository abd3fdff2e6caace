#!/usr/bin/env bash
# sanitize.sh BUILD   all tests under the address and undefined-behaviour sanitizers, asserts on.
#                     AWQ_SANITIZE_SIMD=1 (make sanitize) instruments the SIMD sets as well: minutes
#                     of compiling; without it their accesses are watched by guard pages alone.
source "$(dirname "$0")/common.sh"
build=$1
flags='-O1 -g -DAWQ_NO_SIMD'
[[ -z ${AWQ_SANITIZE_SIMD:-} ]] || flags='-O1 -g'
jobs=$(nproc 2>/dev/null || echo 2)

quiet cmake -S "$root" -B "$build" -DAWQ_SANITIZE=ON -DAWQ_CHECKS=OFF -DAWQ_BUILD_LIBRARY=OFF \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="$flags"
quiet cmake --build "$build" --parallel "$jobs"
cd "$build"
AWQ_TEST_FULL=${AWQ_TEST_FULL:-0} ctest --output-on-failure --parallel "$jobs"
