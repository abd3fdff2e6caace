/*  linear.h - y = x W^T + bias, whatever form W has, over all threads. */
#ifndef LLM_LINEAR_H
#define LLM_LINEAR_H

#include "../common/files.h"
#include "../common/parallel.h"
#include "../formats/gguf.h"

#include "../../awq.h"

/*  One linear. The forms are tried in this order: quantized by awq.h, fp32 in memory, rows decoded
    from the file as they are used. */
typedef struct linear {
    size_t in_features, out_features;
    awq_packed packed;              /* packed.data = NULL: not quantized */
    const float *weight;            /* NULL: not in memory */
    const gguf_tensor *stored;
    const float *bias;              /* NULL: none */
} linear;

/*  What every computation needs: threads, the kernel set, and scratch that grows as needed. */
typedef struct compute {
    parallel_pool pool;
    awq_parallel parallel;          /* the pool, as awq.h wants it */
    awq_kernels kernels;
    awq_precision precision;        /* of the activations that quantized linears see */
    awq_status *status;             /* [workers] */
    awq_where *where;               /* [workers] */
    float *decoded;                 /* per worker a block of decoded rows */
    size_t decoded_columns;
    void *prepared;
    size_t prepared_size;
} compute;

/*  threads = 0: one per processor. */
bool compute_open(compute *c, size_t threads, awq_precision precision, failure *why);
void compute_close(compute *c);

/*  Applies `count` linears to the same x [tokens][in_features]; outputs[i] is
    [tokens][out_features]. A token's result does not depend on the other tokens or on the number
    of threads. */
bool linears_apply(compute *c, const linear *linears, size_t count, const float *x, size_t tokens,
                   float *const *outputs, failure *why);

/*  One row of W in fp32, out [in_features]. */
bool linear_row(const linear *l, size_t row, float *out, failure *why);

/*  All of W in fp32, out [out_features][in_features]; not for quantized linears. */
void linear_decode(compute *c, const linear *l, float *out);

#endif
