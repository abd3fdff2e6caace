/*  check.h - what every test needs: a seeded generator, guarded memory, number formats, views.

    Nothing here depends on the test runner, so bodies.c also runs where there is none. */
#ifndef CHECK_H
#define CHECK_H

#include "awq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*  Counts and prints a failure; the function around it declares `int failures`.                  */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- a seeded generator ---------------------------------------------------------------------- */

typedef struct rng { uint64_t state; } rng;

uint64_t rng_next(rng *r);
size_t   rng_below(rng *r, size_t n);                   /* 0 .. n - 1                             */
int      rng_pick(rng *r, const int *choices, size_t n);
double   rng_unit(rng *r);                              /* uniform in [-1, 1)                     */
double   rng_normal(rng *r);                            /* nearly normal, mean 0, variance 1      */

/*  AWQ_SEED from the environment, else a fresh one; printed once, so that a failure can be rerun */
uint64_t check_seed(void);

/* ---- memory with forbidden pages before and after -------------------------------------------- */

/*  Where an allocation lies between its guards: an access one byte beyond that side faults.
    The *_ODD places leave one byte in between, so that the address is odd.                       */
typedef enum place { AT_END, AT_START, AT_END_ODD, AT_START_ODD, PLACES } place;

#define POOL_MAX 64
typedef struct pool {
    struct { unsigned char *map, *data; size_t map_size, size; } item[POOL_MAX];
    size_t count;
} pool;

/*  size bytes filled with PATTERN. Everything between them and the guards is PATTERN, too.       */
#define PATTERN 0xA5
void *pool_bytes(pool *p, size_t size, place where);
/*  The same as far to the end as an alignment allows.                                            */
void *pool_aligned(pool *p, size_t size, size_t alignment);
float *pool_floats(pool *p, size_t count);
/*  Frees all; returns how many allocations were written beyond their bounds.                     */
int   pool_release(pool *p);
/*  Whether all bytes still are PATTERN.                                                          */
int   untouched(const void *data, size_t size);

/* ---- number formats, written from their definition ------------------------------------------- */

double   widen(awq_dtype dtype, uint32_t bits);
uint32_t narrow(awq_dtype dtype, double value);         /* to nearest, ties to even               */
double   element(awq_dtype dtype, const void *data, size_t index);
void     set_element(awq_dtype dtype, void *data, size_t index, double value);
double   rounded(awq_dtype dtype, double value);        /* widen(narrow())                        */
double   power_of_two(int exponent);
double   magnitude(double value);

/* ---- views ----------------------------------------------------------------------------------- */

double     at(awq_matrix m, size_t row, size_t col);
void       put(awq_matrix m, size_t row, size_t col, double value);
/*  Memory for a view, exactly as long as it may be read; between the rows lies PATTERN.          */
awq_matrix new_matrix(pool *p, awq_dtype dtype, size_t rows, size_t cols, size_t stride,
                      place where);
/*  Any dtype, stride and place; values are amplitude * rng_normal().                             */
awq_matrix random_matrix(pool *p, rng *r, size_t rows, size_t cols, double amplitude);
/*  Whether nothing outside columns [col_begin, col_end) of a view was written.                   */
int        untouched_outside(awq_matrix m, size_t col_begin, size_t col_end);

/* ---- a parallel-for that runs serially, in pieces of any size and order ---------------------- */

typedef struct shuffle { rng random; } shuffle;
awq_parallel shuffled(shuffle *s);

/* ---- the definition of the quantizer --------------------------------------------------------- */

/*  u = w * s of a row, clamped to the clip_max [groups] of that row, in fp32.                    */
void define_scaled_row(awq_matrix weight, size_t row, const float *scale, const float *clip_max,
                       size_t group, float *u);
/*  One group of u = w * s (already clamped), quantized as awq_quantize says; AWQ_ERR_SCALE if the
    scale does not fit. q may be NULL.                                                            */
awq_status define_group(awq_quant quant, const float *u, size_t n, double *scale, int *zero,
                        uint8_t *q);
/*  out[r * in + c] = Q(clamp(w s)) / s for a whole matrix, in double.                            */
void define_fake_quantize(awq_quant quant, awq_matrix weight, const float *scale,
                          const float *clip_max, double *out);
awq_quant random_quant(rng *r);
size_t    group_length(size_t in_features, int group_size);     /* of a full group                */
double    smallest_scale(awq_dtype dtype);                      /* that may be stored             */

#endif
