/*  A private copy of the library; compiled twice into one program, see static_main.c.           */
#define AWQ_STATIC
#define AWQ_IMPLEMENTATION
#include "awq.h"

int COPY_NAME(void);
int COPY_NAME(void)
{
    return awq_kernels_portable().name[0] == 'p' ? awq_version() : -1;
}
