# Sourced by isa.sh and count.sh: the emulated processors, and how programs for them are built.
# shellcheck shell=bash disable=SC2034   # the table is for the scripts that source this

# target              | compiled by     | run by
targets='
aarch64/cortex-a53    | aarch64-gcc     | qemu-aarch64 -cpu cortex-a53
aarch64/dotprod       | aarch64-gcc     | qemu-aarch64 -cpu cortex-a76
aarch64/i8mm          | aarch64-gcc     | qemu-aarch64 -cpu max
aarch64/clang         | aarch64-clang   | qemu-aarch64 -cpu max
armv7/vfp             | armv7-gcc       | qemu-arm -cpu cortex-a15
armv7/neon            | armv7-neon-gcc  | qemu-arm -cpu cortex-a15
riscv64/gc            | riscv64-clang   | qemu-riscv64 -cpu rv64
riscv64/v128          | riscv64-clang   | qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0,vlen=128
riscv64/v256          | riscv64-clang   | qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0,vlen=256
riscv64/v512          | riscv64-clang   | qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0,vlen=512
riscv64/gcv-v128      | riscv64v-clang  | qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0,vlen=128
riscv64/gcv-v1024     | riscv64v-clang  | qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0,vlen=1024
s390x/big-endian      | s390x-gcc       | qemu-s390x -cpu max
x86_64/nehalem        | x86_64-gcc      | qemu-x86_64 -cpu Nehalem
x86_64/haswell        | x86_64-gcc      | qemu-x86_64 -cpu Haswell
x86_64/max            | x86_64-gcc      | qemu-x86_64 -cpu max
wasm32/plain          | wasm32-clang    | wasi
wasm32/simd128        | wasm32simd-clang| wasi
'

# What need.sh installs for a compiler, and the command with its flags.
tools() {
    case $1 in
        aarch64-gcc)      echo aarch64-cc ;;
        aarch64-clang)    echo aarch64-cc clang-19 lld-19 ;;
        armv7-*)          echo armhf-cc ;;
        riscv64*-clang)   echo riscv64-cc clang-19 lld-19 ;;
        s390x-gcc)        echo s390x-cc ;;
        x86_64-gcc)       echo cc ;;
        wasm32*-clang)    echo clang-19 lld-19 wasi-libc ;;
    esac
}
compiler() {
    local clang='clang-19 -Wno-unused-command-line-argument -fuse-ld=lld -static --target'
    local wasi='-D_WASI_EMULATED_SIGNAL -lwasi-emulated-signal -D_WASI_EMULATED_PROCESS_CLOCKS
                -lwasi-emulated-process-clocks -Wl,-z,stack-size=1048576'
    case $1 in
        aarch64-gcc)      echo aarch64-linux-gnu-gcc -static ;;
        aarch64-clang)    echo "$clang=aarch64-linux-gnu" ;;
        armv7-gcc)        echo arm-linux-gnueabihf-gcc -static -march=armv7-a -mfpu=vfpv3-d16 ;;
        armv7-neon-gcc)   echo arm-linux-gnueabihf-gcc -static -march=armv7-a -mfpu=neon ;;
        riscv64-clang)    echo "$clang=riscv64-linux-gnu -march=rv64gc" ;;
        # QEMU 7.2 aborts on some conversions that the vectoriser uses (its issue 1441)
        riscv64v-clang)   echo "$clang=riscv64-linux-gnu -march=rv64gcv -fno-vectorize" \
                               -fno-slp-vectorize ;;
        # -std=c99 alone would make float expressions double there
        s390x-gcc)        echo s390x-linux-gnu-gcc -static -fexcess-precision=fast ;;
        x86_64-gcc)       echo "${CC:-cc} -static -march=x86-64" ;;
        wasm32-clang)     echo "$clang=wasm32-wasi $wasi" ;;
        wasm32simd-clang) echo "$clang=wasm32-wasi $wasi -msimd128" ;;
    esac
}

chosen() {                  # is target $1 asked for? Without further arguments all are
    local want
    [[ $# -gt 1 ]] || return 0
    for want in "${@:2}"; do [[ $1 != "$want"* ]] || return 0; done
    return 1
}
