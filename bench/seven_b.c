/*  seven_b.c - time and memory of every step on the linears of a 7B model: real shapes, made-up
    weights and activations, two threads unless told otherwise. Nothing is downloaded.

        seven_b [--layers N] [--threads N] [--tokens N] [--steps search,clip,...]

    Making weights, activations and statistics is not counted. Seconds are of the wall clock and of
    all processors together: on a busy machine the second is the one to believe.                  */
#define _DEFAULT_SOURCE 1 /* madvise */
#include "parallel.h"
#include "progress.h"
#include "tiles.h"

#define AWQ_IMPLEMENTATION
#include "awq.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define SKETCH_ROWS  512
#define BATCH        128 /* tokens */
#define LAYERS       32
#define MEMBERS_MAX  3

/*  Linears that read one input.                                                                  */
typedef struct group {
    const char *name;
    size_t in_features, members, out_features[MEMBERS_MAX];
    int    may_clip[MEMBERS_MAX]; /* q and k are not clipped                                      */
} group;

static const group groups[] = {
    { "q, k, v",  4096,  3, { 4096, 4096, 4096 }, { 0, 0, 1 } },
    { "o",        4096,  1, { 4096, 0, 0 },       { 1, 0, 0 } },
    { "gate, up", 4096,  2, { 11008, 11008, 0 },  { 1, 1, 0 } },
    { "down",     11008, 1, { 4096, 0, 0 },       { 1, 0, 0 } },
};

typedef enum step {
    NEAREST, SEARCH, CLIP, PACK, FACTOR, BALANCE, AGAIN, FIT, ROUND, ROUND_2, REFIT_2, STEPS
} step;

static const struct { const char *name, *what; } steps[STEPS] = {
    { "nearest", "round to nearest: awq_quantize" },
    { "search",  "scales from a sketch: awq_search" },
    { "clip",    "bounds from a sketch: awq_clip_search" },
    { "pack",    "round and pack: awq_quantize_packed" },
    { "factor",  "factor of H: awq_hessian_init" },
    { "balance", "scales from innovations: awq_balance" },
    { "again",   "... and the factor for x / s" },
    { "fit",     "grids by weighted error: awq_fit" },
    { "round",   "Hessian rounding: awq_round" },
    { "round2",  "... and 2 passes of descent" },
    { "refit2",  "... and scales refitted before each" },
};

typedef struct figures { double wall, cpu, flop; size_t weights; } figures;

typedef struct timing {
    awq_kernels kernels;
    parallel_pool pool;
    awq_parallel parallel;
    awq_quant quant;
    size_t layers, tokens;
    unsigned chosen; /* sum of 1 << step                                                          */
    figures figures[STEPS];
    size_t done;     /* weights, of the progress bar                                              */
    progress bar;
    size_t peak[2];  /* bytes beyond the weights: from sketches; with H                           */
} timing;

/*  One group of one layer on its way.                                                            */
typedef struct job {
    timing *t;
    const group *g;
    size_t layer, number;
    awq_matrix weights[MEMBERS_MAX];
    awq_stats stats;
    void *stats_memory;
    float *scale, *clip, *importance;
    awq_tensor tensor;
} job;

/* ---- host ------------------------------------------------------------------------------------ */

static void stop(const char *what, const char *why)
{
    fprintf(stderr, "seven_b: %s: %s\n", what, why);
    exit(1);
}

static void must(awq_status status, const char *what)
{
    if (status != AWQ_OK) stop(what, awq_status_string(status));
}

/*  Large tables on large pages, where the system has them: fewer misses of the address cache.    */
static void *memory(size_t size)
{
    const size_t page = (size_t)1 << 21;
    void *bytes = NULL;
    size = (size + page - 1) / page * page;
    if (size == 0 || posix_memalign(&bytes, page, size) != 0) stop("memory", "there is not enough");
#ifdef MADV_HUGEPAGE
    (void)madvise(bytes, size, MADV_HUGEPAGE);
#endif
    return bytes;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
           + 1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

/*  From here on a new peak counts: Linux, elsewhere the peak is that of the whole run.           */
static void forget_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file);
    fclose(file);
}

static size_t peak_bytes(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (size_t)used.ru_maxrss * 1024; /* Linux counts in KiB                                  */
}

static bool wants(const timing *t, step s) { return t->chosen >> s & 1; }

/* ---- what a model would bring ---------------------------------------------------------------- */

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static float normal(uint64_t *state)
{
    uint64_t x = next(state);
    int sum = (int)(x & 0xffff) + (int)(x >> 16 & 0xffff) + (int)(x >> 32 & 0xffff) + (int)(x >> 48);
    return ((float)sum / 65536.0f - 2.0f) * 1.7320508f;
}

static uint64_t seed_of(size_t a, size_t b, size_t c, size_t d)
{
    uint64_t state = ((a * 131 + b) * 131 + c) * 1000003 + d + 1;
    int i;
    state *= 0x9e3779b97f4a7c15u;
    for (i = 0; i < 4; i++) (void)next(&state);
    return state;
}

typedef struct making { job *j; size_t member; } making;

/*  Normal weights of which one in 64 is four times as large.                                     */
static void make_rows(void *arg, size_t begin, size_t end, size_t worker)
{
    const making *m = arg;
    awq_matrix w = m->j->weights[m->member];
    float x[1024];
    size_t row, col, i;
    (void)worker;
    for (row = begin; row < end; row++) {
        uint64_t state = seed_of(m->j->layer, m->j->number, m->member, row);
        for (col = 0; col < w.cols; col += i) {
            awq_matrix to = awq_matrix_view((uint16_t *)w.data + row * w.stride + col, AWQ_F16, 1, 0);
            for (i = 0; i < COUNT(x) && col + i < w.cols; i++) {
                x[i] = 0.02f * normal(&state);
                if (next(&state) % 64 == 0) x[i] *= 4;
            }
            to.cols = to.stride = i;
            must(awq_convert(awq_matrix_view(x, AWQ_F32, 1, i), to), "awq_convert");
        }
    }
}

/*  Channels share 16 causes; one in 200 is twenty times as large.                                */
static void make_tokens(const job *j, size_t first, float *x)
{
    size_t t, c, in = j->g->in_features;
    for (t = 0; t < BATCH; t++) {
        uint64_t state = seed_of(j->layer, j->number, 77, first + t);
        float causes[16];
        for (c = 0; c < 16; c++) causes[c] = normal(&state);
        for (c = 0; c < in; c++)
            x[t * in + c] = (normal(&state) + causes[c % 16] + 0.5f * causes[c / 16 % 16])
                            * (c % 200 == 7 ? 20.0f : 0.5f + (float)(c % 13) / 8);
    }
}

static void make_stats(job *j, int with_gram)
{
    const timing *t = j->t;
    size_t in = j->g->in_features, size = awq_stats_size(in, SKETCH_ROWS, with_gram), first;
    float *x = memory(BATCH * in * sizeof *x);
    j->stats_memory = memory(size);
    must(awq_stats_init(&j->stats, in, SKETCH_ROWS, with_gram, j->number + 1, j->stats_memory,
                        size), "awq_stats_init");
    for (first = 0; first < t->tokens; first += BATCH) {
        make_tokens(j, first, x);
        must(awq_stats_add(&t->kernels, &j->stats, awq_matrix_view(x, AWQ_F32, BATCH, in), NULL,
                           &t->parallel, NULL), "awq_stats_add");
    }
    free(x);
}

static size_t weight_bytes(const group *g)
{
    size_t i, bytes = 0;
    for (i = 0; i < g->members; i++) bytes += g->out_features[i] * g->in_features * 2;
    return bytes;
}

static void open_job(job *j, timing *t, size_t layer, size_t number, int with_gram)
{
    const group *g = &groups[number];
    making m = { j, 0 };
    memset(j, 0, sizeof *j);
    j->t = t;
    j->g = g;
    j->layer = layer;
    j->number = number;
    for (m.member = 0; m.member < g->members; m.member++) {
        size_t out = g->out_features[m.member];
        j->weights[m.member] = awq_matrix_view(memory(out * g->in_features * 2), AWQ_F16, out,
                                               g->in_features);
        parallel_run(&t->pool, out, 16, make_rows, &m);
    }
    make_stats(j, with_gram);
}

static void close_job(job *j)
{
    size_t i;
    for (i = 0; i < j->g->members; i++) free(j->weights[i].data);
    free(j->stats_memory);
}

/* ---- what is timed --------------------------------------------------------------------------- */

typedef struct watch { double wall, cpu; } watch;

static watch start(void)
{
    watch w;
    w.wall = seconds_now();
    w.cpu = cpu_seconds();
    return w;
}

static void note(timing *t, step s, watch w, double flop, size_t weights)
{
    figures *f = &t->figures[s];
    f->wall += seconds_now() - w.wall;
    f->cpu += cpu_seconds() - w.cpu;
    f->flop += flop;
    f->weights += weights;
    t->done += weights;
    progress_step(&t->bar, t->done);
}

/*  A loop over rows, for functions that do a range of them.                                      */
typedef struct rows_task {
    job *j;
    awq_matrix weight;
    step what;
    void *packed;
    size_t packed_size;
    const float *clip;
} rows_task;

static void run_rows(void *arg, size_t begin, size_t end, size_t worker)
{
    const rows_task *r = arg;
    job *j = r->j;
    const awq_kernels *k = &j->t->kernels;
    (void)worker;
    if (r->what == NEAREST)
        must(awq_quantize(k, r->weight, NULL, NULL, &j->tensor, begin, end, NULL), "awq_quantize");
    if (r->what == PACK)
        must(awq_quantize_packed(k, r->weight, j->scale, r->clip, r->packed, r->packed_size, begin,
                                 end, NULL), "awq_quantize_packed");
    if (r->what == FIT)
        must(awq_fit(k, r->weight, j->scale, j->importance, &j->tensor, begin, end, NULL), "awq_fit");
}

static void time_rows(rows_task *r)
{
    timing *t = r->j->t;
    watch w = start();
    parallel_run(&t->pool, r->weight.rows, AWQ_ROW_STEP, run_rows, r);
    note(t, r->what, w, 0, r->weight.rows * r->weight.cols);
}

static void *open_tensor(job *j, awq_matrix w)
{
    size_t size = awq_tensor_size(j->t->quant, w.rows, w.cols);
    void *room = memory(size);
    must(awq_tensor_init(&j->tensor, j->t->quant, w.rows, w.cols, room, size), "awq_tensor_init");
    return room;
}

static void time_search(job *j)
{
    timing *t = j->t;
    awq_inputs inputs = { AWQ_LOSS_SKETCH, NULL, { 0 }, NULL, NULL, NULL };
    awq_search_config config = awq_search_preset(AWQ_PRESET_AUTOAWQ, t->quant);
    awq_search_result result;
    size_t size;
    void *scratch;
    watch w;
    inputs.stats = &j->stats;
    size = awq_search_scratch_size(&inputs, j->weights, j->g->members, &t->parallel);
    scratch = memory(size);
    w = start();
    must(awq_search(&t->kernels, &config, &inputs, j->weights, j->g->members, scratch, size,
                    &t->parallel, j->scale, NULL, &result, NULL), "awq_search");
    note(t, SEARCH, w, 0, weight_bytes(j->g) / 2);
    free(scratch);
}

/*  Returns the bounds, or NULL where this linear is not clipped.                                 */
static const float *time_clip(job *j, size_t member)
{
    timing *t = j->t;
    awq_inputs inputs = { AWQ_LOSS_SKETCH, NULL, { 0 }, NULL, NULL, NULL };
    awq_clip_config config = awq_clip_preset(t->quant);
    awq_matrix weight = j->weights[member];
    size_t size;
    void *scratch;
    watch w;
    inputs.stats = &j->stats;
    size = awq_clip_scratch_size(&inputs, weight, &config, &t->parallel);
    scratch = memory(size);
    w = start();
    if (j->g->may_clip[member])
        must(awq_clip_search(&t->kernels, &config, &inputs, weight, j->scale, scratch, size,
                             &t->parallel, j->clip, NULL), "awq_clip_search");
    note(t, CLIP, w, 0, weight.rows * weight.cols);
    free(scratch);
    return j->g->may_clip[member] ? j->clip : NULL;
}

static void time_pack(job *j, awq_matrix weight, const float *clip)
{
    rows_task r = { j, weight, PACK, NULL, 0, clip };
    r.packed_size = awq_packed_size(j->t->quant, weight.rows, weight.cols);
    r.packed = memory(r.packed_size);
    must(awq_packed_init(j->t->quant, weight.rows, weight.cols, r.packed, r.packed_size),
         "awq_packed_init");
    time_rows(&r);
    free(r.packed);
}

/*  room: awq_hessian_size() bytes; scale: of the inputs, or NULL.                                */
static void time_factor(job *j, step s, const float *scale, void *room, awq_hessian *h)
{
    timing *t = j->t;
    double n = (double)j->g->in_features;
    watch w = start();
    must(awq_hessian_init(&t->kernels, &j->stats, scale, 0.01, AWQ_ORDER_ACTIVATION, room,
                          awq_hessian_size(j->g->in_features), &t->parallel, h, NULL),
         "awq_hessian_init");
    note(t, s, w, n * n * n / 3, weight_bytes(j->g) / 2);
}

static void time_balance(job *j)
{
    timing *t = j->t;
    awq_tie none = { 0, 0 };
    size_t size = awq_balance_scratch_size(j->g->in_features);
    void *scratch = memory(size);
    watch w = start();
    must(awq_balance(&t->kernels, t->quant, none, j->importance, j->weights, j->g->members, scratch,
                     size, &t->parallel, j->scale, NULL), "awq_balance");
    note(t, BALANCE, w, 0, weight_bytes(j->g) / 2);
    free(scratch);
}

static void time_round(job *j, step s, awq_matrix weight, const awq_hessian *h)
{
    timing *t = j->t;
    awq_round_config config = { s == ROUND ? 0 : 2, s == REFIT_2 };
    size_t size = awq_round_scratch_size(weight.cols, &t->parallel);
    void *scratch = memory(size);
    double products = s == ROUND ? 1 : 4; /* triangles of L, then of H: one before 2 passes       */
    watch w = start();
    must(awq_round(&t->kernels, &config, h, weight, j->scale, &j->tensor, scratch, size,
                   &t->parallel, NULL), "awq_round");
    note(t, s, w, products * (double)weight.rows * (double)weight.cols * (double)weight.cols,
         weight.rows * weight.cols);
    free(scratch);
}

/* ---- recipes --------------------------------------------------------------------------------- */

static void from_sketches(job *j)
{
    timing *t = j->t;
    size_t i;
    if (wants(t, SEARCH)) time_search(j);
    for (i = 0; i < j->g->members; i++) {
        awq_matrix weight = j->weights[i];
        const float *clip = wants(t, CLIP) ? time_clip(j, i) : NULL;
        if (wants(t, PACK)) time_pack(j, weight, clip);
        if (wants(t, NEAREST)) {
            rows_task r = { j, weight, NEAREST, NULL, 0, NULL };
            void *room = open_tensor(j, weight);
            time_rows(&r);
            free(room);
        }
    }
}

/*  Importance and scales; the factor for x / s last: what the first one says is known by then.   */
static void prepare(job *j, void *room, awq_hessian *h)
{
    size_t in = j->g->in_features;
    must(awq_stats_get(&j->stats, AWQ_SQ_MEAN, j->importance), "awq_stats_get");
    if (!wants(j->t, FACTOR)) return;
    time_factor(j, FACTOR, NULL, room, h);
    memcpy(j->importance, h->innovation, in * sizeof *j->importance);
    if (!wants(j->t, BALANCE)) return;
    time_balance(j);
    if (wants(j->t, AGAIN)) time_factor(j, AGAIN, j->scale, room, h);
}

static void with_hessian(job *j)
{
    timing *t = j->t;
    void *factor = memory(awq_hessian_size(j->g->in_features));
    awq_hessian h;
    size_t i;
    prepare(j, factor, &h);
    for (i = 0; i < j->g->members; i++) {
        rows_task r = { j, j->weights[i], FIT, NULL, 0, NULL };
        void *room = open_tensor(j, r.weight);
        step s;
        time_rows(&r);
        for (s = ROUND; s <= REFIT_2; s = (step)(s + 1))
            if (wants(t, s)) time_round(j, s, r.weight, &h);
        free(room);
    }
    free(factor);
}

static void time_layer(timing *t, size_t layer)
{
    const size_t widest = 11008, most = 4096 * (11008 / 32);
    float *scale = memory(COUNT(groups) * widest * sizeof *scale);
    float *clip = memory(most * sizeof *clip), *importance = memory(widest * sizeof *importance);
    size_t recipe, i, bytes;
    for (i = 0; i < COUNT(groups) * widest; i++) scale[i] = 1;
    for (recipe = 0; recipe < 2; recipe++) {
        if (recipe == 1 && !wants(t, FIT)) break;
        for (i = 0; i < COUNT(groups); i++) {
            job j;
            forget_peak();
            open_job(&j, t, layer, i, recipe == 1 && wants(t, FACTOR));
            j.scale = scale + i * widest;
            j.clip = clip;
            j.importance = importance;
            if (recipe == 0) from_sketches(&j);
            else with_hessian(&j);
            bytes = peak_bytes() - weight_bytes(&groups[i]);
            close_job(&j);
            if (layer == 0 && bytes > t->peak[recipe]) t->peak[recipe] = bytes;
        }
    }
    free(scale);
    free(clip);
    free(importance);
}

/* ---- results --------------------------------------------------------------------------------- */

static void print_steps(const timing *t)
{
    step s;
    printf("\n%-40s %10s %10s %12s %12s %8s\n", "step, 4 bits, groups of 128", "s", "processor s",
           "s per 1e9", "s, 32 layers", "GFLOP/s");
    for (s = NEAREST; s < STEPS; s = (step)(s + 1)) {
        const figures *f = &t->figures[s];
        if (f->weights == 0) continue;
        printf("%-40s %10.2f %10.2f %12.2f %12.1f", steps[s].what, f->wall, f->cpu,
               1e9 * f->wall / (double)f->weights, f->wall * LAYERS / (double)t->layers);
        if (f->flop > 0) printf(" %8.0f", 1e-9 * f->flop / f->wall);
        printf("\n");
    }
}

static void print_sum(const timing *t, const char *what, unsigned which)
{
    double wall = 0, cpu = 0, times = LAYERS / (double)t->layers;
    step s;
    if ((t->chosen & which) != which) return;
    for (s = NEAREST; s < STEPS; s = (step)(s + 1))
        if (which >> s & 1) {
            wall += t->figures[s].wall * times;
            cpu += t->figures[s].cpu * times;
        }
    printf("%-70s %6.1f min, %.1f min of each of %zu processors\n", what, wall / 60,
           cpu / 60 / (double)t->pool.workers, t->pool.workers);
}

static void print_memory(const timing *t)
{
    const size_t widths[] = { 4096, 11008, 14336, 28672 };
    size_t i;
    printf("\nmost memory beyond the weights of a group: %.2f GiB from sketches",
           (double)t->peak[0] / (1 << 30));
    if (t->peak[1]) printf(", %.2f GiB with H", (double)t->peak[1] / (1 << 30));
    printf("\n\n%-16s %16s %16s %16s %16s\n", "in_features", "sketch, MiB", "H, MiB", "factor, MiB",
           "rounding, MiB");
    for (i = 0; i < COUNT(widths); i++)
        printf("%-16zu %16.0f %16.0f %16.0f %16.0f\n", widths[i],
               (double)awq_stats_size(widths[i], SKETCH_ROWS, 0) / (1 << 20),
               (double)awq_stats_size(widths[i], 0, 1) / (1 << 20),
               (double)awq_hessian_size(widths[i]) / (1 << 20),
               (double)awq_round_scratch_size(widths[i], &t->parallel) / (1 << 20));
}

#define BIT(s) (1u << (s))

static void print_results(const timing *t)
{
    printf("kernels %s, %zu threads, %zu of %d layers, %zu tokens for each H\n", t->kernels.name,
           t->pool.workers, t->layers, LAYERS, t->tokens);
    print_steps(t);
    printf("\nAll %d layers:\n", LAYERS);
    print_sum(t, "AWQ with clip, from sketches", BIT(SEARCH) | BIT(CLIP) | BIT(PACK));
    print_sum(t, "factor, balance, fit, round", BIT(FACTOR) | BIT(BALANCE) | BIT(FIT) | BIT(ROUND));
    print_sum(t, "factor, balance, fit, 2 passes and refits",
              BIT(FACTOR) | BIT(BALANCE) | BIT(FIT) | BIT(REFIT_2));
    print_sum(t, "the same, the factor again for x / s",
              BIT(FACTOR) | BIT(BALANCE) | BIT(AGAIN) | BIT(FIT) | BIT(REFIT_2));
    print_memory(t);
}

/* ---- options --------------------------------------------------------------------------------- */

static size_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value == 0) stop(text, "a number of 1 or more is needed");
    return value;
}

/*  Names divided by commas, and what they need.                                                  */
static unsigned chosen_steps(char *list)
{
    unsigned chosen = 0;
    char *name;
    for (name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        size_t s = 0;
        while (s < STEPS && strcmp(name, steps[s].name) != 0) s++;
        if (s == STEPS)
            stop(name, "no such step: nearest search clip pack factor balance again fit round round2 "
                       "refit2");
        chosen |= 1u << s;
    }
    if (chosen & (BIT(ROUND) | BIT(ROUND_2) | BIT(REFIT_2) | BIT(AGAIN))) chosen |= BIT(BALANCE);
    if (chosen & BIT(BALANCE)) chosen |= BIT(FACTOR);
    if (chosen & BIT(FACTOR)) chosen |= BIT(FIT);
    return chosen;
}

static void read_options(timing *t, size_t *threads, int argc, char **argv)
{
    int i;
    for (i = 1; i < argc; i += 2) {
        if (i + 1 == argc) stop(argv[i], "a value is missing");
        if (strcmp(argv[i], "--layers") == 0) t->layers = number(argv[i + 1]);
        else if (strcmp(argv[i], "--threads") == 0) *threads = number(argv[i + 1]);
        else if (strcmp(argv[i], "--tokens") == 0) t->tokens = number(argv[i + 1]);
        else if (strcmp(argv[i], "--steps") == 0) t->chosen = chosen_steps(argv[i + 1]);
        else stop(argv[i], "no such option: --layers N, --threads N, --tokens N, --steps a,b");
    }
}

int main(int argc, char **argv)
{
    const awq_quant quant = { 4, 128, 0, AWQ_F16 };
    static timing t;
    size_t threads = 2, layer, i, weights = 0, times = 0;
    step s;
    t.layers = 1;
    t.tokens = 1024;
    t.chosen = BIT(STEPS) - 1;
    read_options(&t, &threads, argc, argv);
    ask_for_tiles();
    t.kernels = awq_kernels_best();
    t.quant = quant;
    parallel_start(&t.pool, threads);
    t.parallel.run = parallel_run;
    t.parallel.context = &t.pool;
    t.parallel.workers = t.pool.workers;
    for (i = 0; i < COUNT(groups); i++) weights += weight_bytes(&groups[i]) / 2;
    for (s = NEAREST; s < STEPS; s = (step)(s + 1)) times += wants(&t, s);
    t.bar = progress_begin("7B linears", weights * times * t.layers);
    for (layer = 0; layer < t.layers; layer++) time_layer(&t, layer);
    progress_end(&t.bar);
    parallel_stop(&t.pool);
    print_results(&t);
    return 0;
}
