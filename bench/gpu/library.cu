/* awq.h and awq_cuda.cuh as a shared library, for measure.py. */
#define AWQ_IMPLEMENTATION
#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"
