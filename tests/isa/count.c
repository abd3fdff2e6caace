/*  Calls awq_matmul COUNT_CALLS times, so that an emulator can count what one call executes: see
    tests/scripts/count.sh. No libc beyond memcpy, so that it runs in a bare interpreter too.     */
#include "awq.h"

#ifndef __wasm__
#include <stdio.h>
#endif

#ifndef COUNT_SET
#define COUNT_SET       0           /* of awq_kernels_list()                                      */
#define COUNT_PRECISION AWQ_A16
#define COUNT_TOKENS    1
#define COUNT_CALLS     1
#endif

enum { ROWS = 32, COLS = 1024, GROUP = 128 };

/*  Zeros do: the values do not change what is executed.                                          */
static double packed_bytes[ROWS * COLS / 8], prepared_bytes[COUNT_TOKENS * COLS];
static float x[COUNT_TOKENS * COLS], y[COUNT_TOKENS * ROWS];

/*  0 on success, 2 if there are not so many sets here.                                           */
int run(void)
{
    const awq_quant quant = { 4, GROUP, 0, AWQ_F16 };
    awq_kernels sets[16], k;
    awq_packed packed;
    awq_prepared prepared;
    volatile int calls = COUNT_CALLS;   /* the same code for any number */

    if (awq_kernels_list(sets, 16) <= COUNT_SET) return 2;
    k = sets[COUNT_SET];
#ifndef __wasm__
    puts(k.name);
#endif
    if (awq_packed_init(quant, ROWS, COLS, packed_bytes, sizeof packed_bytes) != AWQ_OK ||
        awq_packed_open(&packed, packed_bytes, sizeof packed_bytes) != AWQ_OK ||
        awq_prepare(&k, GROUP, COUNT_PRECISION, awq_matrix_view(x, AWQ_F32, COUNT_TOKENS, COLS),
                    NULL, prepared_bytes, sizeof prepared_bytes, 0, COUNT_TOKENS, &prepared, NULL)
            != AWQ_OK) return 1;
    while (calls-- > 0)
        if (awq_matmul(&k, &packed, &prepared, NULL,
                       awq_matrix_view(y, AWQ_F32, COUNT_TOKENS, ROWS), 0, ROWS) != AWQ_OK)
            return 1;
    return 0;
}

#ifndef __wasm__
int main(void) { return run(); }
#endif
