/*  demo.c - AWQ on one real layer, a step at a time:
    calibrate -> search -> fold -> clip -> quantize -> pack -> matmul.

    The layer computes y = W x + b; x comes out of a GELU. Four ways to choose the scale s of its
    inputs are compared, each without and with clipping, by the error of y on held-out tokens.    */
#include "../common/files.h"
#include "../common/parallel.h"
#include "../common/progress.h"

#define AWQ_IMPLEMENTATION
#include "../../awq.h"

#include "demo.h"

#define SKETCH_ROWS 512
#define BATCH 64                /* tokens that a runtime might have at hand at a time             */

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "demo: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = size ? malloc(size) : NULL;      /* 0: awq_*_size() found it too large */
    if (!memory) die("not enough memory for this layer");
    return memory;
}

static void must(const demo *d, const char *step, awq_status status)
{
    if (status == AWQ_ERR_DATA || status == AWQ_ERR_SCALE)
        die("%s: %s (row %zu, column %zu)", step, awq_status_string(status), d->where.row,
            d->where.col);
    if (status != AWQ_OK) die("%s: %s", step, awq_status_string(status));
}

/* ---- the steps ------------------------------------------------------------------------------ */

/*  1. Calibrate: take in the tokens batch by batch, as a runtime produces them. What stays is a
    few numbers per channel, the sketch and the Gram matrix, however many tokens there were.      */
static void calibrate(demo *d)
{
    const awq_matrix x = d->layer.calibration;
    size_t size = awq_stats_size(x.cols, SKETCH_ROWS, 1), row, end;

    d->stats_memory = allocate(size);
    must(d, "calibrate",
         awq_stats_init(&d->stats, x.cols, SKETCH_ROWS, 1, 1, d->stats_memory, size));
    for (row = 0; row < x.rows; row = end) {
        end = row + BATCH < x.rows ? row + BATCH : x.rows;
        must(d, "calibrate", awq_stats_add(&d->kernels, &d->stats, awq_matrix_rows(x, row, end),
                                           NULL, &d->parallel, &d->where));
    }
    d->inputs.loss = AWQ_LOSS_ROWS;
    d->inputs.stats = &d->stats;
    d->inputs.rows = x;
}

/*  2. Search: s = statistic^ratio, for the ratio of a grid at which rounding W s changes y least.
    The larger s is, the finer the weights of that input are rounded, at the others' expense.     */
static double search(demo *d, awq_preset preset, const awq_inputs *inputs, float *scale,
                     double *loss_curve, awq_search_result *found)
{
    awq_search_config config = awq_search_preset(preset, d->quant);
    size_t size = awq_search_scratch_size(inputs, &d->layer.weight, 1, &d->parallel);
    void *scratch = allocate(size);
    double started = seconds_now();

    must(d, "search", awq_search(&d->kernels, &config, inputs, &d->layer.weight, 1, scratch, size,
                                 &d->parallel, scale, loss_curve, found, &d->where));
    free(scratch);
    return seconds_now() - started;
}

/*  3. Fold: W will be multiplied by s, so x must be divided by it. What produces x can usually do
    that at no cost (awq_fold_norm, awq_fold_linear). But here that is a GELU, which has nothing to
    fold s into: awq_prepare divides instead, while it reads x (step 7).                          */

/*  4. Clip: per row and group, the largest |w s| worth representing; what is beyond is cut off.  */
static float *clip(demo *d, const float *scale)
{
    awq_clip_config config = awq_clip_preset(d->quant);
    size_t groups = awq_group_count(d->layer.in_features, d->quant.group_size);
    size_t size = awq_clip_scratch_size(&d->inputs, d->layer.weight, &config, &d->parallel);
    float *clip_max = allocate(d->layer.out_features * groups * sizeof *clip_max);
    void *scratch = allocate(size);

    must(d, "clip", awq_clip_search(&d->kernels, &config, &d->inputs, d->layer.weight, scale,
                                    scratch, size, &d->parallel, clip_max, &d->where));
    free(scratch);
    return clip_max;
}

/*  5, 6. Quantize W s and pack it: bytes without pointers, as good in a file as in memory.       */
static void quantize(demo *d, const float *scale, const float *clip_max, version *v)
{
    const awq_matrix w = d->layer.weight;
    size_t size = awq_packed_size(d->quant, w.rows, w.cols);

    v->bytes = allocate(size);
    must(d, "pack", awq_packed_init(d->quant, w.rows, w.cols, v->bytes, size));
    must(d, "quantize", awq_quantize_packed(&d->kernels, w, scale, clip_max, v->bytes, size, 0,
                                            w.rows, &d->where));
    must(d, "open", awq_packed_open(&v->packed, v->bytes, size));
}

/*  7. Matmul: y = W' x + b for the held-out tokens, straight from the packed bytes.              */
static void run(demo *d, const awq_packed *packed, const float *scale, awq_precision precision,
                float *y)
{
    const awq_matrix x = d->layer.heldout;
    awq_matrix out = awq_matrix_view(y, AWQ_F32, x.rows, packed->out_features);
    size_t size = awq_prepared_size(&d->kernels, x.cols, d->quant.group_size, precision, x.rows);
    void *memory = allocate(size);
    awq_prepared prepared;

    must(d, "prepare", awq_prepare(&d->kernels, d->quant.group_size, precision, x, scale, memory,
                                   size, 0, x.rows, &prepared, &d->where));
    must(d, "matmul", awq_matmul(&d->kernels, packed, &prepared, d->layer.bias, out, 0,
                                 packed->out_features));
    free(memory);
}

/* ---- measuring ------------------------------------------------------------------------------ */

/*  What errors are measured against: y with the original weights, and how large W x is.          */
static void measure_original(demo *d)
{
    const awq_matrix x = d->layer.heldout, w = d->layer.weight, zero = { NULL, 0, 0, 0, AWQ_F32 };
    size_t size = awq_search_scratch_size(&d->inputs, &w, 1, &d->parallel), t, r, c;
    void *scratch = allocate(size);

    must(d, "measure", awq_output_error(&d->kernels, &d->inputs, w, zero, scratch, size,
                                        &d->parallel, &d->calibration_power, &d->where));
    free(scratch);
    d->exact = allocate(x.rows * w.rows * sizeof *d->exact);
    for (t = 0; t < x.rows; t++)
        for (r = 0; r < w.rows; r++) {
            const float *wr = (const float *)w.data + r * w.stride;
            const float *xt = (const float *)x.data + t * x.stride;
            double sum = 0;
            for (c = 0; c < w.cols; c++) sum += (double)wr[c] * (double)xt[c];
            d->heldout_power += sum * sum;
            d->exact[t * w.rows + r] = (float)(sum + (double)d->layer.bias[r]);
        }
    if (!(d->calibration_power > 0 && d->heldout_power > 0))
        die("all outputs of this layer are zero: there is nothing to compare");
}

/*  |error of y|^2 / |W x|^2 on the held-out tokens, through the fused matmul.                    */
static double heldout_error(demo *d, const awq_packed *packed, const float *scale,
                            awq_precision precision)
{
    size_t count = d->layer.heldout.rows * packed->out_features, i;
    float *y = allocate(count * sizeof *y);
    double sum = 0;

    run(d, packed, scale, precision, y);
    for (i = 0; i < count; i++) {
        double error = (double)y[i] - (double)d->exact[i];
        sum += error * error;
    }
    free(y);
    return sum / d->heldout_power;
}

/*  The same on the calibration tokens, with W' as it was stored: unpacked and dequantized again. */
static double calibration_loss(demo *d, const awq_packed *packed, const float *scale)
{
    const awq_matrix w = d->layer.weight;
    size_t tensor_size = awq_tensor_size(d->quant, w.rows, w.cols);
    size_t size = awq_search_scratch_size(&d->inputs, &w, 1, &d->parallel);
    void *tensor_memory = allocate(tensor_size), *scratch = allocate(size);
    float *stored = allocate(w.rows * w.cols * sizeof *stored);
    awq_matrix approximation = awq_matrix_view(stored, AWQ_F32, w.rows, w.cols);
    awq_tensor tensor;
    double loss;

    must(d, "unpack",
         awq_tensor_init(&tensor, d->quant, w.rows, w.cols, tensor_memory, tensor_size));
    must(d, "unpack", awq_unpack(&d->kernels, packed, &tensor, 0, w.rows));
    must(d, "dequantize", awq_dequantize(&tensor, scale, approximation, 0, w.rows));
    must(d, "measure", awq_output_error(&d->kernels, &d->inputs, w, approximation, scratch, size,
                                        &d->parallel, &loss, &d->where));
    free(stored);
    free(scratch);
    free(tensor_memory);
    return loss / d->calibration_power;
}

/* ---- the methods ---------------------------------------------------------------------------- */

static void make_version(demo *d, const method *m, bool clipping, version *v)
{
    double started = seconds_now();
    float *clip_max = clipping ? clip(d, m->scale) : NULL;

    quantize(d, m->scale, clip_max, v);
    v->seconds = m->search_seconds + seconds_now() - started;
    free(clip_max);
    v->calibration_loss = calibration_loss(d, &v->packed, m->scale);
    v->heldout_error = heldout_error(d, &v->packed, m->scale, AWQ_A16);
}

static void try_method(demo *d, method *m)
{
    if (m->searches) {
        m->scale = allocate(d->layer.in_features * sizeof *m->scale);
        m->search_seconds = search(d, m->preset, &d->inputs, m->scale, m->loss_curve, &m->found);
    }
    make_version(d, m, false, &m->plain);
    make_version(d, m, true, &m->clipped);
}

/*  The search once more, from statistics of fixed size: large models have too many rows to keep. */
static void ask_again(demo *d, const method *m, second_opinion *opinion)
{
    awq_inputs inputs = { .loss = opinion->loss, .stats = &d->stats };
    size_t rows = opinion->loss == AWQ_LOSS_SKETCH ? SKETCH_ROWS : d->layer.in_features;
    float *scale = allocate(d->layer.in_features * sizeof *scale);

    opinion->bytes = rows * d->layer.in_features * sizeof(float);
    opinion->seconds = search(d, m->preset, &inputs, scale, NULL, &opinion->found);
    free(scale);
}

/*  By the calibration tokens: the held-out ones are there to judge, not to choose.               */
static const method *best_of(const method *methods)
{
    const method *best = methods;
    size_t i;

    for (i = 1; i < METHODS; i++)
        if (methods[i].clipped.calibration_loss < best->clipped.calibration_loss)
            best = &methods[i];
    return best;
}

/* ---- the packed tensor as a file ------------------------------------------------------------ */

static void store_le_float(unsigned char *p, float x)
{
    uint32_t bits;
    int i;
    memcpy(&bits, &x, sizeof bits);
    for (i = 0; i < 4; i++) p[i] = (unsigned char)(bits >> 8 * i);
}

/*  The packed tensor and, unless it is 1, s after it: fp32, little-endian.                       */
static void save(const demo *d, const method *m, const char *path)
{
    size_t channels = m->scale ? d->layer.in_features : 0, i;
    unsigned char *bytes = allocate(m->clipped.packed.size + 4 * channels);
    failure why;

    memcpy(bytes, m->clipped.packed.data, m->clipped.packed.size);
    for (i = 0; i < channels; i++)
        store_le_float(bytes + m->clipped.packed.size + 4 * i, m->scale[i]);
    if (!file_write_whole(path, bytes, m->clipped.packed.size + 4 * channels, &why))
        die("%s", why.text);
    free(bytes);
}

/*  The file as an inference program would meet it: mapped, untrusted, run in place.              */
static void check_saved(demo *d, const method *m, const char *path)
{
    const version *v = &m->clipped;
    mapped_file file;
    awq_packed packed;
    failure why;

    if (!file_map(&file, path, &why)) die("%s", why.text);
    must(d, path, awq_packed_open(&packed, file.bytes, file.size));
    must(d, path, awq_packed_check(&packed, &d->where));
    if (packed.size != v->packed.size || memcmp(file.bytes, v->bytes, packed.size) != 0
        || heldout_error(d, &packed, m->scale, AWQ_A16) != v->heldout_error)
        die("%s: does not read back as it was written", path);
    printf("wrote %s: %zu bytes%s; mapped, checked and run: identical\n", path, file.size,
           m->scale ? ", the last of them s" : "");
    file_unmap(&file);
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void start(demo *d, const options *o)
{
    failure why;

    memset(d, 0, sizeof *d);
    if (!layer_load(&d->layer, o->data, &why)) die("%s", why.text);
    d->quant = o->quant;
    d->kernels = awq_kernels_best();
    parallel_start(&d->pool, o->threads);
    d->parallel.run = parallel_run;
    d->parallel.context = &d->pool;
    d->parallel.workers = d->pool.workers;
}

static void finish(demo *d, method *methods)
{
    size_t i;

    for (i = 0; i < METHODS; i++) {
        free(methods[i].scale);
        free(methods[i].plain.bytes);
        free(methods[i].clipped.bytes);
    }
    parallel_stop(&d->pool);
    free(d->exact);
    free(d->stats_memory);
    layer_free(&d->layer);
}

int main(int argc, char **argv)
{
    options o = parse_options(argc, argv);
    method methods[METHODS] = {
        { .name = "round to nearest" },
        { .name = "AWQ max (paper)", .searches = true, .preset = AWQ_PRESET_PAPER },
        { .name = "AWQ mean (llm-awq)", .searches = true, .preset = AWQ_PRESET_LLM_AWQ },
        { .name = "AWQ duo (AutoAWQ)", .searches = true, .preset = AWQ_PRESET_AUTOAWQ },
    };
    second_opinion opinions[OPINIONS] = {
        { .name = "sketch", .loss = AWQ_LOSS_SKETCH },
        { .name = "Gram matrix", .loss = AWQ_LOSS_GRAM },
    };
    const method *duo = &methods[METHODS - 1], *best;
    demo d;
    size_t i, done = 0;
    progress bar;

    start(&d, &o);
    bar = progress_begin("quantizing in 8 ways", 1 + METHODS + OPINIONS);
    calibrate(&d);
    measure_original(&d);
    progress_step(&bar, ++done);
    for (i = 0; i < METHODS; i++) {
        try_method(&d, &methods[i]);
        progress_step(&bar, ++done);
    }
    for (i = 0; i < OPINIONS; i++) {
        ask_again(&d, duo, &opinions[i]);
        progress_step(&bar, ++done);
    }
    progress_end(&bar);

    best = best_of(methods);
    print_head(&d, o.data);
    print_table(&d, methods);
    print_opinions(&d, duo, opinions);
    print_lesson(&methods[0].plain, best,
                 heldout_error(&d, &best->clipped.packed, best->scale, AWQ_A8));
    write_chart(&d, methods, o.svg);
    if (o.save) {
        save(&d, best, o.save);
        check_saved(&d, best, o.save);
    }
    finish(&d, methods);
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write to standard output");
    return 0;
}
