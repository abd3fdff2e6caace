/* awq_cuda.cuh for one who only calls it: C as well as C++ and CUDA, beside cuda_implementation.cu */
#include "awq_cuda.cuh"

int main(void)
{
    awq_cuda cuda;
    return awq_cuda_init(&cuda, 0, 0) == AWQ_OK && awq_cuda_workspace_size(&cuda, 8) ? 0 : 1;
}
