/*  Every function, every argument it checks: the status the manual names, and nothing written.   */
#include "runner.h"

#define REFUSED(call, status) assert_status(call, status)

enum { IN = 70, OUT = 20, GROUP = 32, GROUPS = 3, TOKENS = 3 };
static const awq_quant QUANT = { 4, GROUP, 0, AWQ_F16 };

/*  Good arguments for everything, to be spoiled one at a time. Outputs hold PATTERN throughout. */
typedef struct good {
    pool p;
    awq_matrix x, weight, out, y, vector;
    awq_stats stats;
    size_t stats_size, scratch_size, clip_scratch_size, tensor_size, packed_size, prepared_size;
    void *stats_memory, *scratch, *tensor_memory, *packed_memory, *prepared_memory;
    awq_tensor tensor;
    awq_packed packed;
    awq_prepared prepared;
    awq_inputs inputs;
    awq_search_config search;
    awq_clip_config clip;
    float *scale, *scale_out, *clip_max, *clip_out, *act;
    double *v, *curve;
    awq_search_result *result;
} good;

static void fill(float *values, size_t n, float value)
{
    while (n-- > 0) values[n] = value;
}

static awq_matrix filled(pool *p, size_t rows, size_t cols)
{
    awq_matrix m = new_matrix(p, AWQ_F32, rows, cols, cols, AT_END);
    fill(m.data, rows * cols, 0.5f);
    return m;
}

static void make_packed(good *g)
{
    g->packed_size = awq_packed_size(QUANT, OUT, IN);
    g->packed_memory = pool_bytes(&g->p, g->packed_size, AT_END);
    assert_status(awq_packed_init(QUANT, OUT, IN, g->packed_memory, g->packed_size), AWQ_OK);
    assert_status(awq_pack(kernels, &g->tensor, g->packed_memory, g->packed_size, 0, OUT, NULL),
                  AWQ_OK);
    assert_status(awq_packed_open(&g->packed, g->packed_memory, g->packed_size), AWQ_OK);
    g->prepared_size = awq_prepared_size(kernels, IN, GROUP, AWQ_A16, TOKENS);
    g->prepared_memory = pool_aligned(&g->p, g->prepared_size, sizeof(float));
    assert_status(awq_prepare(kernels, GROUP, AWQ_A16, g->x, NULL, g->prepared_memory,
                              g->prepared_size, 0, TOKENS, &g->prepared, NULL), AWQ_OK);
}

static good *new_good(void)
{
    good *g = calloc(1, sizeof *g);
    assert_non_null(g);
    g->x = filled(&g->p, TOKENS, IN);
    g->weight = filled(&g->p, OUT, IN);
    g->vector = filled(&g->p, 1, IN);
    g->out = new_matrix(&g->p, AWQ_F32, OUT, IN, IN, AT_END);
    g->y = new_matrix(&g->p, AWQ_F32, TOKENS, OUT, OUT, AT_END);
    g->stats_size = awq_stats_size(IN, 8, 1);
    g->stats_memory = pool_aligned(&g->p, g->stats_size, sizeof(double));
    assert_status(awq_stats_init(&g->stats, IN, 8, 1, 1, g->stats_memory, g->stats_size), AWQ_OK);
    assert_status(awq_stats_add(kernels, &g->stats, g->x, NULL, NULL, NULL), AWQ_OK);
    g->inputs.loss = AWQ_LOSS_ROWS;
    g->inputs.stats = &g->stats;
    g->inputs.rows = g->x;
    g->search = awq_search_preset(AWQ_PRESET_LLM_AWQ, QUANT);
    g->clip = awq_clip_preset(QUANT);
    g->scratch_size = awq_search_scratch_size(&g->inputs, &g->weight, 1, NULL);
    g->clip_scratch_size = awq_clip_scratch_size(&g->inputs, g->weight, &g->clip, NULL);
    g->scratch = pool_aligned(&g->p, g->scratch_size + g->clip_scratch_size, sizeof(double));
    g->tensor_size = awq_tensor_size(QUANT, OUT, IN);
    g->tensor_memory = pool_aligned(&g->p, g->tensor_size, sizeof(float));
    assert_status(awq_tensor_init(&g->tensor, QUANT, OUT, IN, g->tensor_memory, g->tensor_size),
                  AWQ_OK);
    g->scale = pool_floats(&g->p, IN);
    fill(g->scale, IN, 1);
    g->clip_max = pool_floats(&g->p, OUT * GROUPS);
    fill(g->clip_max, OUT * GROUPS, 1);
    g->act = pool_floats(&g->p, IN);
    fill(g->act, IN, 1);
    g->scale_out = pool_floats(&g->p, IN);
    g->clip_out = pool_floats(&g->p, OUT * GROUPS);
    g->v = pool_aligned(&g->p, IN * sizeof(double), sizeof(double));
    g->curve = pool_aligned(&g->p, 20 * sizeof(double), sizeof(double));
    g->result = pool_aligned(&g->p, sizeof *g->result, sizeof(double));
    assert_status(awq_quantize(kernels, g->weight, NULL, NULL, &g->tensor, 0, OUT, NULL), AWQ_OK);
    make_packed(g);
    return g;
}

/*  No output of a refused call was written.                                                      */
static void close_good(good *g)
{
    assert_true(untouched(g->out.data, OUT * IN * sizeof(float)));
    assert_true(untouched(g->y.data, TOKENS * OUT * sizeof(float)));
    assert_true(untouched(g->scale_out, IN * sizeof(float)));
    assert_true(untouched(g->clip_out, OUT * GROUPS * sizeof(float)));
    assert_true(untouched(g->v, IN * sizeof(double)));
    assert_true(untouched(g->curve, 20 * sizeof(double)));
    assert_true(untouched(g->result, sizeof *g->result));
    assert_int_equal(pool_release(&g->p), 0);
    free(g);
}

static awq_matrix with_data(awq_matrix m, void *data) { m.data = data; return m; }
static awq_matrix with_cols(awq_matrix m, size_t cols) { m.cols = cols; return m; }
static awq_matrix with_rows(awq_matrix m, size_t rows) { m.rows = rows; return m; }
static awq_matrix with_stride(awq_matrix m, size_t stride) { m.stride = stride; return m; }
static awq_matrix with_dtype(awq_matrix m, int dtype) { m.dtype = (awq_dtype)dtype; return m; }

#define BAD_DTYPE 3

static awq_quant with_bits(int bits) { awq_quant q = QUANT; q.bits = bits; return q; }
static awq_quant with_group(int size) { awq_quant q = QUANT; q.group_size = size; return q; }
static awq_quant with_symmetric(int value) { awq_quant q = QUANT; q.symmetric = value; return q; }
static awq_quant with_scales(int dtype)
{
    awq_quant q = QUANT;
    q.scale_dtype = (awq_dtype)dtype;
    return q;
}

static const int BAD_BITS[] = { 0, 1, 5, 6, 7, 9, 16, -4, INT32_MAX };
static const int BAD_GROUPS[] = { 0, -2, INT32_MIN };

/* ---- what every status says ------------------------------------------------------------------ */

TEST(every_status_has_its_own_sentence)
{
    int a, b;
    (void)state;
    for (a = AWQ_OK; a > AWQ_STATUS_END; a--) {
        assert_true(strlen(awq_status_string((awq_status)a)) > 5);
        for (b = AWQ_OK; b > a; b--)
            assert_string_not_equal(awq_status_string((awq_status)a),
                                    awq_status_string((awq_status)b));
    }
    assert_non_null(awq_status_string(AWQ_STATUS_END));
    assert_non_null(awq_status_string((awq_status)1));
}

TEST(version_is_that_of_the_header)
{
    (void)state;
    assert_int_equal(awq_version(), AWQ_VERSION);
    assert_int_equal(AWQ_VERSION, AWQ_VERSION_MAJOR * 10000 + AWQ_VERSION_MINOR * 100 +
                                  AWQ_VERSION_PATCH);
}

TEST(views_and_sizes)
{
    const float data[6] = { 0, 1, 2, 3, 4, 5 };
    awq_matrix m = awq_matrix_view(data, AWQ_F32, 3, 2);
    (void)state;
    assert_int_equal(m.stride, 2);
    m = awq_matrix_rows(m, 1, 3);
    assert_int_equal(m.rows, 2);
    assert_true(at(m, 0, 0) == 2.0 && at(m, 1, 1) == 5.0);
    assert_int_equal(awq_dtype_size(AWQ_F32), 4);
    assert_int_equal(awq_dtype_size(AWQ_F16), 2);
    assert_int_equal(awq_dtype_size(AWQ_BF16), 2);
    assert_int_equal(awq_dtype_size((awq_dtype)BAD_DTYPE), 0);
}

/*  Sizes that no machine has come back as 0, not as what is left after wrapping around.          */
TEST(sizes_do_not_wrap)
{
    const size_t huge[] = { SIZE_MAX, SIZE_MAX / 2 + 1, SIZE_MAX / 4, SIZE_MAX / 8 + 1 };
    good *g = new_good();
    size_t i, j;
    (void)state;
    for (i = 0; i < COUNT(huge); i++) {
        awq_matrix wide = with_cols(g->weight, huge[i]);
        awq_inputs inputs = g->inputs;
        inputs.rows = with_rows(g->x, huge[i]);
        assert_int_equal(awq_stats_size(huge[i], 0, 0), 0);
        assert_int_equal(awq_stats_size(IN, huge[i], 0), 0);
        assert_int_equal(awq_stats_size((size_t)1 << (sizeof(size_t) * 4), 0, 1), 0);
        assert_int_equal(awq_prepared_size(kernels, huge[i], -1, AWQ_A16, 8), 0);
        assert_int_equal(awq_prepared_size(kernels, IN, GROUP, AWQ_A16, huge[i]), 0);
        assert_int_equal(awq_search_scratch_size(&inputs, &g->weight, 1, NULL), 0);
        assert_int_equal(awq_search_scratch_size(&g->inputs, &wide, 1, NULL), 0);
        assert_int_equal(awq_clip_scratch_size(&inputs, g->weight, &g->clip, NULL), 0);
        for (j = 0; j < COUNT(huge); j++) {
            assert_int_equal(awq_tensor_size(QUANT, huge[i], huge[j]), 0);
            assert_int_equal(awq_packed_size(QUANT, huge[i], huge[j]), 0);
        }
    }
    close_good(g);
}

TEST(sizes_of_nonsense_are_0)
{
    good *g = new_good();
    awq_inputs blind = g->inputs;
    awq_clip_config nonsense = g->clip;
    size_t i;
    (void)state;
    blind.loss = AWQ_LOSS_SKETCH;
    blind.stats = NULL;
    assert_int_equal(awq_search_scratch_size(NULL, &g->weight, 1, NULL), 0);
    assert_int_equal(awq_search_scratch_size(&g->inputs, NULL, 1, NULL), 0);
    assert_int_equal(awq_search_scratch_size(&g->inputs, &g->weight, 0, NULL), 0);
    assert_int_equal(awq_search_scratch_size(&blind, &g->weight, 1, NULL), 0);
    assert_int_equal(awq_clip_scratch_size(NULL, g->weight, &g->clip, NULL), 0);
    assert_int_equal(awq_clip_scratch_size(&g->inputs, g->weight, NULL, NULL), 0);
    assert_int_equal(awq_clip_scratch_size(&blind, g->weight, &g->clip, NULL), 0);
    for (i = 0; i < COUNT(BAD_BITS); i++) {
        assert_int_equal(awq_packed_size(with_bits(BAD_BITS[i]), OUT, IN), 0);
        assert_int_equal(awq_tensor_size(with_bits(BAD_BITS[i]), OUT, IN), 0);
    }
    for (i = 0; i < COUNT(BAD_GROUPS); i++) {
        assert_int_equal(awq_packed_size(with_group(BAD_GROUPS[i]), OUT, IN), 0);
        assert_int_equal(awq_tensor_size(with_group(BAD_GROUPS[i]), OUT, IN), 0);
        assert_int_equal(awq_group_count(IN, BAD_GROUPS[i]), 0);
        nonsense.quant = with_group(BAD_GROUPS[i]);
        assert_int_equal(awq_clip_scratch_size(&g->inputs, g->weight, &nonsense, NULL), 0);
        assert_int_equal(awq_prepared_size(kernels, IN, BAD_GROUPS[i], AWQ_A16, 1), 0);
    }
    assert_int_equal(awq_packed_size(with_symmetric(2), OUT, IN), 0);
    assert_int_equal(awq_packed_size(with_scales(BAD_DTYPE), OUT, IN), 0);
    assert_int_equal(awq_packed_size(QUANT, 0, IN), 0);
    assert_int_equal(awq_packed_size(QUANT, OUT, 0), 0);
    assert_int_equal(awq_tensor_size(QUANT, 0, IN), 0);
    assert_int_equal(awq_group_count(0, GROUP), 0);
    assert_int_equal(awq_prepared_size(NULL, IN, GROUP, AWQ_A16, 1), 0);
    assert_int_equal(awq_prepared_size(kernels, IN, GROUP, (awq_precision)2, 1), 0);
    close_good(g);
}

/* ---- calibrate ------------------------------------------------------------------------------- */

TEST(stats_init)
{
    good *g = new_good();
    awq_stats *stats = pool_aligned(&g->p, sizeof *stats, sizeof(double));
    void *memory = pool_aligned(&g->p, g->stats_size, sizeof(double));
    (void)state;
    REFUSED(awq_stats_init(NULL, IN, 8, 1, 1, memory, g->stats_size), AWQ_ERR_NULL);
    REFUSED(awq_stats_init(stats, IN, 8, 1, 1, NULL, g->stats_size), AWQ_ERR_NULL);
    REFUSED(awq_stats_init(stats, 0, 8, 1, 1, memory, g->stats_size), AWQ_ERR_SHAPE);
    REFUSED(awq_stats_init(stats, IN, 8, 1, 1, memory, g->stats_size - 1), AWQ_ERR_MEMORY);
    REFUSED(awq_stats_init(stats, IN, 8, 1, 1, (char *)memory + 1, g->stats_size), AWQ_ERR_MEMORY);
    REFUSED(awq_stats_init(stats, SIZE_MAX / 2, 8, 1, 1, memory, g->stats_size), AWQ_ERR_MEMORY);
    assert_true(untouched(stats, sizeof *stats) && untouched(memory, g->stats_size));
    close_good(g);
}

static void abort_run(void *context, size_t count, size_t step, awq_task *task, void *arg)
{
    (void)context, (void)count, (void)step, (void)task, (void)arg;
    abort();
}

TEST(stats_add)
{
    good *g = new_good();
    const awq_stats *s = &g->stats;
    awq_parallel no_run = { NULL, NULL, 1 }, no_workers = { abort_run, NULL, 0 };
    unsigned char *before = malloc(g->stats_size);
    (void)state;
    memcpy(before, g->stats_memory, g->stats_size);
    REFUSED(awq_stats_add(NULL, &g->stats, g->x, NULL, NULL, NULL), AWQ_ERR_NULL);
    REFUSED(awq_stats_add(kernels, NULL, g->x, NULL, NULL, NULL), AWQ_ERR_NULL);
    REFUSED(awq_stats_add(kernels, &g->stats, with_data(g->x, NULL), NULL, NULL, NULL),
            AWQ_ERR_NULL);
    REFUSED(awq_stats_add(kernels, &g->stats, g->x, NULL, &no_run, NULL), AWQ_ERR_NULL);
    REFUSED(awq_stats_add(kernels, &g->stats, g->x, NULL, &no_workers, NULL), AWQ_ERR_CONFIG);
    REFUSED(awq_stats_add(kernels, &g->stats, with_cols(g->x, IN - 1), NULL, NULL, NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_stats_add(kernels, &g->stats, with_stride(g->x, IN - 1), NULL, NULL, NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_stats_add(kernels, &g->stats, with_stride(g->x, SIZE_MAX / 2), NULL, NULL, NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_stats_add(kernels, &g->stats, with_dtype(g->x, BAD_DTYPE), NULL, NULL, NULL),
            AWQ_ERR_DTYPE);
    assert_true(s->count == TOKENS && s->weight == (double)TOKENS);
    assert_memory_equal(before, g->stats_memory, g->stats_size);
    assert_status(awq_stats_add(kernels, &g->stats, with_data(with_rows(g->x, 0), NULL), NULL,
                                NULL, NULL), AWQ_OK);
    assert_memory_equal(before, g->stats_memory, g->stats_size);
    free(before);
    close_good(g);
}

TEST(stats_merge_and_get)
{
    good *g = new_good();
    awq_stats narrow_stats = new_stats(&g->p, IN - 1, 8, 1, 1);
    awq_stats other_sketch = new_stats(&g->p, IN, 9, 1, 1);
    awq_stats no_sketch = new_stats(&g->p, IN, 0, 1, 1), no_gram = new_stats(&g->p, IN, 8, 0, 1);
    unsigned char *before = malloc(g->stats_size);
    (void)state;
    memcpy(before, g->stats_memory, g->stats_size);
    REFUSED(awq_stats_merge(NULL, &g->stats), AWQ_ERR_NULL);
    REFUSED(awq_stats_merge(&g->stats, NULL), AWQ_ERR_NULL);
    REFUSED(awq_stats_merge(&g->stats, &narrow_stats), AWQ_ERR_SHAPE);
    REFUSED(awq_stats_merge(&g->stats, &other_sketch), AWQ_ERR_SHAPE);
    REFUSED(awq_stats_merge(&g->stats, &no_sketch), AWQ_ERR_SHAPE);
    REFUSED(awq_stats_merge(&g->stats, &no_gram), AWQ_ERR_SHAPE);
    REFUSED(awq_stats_merge(&no_gram, &g->stats), AWQ_ERR_SHAPE);
    assert_memory_equal(before, g->stats_memory, g->stats_size);
    REFUSED(awq_stats_get(NULL, AWQ_ABS_MAX, g->scale_out), AWQ_ERR_NULL);
    REFUSED(awq_stats_get(&g->stats, AWQ_ABS_MAX, NULL), AWQ_ERR_NULL);
    REFUSED(awq_stats_get(&g->stats, (awq_statistic)4, g->scale_out), AWQ_ERR_CONFIG);
    free(before);
    close_good(g);
}

/* ---- search ---------------------------------------------------------------------------------- */

static awq_status try_search(const good *g, const awq_search_config *config,
                             const awq_inputs *inputs, const awq_matrix *weights, size_t count)
{
    return awq_search(kernels, config, inputs, weights, count, g->scratch, g->scratch_size, NULL,
                      g->scale_out, g->curve, g->result, NULL);
}

TEST(search_pointers_and_memory)
{
    good *g = new_good();
    awq_parallel no_run = { NULL, NULL, 1 };
    size_t n = g->scratch_size;
    (void)state;
    REFUSED(try_search(g, NULL, &g->inputs, &g->weight, 1), AWQ_ERR_NULL);
    REFUSED(try_search(g, &g->search, NULL, &g->weight, 1), AWQ_ERR_NULL);
    REFUSED(try_search(g, &g->search, &g->inputs, NULL, 1), AWQ_ERR_NULL);
    REFUSED(awq_search(NULL, &g->search, &g->inputs, &g->weight, 1, g->scratch, n, NULL,
                       g->scale_out, g->curve, g->result, NULL), AWQ_ERR_NULL);
    REFUSED(awq_search(kernels, &g->search, &g->inputs, &g->weight, 1, NULL, n, NULL,
                       g->scale_out, g->curve, g->result, NULL), AWQ_ERR_NULL);
    REFUSED(awq_search(kernels, &g->search, &g->inputs, &g->weight, 1, g->scratch, n, NULL, NULL,
                       g->curve, g->result, NULL), AWQ_ERR_NULL);
    REFUSED(awq_search(kernels, &g->search, &g->inputs, &g->weight, 1, g->scratch, n, NULL,
                       g->scale_out, g->curve, NULL, NULL), AWQ_ERR_NULL);
    REFUSED(awq_search(kernels, &g->search, &g->inputs, &g->weight, 1, g->scratch, n, &no_run,
                       g->scale_out, g->curve, g->result, NULL), AWQ_ERR_NULL);
    REFUSED(awq_search(kernels, &g->search, &g->inputs, &g->weight, 1, g->scratch, n - 1, NULL,
                       g->scale_out, g->curve, g->result, NULL), AWQ_ERR_MEMORY);
    close_good(g);
}

TEST(search_weights)
{
    good *g = new_good();
    awq_matrix pair[2];
    awq_matrix bad;
    (void)state;
    pair[0] = g->weight;
    pair[1] = with_cols(g->weight, IN - 1);
    REFUSED(try_search(g, &g->search, &g->inputs, pair, 2), AWQ_ERR_SHAPE);
    REFUSED(try_search(g, &g->search, &g->inputs, &g->weight, 0), AWQ_ERR_SHAPE);
    bad = with_cols(g->weight, IN - 1);
    REFUSED(try_search(g, &g->search, &g->inputs, &bad, 1), AWQ_ERR_SHAPE);
    bad = with_rows(g->weight, 0);
    REFUSED(try_search(g, &g->search, &g->inputs, &bad, 1), AWQ_ERR_SHAPE);
    bad = with_stride(g->weight, IN - 1);
    REFUSED(try_search(g, &g->search, &g->inputs, &bad, 1), AWQ_ERR_SHAPE);
    bad = with_data(g->weight, NULL);
    REFUSED(try_search(g, &g->search, &g->inputs, &bad, 1), AWQ_ERR_NULL);
    bad = with_dtype(g->weight, BAD_DTYPE);
    REFUSED(try_search(g, &g->search, &g->inputs, &bad, 1), AWQ_ERR_DTYPE);
    close_good(g);
}

TEST(search_inputs)
{
    good *g = new_good();
    awq_stats bare = new_stats(&g->p, IN, 0, 0, 1), narrow_stats = new_stats(&g->p, IN - 1, 8, 1,
                                                                             1);
    awq_inputs bad = g->inputs;
    (void)state;
    bad.stats = NULL;
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_NULL);
    bad.stats = &narrow_stats;
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_SHAPE);
    bad = g->inputs;
    bad.rows = with_cols(g->x, IN - 1);
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_SHAPE);
    bad.rows = with_rows(g->x, 0);
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_SHAPE);
    bad.rows = with_data(g->x, NULL);
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_NULL);
    bad.rows = with_dtype(g->x, BAD_DTYPE);
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_DTYPE);
    bad = g->inputs;
    bad.stats = &bare;
    bad.loss = AWQ_LOSS_SKETCH;
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_NULL);
    bad.loss = AWQ_LOSS_GRAM;
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_NULL);
    bad.loss = AWQ_LOSS_CALLBACK;
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_NULL);
    bad.loss = (awq_loss)5;
    REFUSED(try_search(g, &g->search, &bad, &g->weight, 1), AWQ_ERR_CONFIG);
    close_good(g);
}

TEST(search_config)
{
    good *g = new_good();
    awq_search_config bad = g->search;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(BAD_BITS); i++) {
        bad.quant = with_bits(BAD_BITS[i]);
        REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    }
    for (i = 0; i < COUNT(BAD_GROUPS); i++) {
        bad.quant = with_group(BAD_GROUPS[i]);
        REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    }
    bad.quant = with_symmetric(-1);
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    bad.quant = with_scales(BAD_DTYPE);
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_DTYPE);
    bad = g->search;
    bad.rule = (awq_scale_rule)4;
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    bad = g->search;
    bad.grid_points = 0;
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    bad = g->search;
    bad.grid_steps = 0;
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    bad = g->search;
    bad.tie.repeat = 2;
    bad.tie.head_dim = 4;       /* 70 is no multiple of 8 */
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    bad.tie.head_dim = 0;
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    bad.tie.repeat = bad.tie.head_dim = SIZE_MAX / 2 + 2;   /* the product wraps to 4 */
    REFUSED(try_search(g, &bad, &g->inputs, &g->weight, 1), AWQ_ERR_CONFIG);
    close_good(g);
}

TEST(weight_stat_and_scale_at)
{
    good *g = new_good();
    awq_matrix bad = with_dtype(g->weight, BAD_DTYPE);
    (void)state;
    REFUSED(awq_weight_stat(NULL, 1, GROUP, g->v, NULL), AWQ_ERR_NULL);
    REFUSED(awq_weight_stat(&g->weight, 1, GROUP, NULL, NULL), AWQ_ERR_NULL);
    REFUSED(awq_weight_stat(&g->weight, 0, GROUP, g->v, NULL), AWQ_ERR_SHAPE);
    REFUSED(awq_weight_stat(&g->weight, 1, 0, g->v, NULL), AWQ_ERR_CONFIG);
    REFUSED(awq_weight_stat(&bad, 1, GROUP, g->v, NULL), AWQ_ERR_DTYPE);
    REFUSED(awq_scale_at(AWQ_SCALE_MEAN, 0.5, IN, NULL, NULL, g->scale_out, NULL), AWQ_ERR_NULL);
    REFUSED(awq_scale_at(AWQ_SCALE_MEAN, 0.5, IN, g->act, NULL, NULL, NULL), AWQ_ERR_NULL);
    REFUSED(awq_scale_at(AWQ_SCALE_DUO, 0.5, IN, g->act, NULL, g->scale_out, NULL), AWQ_ERR_NULL);
    REFUSED(awq_scale_at(AWQ_SCALE_KERAS, 0.5, IN, g->act, NULL, g->scale_out, NULL),
            AWQ_ERR_NULL);
    REFUSED(awq_scale_at((awq_scale_rule)4, 0.5, IN, g->act, NULL, g->scale_out, NULL),
            AWQ_ERR_CONFIG);
    REFUSED(awq_scale_at(AWQ_SCALE_MEAN, -0.1, IN, g->act, NULL, g->scale_out, NULL),
            AWQ_ERR_CONFIG);
    REFUSED(awq_scale_at(AWQ_SCALE_MEAN, not_a_number(), IN, g->act, NULL, g->scale_out, NULL),
            AWQ_ERR_CONFIG);
    REFUSED(awq_scale_at(AWQ_SCALE_MEAN, 0.5, 0, g->act, NULL, g->scale_out, NULL), AWQ_ERR_SHAPE);
    close_good(g);
}

static awq_status try_error(const good *g, awq_inputs inputs, awq_matrix weight, awq_matrix approx)
{
    return awq_output_error(kernels, &inputs, weight, approx, g->scratch, g->scratch_size, NULL,
                            g->v, NULL);
}

TEST(output_error)
{
    good *g = new_good();
    awq_inputs bad = g->inputs;
    awq_where where = { 9, 9, 9 };
    awq_matrix other = filled(&g->p, OUT, IN);
    awq_parallel no_run = { NULL, NULL, 1 };
    (void)state;
    REFUSED(try_error(g, bad, with_data(g->weight, NULL), other), AWQ_ERR_NULL);
    REFUSED(try_error(g, bad, with_cols(g->weight, IN - 1), other), AWQ_ERR_SHAPE);
    REFUSED(try_error(g, bad, g->weight, with_rows(other, OUT - 1)), AWQ_ERR_SHAPE);
    REFUSED(try_error(g, bad, g->weight, with_cols(other, IN - 1)), AWQ_ERR_SHAPE);
    REFUSED(try_error(g, bad, g->weight, with_dtype(other, BAD_DTYPE)), AWQ_ERR_DTYPE);
    bad.loss = AWQ_LOSS_CALLBACK;
    REFUSED(try_error(g, bad, g->weight, other), AWQ_ERR_NULL);
    bad.callback = (awq_loss_callback *)(void (*)(void))abort;
    REFUSED(try_error(g, bad, g->weight, other), AWQ_ERR_CONFIG);
    REFUSED(awq_output_error(NULL, &g->inputs, g->weight, other, g->scratch, g->scratch_size, NULL,
                             g->v, NULL), AWQ_ERR_NULL);
    REFUSED(awq_output_error(kernels, NULL, g->weight, other, g->scratch, g->scratch_size, NULL,
                             g->v, NULL), AWQ_ERR_NULL);
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, NULL, g->scratch_size, NULL,
                             g->v, NULL), AWQ_ERR_NULL);
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, g->scratch, g->scratch_size,
                             NULL, NULL, NULL), AWQ_ERR_NULL);
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, g->scratch,
                             g->scratch_size - 1, NULL, g->v, NULL), AWQ_ERR_MEMORY);
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, g->scratch, g->scratch_size,
                             &no_run, g->v, NULL), AWQ_ERR_NULL);
    put(g->weight, 5, 6, infinity());
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, g->scratch, g->scratch_size,
                             NULL, g->v, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 0 && where.row == 5 && where.col == 6);
    put(g->weight, 5, 6, 0);
    put(other, 3, 4, not_a_number());
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, g->scratch, g->scratch_size,
                             NULL, g->v, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 1 && where.row == 3 && where.col == 4);
    put(other, 3, 4, 0);
    put(g->x, 1, 2, infinity());
    REFUSED(awq_output_error(kernels, &g->inputs, g->weight, other, g->scratch, g->scratch_size,
                             NULL, g->v, &where), AWQ_ERR_DATA);
    assert_true(where.matrix == 2 && where.row == 1 && where.col == 2);
    close_good(g);
}

/* ---- convert --------------------------------------------------------------------------------- */

TEST(convert)
{
    good *g = new_good();
    awq_matrix from = g->weight, to = filled(&g->p, from.rows, from.cols);
    (void)state;
    fill(from.data, from.rows * from.cols, 1);
    REFUSED(awq_convert(with_data(from, NULL), to), AWQ_ERR_NULL);
    REFUSED(awq_convert(from, with_data(to, NULL)), AWQ_ERR_NULL);
    REFUSED(awq_convert(with_cols(from, from.cols - 1), to), AWQ_ERR_SHAPE);
    REFUSED(awq_convert(from, with_rows(to, to.rows - 1)), AWQ_ERR_SHAPE);
    REFUSED(awq_convert(from, with_stride(to, to.cols - 1)), AWQ_ERR_SHAPE);
    REFUSED(awq_convert(with_dtype(from, BAD_DTYPE), to), AWQ_ERR_DTYPE);
    REFUSED(awq_convert(from, with_dtype(to, BAD_DTYPE)), AWQ_ERR_DTYPE);
    close_good(g);
}

/* ---- fold: outputs here are the matrices themselves, which must keep their 0.5 --------------- */

static void assert_halves(awq_matrix m)
{
    size_t i;
    for (i = 0; i < m.rows * m.cols; i++) assert_true(((const float *)m.data)[i] == 0.5f);
}

TEST(fold)
{
    good *g = new_good();
    const awq_matrix none = awq_matrix_view(NULL, AWQ_F32, 0, 0);
    const awq_tie untied = { 0, 0 }, tied = { 2, 5 }, wrong_tie = { 2, 4 };
    awq_matrix square = filled(&g->p, IN, OUT), v = g->vector, w = g->weight;
    (void)state;
    REFUSED(awq_fold_norm(AWQ_FOLD, NULL, IN, v, none, NULL), AWQ_ERR_NULL);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, IN, with_data(v, NULL), none, NULL), AWQ_ERR_NULL);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, IN, with_cols(v, IN - 1), none, NULL), AWQ_ERR_SHAPE);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, IN, w, none, NULL), AWQ_ERR_SHAPE);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, 0, with_cols(v, 0), none, NULL), AWQ_ERR_SHAPE);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, IN, v, with_cols(w, IN - 1), NULL), AWQ_ERR_SHAPE);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, IN, with_dtype(v, BAD_DTYPE), none, NULL),
            AWQ_ERR_DTYPE);
    REFUSED(awq_fold_norm(AWQ_FOLD, g->scale, IN, v, with_dtype(v, BAD_DTYPE), NULL),
            AWQ_ERR_DTYPE);
    REFUSED(awq_fold_norm((awq_direction)2, g->scale, IN, v, none, NULL), AWQ_ERR_CONFIG);
    REFUSED(awq_fold_linear(AWQ_FOLD, NULL, IN, untied, square, none, NULL), AWQ_ERR_NULL);
    REFUSED(awq_fold_linear(AWQ_FOLD, g->scale, IN, untied, with_data(square, NULL), none, NULL),
            AWQ_ERR_NULL);
    REFUSED(awq_fold_linear(AWQ_FOLD, g->scale, IN, untied, with_rows(square, IN - 1), none, NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_fold_linear(AWQ_FOLD, g->scale, IN, tied, square, none, NULL), AWQ_ERR_SHAPE);
    REFUSED(awq_fold_linear(AWQ_FOLD, g->scale, IN, untied, square, with_cols(v, IN - 1), NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_fold_linear(AWQ_FOLD, g->scale, IN, wrong_tie, square, none, NULL),
            AWQ_ERR_CONFIG);
    REFUSED(awq_fold_linear((awq_direction)-1, g->scale, IN, untied, square, none, NULL),
            AWQ_ERR_CONFIG);
    REFUSED(awq_fold_linear(AWQ_FOLD, g->scale, IN, untied, with_dtype(square, BAD_DTYPE), none,
                            NULL), AWQ_ERR_DTYPE);
    REFUSED(awq_fold_activation(AWQ_FOLD, NULL, IN, w, NULL), AWQ_ERR_NULL);
    REFUSED(awq_fold_activation(AWQ_FOLD, g->scale, IN, with_cols(w, IN - 1), NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_fold_activation(AWQ_FOLD, g->scale, IN, with_stride(w, IN - 1), NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_fold_activation((awq_direction)2, g->scale, IN, w, NULL), AWQ_ERR_CONFIG);
    REFUSED(awq_fold_consumer(AWQ_FOLD, g->scale, IN, with_dtype(w, BAD_DTYPE), NULL),
            AWQ_ERR_DTYPE);
    REFUSED(awq_fold_consumer(AWQ_FOLD, g->scale, IN, with_data(w, NULL), NULL), AWQ_ERR_NULL);
    REFUSED(awq_fold_consumer((awq_direction)2, g->scale, IN, w, NULL), AWQ_ERR_CONFIG);
    assert_halves(v);
    assert_halves(w);
    assert_halves(square);
    close_good(g);
}

/* ---- clip ------------------------------------------------------------------------------------ */

static awq_status try_clip(const good *g, const awq_clip_config *config, awq_inputs inputs,
                           awq_matrix weight)
{
    return awq_clip_search(kernels, config, &inputs, weight, g->scale, g->scratch,
                           g->clip_scratch_size, NULL, g->clip_out, NULL);
}

TEST(clip)
{
    good *g = new_good();
    awq_clip_config bad = g->clip;
    awq_inputs inputs = g->inputs;
    awq_where where = { 9, 9, 9 };
    awq_parallel no_run = { NULL, NULL, 1 };
    size_t n = g->clip_scratch_size;
    (void)state;
    REFUSED(try_clip(g, NULL, inputs, g->weight), AWQ_ERR_NULL);
    REFUSED(try_clip(g, &g->clip, inputs, with_data(g->weight, NULL)), AWQ_ERR_NULL);
    REFUSED(try_clip(g, &g->clip, inputs, with_cols(g->weight, IN - 1)), AWQ_ERR_SHAPE);
    REFUSED(try_clip(g, &g->clip, inputs, with_rows(g->weight, 0)), AWQ_ERR_SHAPE);
    REFUSED(try_clip(g, &g->clip, inputs, with_dtype(g->weight, BAD_DTYPE)), AWQ_ERR_DTYPE);
    REFUSED(awq_clip_search(NULL, &g->clip, &inputs, g->weight, NULL, g->scratch, n, NULL,
                            g->clip_out, NULL), AWQ_ERR_NULL);
    REFUSED(awq_clip_search(kernels, &g->clip, NULL, g->weight, NULL, g->scratch, n, NULL,
                            g->clip_out, NULL), AWQ_ERR_NULL);
    REFUSED(awq_clip_search(kernels, &g->clip, &inputs, g->weight, NULL, NULL, n, NULL,
                            g->clip_out, NULL), AWQ_ERR_NULL);
    REFUSED(awq_clip_search(kernels, &g->clip, &inputs, g->weight, NULL, g->scratch, n, NULL, NULL,
                            NULL), AWQ_ERR_NULL);
    REFUSED(awq_clip_search(kernels, &g->clip, &inputs, g->weight, NULL, g->scratch, n - 1, NULL,
                            g->clip_out, NULL), AWQ_ERR_MEMORY);
    REFUSED(awq_clip_search(kernels, &g->clip, &inputs, g->weight, NULL, g->scratch, n, &no_run,
                            g->clip_out, NULL), AWQ_ERR_NULL);
    bad.grid_points = 0;
    REFUSED(try_clip(g, &bad, inputs, g->weight), AWQ_ERR_CONFIG);
    bad = g->clip;
    bad.grid_steps = 0;
    REFUSED(try_clip(g, &bad, inputs, g->weight), AWQ_ERR_CONFIG);
    bad = g->clip;
    bad.quant = with_bits(5);
    REFUSED(try_clip(g, &bad, inputs, g->weight), AWQ_ERR_CONFIG);
    bad.quant = with_group(0);
    REFUSED(try_clip(g, &bad, inputs, g->weight), AWQ_ERR_CONFIG);
    bad.quant = with_scales(BAD_DTYPE);
    REFUSED(try_clip(g, &bad, inputs, g->weight), AWQ_ERR_DTYPE);
    inputs.loss = AWQ_LOSS_CALLBACK;
    inputs.callback = (awq_loss_callback *)(void (*)(void))abort;
    REFUSED(try_clip(g, &g->clip, inputs, g->weight), AWQ_ERR_CONFIG);
    g->scale[7] = 0;
    REFUSED(awq_clip_search(kernels, &g->clip, &g->inputs, g->weight, g->scale, g->scratch, n, NULL,
                            g->clip_out, &where), AWQ_ERR_DATA);
    assert_int_equal(where.col, 7);
    put(g->weight, 2, 65, 1e30);
    REFUSED(awq_clip_search(kernels, &g->clip, &g->inputs, g->weight, NULL, g->scratch, n, NULL,
                            g->clip_out, &where), AWQ_ERR_SCALE);
    assert_true(where.row == 2 && where.col / GROUP == 2);
    close_good(g);
}

/* ---- quantize -------------------------------------------------------------------------------- */

TEST(tensor_init)
{
    good *g = new_good();
    awq_tensor *t = pool_aligned(&g->p, sizeof *t, sizeof(double));
    void *memory = pool_aligned(&g->p, g->tensor_size, sizeof(float));
    size_t n = g->tensor_size;
    (void)state;
    REFUSED(awq_tensor_init(NULL, QUANT, OUT, IN, memory, n), AWQ_ERR_NULL);
    REFUSED(awq_tensor_init(t, QUANT, OUT, IN, NULL, n), AWQ_ERR_NULL);
    REFUSED(awq_tensor_init(t, with_bits(5), OUT, IN, memory, n), AWQ_ERR_CONFIG);
    REFUSED(awq_tensor_init(t, with_group(-2), OUT, IN, memory, n), AWQ_ERR_CONFIG);
    REFUSED(awq_tensor_init(t, with_scales(BAD_DTYPE), OUT, IN, memory, n), AWQ_ERR_DTYPE);
    REFUSED(awq_tensor_init(t, QUANT, 0, IN, memory, n), AWQ_ERR_SHAPE);
    REFUSED(awq_tensor_init(t, QUANT, OUT, 0, memory, n), AWQ_ERR_SHAPE);
    REFUSED(awq_tensor_init(t, QUANT, OUT, IN, memory, n - 1), AWQ_ERR_MEMORY);
    REFUSED(awq_tensor_init(t, QUANT, SIZE_MAX, SIZE_MAX, memory, n), AWQ_ERR_MEMORY);
    assert_true(untouched(t, sizeof *t) && untouched(memory, n));
    close_good(g);
}

static awq_status try_quantize(awq_matrix weight, awq_tensor *t, size_t begin, size_t end)
{
    return awq_quantize(kernels, weight, NULL, NULL, t, begin, end, NULL);
}

TEST(quantize)
{
    good *g = new_good();
    void *memory = pool_aligned(&g->p, g->tensor_size, sizeof(float));
    awq_tensor t, bad;
    (void)state;
    assert_status(awq_tensor_init(&t, QUANT, OUT, IN, memory, g->tensor_size), AWQ_OK);
    assert_true(untouched(memory, g->tensor_size));
    REFUSED(awq_quantize(NULL, g->weight, NULL, NULL, &t, 0, OUT, NULL), AWQ_ERR_NULL);
    REFUSED(try_quantize(g->weight, NULL, 0, OUT), AWQ_ERR_NULL);
    REFUSED(try_quantize(with_data(g->weight, NULL), &t, 0, OUT), AWQ_ERR_NULL);
    REFUSED(try_quantize(with_cols(g->weight, IN - 1), &t, 0, OUT), AWQ_ERR_SHAPE);
    REFUSED(try_quantize(with_rows(g->weight, OUT - 1), &t, 0, OUT - 1), AWQ_ERR_SHAPE);
    REFUSED(try_quantize(with_stride(g->weight, IN - 1), &t, 0, OUT), AWQ_ERR_SHAPE);
    REFUSED(try_quantize(with_dtype(g->weight, BAD_DTYPE), &t, 0, OUT), AWQ_ERR_DTYPE);
    REFUSED(try_quantize(g->weight, &t, 0, OUT + 1), AWQ_ERR_RANGE);
    REFUSED(try_quantize(g->weight, &t, 3, 2), AWQ_ERR_RANGE);
    bad = t;
    bad.q = NULL;
    REFUSED(try_quantize(g->weight, &bad, 0, OUT), AWQ_ERR_NULL);
    bad = t;
    bad.zeros = NULL;
    REFUSED(try_quantize(g->weight, &bad, 0, OUT), AWQ_ERR_NULL);
    bad = t;
    bad.scales = NULL;
    REFUSED(try_quantize(g->weight, &bad, 0, OUT), AWQ_ERR_NULL);
    bad = t;
    bad.quant = with_bits(6);
    REFUSED(try_quantize(g->weight, &bad, 0, OUT), AWQ_ERR_CONFIG);
    bad.quant = with_scales(BAD_DTYPE);
    REFUSED(try_quantize(g->weight, &bad, 0, OUT), AWQ_ERR_DTYPE);
    assert_true(untouched(memory, g->tensor_size));
    assert_status(try_quantize(g->weight, &t, 5, 5), AWQ_OK);      /* an empty range is a range */
    assert_true(untouched(memory, g->tensor_size));
    close_good(g);
}

TEST(dequantize_and_fake_quantize)
{
    good *g = new_good();
    awq_matrix out = g->out, w = g->weight;
    (void)state;
    REFUSED(awq_dequantize(NULL, NULL, out, 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_dequantize(&g->tensor, NULL, with_data(out, NULL), 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_dequantize(&g->tensor, NULL, with_cols(out, IN - 1), 0, OUT), AWQ_ERR_SHAPE);
    REFUSED(awq_dequantize(&g->tensor, NULL, with_rows(out, OUT - 1), 0, 1), AWQ_ERR_SHAPE);
    REFUSED(awq_dequantize(&g->tensor, NULL, with_dtype(out, BAD_DTYPE), 0, OUT), AWQ_ERR_DTYPE);
    REFUSED(awq_dequantize(&g->tensor, NULL, out, 0, OUT + 1), AWQ_ERR_RANGE);
    REFUSED(awq_dequantize(&g->tensor, NULL, out, 2, 1), AWQ_ERR_RANGE);
    REFUSED(awq_packed_dequantize(NULL, NULL, out, 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_packed_dequantize(&g->packed, NULL, with_data(out, NULL), 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_packed_dequantize(&g->packed, NULL, with_cols(out, IN - 1), 0, OUT), AWQ_ERR_SHAPE);
    REFUSED(awq_packed_dequantize(&g->packed, NULL, out, 0, OUT - 1), AWQ_ERR_SHAPE);
    REFUSED(awq_packed_dequantize(&g->packed, NULL, with_dtype(out, BAD_DTYPE), 0, OUT),
            AWQ_ERR_DTYPE);
    REFUSED(awq_packed_dequantize(&g->packed, NULL, out, 1, OUT + 1), AWQ_ERR_RANGE);
    g->scale[3] = 0;
    REFUSED(awq_dequantize(&g->tensor, g->scale, out, 0, OUT), AWQ_ERR_DATA);
    REFUSED(awq_packed_dequantize(&g->packed, g->scale, out, 0, OUT), AWQ_ERR_DATA);
    REFUSED(awq_fake_quantize(NULL, QUANT, w, NULL, NULL, out, 0, OUT, NULL), AWQ_ERR_NULL);
    REFUSED(awq_fake_quantize(kernels, with_bits(1), w, NULL, NULL, out, 0, OUT, NULL),
            AWQ_ERR_CONFIG);
    REFUSED(awq_fake_quantize(kernels, with_scales(BAD_DTYPE), w, NULL, NULL, out, 0, OUT, NULL),
            AWQ_ERR_DTYPE);
    REFUSED(awq_fake_quantize(kernels, QUANT, with_data(w, NULL), NULL, NULL, out, 0, OUT, NULL),
            AWQ_ERR_NULL);
    REFUSED(awq_fake_quantize(kernels, QUANT, w, NULL, NULL, with_data(out, NULL), 0, OUT, NULL),
            AWQ_ERR_NULL);
    REFUSED(awq_fake_quantize(kernels, QUANT, w, NULL, NULL, with_cols(out, IN - 1), 0, OUT, NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_fake_quantize(kernels, QUANT, w, NULL, NULL, with_rows(out, OUT - 1), 0, 1, NULL),
            AWQ_ERR_SHAPE);
    REFUSED(awq_fake_quantize(kernels, QUANT, w, NULL, NULL, with_dtype(out, BAD_DTYPE), 0, OUT,
                              NULL), AWQ_ERR_DTYPE);
    REFUSED(awq_fake_quantize(kernels, QUANT, w, NULL, NULL, out, 0, OUT + 1, NULL),
            AWQ_ERR_RANGE);
    close_good(g);
}

/* ---- pack ------------------------------------------------------------------------------------ */

TEST(packed_init_and_open)
{
    good *g = new_good();
    awq_packed *view = pool_aligned(&g->p, sizeof *view, sizeof(double));
    size_t n = g->packed_size;
    void *memory = pool_bytes(&g->p, n, AT_END);
    (void)state;
    REFUSED(awq_packed_init(QUANT, OUT, IN, NULL, n), AWQ_ERR_NULL);
    REFUSED(awq_packed_init(with_bits(5), OUT, IN, memory, n), AWQ_ERR_CONFIG);
    REFUSED(awq_packed_init(with_group(0), OUT, IN, memory, n), AWQ_ERR_CONFIG);
    REFUSED(awq_packed_init(with_scales(BAD_DTYPE), OUT, IN, memory, n), AWQ_ERR_DTYPE);
    REFUSED(awq_packed_init(QUANT, 0, IN, memory, n), AWQ_ERR_SHAPE);
    REFUSED(awq_packed_init(QUANT, OUT, 0, memory, n), AWQ_ERR_SHAPE);
    REFUSED(awq_packed_init(QUANT, OUT, IN, memory, n - 1), AWQ_ERR_MEMORY);
    REFUSED(awq_packed_init(QUANT, SIZE_MAX, SIZE_MAX, memory, n), AWQ_ERR_MEMORY);
    assert_true(untouched(memory, n));
    REFUSED(awq_packed_open(NULL, g->packed_memory, n), AWQ_ERR_NULL);
    REFUSED(awq_packed_open(view, NULL, n), AWQ_ERR_NULL);
    REFUSED(awq_packed_open(view, g->packed_memory, n - 1), AWQ_ERR_FORMAT);
    REFUSED(awq_packed_open(view, memory, n), AWQ_ERR_FORMAT);
    assert_true(untouched(view, sizeof *view));
    REFUSED(awq_packed_check(NULL, NULL), AWQ_ERR_NULL);
    close_good(g);
}

TEST(packed_spans)
{
    good *g = new_good();
    awq_span *spans = pool_aligned(&g->p, 3 * sizeof *spans, sizeof(double));
    (void)state;
    REFUSED(awq_packed_spans(NULL, 0, OUT, spans), AWQ_ERR_NULL);
    REFUSED(awq_packed_spans(&g->packed, 0, OUT, NULL), AWQ_ERR_NULL);
    REFUSED(awq_packed_spans(&g->packed, 1, OUT, spans), AWQ_ERR_RANGE);
    REFUSED(awq_packed_spans(&g->packed, 0, OUT - 1, spans), AWQ_ERR_RANGE);
    REFUSED(awq_packed_spans(&g->packed, 0, OUT + 12, spans), AWQ_ERR_RANGE);
    REFUSED(awq_packed_spans(&g->packed, 16, 0, spans), AWQ_ERR_RANGE);
    assert_true(untouched(spans, 3 * sizeof *spans));
    close_good(g);
}

TEST(pack_and_unpack)
{
    good *g = new_good();
    awq_tensor bad = g->tensor, t;
    void *memory = pool_aligned(&g->p, g->tensor_size, sizeof(float)), *m = g->packed_memory;
    size_t n = g->packed_size;
    unsigned char *before = malloc(n);
    (void)state;
    memcpy(before, m, n);
    memset(g->tensor.q, 3, OUT * IN);       /* would show in the bytes */
    REFUSED(awq_pack(NULL, &g->tensor, m, n, 0, OUT, NULL), AWQ_ERR_NULL);
    REFUSED(awq_pack(kernels, NULL, m, n, 0, OUT, NULL), AWQ_ERR_NULL);
    REFUSED(awq_pack(kernels, &g->tensor, NULL, n, 0, OUT, NULL), AWQ_ERR_NULL);
    REFUSED(awq_pack(kernels, &g->tensor, m, n - 1, 0, OUT, NULL), AWQ_ERR_FORMAT);
    REFUSED(awq_pack(kernels, &g->tensor, m, n, 1, OUT, NULL), AWQ_ERR_RANGE);
    REFUSED(awq_pack(kernels, &g->tensor, m, n, 0, OUT - 1, NULL), AWQ_ERR_RANGE);
    REFUSED(awq_pack(kernels, &g->tensor, m, n, 0, OUT + 12, NULL), AWQ_ERR_RANGE);
    REFUSED(awq_pack(kernels, &g->tensor, m, n, 16, 0, NULL), AWQ_ERR_RANGE);
    bad.in_features = IN - 1;
    REFUSED(awq_pack(kernels, &bad, m, n, 0, OUT, NULL), AWQ_ERR_SHAPE);
    bad = g->tensor;
    bad.out_features = OUT - 1;
    REFUSED(awq_pack(kernels, &bad, m, n, 0, 16, NULL), AWQ_ERR_SHAPE);
    bad = g->tensor;
    bad.quant.bits = 8;
    REFUSED(awq_pack(kernels, &bad, m, n, 0, OUT, NULL), AWQ_ERR_CONFIG);
    bad = g->tensor;
    bad.quant.scale_dtype = AWQ_BF16;
    REFUSED(awq_pack(kernels, &bad, m, n, 0, OUT, NULL), AWQ_ERR_CONFIG);
    assert_memory_equal(before, m, n);
    free(before);

    assert_status(awq_tensor_init(&t, QUANT, OUT, IN, memory, g->tensor_size), AWQ_OK);
    REFUSED(awq_unpack(NULL, &g->packed, &t, 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_unpack(kernels, NULL, &t, 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_unpack(kernels, &g->packed, NULL, 0, OUT), AWQ_ERR_NULL);
    REFUSED(awq_unpack(kernels, &g->packed, &t, 1, OUT), AWQ_ERR_RANGE);
    REFUSED(awq_unpack(kernels, &g->packed, &t, 0, OUT + 1), AWQ_ERR_RANGE);
    bad = t;
    bad.in_features = IN + 1;
    REFUSED(awq_unpack(kernels, &g->packed, &bad, 0, OUT), AWQ_ERR_SHAPE);
    bad = t;
    bad.quant.group_size = 16;
    REFUSED(awq_unpack(kernels, &g->packed, &bad, 0, OUT), AWQ_ERR_CONFIG);
    assert_true(untouched(memory, g->tensor_size));
    close_good(g);
}

TEST(quantize_packed)
{
    good *g = new_good();
    size_t n = g->packed_size;
    void *m = g->packed_memory;
    unsigned char *before = malloc(n);
    awq_where where = { 9, 9, 9 };
    (void)state;
    memcpy(before, m, n);
    fill(g->weight.data, OUT * IN, -0.25f);
#define TRY(k, weight, memory, size, begin, end)                                                   \
    awq_quantize_packed(k, weight, NULL, NULL, memory, size, begin, end, &where)
    REFUSED(TRY(NULL, g->weight, m, n, 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, g->weight, NULL, n, 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, with_data(g->weight, NULL), m, n, 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, with_cols(g->weight, IN - 1), m, n, 0, OUT), AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, with_rows(g->weight, OUT - 1), m, n, 0, 16), AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, with_dtype(g->weight, BAD_DTYPE), m, n, 0, OUT), AWQ_ERR_DTYPE);
    REFUSED(TRY(kernels, g->weight, m, n - 1, 0, OUT), AWQ_ERR_FORMAT);
    REFUSED(TRY(kernels, g->weight, m, n, 8, OUT), AWQ_ERR_RANGE);
    REFUSED(TRY(kernels, g->weight, m, n, 0, OUT + 1), AWQ_ERR_RANGE);
    assert_memory_equal(before, m, n);
    put(g->weight, 18, 69, 1e9);
    REFUSED(TRY(kernels, g->weight, m, n, 0, OUT), AWQ_ERR_SCALE);
    assert_true(where.row == 18 && where.col / GROUP == 2);
    put(g->weight, 18, 69, not_a_number());
    REFUSED(TRY(kernels, g->weight, m, n, 0, OUT), AWQ_ERR_DATA);
    assert_true(where.row == 18 && where.col == 69);
#undef TRY
    free(before);
    close_good(g);
}

/* ---- matmul ---------------------------------------------------------------------------------- */

TEST(prepare)
{
    good *g = new_good();
    size_t n = g->prepared_size;
    void *m = pool_aligned(&g->p, n, sizeof(float));
    awq_prepared *view = pool_aligned(&g->p, sizeof *view, sizeof(double));
    awq_where where = { 9, 9, 9 };
    (void)state;
#define TRY(k, group, precision, x, memory, size, begin, end, to)                                  \
    awq_prepare(k, group, precision, x, NULL, memory, size, begin, end, to, NULL)
    REFUSED(TRY(NULL, GROUP, AWQ_A16, g->x, m, n, 0, TOKENS, view), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, with_data(g->x, NULL), m, n, 0, TOKENS, view),
            AWQ_ERR_NULL);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, g->x, NULL, n, 0, TOKENS, view), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, g->x, m, n, 0, TOKENS, NULL), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, with_cols(g->x, 0), m, n, 0, TOKENS, view),
            AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, with_stride(g->x, IN - 1), m, n, 0, TOKENS, view),
            AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, with_dtype(g->x, BAD_DTYPE), m, n, 0, TOKENS, view),
            AWQ_ERR_DTYPE);
    REFUSED(TRY(kernels, 0, AWQ_A16, g->x, m, n, 0, TOKENS, view), AWQ_ERR_CONFIG);
    REFUSED(TRY(kernels, -2, AWQ_A16, g->x, m, n, 0, TOKENS, view), AWQ_ERR_CONFIG);
    REFUSED(TRY(kernels, GROUP, (awq_precision)2, g->x, m, n, 0, TOKENS, view), AWQ_ERR_CONFIG);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, g->x, m, n, 0, TOKENS + 1, view), AWQ_ERR_RANGE);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, g->x, m, n, 2, 1, view), AWQ_ERR_RANGE);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, g->x, m, n - 1, 0, TOKENS, view), AWQ_ERR_MEMORY);
    REFUSED(TRY(kernels, GROUP, AWQ_A16, g->x, (char *)m + 1, n, 0, TOKENS, view),
            AWQ_ERR_MEMORY);
#undef TRY
    g->scale[11] = -1;
    REFUSED(awq_prepare(kernels, GROUP, AWQ_A16, g->x, g->scale, m, n, 0, TOKENS, view, &where),
            AWQ_ERR_DATA);
    assert_int_equal(where.col, 11);
    assert_true(untouched(m, n) && untouched(view, sizeof *view));
    close_good(g);
}

TEST(prepared_select)
{
    good *g = new_good();
    const uint32_t index[2] = { 0, TOKENS };
    awq_prepared selection;
    awq_prepared *view = pool_aligned(&g->p, sizeof *view, sizeof(double));
    (void)state;
    REFUSED(awq_prepared_select(NULL, index, 1, view), AWQ_ERR_NULL);
    REFUSED(awq_prepared_select(&g->prepared, NULL, 1, view), AWQ_ERR_NULL);
    REFUSED(awq_prepared_select(&g->prepared, index, 1, NULL), AWQ_ERR_NULL);
    REFUSED(awq_prepared_select(&g->prepared, index, 2, view), AWQ_ERR_RANGE);
    assert_status(awq_prepared_select(&g->prepared, index, 1, &selection), AWQ_OK);
    REFUSED(awq_prepared_select(&selection, index, 1, view), AWQ_ERR_MISMATCH);
    assert_true(untouched(view, sizeof *view));
    assert_status(awq_prepared_select(&g->prepared, NULL, 0, view), AWQ_OK);
    assert_int_equal(view->tokens, 0);
    close_good(g);
}

TEST(matmul)
{
    good *g = new_good();
    awq_prepared other = g->prepared;
    (void)state;
#define TRY(k, w, x, y, begin, end) awq_matmul(k, w, x, NULL, y, begin, end)
    REFUSED(TRY(NULL, &g->packed, &g->prepared, g->y, 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, NULL, &g->prepared, g->y, 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, &g->packed, NULL, g->y, 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, with_data(g->y, NULL), 0, OUT), AWQ_ERR_NULL);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, with_cols(g->y, OUT - 1), 0, OUT),
            AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, with_rows(g->y, TOKENS - 1), 0, OUT),
            AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, with_stride(g->y, OUT - 1), 0, OUT),
            AWQ_ERR_SHAPE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, with_dtype(g->y, BAD_DTYPE), 0, OUT),
            AWQ_ERR_DTYPE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, g->y, 1, OUT), AWQ_ERR_RANGE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, g->y, 0, OUT - 1), AWQ_ERR_RANGE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, g->y, 0, OUT + 12), AWQ_ERR_RANGE);
    REFUSED(TRY(kernels, &g->packed, &g->prepared, g->y, 16, 0), AWQ_ERR_RANGE);
    other.in_features = IN + 1;
    REFUSED(TRY(kernels, &g->packed, &other, g->y, 0, OUT), AWQ_ERR_MISMATCH);
    other = g->prepared;
    other.group_size = 16;
    REFUSED(TRY(kernels, &g->packed, &other, g->y, 0, OUT), AWQ_ERR_MISMATCH);
    other = g->prepared;
    other.format += 1000;
    REFUSED(TRY(kernels, &g->packed, &other, g->y, 0, OUT), AWQ_ERR_MISMATCH);
#undef TRY
    close_good(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_own_sentence),
        cmocka_unit_test(version_is_that_of_the_header),
        cmocka_unit_test(views_and_sizes),
        cmocka_unit_test(sizes_do_not_wrap),
        cmocka_unit_test(sizes_of_nonsense_are_0),
        cmocka_unit_test(stats_init),
        cmocka_unit_test(stats_add),
        cmocka_unit_test(stats_merge_and_get),
        cmocka_unit_test(search_pointers_and_memory),
        cmocka_unit_test(search_weights),
        cmocka_unit_test(search_inputs),
        cmocka_unit_test(search_config),
        cmocka_unit_test(weight_stat_and_scale_at),
        cmocka_unit_test(output_error),
        cmocka_unit_test(convert),
        cmocka_unit_test(fold),
        cmocka_unit_test(clip),
        cmocka_unit_test(tensor_init),
        cmocka_unit_test(quantize),
        cmocka_unit_test(dequantize_and_fake_quantize),
        cmocka_unit_test(packed_init_and_open),
        cmocka_unit_test(packed_spans),
        cmocka_unit_test(pack_and_unpack),
        cmocka_unit_test(quantize_packed),
        cmocka_unit_test(prepare),
        cmocka_unit_test(prepared_select),
        cmocka_unit_test(matmul),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
