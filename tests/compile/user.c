/*  A file that only calls: links with a second one that holds the implementation.                */
#include "awq.h"

int main(void)
{
    const awq_kernels kernels = awq_kernels_portable();
    return awq_version() == AWQ_VERSION && kernels.matmul_rows != NULL ? 0 : 1;
}
