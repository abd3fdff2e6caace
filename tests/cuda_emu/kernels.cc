/*  kernels.cc - awq_cuda.cuh as it stands, compiled for the CPU with every access reported.      */
#include "cuda_emu.h"

#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"

extern const int kernels_architecture;
const int kernels_architecture = __CUDA_ARCH__;
