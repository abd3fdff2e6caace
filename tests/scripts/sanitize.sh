#!/usr/bin/env bash
# sanitize.sh BUILD   all tests under the address and undefined-behaviour sanitizers, asserts on
source "$(dirname "$0")/common.sh"
build=$1
jobs=$(nproc 2>/dev/null || echo 2)

quiet cmake -S "$root" -B "$build" -DAWQ_SANITIZE=ON -DAWQ_CHECKS=OFF -DAWQ_BUILD_LIBRARY=OFF \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-O1 -g'
quiet cmake --build "$build" --parallel "$jobs"
cd "$build"
AWQ_TEST_FULL=${AWQ_TEST_FULL:-0} ctest --output-on-failure --parallel "$jobs"
