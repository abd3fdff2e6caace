/*  dense.h - the fp32 arithmetic of a transformer: matrix products, softmax, norms, gates. In
    vectors of the width that the compiler was told of, on the calling thread. A token's result does
    not depend on how many tokens are computed with it. */
#ifndef COMMON_DENSE_H
#define COMMON_DENSE_H

#include <stddef.h>

/*  y[t][r] = sum over n of w[r][n] x[t][n]: a linear. */
void matmul_f32(const float *w, size_t w_stride, size_t rows, const float *x, size_t x_stride,
                size_t tokens, size_t n, float *y, size_t y_stride);

/*  y[t][c] = sum over n of x[t][n] rows[n][c]: weighted sums of rows. */
void mix_rows(const float *x, size_t x_stride, size_t tokens, const float *rows, size_t row_stride,
              size_t n, size_t columns, float *y, size_t y_stride);

/*  The same, added to y, with factors that stand anywhere: x[t * stride + n * step]. */
typedef struct mix_factors {
    const float *x;
    size_t stride, step;
} mix_factors;

void add_mixed_rows(mix_factors f, size_t tokens, const float *rows, size_t row_stride, size_t n,
                    size_t columns, float *y, size_t y_stride);

/*  x = softmax(scale x). */
void softmax(float *x, size_t count, float scale);

/*  sum of exp(x - most), most the largest of x: what a log-likelihood needs. */
double exp_sum(const float *x, size_t count, float *most);

/*  out = x / sqrt(mean x^2 + epsilon) * weight. */
void rms_norm(const float *x, size_t count, const float *weight, float epsilon, float *out);

/*  out = (x - mean x) / sqrt(mean (x - mean x)^2 + epsilon) * weight + bias; out may be x. */
void layer_norm(const float *x, size_t count, const float *weight, const float *bias, float epsilon,
                float *out);

/*  x = x (1 + erf(x / sqrt 2)) / 2. */
void gelu(float *x, size_t count);

/*  gate = silu(gate) up. */
void silu_gate(float *gate, const float *up, size_t count);

/*  Attention sinks: the first token of a text receives most of the attention and is one among
    hundreds, so an unweighted loss ignores it although everything later depends on it. A token's
    weight is the square root of its share; the mean share is 1. */
void weigh_tokens(const float *received, size_t tokens, float *weight);

#endif
