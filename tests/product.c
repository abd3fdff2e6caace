#include "product.h"

/* ---- weights --------------------------------------------------------------------------------- */

static awq_tensor guarded_tensor(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols)
{
    awq_tensor t;
    size_t groups = awq_group_count(cols, quant.group_size);
    t.out_features = rows;
    t.in_features = cols;
    t.quant = quant;
    t.q = pool_bytes(p, rows * cols, (place)rng_below(r, PLACES));
    t.zeros = pool_bytes(p, rows * groups, (place)rng_below(r, PLACES));
    t.scales = pool_aligned(p, rows * groups * awq_dtype_size(quant.scale_dtype), 4);
    return t;
}

static unsigned any_q(rng *r, weights kind, unsigned top)
{
    switch (kind) {
    case TOP: return top;
    case BOTTOM: return 0;
    case ENDS: return rng_below(r, 2) ? top : 0;
    default: return (unsigned)rng_below(r, top + 1);
    }
}

static unsigned any_zero(rng *r, weights kind, unsigned top)
{
    return kind == TOP ? 0 : kind == BOTTOM ? top : any_q(r, kind, top);
}

/*  Every q is the zero of its group, but for one in each row.                                    */
static void make_one_hot(awq_tensor *t, rng *r)
{
    size_t n = t->in_features, row, c, hot, group = group_length(n, t->quant.group_size);
    for (row = 0; row < t->out_features; row++)
        for (c = 0, hot = rng_below(r, n); c < n; c++) {
            unsigned zero = t->zeros[row * ((n + group - 1) / group) + c / group];
            if (c != hot) t->q[row * n + c] = (uint8_t)zero;
        }
}

static awq_tensor tensor_of(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols,
                            weights kind)
{
    awq_tensor t = guarded_tensor(p, r, quant, rows, cols);
    size_t groups = awq_group_count(cols, quant.group_size), i;
    unsigned top = (1u << quant.bits) - 1;
    double size = kind == TINY_SCALES ? power_of_two(-21) : 1.0 / top;

    for (i = 0; i < rows * cols; i++) t.q[i] = (uint8_t)any_q(r, kind, top);
    for (i = 0; i < rows * groups; i++) {
        t.zeros[i] = (uint8_t)(quant.symmetric ? top / 2 + 1 : any_zero(r, kind, top));
        set_element(quant.scale_dtype, t.scales, i, (1.5 + rng_unit(r)) * size);
    }
    if (kind == ONE_HOT) make_one_hot(&t, r);
    return t;
}

awq_tensor random_tensor(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols)
{
    return tensor_of(p, r, quant, rows, cols, ANY);
}

awq_tensor blank_tensor(pool *p, const awq_tensor *like)
{
    rng r = { 0 };
    return guarded_tensor(p, &r, like->quant, like->out_features, like->in_features);
}

int compare_tensors(const awq_tensor *a, const awq_tensor *b)
{
    size_t cells = a->out_features * a->in_features;
    size_t groups = a->out_features * awq_group_count(a->in_features, a->quant.group_size);
    int failures = 0;
    CHECK(memcmp(a->q, b->q, cells) == 0, "q of %zu x %zu, %d bits", a->out_features,
          a->in_features, a->quant.bits);
    CHECK(memcmp(a->zeros, b->zeros, groups) == 0, "zeros");
    CHECK(memcmp(a->scales, b->scales, groups * awq_dtype_size(a->quant.scale_dtype)) == 0,
          "scales");
    return failures;
}

size_t random_cut(rng *r, size_t rows)
{
    return rng_below(r, (rows + AWQ_ROW_STEP - 1) / AWQ_ROW_STEP) * AWQ_ROW_STEP;
}

void *pack_all(const awq_kernels *k, pool *p, rng *r, const awq_tensor *t, size_t *size)
{
    size_t rows = t->out_features, cut = random_cut(r, rows);
    void *memory;
    int failures = 0;

    *size = awq_packed_size(t->quant, rows, t->in_features);
    memory = pool_bytes(p, *size, (place)rng_below(r, PLACES));
    CHECK(awq_packed_init(t->quant, rows, t->in_features, memory, *size) == AWQ_OK, "init");
    CHECK(awq_pack(k, t, memory, *size, cut, rows, NULL) == AWQ_OK, "pack");
    CHECK(awq_pack(k, t, memory, *size, 0, cut, NULL) == AWQ_OK, "pack");
    if (failures) abort();
    return memory;
}

/* ---- activations ----------------------------------------------------------------------------- */

const float *random_floats(pool *p, rng *r, size_t n, double center)
{
    float *floats = (float *)(rng_below(r, 2) ? pool_aligned(p, n * sizeof(float), sizeof(float))
                                              : pool_bytes(p, n * sizeof(float), AT_START));
    size_t i;
    for (i = 0; i < n; i++) floats[i] = (float)(center + rng_unit(r));
    return floats;
}

static double activation(rng *r, activations kind, size_t col)
{
    switch (kind) {
    case UNIFORM: return rng_unit(r);
    case SHIFTED: return rng_normal(r) + 3;
    case ZEROS: return 0;
    case DENORMAL: return rng_normal(r) * power_of_two(-132);
    case HUGE_ONES: return rng_normal(r) * 1e30;
    case OUTLIER: return rng_below(r, 50) ? rng_normal(r) * 1e-3 : 300;
    case CONSTANT: return 1;
    case NEGATIVE: return -1.001 - rng_unit(r);
    case ALTERNATING: return col % 2 ? -1 : 1;
    default: return rng_normal(r);
    }
}

static void fill_token(rng *r, awq_matrix x, size_t token, activations kind)
{
    double sign = kind == CONSTANT && token % 2 ? -1 : 1;
    size_t c, zero_from = 0, zero_to = 0;
    if (kind == ZERO_BLOCKS) {
        zero_from = rng_below(r, x.cols) / 32 * 32;
        zero_to = zero_from + 32 + rng_below(r, 256);
    }
    for (c = 0; c < x.cols; c++)
        put(x, token, c, c >= zero_from && c < zero_to ? 0 : sign * activation(r, kind, c));
}

/* ---- the definition -------------------------------------------------------------------------- */

static double *new_doubles(size_t count)
{
    double *values = calloc(count + 1, sizeof *values);
    if (!values) abort();
    return values;
}

/*  What, by columns: [in_features][out_features].                                                */
static double *dense_weights(const awq_tensor *t)
{
    size_t n = t->in_features, rows = t->out_features, row, c;
    size_t group = group_length(n, t->quant.group_size), groups = (n + group - 1) / group;
    double *w = new_doubles(n * rows);
    for (row = 0; row < rows; row++)
        for (c = 0; c < n; c++) {
            size_t g = row * groups + c / group;
            w[c * rows + row] = (t->q[row * n + c] - t->zeros[g]) *
                                element(t->quant.scale_dtype, t->scales, g);
        }
    return w;
}

/*  How far a prepared input of a block with these extremes (low <= 0 <= high) may be from itself:
    half a step, or little more. Steps too small for fp32 may be flushed to zero.                 */
static double input_error(awq_precision precision, double low, double high)
{
    double steps = precision == AWQ_A16 ? 32639 : 255;
    double range = precision == AWQ_A8 ? high - low : high > -low ? high : -low;
    return 0.504 * range / steps + steps * power_of_two(-126);
}

/*  Blocks are at most 128 inputs of a group.                                                     */
static size_t block_end(size_t begin, size_t cols, size_t group)
{
    size_t group_end = begin - begin % group + group;
    size_t end = begin + 128 < group_end ? begin + 128 : group_end;
    return end < cols ? end : cols;
}

/*  Adds what one block of one token adds to every output and to its sum of magnitudes; returns how
    far off an input of it may be.                                                                */
static double add_block(const product *m, const double *w, const double *x, size_t begin,
                        size_t end, double *y, double *size)
{
    size_t rows = m->shape.rows, row, c;
    double low = 0, high = 0;
    for (c = begin; c < end; c++) {
        const double *column = w + c * rows;
        double input = x[c];
        if (input < low) low = input;
        if (input > high) high = input;
        for (row = 0; row < rows; row++) {
            double part = column[row] * input;
            y[row] += part;
            size[row] += magnitude(part);
        }
    }
    return input_error(m->shape.precision, low, high);
}

/*  Sums of |What|: [blocks][out_features].                                                       */
static double *block_weights(const product *m, const double *w)
{
    size_t rows = m->shape.rows, cols = m->shape.cols, begin, end, c, row, block = 0;
    size_t group = group_length(cols, m->shape.quant.group_size);
    double *sums = new_doubles(rows * cols);
    for (begin = 0; begin < cols; begin = end, block++) {
        end = block_end(begin, cols, group);
        for (c = begin; c < end; c++)
            for (row = 0; row < rows; row++)
                sums[block * rows + row] += magnitude(w[c * rows + row]);
    }
    return sums;
}

static double half_a_step(awq_dtype dtype, double value)
{
    double size = magnitude(value);
    if (dtype == AWQ_F32) return size * power_of_two(-24);
    return dtype == AWQ_F16 ? size * power_of_two(-11) + power_of_two(-25)
                            : size * power_of_two(-8);
}

/*  The bound that awq_matmul documents, and the rounding of fp32 sums and of y's dtype.          */
static void define_token(product *m, const double *w, const double *sums, const double *x,
                         size_t token)
{
    size_t rows = m->shape.rows, cols = m->shape.cols, begin, end, row, block = 0;
    size_t group = group_length(cols, m->shape.quant.group_size);
    double *y = m->expected + token * rows, *bound = m->bound + token * rows;
    double *size = new_doubles(rows);

    for (row = 0; row < rows; row++) {
        y[row] = m->bias ? (double)m->bias[row] : 0.0;
        size[row] = magnitude(y[row]);
    }
    for (begin = 0; begin < cols; begin = end, block++) {
        double error;
        end = block_end(begin, cols, group);
        error = add_block(m, w, x, begin, end, y, size);
        for (row = 0; row < rows; row++) bound[row] += error * sums[block * rows + row];
    }
    for (row = 0; row < rows; row++) {
        bound[row] += size[row] * (double)(8 + block) * power_of_two(-24);
        bound[row] += half_a_step(m->shape.y_dtype, magnitude(y[row]) + bound[row]);
    }
    free(size);
}

static void define_outputs(product *m)
{
    double *w = dense_weights(&m->tensor), *sums = block_weights(m, w);
    double *x = new_doubles(m->shape.cols);
    size_t t, c;
    m->expected = new_doubles(m->shape.tokens * m->shape.rows);
    m->bound = new_doubles(m->shape.tokens * m->shape.rows);
    for (t = 0; t < m->shape.tokens; t++) {
        for (c = 0; c < m->shape.cols; c++)
            x[c] = at(m->x, t, c) / (m->input_scale ? (double)m->input_scale[c] : 1.0);
        define_token(m, w, sums, x, t);
    }
    free(w);
    free(sums);
    free(x);
}

/* ---- building -------------------------------------------------------------------------------- */

shape random_shape(rng *r)
{
    static const int tokens[] = { 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 33 };
    shape s;
    s.quant = random_quant(r);
    s.precision = (awq_precision)rng_below(r, 2);
    s.rows = 1 + rng_below(r, 40);
    s.cols = rng_below(r, 8) ? 1 + rng_below(r, 300) : 576;
    s.tokens = (size_t)rng_pick(r, tokens, COUNT(tokens));
    s.weights = ANY;
    s.activations = (activations)rng_below(r, NICE);
    s.x_dtype = (awq_dtype)rng_below(r, 3);
    s.y_dtype = (awq_dtype)rng_below(r, 3);
    s.with_input_scale = rng_below(r, 3) == 0;
    s.with_bias = (int)rng_below(r, 2);
    return s;
}

/*  1e30 is too large for fp16.                                                                   */
static awq_dtype wide_enough(awq_dtype dtype, activations kind)
{
    return kind == HUGE_ONES && dtype == AWQ_F16 ? AWQ_F32 : dtype;
}

product new_product(pool *p, rng *r, shape s)
{
    awq_kernels portable = awq_kernels_portable();
    product m;
    void *memory;
    size_t size, t;

    s.x_dtype = wide_enough(s.x_dtype, s.activations);
    s.y_dtype = wide_enough(s.y_dtype, s.activations);
    m.shape = s;
    m.tensor = tensor_of(p, r, s.quant, s.rows, s.cols, s.weights);
    memory = pack_all(&portable, p, r, &m.tensor, &size);
    if (awq_packed_open(&m.packed, memory, size) != AWQ_OK) abort();
    m.x = new_matrix(p, s.x_dtype, s.tokens, s.cols, s.cols + rng_below(r, 2) * rng_below(r, 9),
                     (place)rng_below(r, PLACES));
    for (t = 0; t < s.tokens; t++) fill_token(r, m.x, t, s.activations);
    m.input_scale = s.with_input_scale ? random_floats(p, r, s.cols, 1.25) : NULL;
    m.bias = s.with_bias ? random_floats(p, r, s.rows, 0) : NULL;
    define_outputs(&m);
    return m;
}

void free_product(product *m)
{
    free(m->expected);
    free(m->bound);
}

/* ---- one kernel set on one product ----------------------------------------------------------- */

/*  One call of awq_prepare or awq_matmul after another, in pieces of any size and order.         */
typedef struct work {
    const awq_kernels *k;
    const product *m;
    awq_matrix x, y;
    void *memory;
    size_t memory_size;
    awq_prepared prepared;
    int failures;
} work;

static void prepare_range(void *arg, size_t begin, size_t end, size_t worker)
{
    work *w = arg;
    awq_prepared view;
    int failures = 0;
    (void)worker;
    CHECK(awq_prepare(w->k, w->m->shape.quant.group_size, w->m->shape.precision, w->x,
                      w->m->input_scale, w->memory, w->memory_size, begin, end, &view, NULL) ==
          AWQ_OK, "prepare %zu .. %zu", begin, end);
    CHECK(w->prepared.data == NULL ||
          (view.data == w->prepared.data && view.token_size == w->prepared.token_size &&
           view.tokens == w->prepared.tokens), "the view depends on the range");
    w->prepared = view;
    w->failures += failures;
}

static void multiply_range(void *arg, size_t begin, size_t end, size_t worker)
{
    work *w = arg;
    int failures = 0;
    (void)worker;
    CHECK(awq_matmul(w->k, &w->m->packed, &w->prepared, w->m->bias, w->y, begin, end) == AWQ_OK,
          "matmul of %zu .. %zu", begin, end);
    w->failures += failures;
}

static work new_work(pool *p, rng *r, const awq_kernels *k, const product *m, awq_matrix x)
{
    work w;
    memset(&w, 0, sizeof w);
    w.k = k;
    w.m = m;
    w.x = x;
    w.memory_size = awq_prepared_size(k, x.cols, m->shape.quant.group_size, m->shape.precision,
                                      x.rows);
    w.memory = rng_below(r, 4) ? pool_aligned(p, w.memory_size, sizeof(float))
                               : pool_bytes(p, w.memory_size, AT_START);
    return w;
}

static awq_matrix new_output(pool *p, rng *r, const product *m, size_t tokens)
{
    return new_matrix(p, m->shape.y_dtype, tokens, m->shape.rows,
                      m->shape.rows + rng_below(r, 2) * rng_below(r, 20),
                      (place)rng_below(r, PLACES));
}

static int check_outputs(const product *m, awq_matrix y, errors *sum)
{
    size_t rows = m->shape.rows, t, row;
    int failures = 0;
    for (t = 0; t < y.rows; t++)
        for (row = 0; row < rows && failures < 3; row++) {
            double expected = m->expected[t * rows + row], got = at(y, t, row);
            CHECK(magnitude(got - expected) <= m->bound[t * rows + row],
                  "token %zu row %zu: %.9g, not %.9g +- %g", t, row, got, expected,
                  m->bound[t * rows + row]);
            if (sum) {
                sum->error += (got - expected) * (got - expected);
                sum->total += expected * expected;
            }
        }
    return failures;
}

static int same_bits(awq_matrix a, size_t row_a, awq_matrix b, size_t row_b)
{
    size_t size = awq_dtype_size(a.dtype);
    return memcmp((char *)a.data + row_a * a.stride * size,
                  (char *)b.data + row_b * b.stride * size, a.cols * size) == 0;
}

/*  First one range alone, which must not write outside itself, then all.                         */
static int check_pieces(pool *p, rng *r, const work *whole)
{
    work w = new_work(p, r, whole->k, whole->m, whole->x);
    size_t rows = w.m->shape.rows, begin = random_cut(r, rows), end, t;
    shuffle order = { { rng_next(r) } };
    awq_parallel pieces = shuffled(&order);
    int failures = 0;

    pieces.run(pieces.context, w.x.rows, 1, prepare_range, &w);
    w.y = new_output(p, r, w.m, w.x.rows);
    end = begin + (1 + rng_below(r, 3)) * AWQ_ROW_STEP;
    if (end > rows) end = rows;
    multiply_range(&w, begin, end, 0);
    CHECK(untouched_outside(w.y, begin, end), "rows %zu .. %zu wrote other columns", begin, end);
    pieces.run(pieces.context, rows, AWQ_ROW_STEP, multiply_range, &w);
    for (t = 0; t < w.x.rows && failures < 3; t++)
        CHECK(same_bits(w.y, t, whole->y, t), "token %zu differs when computed in pieces", t);
    return failures + w.failures;
}

/*  Repeated and scattered tokens: an expert's share.                                             */
static int check_selected(pool *p, rng *r, const work *whole)
{
    size_t count = rng_below(r, 3) ? 1 + rng_below(r, 6) : rng_below(r, whole->x.rows + 9), i;
    uint32_t *index = pool_aligned(p, count * sizeof *index, sizeof *index);
    work w = *whole;
    int failures = 0;

    w.failures = 0;
    for (i = 0; i < count; i++) index[i] = (uint32_t)rng_below(r, whole->x.rows);
    CHECK(awq_prepared_select(&whole->prepared, index, count, &w.prepared) == AWQ_OK, "select");
    w.y = new_output(p, r, w.m, count);
    multiply_range(&w, 0, w.m->shape.rows, 0);
    CHECK(untouched_outside(w.y, 0, w.m->shape.rows), "wrote between selected tokens");
    for (i = 0; i < count && failures < 3; i++)
        CHECK(same_bits(w.y, i, whole->y, index[i]), "token %u of %zu, selected as %zu of %zu",
              (unsigned)index[i], whole->x.rows, i, count);
    return failures + w.failures;
}

static int check_alone(pool *p, rng *r, const work *whole)
{
    size_t token = rng_below(r, whole->x.rows);
    work w = new_work(p, r, whole->k, whole->m, awq_matrix_rows(whole->x, token, token + 1));
    int failures = 0;

    prepare_range(&w, 0, 1, 0);
    w.y = new_output(p, r, w.m, 1);
    multiply_range(&w, 0, w.m->shape.rows, 0);
    CHECK(same_bits(w.y, 0, whole->y, token), "token %zu of %zu differs when alone", token,
          whole->x.rows);
    return failures + w.failures;
}

int check_shared(const awq_kernels *prepares, const awq_kernels *multiplies, rng *r,
                 const product *m)
{
    pool p = { .count = 0 };
    work w = new_work(&p, r, prepares, m, m->x);
    int failures = 0;

    prepare_range(&w, 0, m->x.rows, 0);
    w.k = multiplies;
    w.y = new_output(&p, r, m, m->x.rows);
    multiply_range(&w, 0, m->shape.rows, 0);
    failures += w.failures + check_outputs(m, w.y, NULL) + pool_release(&p);
    if (failures) {
        fprintf(stderr, "  prepared by %s\n", prepares->name);
        print_shape(multiplies->name, &m->shape);
    }
    return failures;
}

int check_product(const awq_kernels *k, rng *r, const product *m, errors *sum)
{
    pool p = { .count = 0 };
    work whole = new_work(&p, r, k, m, m->x);
    int failures;

    prepare_range(&whole, 0, m->x.rows, 0);
    whole.y = new_output(&p, r, m, m->x.rows);
    multiply_range(&whole, 0, m->shape.rows, 0);
    failures = whole.failures + check_outputs(m, whole.y, sum);
    CHECK(untouched_outside(whole.y, 0, m->shape.rows), "wrote between tokens");
    if (m->x.rows) {
        failures += check_pieces(&p, r, &whole);
        failures += check_selected(&p, r, &whole);
        failures += check_alone(&p, r, &whole);
    }
    failures += pool_release(&p);
    if (failures) print_shape(k->name, &m->shape);
    return failures;
}

void print_shape(const char *who, const shape *s)
{
    fprintf(stderr, "  in %s: %zu x %zu, %zu tokens, %s, %d bits, group %d, %s, scales %d, x %d, "
            "y %d, weights %d, activations %d\n", who, s->rows, s->cols, s->tokens,
            s->precision == AWQ_A16 ? "A16" : "A8", s->quant.bits, s->quant.group_size,
            s->quant.symmetric ? "symmetric" : "asymmetric", (int)s->quant.scale_dtype,
            (int)s->x_dtype, (int)s->y_dtype, (int)s->weights, (int)s->activations);
}
