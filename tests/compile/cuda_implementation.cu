#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"
