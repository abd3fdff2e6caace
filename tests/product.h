/*  product.h - one quantized linear applied to a batch: built in guarded memory, defined in double,
    and what every kernel set must compute from it.                                               */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "check.h"

/*  The first NICE ones are what a model meets, the rest tries to break something.                */
typedef enum activations {
    NORMAL, UNIFORM, SHIFTED, NICE,
    ZEROS = NICE, ZERO_BLOCKS, DENORMAL, HUGE_ONES, OUTLIER, CONSTANT, NEGATIVE, ALTERNATING,
    ACTIVATIONS
} activations;

/*  TOP and BOTTOM make every q - zero as large as it can be: sums of 16 bits would overflow. With
    ONE_HOT an output shows how one input was rounded.                                            */
typedef enum weights { ANY, TOP, BOTTOM, ENDS, TINY_SCALES, ONE_HOT, WEIGHTS } weights;

typedef struct shape {
    awq_quant quant;
    awq_precision precision;
    size_t rows, cols, tokens;
    enum weights weights;
    enum activations activations;
    awq_dtype x_dtype, y_dtype;
    int with_input_scale, with_bias;
} shape;

typedef struct product {
    struct shape shape;
    awq_tensor tensor;
    awq_packed packed;
    awq_matrix x;
    const float *input_scale, *bias;
    double *expected, *bound;       /* [tokens][rows]: the outputs, and how far off one may be    */
} product;

/*  Sums over the outputs of (got - expected)^2 and expected^2.                                   */
typedef struct errors { double error, total; } errors;

awq_tensor   random_tensor(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols);
awq_tensor   blank_tensor(pool *p, const awq_tensor *like);
int          compare_tensors(const awq_tensor *a, const awq_tensor *b);
/*  A row at which a range may begin: a multiple of AWQ_ROW_STEP.                                 */
size_t       random_cut(rng *r, size_t rows);
/*  Packed in two ranges, in guarded memory of any alignment.                                     */
void        *pack_all(const awq_kernels *k, pool *p, rng *r, const awq_tensor *t, size_t *size);
/*  center +- 1.                                                                                  */
const float *random_floats(pool *p, rng *r, size_t n, double center);

shape   random_shape(rng *r);
product new_product(pool *p, rng *r, shape s);
void    free_product(product *m);
/*  y whole, in pieces, of selected tokens and of one alone: within the bound of the definition, the
    same bits always, and nothing else written. sum may be NULL.                                  */
int     check_product(const awq_kernels *k, rng *r, const product *m, errors *sum);
/*  Prepared by one set, multiplied by another of the same prepared_format: within the bound.     */
int     check_shared(const awq_kernels *prepares, const awq_kernels *multiplies, rng *r,
                     const product *m);
void    print_shape(const char *who, const shape *s);

#endif
