/*  dense.c - see dense.h. */
#include "dense.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

/* ---- vectors --------------------------------------------------------------------------------- */

/*  Sums run in LANES parallel lanes, which no compiler may introduce by itself without -ffast-math.
    Tiles are as large as the registers: of DOT_ROWS rows by DOT_TOKENS, and of MIX_TOKENS by
    VECTORS of columns. */
#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4
#define DOT_TOKENS 6
#elif defined(__AVX__)
#define LANES 8
#define VECTORS 2
#define DOT_TOKENS 3
#else
#define LANES 4
#define VECTORS 2
#define DOT_TOKENS 3
#endif
#define DOT_ROWS 4
#define MIX_TOKENS 6
#define MIX_ROWS 128 /* at a time: 64 columns of them stay in the L1 cache */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static inline lanes load_lanes(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

/*  a b + c in one rounding where the processor has that; -std=c99 keeps gcc from seeing it. */
static inline lanes multiply_add(lanes a, lanes b, lanes c)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/*  Lanes are summed in one order everywhere: quarters of a vector first, then the lanes of a quad. */
typedef float quad __attribute__((vector_size(4 * sizeof(float))));

static inline quad sum_quarters(lanes v)
{
    float parts[LANES];
    quad sum, part;
    size_t i;

    memcpy(parts, &v, sizeof parts);
    memcpy(&sum, parts, sizeof sum);
    for (i = 4; i < LANES; i += 4) {
        memcpy(&part, parts + i, sizeof part);
        sum += part;
    }
    return sum;
}

static inline float sum_lanes(lanes v)
{
    quad q = sum_quarters(v);
    return (q[0] + q[2]) + (q[1] + q[3]);
}

/*  The same of DOT_ROWS vectors, in half as many steps. */
static inline void sum_rows(lanes v[DOT_ROWS][DOT_TOKENS], size_t token, float sums[DOT_ROWS])
{
    quad a = sum_quarters(v[0][token]), b = sum_quarters(v[1][token]);
    quad c = sum_quarters(v[2][token]), d = sum_quarters(v[3][token]), all;
    quad first = { a[0], b[0], c[0], d[0] }, second = { a[1], b[1], c[1], d[1] };
    quad third = { a[2], b[2], c[2], d[2] }, fourth = { a[3], b[3], c[3], d[3] };

    all = (first + third) + (second + fourth);
    memcpy(sums, &all, sizeof all);
}

/* ---- products of matrices -------------------------------------------------------------------- */

/*  rows (DOT_ROWS or 1) and tokens are constants at every call, so that sums stay in registers. */
static inline __attribute__((always_inline)) void dot_tile(const float *w, size_t w_stride,
                                                           const float *x, size_t x_stride,
                                                           size_t n, float *y, size_t y_stride,
                                                           const size_t rows, const size_t tokens)
{
    lanes sums[DOT_ROWS][DOT_TOKENS], ws[DOT_ROWS];
    float sum[DOT_ROWS];
    size_t whole = n - n % LANES, i, r, t;

    memset(sums, 0, sizeof sums);
    for (i = 0; i < whole; i += LANES) {
        for (r = 0; r < rows; r++) ws[r] = load_lanes(w + r * w_stride + i);
        for (t = 0; t < tokens; t++) {
            lanes xs = load_lanes(x + t * x_stride + i);
            for (r = 0; r < rows; r++) sums[r][t] = multiply_add(ws[r], xs, sums[r][t]);
        }
    }
    for (t = 0; t < tokens; t++) {
        if (rows == DOT_ROWS) sum_rows(sums, t, sum);
        else sum[0] = sum_lanes(sums[0][t]);
        for (r = 0; r < rows; r++) {
            for (i = whole; i < n; i++) sum[r] += w[r * w_stride + i] * x[t * x_stride + i];
            y[t * y_stride + r] = sum[r];
        }
    }
}

static inline __attribute__((always_inline)) void dot_tiles(const float *w, size_t w_stride,
                                                            size_t rows, const float *x,
                                                            size_t x_stride, size_t n, float *y,
                                                            size_t y_stride, const size_t tokens)
{
    size_t r;

    for (r = 0; r + DOT_ROWS <= rows; r += DOT_ROWS)
        dot_tile(w + r * w_stride, w_stride, x, x_stride, n, y + r, y_stride, DOT_ROWS, tokens);
    for (; r < rows; r++)
        dot_tile(w + r * w_stride, w_stride, x, x_stride, n, y + r, y_stride, 1, tokens);
}

void matmul_f32(const float *w, size_t w_stride, size_t rows, const float *x, size_t x_stride,
                size_t tokens, size_t n, float *y, size_t y_stride)
{
    size_t t;

    for (t = 0; t + DOT_TOKENS <= tokens; t += DOT_TOKENS)
        dot_tiles(w, w_stride, rows, x + t * x_stride, x_stride, n, y + t * y_stride, y_stride,
                  DOT_TOKENS);
    for (; t + 2 <= tokens; t += 2)
        dot_tiles(w, w_stride, rows, x + t * x_stride, x_stride, n, y + t * y_stride, y_stride, 2);
    if (t < tokens)
        dot_tiles(w, w_stride, rows, x + t * x_stride, x_stride, n, y + t * y_stride, y_stride, 1);
}

static inline __attribute__((always_inline)) void mix_tile(mix_factors f, const float *rows,
                                                           size_t row_stride, size_t n, bool add,
                                                           float *y, size_t y_stride,
                                                           const size_t tokens,
                                                           const size_t vectors)
{
    static const lanes zero = { 0 };
    lanes sums[MIX_TOKENS][VECTORS], row[VECTORS];
    size_t i, t, v;

    for (t = 0; t < tokens; t++)
        for (v = 0; v < vectors; v++)
            sums[t][v] = add ? load_lanes(y + t * y_stride + v * LANES) : zero;
    for (i = 0; i < n; i++) {
        for (v = 0; v < vectors; v++) row[v] = load_lanes(rows + i * row_stride + v * LANES);
        for (t = 0; t < tokens; t++) {
            lanes factor = f.x[t * f.stride + i * f.step] - zero;
            for (v = 0; v < vectors; v++) sums[t][v] = multiply_add(factor, row[v], sums[t][v]);
        }
    }
    for (t = 0; t < tokens; t++)
        for (v = 0; v < vectors; v++)
            memcpy(y + t * y_stride + v * LANES, &sums[t][v], sizeof(lanes));
}

static void mix_column(mix_factors f, size_t tokens, const float *rows, size_t row_stride, size_t n,
                       bool add, float *y, size_t y_stride)
{
    size_t i, t;

    for (t = 0; t < tokens; t++) {
        float sum = add ? y[t * y_stride] : 0;
        for (i = 0; i < n; i++) sum += f.x[t * f.stride + i * f.step] * rows[i * row_stride];
        y[t * y_stride] = sum;
    }
}

static inline __attribute__((always_inline)) void mix_tiles(mix_factors f, const float *rows,
                                                            size_t row_stride, size_t n,
                                                            size_t columns, bool add, float *y,
                                                            size_t y_stride, const size_t tokens)
{
    size_t c;

    for (c = 0; c + VECTORS * LANES <= columns; c += VECTORS * LANES)
        mix_tile(f, rows + c, row_stride, n, add, y + c, y_stride, tokens, VECTORS);
    for (; c + LANES <= columns; c += LANES)
        mix_tile(f, rows + c, row_stride, n, add, y + c, y_stride, tokens, 1);
    for (; c < columns; c++) mix_column(f, tokens, rows + c, row_stride, n, add, y + c, y_stride);
}

static void mix_some(mix_factors f, size_t tokens, const float *rows, size_t row_stride, size_t n,
                     size_t columns, bool add, float *y, size_t y_stride)
{
    for (; tokens >= MIX_TOKENS; tokens -= MIX_TOKENS) {
        mix_tiles(f, rows, row_stride, n, columns, add, y, y_stride, MIX_TOKENS);
        f.x += MIX_TOKENS * f.stride;
        y += MIX_TOKENS * y_stride;
    }
    for (; tokens >= 2; tokens -= 2) {
        mix_tiles(f, rows, row_stride, n, columns, add, y, y_stride, 2);
        f.x += 2 * f.stride;
        y += 2 * y_stride;
    }
    if (tokens) mix_tiles(f, rows, row_stride, n, columns, add, y, y_stride, 1);
}

static void mix_blocks(mix_factors f, size_t tokens, const float *rows, size_t row_stride, size_t n,
                       size_t columns, bool add, float *y, size_t y_stride)
{
    size_t some;

    do {
        some = n < MIX_ROWS ? n : MIX_ROWS;
        mix_some(f, tokens, rows, row_stride, some, columns, add, y, y_stride);
        f.x += some * f.step;
        rows += some * row_stride;
        add = true;
    } while (n -= some);
}

void mix_rows(const float *x, size_t x_stride, size_t tokens, const float *rows, size_t row_stride,
              size_t n, size_t columns, float *y, size_t y_stride)
{
    mix_factors f = { x, x_stride, 1 };
    mix_blocks(f, tokens, rows, row_stride, n, columns, false, y, y_stride);
}

void add_mixed_rows(mix_factors f, size_t tokens, const float *rows, size_t row_stride, size_t n,
                    size_t columns, float *y, size_t y_stride)
{
    mix_blocks(f, tokens, rows, row_stride, n, columns, true, y, y_stride);
}

/* ---- functions of numbers -------------------------------------------------------------------- */

/*  e^x to 2e-7 of itself, without branches so that loops of it become vectors. x = k ln 2 + r with
    |r| <= ln(2) / 2: k goes into the exponent, e^r is its Taylor polynomial. */
static inline float exp_of(float x)
{
    static const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float k, r, power, shifted;
    uint32_t bits, exponent;

    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    shifted = x * 1.44269504f + shift;
    k = shifted - shift;
    r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    power = 1.0f / 720.0f;
    power = power * r + 1.0f / 120.0f;
    power = power * r + 1.0f / 24.0f;
    power = power * r + 1.0f / 6.0f;
    power = power * r + 0.5f;
    power = power * r + 1.0f;
    power = power * r + 1.0f;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &power, sizeof bits);
    bits += exponent << 23; /* the bits of `shift` are gone from the left */
    memcpy(&power, &bits, sizeof power);
    return power;
}

static float largest(const float *x, size_t count)
{
    float most[LANES];
    size_t i, l;

    for (l = 0; l < LANES; l++) most[l] = x[0];
    for (i = 0; i + LANES <= count; i += LANES)
        for (l = 0; l < LANES; l++) most[l] = x[i + l] > most[l] ? x[i + l] : most[l];
    for (; i < count; i++) most[0] = x[i] > most[0] ? x[i] : most[0];
    for (l = 1; l < LANES; l++) most[0] = most[l] > most[0] ? most[l] : most[0];
    return most[0];
}

static float sum_of(const float *x, size_t count)
{
    lanes sums = { 0 };
    float sum;
    size_t i;

    for (i = 0; i + LANES <= count; i += LANES) sums += load_lanes(x + i);
    sum = sum_lanes(sums);
    for (; i < count; i++) sum += x[i];
    return sum;
}

void softmax(float *x, size_t count, float scale)
{
    float most = largest(x, count), share;
    size_t i;

    for (i = 0; i < count; i++) x[i] = exp_of((x[i] - most) * scale);
    share = 1.0f / sum_of(x, count);
    for (i = 0; i < count; i++) x[i] *= share;
}

double exp_sum(const float *x, size_t count, float *most)
{
    float part[256];
    double sum = 0;
    size_t i, k, n;

    *most = largest(x, count);
    for (i = 0; i < count; i += n) {
        n = count - i < 256 ? count - i : 256;
        for (k = 0; k < n; k++) part[k] = exp_of(x[i + k] - *most);
        sum += (double)sum_of(part, n);
    }
    return sum;
}

static float square_sum(const float *x, size_t count)
{
    lanes sums = { 0 };
    float sum;
    size_t i;

    for (i = 0; i + LANES <= count; i += LANES) {
        lanes v = load_lanes(x + i);
        sums = multiply_add(v, v, sums);
    }
    sum = sum_lanes(sums);
    for (; i < count; i++) sum += x[i] * x[i];
    return sum;
}

void rms_norm(const float *x, size_t count, const float *weight, float epsilon, float *out)
{
    float scale = 1.0f / sqrtf(square_sum(x, count) / (float)count + epsilon);
    size_t i;

    for (i = 0; i < count; i++) out[i] = x[i] * scale * weight[i];
}

void silu_gate(float *gate, const float *up, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) gate[i] = gate[i] / (1.0f + exp_of(-gate[i])) * up[i];
}

static float deviation_sum(const float *x, size_t count, float mean)
{
    lanes sums = { 0 };
    float sum;
    size_t i;

    for (i = 0; i + LANES <= count; i += LANES) {
        lanes v = load_lanes(x + i) - mean;
        sums = multiply_add(v, v, sums);
    }
    sum = sum_lanes(sums);
    for (; i < count; i++) sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

void layer_norm(const float *x, size_t count, const float *weight, const float *bias, float epsilon,
                float *out)
{
    float mean = sum_of(x, count) / (float)count;
    float scale = 1.0f / sqrtf(deviation_sum(x, count, mean) / (float)count + epsilon);
    size_t i;

    for (i = 0; i < count; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/*  erf(x) for x >= 0 to 3e-7: Abramowitz and Stegun 7.1.26. */
static inline float erf_of(float x)
{
    float t = 1.0f / (1.0f + 0.3275911f * x), sum = 1.061405429f;

    sum = sum * t - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    return 1.0f - sum * t * exp_of(-x * x);
}

void gelu(float *x, size_t count)
{
    size_t i;

    for (i = 0; i < count; i++) {
        float size = fabsf(x[i]);
        x[i] = 0.5f * (x[i] + size * erf_of(size * 0.70710678f));
    }
}

void weigh_tokens(const float *received, size_t tokens, float *weight)
{
    double sum = 0;
    size_t t;

    for (t = 0; t < tokens; t++) sum += (double)received[t];
    for (t = 0; t < tokens; t++)
        weight[t] = (float)sqrt((double)received[t] * (double)tokens / (sum > 0 ? sum : 1));
}
