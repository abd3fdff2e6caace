/*  Every golden case of a folder, reproduced: see golden/README.md for what the arrays are.
    The folder is the first argument, or AWQ_GOLDEN, or tests/golden.                             */
#include "runner.h"

#include <dirent.h>

#ifndef GOLDEN
#define GOLDEN "tests/golden"
#endif

#define MAX_ARRAYS 64
#define MAX_CASES  256
#define MAX_PATH   2048     /* of a case; its files get some more                                 */

typedef struct array { char name[48]; char dtype[16]; size_t rows, cols; void *data; } array;
typedef struct golden {
    char path[MAX_PATH];
    size_t count;
    array arrays[MAX_ARRAYS];
    awq_quant quant;            /* fp16 scales, as stored                                         */
    awq_matrix weight, x;
    awq_stats stats;
    void *stats_memory;
} golden;

/* ---- reading a case -------------------------------------------------------------------------- */

static size_t dtype_bytes(const char *dtype)
{
    if (strcmp(dtype, "uint8") == 0) return 1;
    return strcmp(dtype, "float16") == 0 || strcmp(dtype, "int16") == 0 ? 2 : 4;
}

static void *read_file(const char *folder, const char *file, size_t size)
{
    char path[MAX_PATH + 200];
    void *data = malloc(size + 1);
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, file);
    f = fopen(path, "rb");
    if (!f) fail_msg("%s: cannot be opened", path);
    assert_non_null(data);
    if (fread(data, 1, size + 1, f) != size) fail_msg("%s: not %zu bytes", path, size);
    fclose(f);
    return data;
}

/*  The files are little-endian; this is what they mean on any machine.                           */
static void from_little_endian(void *data, size_t count, size_t size)
{
    unsigned char *bytes = data;
    size_t i, b;
    for (i = 0; size > 1 && i < count; i++, bytes += size) {
        uint32_t word = 0;
        uint16_t half;
        for (b = 0; b < size; b++) word |= (uint32_t)bytes[b] << 8 * b;
        half = (uint16_t)word;
        if (size == 2) memcpy(bytes, &half, size);
        else memcpy(bytes, &word, size);
    }
}

static void read_manifest(golden *g)
{
    char path[MAX_PATH + 200], line[256], file[128];
    FILE *f;
    snprintf(path, sizeof path, "%s/manifest.tsv", g->path);
    f = fopen(path, "r");
    if (!f) fail_msg("%s: cannot be opened", path);
    while (fgets(line, sizeof line, f)) {
        array *a = &g->arrays[g->count++];
        size_t size;
        assert_true(g->count <= MAX_ARRAYS);
        a->rows = 1;
        if (sscanf(line, "%47s %15s %zux%zu %127s", a->name, a->dtype, &a->rows, &a->cols, file)
                != 5) {
            a->rows = 1;
            if (sscanf(line, "%47s %15s %zu %127s", a->name, a->dtype, &a->cols, file) != 4)
                fail_msg("%s: what is %s", path, line);
        }
        size = dtype_bytes(a->dtype);
        a->data = read_file(g->path, file, a->rows * a->cols * size);
        from_little_endian(a->data, a->rows * a->cols, size);
    }
    fclose(f);
}

/*  NULL if the case has no such array.                                                           */
static const array *find(const golden *g, const char *prefix, const char *name)
{
    char full[64];
    size_t i;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    for (i = 0; i < g->count; i++)
        if (strcmp(g->arrays[i].name, full) == 0) return &g->arrays[i];
    return NULL;
}

static const array *need(const golden *g, const char *prefix, const char *name)
{
    const array *a = find(g, prefix, name);
    if (!a) fail_msg("%s: manifest.tsv does not list %s%s", g->path, prefix, name);
    return a;
}

static int read_group_size(const golden *g)
{
    char path[MAX_PATH + 200], text[1024] = "";
    const char *at;
    FILE *f;
    snprintf(path, sizeof path, "%s/case.json", g->path);
    f = fopen(path, "rb");
    if (!f) fail_msg("%s: cannot be opened", path);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    at = strstr(text, "\"group_size\":");
    if (!at) fail_msg("%s: no group_size", path);
    return (int)strtol(at + strlen("\"group_size\":"), NULL, 10);
}

static golden *open_case(const char *path)
{
    golden *g = calloc(1, sizeof *g);
    const array *a;
    size_t size;

    assert_non_null(g);
    snprintf(g->path, sizeof g->path, "%s", path);
    read_manifest(g);
    g->quant.bits = 4;
    g->quant.group_size = read_group_size(g);
    g->quant.scale_dtype = AWQ_F16;
    a = need(g, "", "weight");
    g->weight = awq_matrix_view(a->data, AWQ_F16, a->rows, a->cols);
    a = need(g, "", "x");
    g->x = awq_matrix_view(a->data, AWQ_F16, a->rows, a->cols);

    size = awq_stats_size(g->x.cols, 0, 0);
    g->stats_memory = malloc(size);
    assert_status(awq_stats_init(&g->stats, g->x.cols, 0, 0, 0, g->stats_memory, size), AWQ_OK);
    assert_status(awq_stats_add(kernels, &g->stats, g->x, NULL, NULL, NULL), AWQ_OK);
    return g;
}

static void close_case(golden *g)
{
    size_t i;
    for (i = 0; i < g->count; i++) free(g->arrays[i].data);
    free(g->stats_memory);
    free(g);
}

/* ---- comparing ------------------------------------------------------------------------------- */

static float value(const array *a, size_t i) { return ((const float *)a->data)[i]; }

static void assert_all_close(const golden *g, const array *expected, const float *got,
                             double relative)
{
    size_t i;
    for (i = 0; i < expected->rows * expected->cols; i++) {
        double want = (double)value(expected, i), is = (double)got[i];
        if (!(magnitude(is - want) <= relative * magnitude(want)))
            fail_msg("%s: %s[%zu] is %.9g, not %.9g", g->path, expected->name, i, is, want);
    }
}

static void check_statistics(const golden *g)
{
    float *out = malloc(g->x.cols * sizeof *out);
    assert_status(awq_stats_get(&g->stats, AWQ_ABS_MEAN, out), AWQ_OK);
    assert_all_close(g, need(g, "", "x_absmean"), out, 1e-6);
    assert_status(awq_stats_get(&g->stats, AWQ_ABS_MAX, out), AWQ_OK);
    assert_all_close(g, need(g, "", "x_absmax"), out, 0);
    free(out);
}

/*  The scale of one grid point, which a search does not return where plain rounding won. */
static void scale_of_ratio(const golden *g, const awq_search_config *config, double ratio,
                           float *scale)
{
    float *act = malloc(g->x.cols * sizeof *act);
    double *weight_stat = malloc(g->x.cols * sizeof *weight_stat);
    assert_status(awq_stats_get(&g->stats, AWQ_ABS_MEAN, act), AWQ_OK);
    assert_status(awq_weight_stat(&g->weight, 1, config->quant.group_size, weight_stat, NULL),
                  AWQ_OK);
    assert_status(awq_scale_at(config->rule, ratio, g->x.cols, act, weight_stat, scale, NULL),
                  AWQ_OK);
    free(act);
    free(weight_stat);
}

static void check_search(const golden *g, const char *prefix, awq_preset preset, int symmetric,
                         awq_loss loss)
{
    awq_quant quant = g->quant;
    awq_search_config config;
    awq_inputs inputs = { .loss = loss, .stats = &g->stats, .rows = g->x };
    const array *losses, *best = find(g, prefix, "best");
    awq_search_result result;
    double curve[32];
    float *scale = malloc(g->x.cols * sizeof *scale);
    size_t size = awq_search_scratch_size(&inputs, &g->weight, 1, NULL), i;
    void *scratch = malloc(size);

    if (best) {
        losses = need(g, prefix, "loss");
        quant.symmetric = symmetric;
        quant.scale_dtype = AWQ_F32;        /* the originals do not round scales in the search */
        config = awq_search_preset(preset, quant);
        assert_int_equal(config.grid_points, losses->cols);
        assert_status(awq_search(kernels, &config, &inputs, &g->weight, 1, scratch, size, NULL,
                                 scale, curve, &result, NULL), AWQ_OK);
        if (result.index != *(const int32_t *)best->data)
            fail_msg("%s: %sbest is %d, not %d", g->path, prefix, result.index,
                     (int)*(const int32_t *)best->data);
        assert_true(result.loss <= result.identity_loss);
        if (result.is_identity) scale_of_ratio(g, &config, result.ratio, scale);
        for (i = 0; i < losses->cols; i++) {
            double want = (double)value(losses, i);
            if (!(magnitude(curve[i] - want) <= 1e-4 * want))
                fail_msg("%s: %sloss[%zu] is %.9g, not %.9g", g->path, prefix, i, curve[i], want);
        }
        assert_all_close(g, need(g, prefix, "scales"), scale, 1e-4);
    }
    free(scale);
    free(scratch);
}

static void check_clip(const golden *g)
{
    const array *expected = need(g, "", "clip_max");
    awq_quant quant = g->quant;
    awq_clip_config config;
    awq_inputs inputs = { .loss = AWQ_LOSS_ROWS, .stats = &g->stats, .rows = g->x };
    float *clip = malloc(expected->rows * expected->cols * sizeof *clip);
    size_t size;
    void *scratch;

    quant.scale_dtype = AWQ_F32;
    config = awq_clip_preset(quant);
    size = awq_clip_scratch_size(&inputs, g->weight, &config, NULL);
    scratch = malloc(size);
    assert_status(awq_clip_search(kernels, &config, &inputs, g->weight, NULL, scratch, size, NULL,
                                  clip, NULL), AWQ_OK);
    assert_all_close(g, expected, clip, 1e-6);
    free(clip);
    free(scratch);
}

static void check_same(const golden *g, const array *expected, const void *got)
{
    size_t size = expected->rows * expected->cols * dtype_bytes(expected->dtype), i;
    const unsigned char *a = expected->data, *b = got;
    for (i = 0; i < size; i++)
        if (a[i] != b[i])
            fail_msg("%s: %s differs at byte %zu of %zu", g->path, expected->name, i, size);
}

static awq_tensor quantized(const golden *g, int symmetric, void **memory)
{
    awq_quant quant = g->quant;
    awq_tensor tensor;
    size_t size;
    quant.symmetric = symmetric;
    size = awq_tensor_size(quant, g->weight.rows, g->weight.cols);
    *memory = malloc(size);
    assert_status(awq_tensor_init(&tensor, quant, g->weight.rows, g->weight.cols, *memory, size),
                  AWQ_OK);
    assert_status(awq_quantize(kernels, g->weight, NULL, NULL, &tensor, 0, g->weight.rows, NULL),
                  AWQ_OK);
    return tensor;
}

static void check_quantizer(const golden *g)
{
    void *memory;
    awq_tensor tensor = quantized(g, 0, &memory);
    float *dense = malloc(g->weight.rows * g->weight.cols * sizeof *dense);
    awq_matrix out = awq_matrix_view(dense, AWQ_F32, g->weight.rows, g->weight.cols);

    check_same(g, need(g, "", "q"), tensor.q);
    check_same(g, need(g, "", "zeros"), tensor.zeros);
    check_same(g, need(g, "", "scales"), tensor.scales);
    assert_status(awq_dequantize(&tensor, NULL, out, 0, out.rows), AWQ_OK);
    check_same(g, need(g, "", "dequant"), dense);
    free(dense);
    free(memory);
    if (find(g, "", "sym_q")) {
        tensor = quantized(g, 1, &memory);
        check_same(g, need(g, "", "sym_q"), tensor.q);
        check_same(g, need(g, "", "sym_scales"), tensor.scales);
        free(memory);
    }
}

/* ---- layouts: packed by the golden arrays' makers, both ways --------------------------------- */

/*  Little-endian again, as a plane stands in a file.                                             */
static void *plane_bytes(const golden *g, const char *prefix, const char *name,
                         const awq_plane *plane)
{
    const array *a = find(g, prefix, name);
    size_t size = awq_plane_size(plane);
    void *bytes = malloc(size);
    if (!a) a = need(g, "gemm_", name);         /* ExLlama's scales are those */
    assert_int_equal(a->rows, plane->rows);
    assert_int_equal(a->cols, plane->cols);
    assert_int_equal(dtype_bytes(a->dtype), plane->element_size);
    memcpy(bytes, a->data, size);
    from_little_endian(bytes, a->rows * a->cols, plane->element_size);
    return bytes;
}

static void *new_packed(const awq_tensor *t, size_t *size)
{
    void *bytes;
    *size = awq_packed_size(t->quant, t->out_features, t->in_features);
    bytes = malloc(*size);
    assert_status(awq_packed_init(t->quant, t->out_features, t->in_features, bytes, *size),
                  AWQ_OK);
    return bytes;
}

/*  One plane at a time is replaced by ours, so that the message names it.                        */
static void check_plane(const golden *g, const char *prefix, const char *name,
                        const awq_plane *got, const void *expected)
{
    const unsigned char *a = got->data, *b = expected;
    size_t i, size = awq_plane_size(got);
    for (i = 0; i < size; i++)
        if (a[i] != b[i])
            fail_msg("%s: %s%s differs at byte %zu of %zu", g->path, prefix, name, i, size);
}

static void check_layout(const golden *g, const char *prefix, awq_layout layout, int symmetric)
{
    static const char *const names[3] = { "qweight", "scales", "qzeros" };
    void *memory, *packed, *imported, *expected[3], *written[3];
    awq_tensor tensor = quantized(g, symmetric, &memory);
    size_t size, i, planes = symmetric ? 2 : 3;
    awq_packed view;
    awq_foreign f;
    awq_plane *plane[3];

    plane[0] = &f.weights, plane[1] = &f.scales, plane[2] = &f.zeros;
    packed = new_packed(&tensor, &size);
    imported = new_packed(&tensor, &size);
    assert_status(awq_pack(kernels, &tensor, packed, size, 0, tensor.out_features, NULL), AWQ_OK);
    assert_status(awq_packed_open(&view, packed, size), AWQ_OK);
    assert_status(awq_foreign_init(&f, layout, tensor.quant, tensor.out_features,
                                   tensor.in_features), AWQ_OK);
    for (i = 0; i < planes; i++) {
        expected[i] = plane_bytes(g, prefix, names[i], plane[i]);
        written[i] = malloc(awq_plane_size(plane[i]));
        memset(written[i], PATTERN, awq_plane_size(plane[i]));
        plane[i]->data = written[i];
    }
    assert_status(awq_export(kernels, &view, &f, 0, 0, tensor.out_features, NULL), AWQ_OK);
    for (i = 0; i < planes; i++) {
        check_plane(g, prefix, names[i], plane[i], expected[i]);
        plane[i]->data = expected[i];
    }
    assert_status(awq_import(kernels, &f, imported, size, 0, tensor.out_features, NULL), AWQ_OK);
    assert_memory_equal(imported, packed, size);
    for (i = 0; i < planes; i++) {
        free(expected[i]);
        free(written[i]);
    }
    free(memory);
    free(packed);
    free(imported);
}

static void check_layouts(const golden *g)
{
    check_layout(g, "gemm_", AWQ_GEMM, 0);
    if (find(g, "gemv_", "qweight")) check_layout(g, "gemv_", AWQ_GEMV, 0);
    if (find(g, "gemvfast_", "qweight")) check_layout(g, "gemvfast_", AWQ_GEMV_FAST, 0);
    if (find(g, "exllama_", "qweight")) check_layout(g, "exllama_", AWQ_GPTQ, 0);
    if (find(g, "marlin_", "qweight")) check_layout(g, "marlin_", AWQ_MARLIN, 1);
}

/* ---- over all cases -------------------------------------------------------------------------- */

static char cases[MAX_CASES][MAX_PATH];
static size_t case_count;

static void find_cases(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL && case_count < MAX_CASES) {
        char path[MAX_PATH + 200], *name = cases[case_count];
        int length = snprintf(name, MAX_PATH, "%s/%s", folder, entry->d_name);
        FILE *f;
        if (length < 0 || length >= MAX_PATH) continue;
        snprintf(path, sizeof path, "%s/manifest.tsv", name);
        f = fopen(path, "r");
        if (!f) continue;
        fclose(f);
        case_count++;
    }
    if (dir) closedir(dir);
}

static void on_every_case(void (*check)(const golden *))
{
    size_t i;
    assert_true(case_count > 0);
    for (i = 0; i < case_count; i++) {
        golden *g = open_case(cases[i]);
        check(g);
        close_case(g);
    }
}

static void check_llm_awq(const golden *g)
{
    check_search(g, "llm_awq_", AWQ_PRESET_LLM_AWQ, 0, AWQ_LOSS_ROWS);
}

static void check_llm_awq_symmetric(const golden *g)
{
    check_search(g, "llm_awq_sym_", AWQ_PRESET_LLM_AWQ, 1, AWQ_LOSS_ROWS);
}

static void check_autoawq(const golden *g)
{
    check_search(g, "autoawq_duo_", AWQ_PRESET_AUTOAWQ, 0, AWQ_LOSS_ROWS);
}

static void check_keras(const golden *g)
{
    check_search(g, "keras_", AWQ_PRESET_KERAS, 0, AWQ_LOSS_DIAGONAL);
}

TEST(statistics) { (void)state; on_every_case(check_statistics); }
TEST(llm_awq_search) { (void)state; on_every_case(check_llm_awq); }
TEST(llm_awq_symmetric_search) { (void)state; on_every_case(check_llm_awq_symmetric); }
TEST(autoawq_duo_search) { (void)state; on_every_case(check_autoawq); }
TEST(keras_search) { (void)state; on_every_case(check_keras); }
TEST(clip_maxima) { (void)state; on_every_case(check_clip); }
TEST(layouts) { (void)state; on_every_case(check_layouts); }
TEST(quantizer_bits) { (void)state; on_every_case(check_quantizer); }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics),
        cmocka_unit_test(llm_awq_search),
        cmocka_unit_test(llm_awq_symmetric_search),
        cmocka_unit_test(autoawq_duo_search),
        cmocka_unit_test(keras_search),
        cmocka_unit_test(clip_maxima),
        cmocka_unit_test(quantizer_bits),
        cmocka_unit_test(layouts),
    };
    const char *folder = argc > 1 ? argv[1] : getenv("AWQ_GOLDEN");

    if (!folder || !*folder) folder = GOLDEN;
    find_cases(folder);
    if (case_count == 0) {
        fprintf(stderr, "%s: no golden case (a folder with manifest.tsv) in it\n", folder);
        return EXIT_FAILURE;
    }
    printf("%zu golden cases in %s\n", case_count, folder);
    RUN_ON_EVERY_KERNEL_SET(tests);
}
