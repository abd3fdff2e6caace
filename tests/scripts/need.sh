#!/bin/sh
# need.sh TOOL... [--if-possible TOOL...]   install what is missing, or print the one line that does
#
# Tools are named by what they do; the table below says how each is found and which Debian or Ubuntu
# package brings it. A tool after --if-possible that cannot be installed only costs a note.
set -u

cross() {           # the prefix of a cross compiler's commands
    case $1 in
        armhf-cc) echo arm-linux-gnueabihf ;;
        *)        echo "${1%-cc}-linux-gnu" ;;
    esac
}

found() {
    case $1 in
        cc)        echo '#include <stdlib.h>' | cc -E -x c - ;;
        c++)       command -v c++ ;;
        binutils)  command -v nm && command -v objdump && command -v size ;;
        cmocka)    pkg-config --exists cmocka ;;
        benchmark) test -e /usr/include/benchmark/benchmark.h || pkg-config --exists benchmark ;;
        json)      echo '#include <jansson.h>' | cc -E -x c - ;;
        mpi)       command -v mpirun && command -v mpicc && echo '#include <mpi.h>' | mpicc -E -x c - ;;
        openblas)  echo 'int main(void) { return 0; }' | cc -o /dev/null -x c - -lopenblas ;;
        arm-cc)    command -v arm-none-eabi-gcc ;;
        arm-libc)  arm-none-eabi-gcc --specs=picolibc.specs -E -x c /dev/null ;;
        arm-qemu)  command -v qemu-system-arm ;;
        *64-cc|armhf-cc|s390x-cc)
                   echo '#include <stdlib.h>' | "$(cross "$1")"-gcc -E -x c - ;;
        lld-19)    command -v wasm-ld-19 ;;
        wabt)      command -v wasm-interp ;;
        wasi-libc) ls /usr/include/wasm32-wasi/stdlib.h /usr/lib/llvm-19/lib/clang/19/lib/wasi ;;
        fuzzer)    ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a ;;
        venv)      python3 -c 'import ensurepip, venv' ;;
        numpy|matplotlib)
                   /usr/bin/python3 -c "import $1" || python3 -c "import $1" ;;
        *)         command -v "$1" ;;
    esac >/dev/null 2>&1
}

package() {
    case $1 in
        cc)        echo gcc libc6-dev ;;
        c++)       echo g++ ;;
        cmocka)    echo libcmocka-dev ;;
        benchmark) echo libbenchmark-dev ;;
        json)      echo libjansson-dev ;;
        mpi)       echo openmpi-bin libopenmpi-dev ;;
        openblas)  echo libopenblas-dev ;;
        arm-cc)    echo gcc-arm-none-eabi ;;
        arm-libc)  echo picolibc-arm-none-eabi ;;
        arm-qemu)  echo qemu-system-arm ;;
        aarch64-cc) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
        armhf-cc)  echo gcc-arm-linux-gnueabihf libc6-dev-armhf-cross ;;
        riscv64-cc) echo gcc-riscv64-linux-gnu libc6-dev-riscv64-cross ;;
        s390x-cc)  echo gcc-s390x-linux-gnu libc6-dev-s390x-cross ;;
        wasi-libc) echo wasi-libc libclang-rt-19-dev-wasm32 ;;
        qemu-aarch64|qemu-arm|qemu-riscv64|qemu-s390x|qemu-x86_64)
                   echo qemu-user ;;
        fuzzer)    echo clang libclang-rt-dev ;;
        node)      echo nodejs ;;
        venv)      echo python3-venv ;;
        numpy|matplotlib)
                   echo "python3-$1" ;;
        *)         echo "$1" ;;
    esac
}

missing='' optional='' if_possible=no
for tool in "$@"; do
    if [ "$tool" = --if-possible ]; then if_possible=yes
    elif found "$tool"; then :
    elif [ $if_possible = yes ]; then optional="$optional $(package "$tool")"
    else missing="$missing $(package "$tool")"
    fi
done
[ -n "$missing$optional" ] || exit 0

install='apt-get install -y --no-install-recommends'
if ! command -v apt-get >/dev/null; then
    as=none
elif [ "$(id -u)" = 0 ]; then
    as=''
elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as=sudo
else
    as=none
fi

if [ "$as" = none ]; then
    [ -z "$optional" ] || echo "note: not installed, its tests are skipped:$optional" >&2
    [ -n "$missing" ] || exit 0
    echo "error: missing packages and no way to install them from here. Please run:" >&2
    echo "    sudo $install$missing$optional" >&2
    exit 1
fi

quietly() {         # output only if it fails
    output=$($as env DEBIAN_FRONTEND=noninteractive "$@" 2>&1) && return 0
    printf '%s\n' "$output" >&2
    return 1
}

echo "installing:$missing$optional" >&2
quietly apt-get -o DPkg::Lock::Timeout=300 update ||
    echo "note: apt-get update failed; trying with the package lists there are" >&2
# shellcheck disable=SC2086   # lists of words
if [ -n "$missing" ] && ! quietly $install -o DPkg::Lock::Timeout=300 $missing; then
    echo "error: apt-get could not install:$missing" >&2
    exit 1
fi
for package in $optional; do
    # shellcheck disable=SC2086
    quietly $install -o DPkg::Lock::Timeout=300 "$package" ||
        echo "note: $package cannot be installed here; its tests are skipped" >&2
done
