/*  make_data.c - runs on the host: quantizes the demo layer and writes it, a few inputs and this
    machine's outputs as C arrays for the firmware.

        make_data layer.bin layer_data.h                                                          */
#include "../demo/layer.h"

#define AWQ_IMPLEMENTATION
#include "../../awq.h"

#define TOKENS      4
#define SKETCH_ROWS 64
#define ERROR_LIMIT 0.05        /* of the outputs, squared and relative: 4 bits give about 0.02   */

typedef struct quantized {
    float *scale;
    unsigned char *bytes;
    awq_packed packed;
} quantized;

static void *memory(size_t size)
{
    void *bytes = size ? calloc(1, size) : NULL;
    if (!bytes) {
        fprintf(stderr, "make_data: out of memory (%zu bytes)\n", size);
        exit(1);
    }
    return bytes;
}

static void check(awq_status status, const char *what)
{
    if (status == AWQ_OK) return;
    fprintf(stderr, "make_data: %s: %s\n", what, awq_status_string(status));
    exit(1);
}

/* ---- quantize -------------------------------------------------------------------------------- */

static void search_scale(const awq_kernels *k, const layer *l, awq_quant quant, float *scale)
{
    const awq_search_config config = awq_search_preset(AWQ_PRESET_LLM_AWQ, quant);
    size_t stats_size = awq_stats_size(l->in_features, SKETCH_ROWS, 0), scratch_size;
    void *stats_memory = memory(stats_size), *scratch;
    awq_search_result result;
    awq_inputs inputs;
    awq_stats stats;

    memset(&inputs, 0, sizeof inputs);
    inputs.loss = AWQ_LOSS_SKETCH;
    inputs.stats = &stats;
    check(awq_stats_init(&stats, l->in_features, SKETCH_ROWS, 0, 1, stats_memory, stats_size),
          "awq_stats_init");
    check(awq_stats_add(k, &stats, l->calibration, NULL, NULL, NULL), "awq_stats_add");
    scratch_size = awq_search_scratch_size(&inputs, &l->weight, 1, NULL);
    scratch = memory(scratch_size);
    check(awq_search(k, &config, &inputs, &l->weight, 1, scratch, scratch_size, NULL, scale, NULL,
                     &result, NULL), "awq_search");
    free(scratch);
    free(stats_memory);
}

static quantized quantize(const awq_kernels *k, const layer *l)
{
    const awq_quant quant = { 4, 128, 0, AWQ_F16 };
    size_t size = awq_packed_size(quant, l->out_features, l->in_features);
    quantized q;

    q.scale = memory(l->in_features * sizeof *q.scale);
    q.bytes = memory(size);
    search_scale(k, l, quant, q.scale);
    check(awq_packed_init(quant, l->out_features, l->in_features, q.bytes, size),
          "awq_packed_init");
    check(awq_quantize_packed(k, l->weight, q.scale, NULL, q.bytes, size, 0, l->out_features, NULL),
          "awq_quantize_packed");
    check(awq_packed_open(&q.packed, q.bytes, size), "awq_packed_open");
    return q;
}

static float *run(const awq_kernels *k, const layer *l, const quantized *q, awq_precision precision)
{
    const int group_size = q->packed.quant.group_size;
    size_t size = awq_prepared_size(k, l->in_features, group_size, precision, TOKENS);
    void *prepared_memory = memory(size);
    float *y = memory(TOKENS * l->out_features * sizeof *y);
    awq_matrix x = awq_matrix_rows(l->heldout, 0, TOKENS);
    awq_prepared prepared;

    check(awq_prepare(k, group_size, precision, x, q->scale, prepared_memory, size, 0, TOKENS,
                      &prepared, NULL), "awq_prepare");
    check(awq_matmul(k, &q->packed, &prepared, l->bias,
                     awq_matrix_view(y, AWQ_F32, TOKENS, l->out_features), 0, l->out_features),
          "awq_matmul");
    free(prepared_memory);
    return y;
}

/* ---- write C: floats in hexadecimal, which is exact ------------------------------------------ */

static void write_bytes(FILE *out, const char *name, const unsigned char *bytes, size_t size)
{
    size_t i;
    fprintf(out, "static const unsigned char %s[%zu] = {", name, size);
    for (i = 0; i < size; i++) fprintf(out, "%s%u,", i % 32 ? "" : "\n", bytes[i]);
    fprintf(out, "\n};\n");
}

static void write_floats(FILE *out, const char *name, const float *x, size_t rows, size_t cols)
{
    size_t i;
    fprintf(out, "static const float %s[%zu] = {", name, rows * cols);
    for (i = 0; i < rows * cols; i++) fprintf(out, "%s%af,", i % 6 ? " " : "\n", (double)x[i]);
    fprintf(out, "\n};\n");
}

static void write_bits(FILE *out, const char *name, const float *x, size_t count)
{
    size_t i;
    fprintf(out, "static const uint32_t %s[%zu] = {", name, count);
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        fprintf(out, "%s0x%08lx,", i % 8 ? " " : "\n", (unsigned long)bits);
    }
    fprintf(out, "\n};\n");
}

static void write_data(FILE *out, const layer *l, const quantized *q, const float *y_a16,
                       const float *y_a8)
{
    fprintf(out, "/* written by make_data.c */\n#include <stdint.h>\n\n");
    fprintf(out, "enum { LAYER_TOKENS = %d, LAYER_IN = %zu, LAYER_OUT = %zu };\n", TOKENS,
            l->in_features, l->out_features);
    write_bytes(out, "layer_packed", q->bytes, q->packed.size);
    write_floats(out, "layer_bias", l->bias, 1, l->out_features);
    write_floats(out, "layer_input_scale", q->scale, 1, l->in_features);
    write_floats(out, "layer_input", l->heldout.data, TOKENS, l->in_features);
    write_bits(out, "expected_a16", y_a16, TOKENS * l->out_features);
    write_bits(out, "expected_a8", y_a8, TOKENS * l->out_features);
}

/* ---- the host's own check: the outputs are those of the layer, up to rounding ---------------- */

static double relative_error(const layer *l, const float *y)
{
    double error = 0, power = 0;
    size_t t, r, c;
    for (t = 0; t < TOKENS; t++)
        for (r = 0; r < l->out_features; r++) {
            const float *w = (const float *)l->weight.data + r * l->in_features;
            const float *x = (const float *)l->heldout.data + t * l->in_features;
            double exact = 0, difference;
            for (c = 0; c < l->in_features; c++) exact += (double)w[c] * (double)x[c];
            difference = (double)y[t * l->out_features + r] - (double)l->bias[r] - exact;
            error += difference * difference;
            power += exact * exact;
        }
    return error / power;
}

static void check_error(const layer *l, const float *y, const char *name)
{
    double error = relative_error(l, y);
    printf("host %s: squared error relative to the unquantized layer %.2e\n", name, error);
    if (error < ERROR_LIMIT) return;
    fprintf(stderr, "make_data: %s: the error is above %g\n", name, ERROR_LIMIT);
    exit(1);
}

static bool save(const char *path, const layer *l, const quantized *q, const float *y_a16,
                 const float *y_a8, failure *why)
{
    file_writer writer;
    if (!file_write_begin(&writer, path, why)) return false;
    write_data(writer.stream, l, q, y_a16, y_a8);
    if (ferror(writer.stream)) return file_write_fail(&writer, why);
    return file_write_end(&writer, why);
}

int main(int argc, char **argv)
{
    const awq_kernels k = awq_kernels_portable();
    failure why;
    quantized q;
    float *y_a16, *y_a8;
    layer l;

    if (argc != 3) {
        fprintf(stderr, "usage: make_data layer.bin layer_data.h\n");
        return 2;
    }
    if (!layer_load(&l, argv[1], &why)) {
        fprintf(stderr, "make_data: %s\n", why.text);
        return 1;
    }
    if (l.heldout.rows < TOKENS) {
        fprintf(stderr, "make_data: %s: fewer than %d held-out tokens\n", argv[1], TOKENS);
        return 1;
    }
    q = quantize(&k, &l);
    y_a16 = run(&k, &l, &q, AWQ_A16);
    y_a8 = run(&k, &l, &q, AWQ_A8);
    check_error(&l, y_a16, "A16");
    check_error(&l, y_a8, "A8");
    if (!save(argv[2], &l, &q, y_a16, y_a8, &why)) {
        fprintf(stderr, "make_data: %s\n", why.text);
        return 1;
    }
    free(y_a16);
    free(y_a8);
    free(q.scale);
    free(q.bytes);
    layer_free(&l);
    return 0;
}
