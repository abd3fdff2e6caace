#include "foreign.h"

/* ---- cases ----------------------------------------------------------------------------------- */

#define PICK(r, ...) rng_pick(r, (const int[]){ __VA_ARGS__ }, COUNT(((const int[]){ __VA_ARGS__ })))

/*  What formats.md allows, written out again so that awq_layout_rules cannot be wrong unseen.    */
foreign_case random_foreign_case(rng *r, awq_layout layout)
{
    foreign_case c = { layout, { 4, 32, 0, AWQ_F16 }, 0, 0 };
    int out = 1, groups = (int)(1 + rng_below(r, 5));
    switch (layout) {
    case AWQ_GEMM: out = 32, c.quant.group_size = PICK(r, -1, 8, 24, 32, 64, 128); break;
    case AWQ_GEMV: out = 8, c.quant.group_size = PICK(r, 32, 64, 128, 136, 256); break;
    case AWQ_GEMV_FAST: out = 8, c.quant.group_size = PICK(r, 32, 64, 128); break;
    case AWQ_MARLIN: out = 256, c.quant.group_size = PICK(r, 128, -1); break;
    case AWQ_MARLIN_ZP: out = 64, c.quant.group_size = PICK(r, 32, 64, 128, -1); break;
    case AWQ_GPTQ:
    case AWQ_GPTQ_V2: out = 32, c.quant.group_size = PICK(r, -1, 8, 48, 32, 96, 128); break;
    case AWQ_COMPRESSED: c.quant.group_size = PICK(r, -1, 8, 32, 128); break;
    case AWQ_TINYCHAT_Q4_6: c.quant.group_size = 128; break;
    default: break;
    }
    c.quant.scale_dtype = layout == AWQ_TINYCHAT_Q4_3 || layout == AWQ_TINYCHAT_Q4_4
                                  || layout == AWQ_TINYCHAT_Q4_6
                              ? (rng_below(r, 2) ? AWQ_F32 : AWQ_F16)
                          : layout == AWQ_COMPRESSED ? (awq_dtype)rng_below(r, 3)
                          : layout == AWQ_GEMV || layout == AWQ_MARLIN
                                  || layout >= AWQ_GGML_Q4_0
                              ? AWQ_F16
                              : (rng_below(r, 3) ? AWQ_F16 : AWQ_BF16);
    c.quant.symmetric = layout == AWQ_MARLIN || layout == AWQ_GGML_Q4_0
                        || (layout >= AWQ_TINYCHAT_Q4_3 && layout <= AWQ_TINYCHAT_Q4_6)
                        || (layout == AWQ_COMPRESSED && rng_below(r, 2));
    c.rows = (size_t)out * (1 + rng_below(r, out >= 64 ? 3 : out == 1 ? 100 : 7));
    c.cols = (size_t)((c.quant.group_size < 0 ? 8 : c.quant.group_size) * groups);
    if (layout == AWQ_GEMV_FAST || layout == AWQ_TINYCHAT_Q4_3) c.cols = (c.cols + 63) / 64 * 64;
    if (layout == AWQ_MARLIN || layout == AWQ_MARLIN_ZP) c.cols = (c.cols + 127) / 128 * 128;
    if (layout == AWQ_GPTQ || layout == AWQ_GPTQ_V2) c.cols = (c.cols + 31) / 32 * 32;
    if (layout == AWQ_COMPRESSED && c.quant.group_size < 0) c.cols = 1 + rng_below(r, 200);
    return c;
}

static void give_memory(pool *p, rng *r, awq_plane *plane)
{
    size_t size;
    if (plane->rows == 0) return;
    plane->stride += rng_below(r, 2) * rng_below(r, 20);
    size = (plane->rows - 1) * plane->stride + plane->cols * plane->element_size;
    plane->data = pool_bytes(p, size, (place)rng_below(r, PLACES));
}

awq_foreign new_foreign(pool *p, rng *r, const foreign_case *c)
{
    awq_foreign f;
    awq_status status = awq_foreign_init(&f, c->layout, c->quant, c->rows, c->cols);
    if (status != AWQ_OK) {
        fprintf(stderr, "layout %d, %zu x %zu, group %d: %s\n", (int)c->layout, c->rows, c->cols,
                c->quant.group_size, awq_status_string(status));
        abort();
    }
    give_memory(p, r, &f.weights);
    give_memory(p, r, &f.scales);
    give_memory(p, r, &f.zeros);
    return f;
}

/* ---- planes ---------------------------------------------------------------------------------- */

static unsigned char *element_of(const awq_plane *plane, size_t row, size_t col)
{
    if (row >= plane->rows || col >= plane->cols) abort();
    return (unsigned char *)plane->data + row * plane->stride + col * plane->element_size;
}

static void put_nibble(const awq_plane *plane, size_t row, size_t col, size_t nibble, unsigned q)
{
    unsigned char *byte = element_of(plane, row, col) + nibble / 2;
    *byte = (unsigned char)(nibble % 2 ? (*byte & 15u) | q << 4 : (*byte & 0xf0u) | q);
}

static void put_number(unsigned char *at, awq_dtype dtype, double value)
{
    uint32_t bits = narrow(dtype, value);
    size_t i;
    for (i = 0; i < (dtype == AWQ_F32 ? 4 : 2); i++) at[i] = (unsigned char)(bits >> 8 * i);
}

static void fill(const awq_plane *plane, int byte)
{
    size_t row;
    for (row = 0; row < plane->rows; row++)
        memset(element_of(plane, row, 0), byte, plane->cols * plane->element_size);
}

/* ---- the definitions: one function per kind of plane ------------------------------------------ */

/*  Columns of AutoAWQ's words: nibble i holds ORDER[i].                                          */
static const size_t ORDER[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };

static size_t position_in_order(size_t e)
{
    size_t i = 0;
    while (ORDER[i] != e) i++;
    return i;
}

static void put_marlin_weight(const awq_plane *w, size_t n, size_t k, unsigned q)
{
    size_t lane = n % 8 * 4 + k % 8 / 2, word = n / 64 * 128 + lane * 4 + n % 64 / 16;
    size_t e = n % 16 / 8 * 4 + k % 16 / 8 * 2 + k % 2;
    put_nibble(w, k / 16, word, position_in_order(e), q);
}

static void put_weight(const awq_foreign *f, size_t n, size_t k, unsigned q)
{
    const awq_plane *w = &f->weights;
    size_t i = k % 32;
    switch (f->layout) {
    case AWQ_GEMM: put_nibble(w, k, n / 8, position_in_order(n % 8), q); break;
    case AWQ_GEMV:
    case AWQ_COMPRESSED:
    case AWQ_TINYCHAT_Q4_6: put_nibble(w, n, k / 8, k % 8, q); break;
    case AWQ_GEMV_FAST:
        put_nibble(w, n / 4, k / 64 * 64 + n % 4 * 16 + k / 32 % 2 * 8 + k % 8, k % 32 / 8, q);
        break;
    case AWQ_MARLIN:
    case AWQ_MARLIN_ZP: put_marlin_weight(w, n, k, q); break;
    case AWQ_GPTQ:
    case AWQ_GPTQ_V2: put_nibble(w, k / 8, n, k % 8, q); break;
    case AWQ_TINYCHAT_Q4_3: put_nibble(w, n, k / 64 * 32 + i, k % 64 / 32, q); break;
    case AWQ_TINYCHAT_Q4_4: put_nibble(w, n, k / 32 * 16 + i % 16, i / 16, q); break;
    case AWQ_GGML_Q4_0: put_nibble(w, n, k / 32, 2 * (2 + i % 16) + i / 16, q); break;
    case AWQ_GGML_Q4_1: put_nibble(w, n, k / 32, 2 * (4 + i % 16) + i / 16, q); break;
    }
}

/*  Marlin: position 8i + j of 64 holds column i + 8j; of whole rows, 8i + j of 32 holds 2i + L[j]. */
static size_t marlin_scale_column(size_t n, size_t groups)
{
    static const size_t L[8] = { 0, 1, 8, 9, 16, 17, 24, 25 };
    size_t p;
    if (groups > 1)
        for (p = 0; p / 8 + 8 * (p % 8) != n % 64; p++) continue;
    else
        for (p = 0; 2 * (p / 8) + L[p % 8] != n % 32; p++) continue;
    return groups > 1 ? n / 64 * 64 + p : n / 32 * 32 + p;
}

static void put_scale(const awq_foreign *f, size_t n, size_t g, size_t groups, double scale)
{
    const awq_plane *s = &f->scales;
    unsigned char *at = NULL;
    switch (f->layout) {
    case AWQ_GEMM:
    case AWQ_GEMV_FAST:
    case AWQ_GPTQ:
    case AWQ_GPTQ_V2: at = element_of(s, g, n); break;
    case AWQ_MARLIN:
    case AWQ_MARLIN_ZP: at = element_of(s, g, marlin_scale_column(n, groups)); break;
    case AWQ_GEMV:
    case AWQ_COMPRESSED:
    case AWQ_TINYCHAT_Q4_3:
    case AWQ_TINYCHAT_Q4_4:
    case AWQ_TINYCHAT_Q4_6: at = element_of(s, n, g); break;
    case AWQ_GGML_Q4_0:
    case AWQ_GGML_Q4_1: at = element_of(&f->weights, n, g); break;
    }
    put_number(at, f->quant.scale_dtype, scale);
}

/*  awq_marlin: the order of its scales, then AutoAWQ's order inside each word.                   */
static void put_marlin_zero(const awq_plane *z, size_t n, size_t g, unsigned zero)
{
    size_t p = marlin_scale_column(n, 2);
    put_nibble(z, g, p / 8, position_in_order(p % 8), zero);
}

static void put_zero(const awq_foreign *f, size_t n, size_t g, unsigned zero, double scale)
{
    const awq_plane *z = &f->zeros;
    double offset = -(double)zero * scale;
    switch (f->layout) {
    case AWQ_GEMM: put_nibble(z, g, n / 8, position_in_order(n % 8), zero); break;
    case AWQ_GEMV:
    case AWQ_TINYCHAT_Q4_6: put_nibble(z, n, g / 8, g % 8, zero); break;
    case AWQ_GEMV_FAST: put_number(element_of(z, g, n), f->quant.scale_dtype, offset); break;
    case AWQ_MARLIN_ZP: put_marlin_zero(z, n, g, zero); break;
    case AWQ_GPTQ: put_nibble(z, g, n / 8, n % 8, zero - 1); break;
    case AWQ_GPTQ_V2: put_nibble(z, g, n / 8, n % 8, zero); break;
    case AWQ_COMPRESSED: if (z->rows) put_nibble(z, n / 8, g, n % 8, zero); break;
    case AWQ_GGML_Q4_1:
        put_number(element_of(&f->weights, n, g) + 2, f->quant.scale_dtype, offset);
        break;
    default: break;
    }
}

void define_foreign(const awq_foreign *f, const awq_tensor *t)
{
    size_t in = t->in_features, groups = awq_group_count(in, f->quant.group_size), n, k, g;
    fill(&f->weights, 0);
    fill(&f->scales, 0);
    fill(&f->zeros, f->layout == AWQ_TINYCHAT_Q4_6 ? 0x88 : 0);
    for (n = 0; n < t->out_features; n++) {
        for (k = 0; k < in; k++) put_weight(f, n, k, t->q[n * in + k]);
        for (g = 0; g < groups; g++) {
            double scale = element(t->quant.scale_dtype, t->scales, n * groups + g);
            put_scale(f, n, g, groups, scale);
            put_zero(f, n, g, t->zeros[n * groups + g], scale);
        }
    }
}

/* ---- comparing ------------------------------------------------------------------------------- */

static int compare_plane(const char *name, const awq_foreign *f, const awq_plane *got,
                         const awq_plane *expected)
{
    int failures = 0;
    size_t row, gap = got->stride - got->cols * got->element_size;
    for (row = 0; row < got->rows && failures == 0; row++) {
        const unsigned char *bytes = element_of(got, row, 0);
        size_t used = got->cols * got->element_size;
        CHECK(memcmp(bytes, element_of(expected, row, 0), used) == 0, "layout %d %s, row %zu",
              (int)f->layout, name, row);
        CHECK(row + 1 == got->rows || untouched(bytes + used, gap), "layout %d %s, after row %zu",
              (int)f->layout, name, row);
    }
    return failures;
}

int compare_foreign(const awq_foreign *got, const awq_foreign *expected)
{
    return compare_plane("weights", got, &got->weights, &expected->weights)
           + compare_plane("scales", got, &got->scales, &expected->scales)
           + compare_plane("zeros", got, &got->zeros, &expected->zeros);
}

static int plane_untouched(const awq_plane *plane)
{
    return plane->rows == 0
           || untouched(plane->data, (plane->rows - 1) * plane->stride
                                         + plane->cols * plane->element_size);
}

int foreign_untouched(const awq_foreign *f)
{
    return plane_untouched(&f->weights) && plane_untouched(&f->scales)
           && plane_untouched(&f->zeros);
}

awq_tensor regrouped(pool *p, const awq_tensor *t, int group_size, int symmetric,
                     awq_dtype scale_dtype)
{
    awq_quant quant = { 4, group_size, symmetric, scale_dtype };
    size_t rows = t->out_features, in = t->in_features, n, g;
    size_t groups = awq_group_count(in, group_size), old = awq_group_count(in, t->quant.group_size);
    size_t size = awq_tensor_size(quant, rows, in);
    awq_tensor to;
    if (awq_tensor_init(&to, quant, rows, in, pool_aligned(p, size, sizeof(float)), size) != AWQ_OK)
        abort();
    memcpy(to.q, t->q, rows * in);
    for (n = 0; n < rows; n++)
        for (g = 0; g < groups; g++) {
            size_t from = n * old + g * group_length(in, group_size)
                                        / group_length(in, t->quant.group_size);
            to.zeros[n * groups + g] = t->zeros[from];
            set_element(scale_dtype, to.scales, n * groups + g,
                        element(t->quant.scale_dtype, t->scales, from));
        }
    return to;
}
