/*  main.c - a quantized layer on a Cortex-M4, checked bit for bit against the machine that made it.

    The packed weights are a const array and run where they lie, in flash. The board contributes one
    clock (SysTick) and a console; everything else is the inference-only part of awq.h.           */
#include "../../awq.h"
#include "layer_data.h"         /* written by make_data.c */

#include <stdio.h>
#include <string.h>

#define ROWS_AT_ONCE 64         /* any multiple of AWQ_ROW_STEP; time to feed a watchdog  */
#define STACK_PROBE  8192       /* bytes of stack painted before a call                           */
#define STACK_PAINT  0xC0FFEE11u

static float prepared_memory[2048];
static float output[LAYER_OUT];

/* ---- the board: a 24-bit counter that runs down ---------------------------------------------- */

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD  (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE   (*(volatile uint32_t *)0xE000E018u)
#define SYSTICK_MASK    0xFFFFFFu

static void clock_start(void)
{
    SYSTICK_RELOAD = SYSTICK_MASK;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5;        /* enabled, processor clock, no interrupt */
}

static uint32_t clock_since(uint32_t start)
{
    return (start - SYSTICK_VALUE) & SYSTICK_MASK;
}

/* ---- the stack: painted below a frame, then read back to see how far a call got -------------- */

static void stack_paint(uintptr_t frame)
{
    uintptr_t at;
    for (at = frame - STACK_PROBE; at < frame - 64; at += 4) *(volatile uint32_t *)at = STACK_PAINT;
}

static unsigned stack_used(uintptr_t frame)
{
    uintptr_t at = frame - STACK_PROBE;
    while (at < frame && *(volatile uint32_t *)at == STACK_PAINT) at += 4;
    return (unsigned)(frame - at);
}

/* ---- the layer ------------------------------------------------------------------------------- */

typedef struct ticks { uint32_t prepare, matmul; } ticks;

static awq_status run_token(const awq_kernels *k, const awq_packed *packed, awq_precision precision,
                            size_t token, ticks *sum)
{
    const awq_matrix x = awq_matrix_view(layer_input + token * LAYER_IN, AWQ_F32, 1, LAYER_IN);
    const awq_matrix y = awq_matrix_view(output, AWQ_F32, 1, LAYER_OUT);
    uint32_t start = SYSTICK_VALUE;
    awq_prepared prepared;
    awq_status status = awq_prepare(k, packed->quant.group_size, precision, x, layer_input_scale,
                                    prepared_memory, sizeof prepared_memory, 0, 1, &prepared, NULL);
    size_t row, end;

    sum->prepare += clock_since(start);
    start = SYSTICK_VALUE;
    for (row = 0; row < LAYER_OUT && status == AWQ_OK; row = end) {
        end = row + ROWS_AT_ONCE < LAYER_OUT ? row + ROWS_AT_ONCE : LAYER_OUT;
        status = awq_matmul(k, packed, &prepared, layer_bias, y, row, end);
    }
    sum->matmul += clock_since(start);
    return status;
}

static unsigned differences(const uint32_t *expected)
{
    unsigned count = 0, i;
    for (i = 0; i < LAYER_OUT; i++) {
        uint32_t bits;
        memcpy(&bits, &output[i], sizeof bits);
        if (bits != expected[i] && count++ == 0)
            printf("    output %u: here %08lx, host %08lx\n", i, (unsigned long)bits,
                   (unsigned long)expected[i]);
    }
    return count;
}

/*  Returns 0 if every output has the host's bits.                                                */
static int check_precision(const awq_kernels *k, const awq_packed *packed, awq_precision precision,
                           const char *name, const uint32_t *expected)
{
    ticks sum = { 0, 0 };
    unsigned different = 0;
    size_t token;

    for (token = 0; token < LAYER_TOKENS; token++) {
        awq_status status = run_token(k, packed, precision, token, &sum);
        if (status != AWQ_OK) {
            printf("%s: token %u: %s\n", name, (unsigned)token, awq_status_string(status));
            return 1;
        }
        different += differences(expected + token * LAYER_OUT);
    }
    printf("%s: %u of %u outputs differ from the host's; %lu + %lu instructions per token "
           "(prepare + matmul)\n", name, different, (unsigned)(LAYER_TOKENS * LAYER_OUT),
           (unsigned long)(sum.prepare / LAYER_TOKENS * INSTRUCTIONS_PER_TICK),
           (unsigned long)(sum.matmul / LAYER_TOKENS * INSTRUCTIONS_PER_TICK));
    return different != 0;
}

static void print_stack(const awq_kernels *k, const awq_packed *packed)
{
    const uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    ticks ignored = { 0, 0 };

    stack_paint(frame);
    run_token(k, packed, AWQ_A16, 0, &ignored);
    printf("stack: %u bytes for prepare and matmul\n", stack_used(frame));
}

int main(void)
{
    const awq_kernels kernels = awq_kernels_best();
    awq_packed packed;
    awq_where where;
    int failed;

    if (awq_packed_open(&packed, layer_packed, sizeof layer_packed) != AWQ_OK
        || awq_packed_check(&packed, &where) != AWQ_OK) {
        printf("FAIL: the packed weights are damaged\n");
        return 1;
    }
    clock_start();
    printf("layer: %u x %u, %d bits, groups of %d, %u bytes; kernels: %s\n", (unsigned)LAYER_OUT,
           (unsigned)LAYER_IN, packed.quant.bits, packed.quant.group_size, (unsigned)packed.size,
           kernels.name);
    failed = check_precision(&kernels, &packed, AWQ_A16, "A16", expected_a16)
           + check_precision(&kernels, &packed, AWQ_A8, "A8", expected_a8);
    print_stack(&kernels, &packed);
    printf("%s\n", failed ? "FAIL" : "PASS");
    return failed != 0;
}
