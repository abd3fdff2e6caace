#!/usr/bin/env bash
# package.sh static|shared   install, then use the result from other projects: find_package,
#                            pkg-config, add_subdirectory and FetchContent
source "$(dirname "$0")/common.sh"
need_tool cmake
shared=OFF
[[ $1 == shared ]] && shared=ON

quiet cmake -S "$root" -B "$scratch/build" -DCMAKE_INSTALL_PREFIX="$scratch/installed" \
    -DCMAKE_BUILD_TYPE=Debug -DAWQ_BUILD_TESTS=OFF -DBUILD_SHARED_LIBS=$shared
quiet cmake --build "$scratch/build"
quiet cmake --install "$scratch/build"
prefix=$scratch/moved           # an installed tree may be moved
mv "$scratch/installed" "$prefix"
library_dir=$(dirname "$(find "$prefix" -name 'libawq.*' | head -1)")
export LD_LIBRARY_PATH=$library_dir

consume() {                     # where awq comes from, then what that way needs to know
    local from=$1 build=$scratch/consumer-$1
    shift
    quiet cmake -S "$sources/consumer" -B "$build" -DAWQ_FROM="$from" -DBUILD_SHARED_LIBS=$shared \
        -DCMAKE_BUILD_TYPE=Debug "$@"
    quiet cmake --build "$build"
    quiet "$build/use_header"
    quiet "$build/use_library"
    [[ ! -e $build/CTestTestfile.cmake ]] || fail "brought its tests into the other project"
    echo "$from works"
}

version=$(awk '/^#define AWQ_VERSION_(MAJOR|MINOR|PATCH) / { printf "%s%s", dot, $3; dot = "." }' \
          "$root/awq.h")
consume package "-DAWQ_VERSION=$version" "-DCMAKE_PREFIX_PATH=$prefix"
consume subdirectory "-DAWQ_SOURCE=$root"
consume fetch "-DAWQ_SOURCE=$root"

# A version that is not this one is refused.
if cmake -S "$sources/consumer" -B "$scratch/wrong" -DAWQ_FROM=package -DAWQ_VERSION=99.0 \
    "-DCMAKE_PREFIX_PATH=$prefix" >"$scratch/log" 2>&1; then
    fail "find_package(awq 99.0) found version $version"
fi

need_tool pkg-config
export PKG_CONFIG_PATH=$library_dir/pkgconfig
[[ $(pkg-config --modversion awq) == "$version" ]] || fail "pkg-config gives another version"
cd "$sources"
# shellcheck disable=SC2046       # flags are words
quiet "${CC:-cc}" user.c -o "$scratch/use_library" $(pkg-config --cflags --libs awq)
# shellcheck disable=SC2046
quiet "${CC:-cc}" user.c implementation.c -o "$scratch/use_header" $(pkg-config --cflags --libs awq)
quiet "$scratch/use_library"
quiet "$scratch/use_header"
echo "pkg-config works"
