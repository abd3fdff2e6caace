/*  host.h - what a host program calls beside the kernels, for examples/cuda under emulation: device
    memory is the emulator's. Nothing is freed; a launch has ended when it returns. */
#ifndef CUDA_EMU_HOST_H
#define CUDA_EMU_HOST_H

#include "cuda_emu.h"
#include "emulator.h"

#include <cstdio>
#include <cstdlib>

static inline cudaError_t cudaMalloc(void **memory, size_t size)
{
    *memory = emulator::device_alloc(size);
    return cudaSuccess;
}

/*  Ends the program at what the emulator found until here.                                       */
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind)
{
    const std::string found = emulator::report();
    if (!found.empty()) {
        fprintf(stderr, "%s\n", found.c_str());
        exit(1);
    }
    if (kind == cudaMemcpyHostToDevice) emulator::device_write(to, from, size);
    else emulator::device_read(to, from, size);
    return cudaSuccess;
}

#endif
