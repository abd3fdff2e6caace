#define _DEFAULT_SOURCE     /* MAP_ANONYMOUS */
#include "check.h"

#if defined(__unix__)
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#define GUARDED 1
#else
#define GUARDED 0
#endif

/* ---- a seeded generator ---------------------------------------------------------------------- */

uint64_t rng_next(rng *r)
{
    uint64_t z = (r->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

size_t rng_below(rng *r, size_t n) { return (size_t)(rng_next(r) >> 11) % n; }

int rng_pick(rng *r, const int *choices, size_t n) { return choices[rng_below(r, n)]; }

double rng_unit(rng *r)
{
    return (double)(int64_t)(rng_next(r) >> 11) * power_of_two(-52) - 1.0;
}

double rng_normal(rng *r)
{
    double sum = 0;
    int i;
    for (i = 0; i < 12; i++) sum += rng_unit(r);
    return sum / 2;
}

static uint64_t fresh_seed(void)
{
#if GUARDED
    struct timespec now = { 0, 0 };
    rng mix;
    clock_gettime(CLOCK_REALTIME, &now);
    mix.state = (uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec ^
                (uint64_t)getpid() << 32;
    return rng_next(&mix);
#else
    return 1;
#endif
}

uint64_t check_seed(void)
{
    const char *text = getenv("AWQ_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : fresh_seed();
    fprintf(stderr, "seed: run with AWQ_SEED=0x%llx to repeat\n", (unsigned long long)seed);
    return seed;
}

/* ---- memory with forbidden pages before and after -------------------------------------------- */

static unsigned char *map_guarded(size_t size, size_t *map_size, size_t *guard)
{
#if GUARDED
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inner = (size + page - 1) / page * page;
    void *map;
    *guard = page;
    *map_size = inner + 2 * page;
    map = mmap(NULL, *map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map, page, PROT_NONE) != 0 ||
        mprotect((char *)map + page + inner, page, PROT_NONE) != 0) {
        fprintf(stderr, "check: no memory for a guarded buffer of %zu bytes\n", size);
        abort();
    }
    return map;
#else
    *guard = 0;
    *map_size = size;
    return malloc(size);
#endif
}

/*  Lays an allocation out `before` bytes after the first usable one, or ending `after` bytes
    before the last.                                                                              */
static void *pool_take(pool *p, size_t size, int at_end, size_t slack)
{
    size_t guard, usable, i = p->count++;
    if (i >= POOL_MAX) abort();
    p->item[i].map = map_guarded(size + slack + 64, &p->item[i].map_size, &guard);
    p->item[i].size = size;
    usable = p->item[i].map_size - 2 * guard;
    p->item[i].data = p->item[i].map + guard + (at_end ? usable - size - slack : slack);
    memset(p->item[i].map + guard, PATTERN, usable);
    return p->item[i].data;
}

void *pool_bytes(pool *p, size_t size, place where)
{
    int at_end = where == AT_END || where == AT_END_ODD;
    size_t odd = where == AT_START_ODD || (where == AT_END_ODD && size % 2 == 0);
    return pool_take(p, size, at_end, odd);
}

void *pool_aligned(pool *p, size_t size, size_t alignment)
{
    return pool_take(p, size, 1, (alignment - size % alignment) % alignment);
}

float *pool_floats(pool *p, size_t count)
{
    return (float *)pool_aligned(p, count * sizeof(float), sizeof(float));
}

int untouched(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    size_t i;
    for (i = 0; i < size; i++)
        if (bytes[i] != PATTERN) return 0;
    return 1;
}

int pool_release(pool *p)
{
    int damaged = 0;
    size_t i;
    for (i = 0; i < p->count; i++) {
        unsigned char *map = p->item[i].map, *data = p->item[i].data;
        size_t map_size = p->item[i].map_size, guard = 0;
#if GUARDED
        guard = (size_t)sysconf(_SC_PAGESIZE);
#endif
        if (!untouched(map + guard, (size_t)(data - map) - guard) ||
            !untouched(data + p->item[i].size,
                       (size_t)(map + map_size - guard - data) - p->item[i].size)) {
            fprintf(stderr, "check: bytes next to a buffer of %zu were written\n",
                    p->item[i].size);
            damaged++;
        }
#if GUARDED
        munmap(map, map_size);
#else
        free(map);
#endif
    }
    p->count = 0;
    return damaged;
}

/* ---- number formats, written from their definition ------------------------------------------- */

static int mantissa_bits(awq_dtype dtype)
{
    return dtype == AWQ_F32 ? 23 : dtype == AWQ_F16 ? 10 : 7;
}

static int exponent_bits(awq_dtype dtype) { return dtype == AWQ_F16 ? 5 : 8; }

double power_of_two(int exponent)
{
    uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double magnitude(double value) { return value < 0 ? -value : value; }

static int exponent_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (int)(bits >> 52 & 0x7FF) - 1023;
}

double widen(awq_dtype dtype, uint32_t bits)
{
    int m = mantissa_bits(dtype), e = exponent_bits(dtype);
    uint32_t fraction = bits & ((1u << m) - 1), exponent = bits >> m & ((1u << e) - 1);
    int bias = (1 << (e - 1)) - 1;
    double sign = bits >> (m + e) & 1 ? -1.0 : 1.0, zero = 0;

    if (exponent == (1u << e) - 1) return fraction ? zero / zero : sign / zero;
    if (exponent == 0) return sign * (double)fraction * power_of_two(1 - bias - m);
    return sign * (double)(fraction + (1u << m)) * power_of_two((int)exponent - bias - m);
}

uint32_t narrow(awq_dtype dtype, double value)
{
    int m = mantissa_bits(dtype), e = exponent_bits(dtype);
    int smallest = 2 - (1 << (e - 1)), exponent = exponent_of(value);
    uint32_t infinity = ((1u << e) - 1) << m;
    uint32_t sign = value < 0 || (value == 0 && 1 / value < 0) ? 1u << (m + e) : 0;
    double scaled, rest;
    uint64_t whole;

    if (value != value) return infinity | 1u << (m - 1);
    value = magnitude(value);
    if (exponent >= 1 << (e - 1)) return sign | infinity;
    if (exponent < smallest) exponent = smallest;
    scaled = value * power_of_two(m - exponent);
    whole = (uint64_t)scaled;
    rest = scaled - (double)whole;
    if (rest > 0.5 || (rest == 0.5 && whole % 2 == 1)) whole++;
    return sign | (((uint32_t)(exponent - smallest) << m) + (uint32_t)whole);
}

double element(awq_dtype dtype, const void *data, size_t index)
{
    uint32_t word = 0;
    uint16_t half;
    const char *bytes = data;
    if (dtype == AWQ_F32) {
        memcpy(&word, bytes + 4 * index, 4);
    } else {
        memcpy(&half, bytes + 2 * index, 2);
        word = half;
    }
    return widen(dtype, word);
}

void set_element(awq_dtype dtype, void *data, size_t index, double value)
{
    uint32_t word = narrow(dtype, value);
    uint16_t half = (uint16_t)word;
    char *bytes = data;
    if (dtype == AWQ_F32) memcpy(bytes + 4 * index, &word, 4);
    else memcpy(bytes + 2 * index, &half, 2);
}

double rounded(awq_dtype dtype, double value) { return widen(dtype, narrow(dtype, value)); }

/* ---- views ----------------------------------------------------------------------------------- */

double at(awq_matrix m, size_t row, size_t col)
{
    return element(m.dtype, m.data, row * m.stride + col);
}

void put(awq_matrix m, size_t row, size_t col, double value)
{
    set_element(m.dtype, m.data, row * m.stride + col, value);
}

awq_matrix new_matrix(pool *p, awq_dtype dtype, size_t rows, size_t cols, size_t stride,
                      place where)
{
    awq_matrix m;
    size_t count = rows ? (rows - 1) * stride + cols : 0;
    m.data = pool_bytes(p, count * (dtype == AWQ_F32 ? 4 : 2), where);
    m.rows = rows;
    m.cols = cols;
    m.stride = stride;
    m.dtype = dtype;
    return m;
}

awq_matrix random_matrix(pool *p, rng *r, size_t rows, size_t cols, double amplitude)
{
    awq_matrix m = new_matrix(p, (awq_dtype)rng_below(r, 3), rows, cols,
                              cols + rng_below(r, 2) * rng_below(r, 9),
                              (place)rng_below(r, PLACES));
    size_t i, j;
    for (i = 0; i < rows; i++)
        for (j = 0; j < cols; j++) put(m, i, j, amplitude * rng_normal(r));
    return m;
}

int untouched_outside(awq_matrix m, size_t col_begin, size_t col_end)
{
    size_t size = m.dtype == AWQ_F32 ? 4 : 2, row;
    const char *row_data = m.data;
    for (row = 0; row < m.rows; row++, row_data += m.stride * size) {
        size_t end = row + 1 < m.rows ? m.stride : m.cols;
        if (!untouched(row_data, col_begin * size)) return 0;
        if (!untouched(row_data + col_end * size, (end - col_end) * size)) return 0;
    }
    return 1;
}

/* ---- a parallel-for that runs serially, in pieces of any size and order ---------------------- */

enum { SHUFFLE_WORKERS = 3, SHUFFLE_PIECES = 7 };

static void run_shuffled(void *context, size_t count, size_t step, awq_task *task, void *arg)
{
    shuffle *s = context;
    size_t steps = (count + step - 1) / step, cut[SHUFFLE_PIECES + 1], order[SHUFFLE_PIECES], i, j;

    cut[0] = 0;
    for (i = 1; i <= SHUFFLE_PIECES; i++)
        cut[i] = i == SHUFFLE_PIECES ? steps : cut[i - 1] + rng_below(&s->random,
                                                                     steps - cut[i - 1] + 1);
    for (i = 0; i < SHUFFLE_PIECES; i++) {
        j = rng_below(&s->random, i + 1);
        order[i] = i;
        order[i] = order[j];
        order[j] = i;
    }
    for (i = 0; i < SHUFFLE_PIECES; i++) {
        size_t begin = cut[order[i]] * step, end = cut[order[i] + 1] * step;
        if (end > count) end = count;
        if (begin < end) task(arg, begin, end, rng_below(&s->random, SHUFFLE_WORKERS));
    }
}

awq_parallel shuffled(shuffle *s)
{
    awq_parallel parallel;
    parallel.run = run_shuffled;
    parallel.context = s;
    parallel.workers = SHUFFLE_WORKERS;
    return parallel;
}

/* ---- the definition of the quantizer --------------------------------------------------------- */

awq_quant random_quant(rng *r)
{
    static const int bits[] = { 2, 3, 4, 4, 8 }, groups[] = { 1, 3, 7, 32, 64, 100, 128, 200, -1 };
    awq_quant quant;
    quant.bits = rng_pick(r, bits, COUNT(bits));
    quant.group_size = rng_pick(r, groups, COUNT(groups));
    quant.symmetric = (int)rng_below(r, 2);
    quant.scale_dtype = (awq_dtype)rng_below(r, 3);
    return quant;
}

size_t group_length(size_t in_features, int group_size)
{
    return group_size > 0 && (size_t)group_size < in_features ? (size_t)group_size : in_features;
}

double smallest_scale(awq_dtype dtype) { return power_of_two(dtype == AWQ_F16 ? -24 : -126); }

static int nearest_int(double value)
{
    double size = magnitude(value), rest;
    int whole = (int)size;
    rest = size - whole;
    if (rest > 0.5 || (rest == 0.5 && whole % 2 == 1)) whole++;
    return value < 0 ? -whole : whole;
}

static int clamp_int(double value, int low, int high)
{
    return value <= low ? low : value >= high ? high : nearest_int(value);
}

awq_status define_group(awq_quant quant, const float *u, size_t n, double *scale, int *zero,
                        uint8_t *q)
{
    int levels = (1 << quant.bits) - 1, half = 1 << (quant.bits - 1);
    double least = smallest_scale(quant.scale_dtype);
    float lo = 0, hi = 0, raw, ratio;
    size_t i;

    for (i = 0; i < n; i++) {
        if (u[i] < lo) lo = u[i];
        if (u[i] > hi) hi = u[i];
    }
    if (quant.symmetric) raw = (hi > -lo ? hi : -lo) / (float)(half - 1);
    else raw = (hi - lo) / (float)levels;
    if ((double)raw < least) raw = (float)least;
    *scale = rounded(quant.scale_dtype, (double)raw);
    if (*scale > 1e39) return AWQ_ERR_SCALE;
    ratio = -lo / raw;
    *zero = quant.symmetric ? half : clamp_int((double)ratio, 0, levels);
    for (i = 0; q && i < n; i++) {
        ratio = u[i] / (float)*scale;
        q[i] = (uint8_t)clamp_int((double)ratio, -*zero, levels - *zero);
        q[i] = (uint8_t)(q[i] + *zero);
    }
    return AWQ_OK;
}

static float clamped(float u, float bound) { return u > bound ? bound : u < -bound ? -bound : u; }

void define_scaled_row(awq_matrix weight, size_t row, const float *scale, const float *clip_max,
                       size_t group, float *u)
{
    size_t c;
    for (c = 0; c < weight.cols; c++) {
        u[c] = (float)at(weight, row, c);
        if (scale) u[c] = u[c] * scale[c];
        if (clip_max) u[c] = clamped(u[c], clip_max[c / group]);
    }
}

void define_fake_quantize(awq_quant quant, awq_matrix weight, const float *scale,
                          const float *clip_max, double *out)
{
    size_t n = weight.cols, group = group_length(n, quant.group_size), row, begin, c;
    size_t groups = (n + group - 1) / group;
    float *u = malloc(n * sizeof *u);
    uint8_t *q = malloc(n);

    if (!u || !q) abort();
    for (row = 0; row < weight.rows; row++) {
        define_scaled_row(weight, row, scale, clip_max ? clip_max + row * groups : NULL, group, u);
        for (begin = 0; begin < n; begin += group) {
            size_t count = n - begin < group ? n - begin : group;
            double step;
            int zero;
            if (define_group(quant, u + begin, count, &step, &zero, q) != AWQ_OK) abort();
            for (c = 0; c < count; c++)
                out[row * n + begin + c] = (q[c] - zero) * step /
                                           (scale ? (double)scale[begin + c] : 1.0);
        }
    }
    free(u);
    free(q);
}
