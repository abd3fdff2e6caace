/*  bodies.h - the tests that say what a kernel set must compute.

    Each returns its number of failures and needs stdio, string and stdlib only: the test programs
    wrap them, and tests/bodies_main.c runs them where there is no test runner.                   */
#ifndef BODIES_H
#define BODIES_H

#include "check.h"

int body_stats(const awq_kernels *k, uint64_t seed, int cases);     /* sums, sketch, Gram matrix  */
int body_losses(const awq_kernels *k, uint64_t seed, int cases);    /* awq_output_error           */
int body_quantize(const awq_kernels *k, uint64_t seed, int cases);  /* bit for bit                */
int body_numbers(const awq_kernels *k, uint64_t seed, int cases);   /* fp16 and bf16, in and out  */
int body_pack(const awq_kernels *k, uint64_t seed, int cases);      /* lossless, as FORMAT says   */
int body_layouts(const awq_kernels *k, uint64_t seed, int cases);   /* foreign ones, both ways     */
int body_matmul(const awq_kernels *k, uint64_t seed, int cases);    /* bounds, ranges, batches    */
int body_relative_error(const awq_kernels *k, uint64_t seed, int cases);
int body_extreme_values(const awq_kernels *k, uint64_t seed, int cases);

typedef struct body { const char *name; int (*run)(const awq_kernels *, uint64_t, int); int cases; }
    body;
#define BODIES                                                                                     \
    { "stats", body_stats, 60 }, { "losses", body_losses, 60 },                                    \
    { "quantize", body_quantize, 200 },                                                            \
    { "numbers", body_numbers, 20 },                                                               \
    { "pack", body_pack, 200 }, { "layouts", body_layouts, 130 },                                  \
    { "matmul", body_matmul, 300 },                                    \
    { "relative_error", body_relative_error, 3 },                                                  \
    { "extreme_values", body_extreme_values, 100 }

#endif
