/*  tune.c - see tune.h. */
#include "tune.h"

#include "../common/dense.h"
#include "../common/progress.h"
#include "backward.h"

#include <math.h>

#define STEP_WINDOWS 2
#define CHUNK 128 /* tokens whose logits are in memory together */
#define RATE 1e-3 /* of Adam, on logarithms */
#define WARM_UP 5 /* steps */

/*  Everything that is tuned, and its gradient, stands in one row of floats: for each layer its norms
    and the scales of its linears. */
typedef struct tuning {
    quantized_model *q;
    const model *m;
    compute *c;
    model student;              /* q with its linears in fp32 */
    float *weights;             /* of all linears, then of the head */
    size_t count;
    float *change, *gradient;   /* change: of logarithms, so far */
    float *mean, *square;       /* of gradients, Adam's */
    layer_gradients *layers;    /* parts of `gradient` */
    session teacher;
    tape tape;
    float *d_hidden, *d_normed, *logits, *target;
    double *losses;             /* [WINDOW] */
} tuning;

static int group_size(const tuning *t)
{
    return t->q->m.layers[0].linears[0].packed.quant.group_size;
}

static size_t groups_of(const tuning *t, const linear *l)
{
    return awq_group_count(l->in_features, group_size(t));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool check(awq_status status, failure *why)
{
    return status == AWQ_OK ? true : fail(why, "tuning: %s", awq_status_string(status));
}

static bool decode(const tuning *t, linear *l, float *out, failure *why)
{
    awq_matrix to = awq_matrix_view(out, AWQ_F32, l->out_features, l->in_features);

    if (!l->packed.data) linear_decode(t->c, l, out);   /* a head that was left as it is */
    else if (!check(awq_packed_dequantize(&l->packed, NULL, to, 0, to.rows), why)) return false;
    l->packed.data = NULL;
    l->weight = out;
    return true;
}

static bool open_student(tuning *t, failure *why)
{
    const model *m = &t->q->m;
    size_t size = m->head.out_features * m->head.in_features, i;
    float *at;

    for (i = 0; i < LINEARS; i++)
        size += m->layers_count * m->layers[0].linears[i].out_features
                * m->layers[0].linears[i].in_features;
    t->student = *m;
    t->student.layers = malloc(m->layers_count * sizeof *m->layers);
    at = t->weights = malloc(size * sizeof *t->weights);
    if (!t->student.layers || !t->weights) return fail(why, "out of memory (%zu MB)", size >> 18);
    memcpy(t->student.layers, m->layers, m->layers_count * sizeof *m->layers);
    for (i = 0; i < m->layers_count * LINEARS; i++) {
        linear *l = &t->student.layers[i / LINEARS].linears[i % LINEARS];
        if (!decode(t, l, at, why)) return false;
        at += l->out_features * l->in_features;
    }
    return decode(t, &t->student.head, at, why);
}

/*  Counts with memory = NULL. */
static size_t place_layers(const tuning *t, float *memory)
{
    size_t dim = t->m->dim, used = 0, i, which;

    for (i = 0; i < t->m->layers_count; i++) {
        if (memory) t->layers[i].attention_norm = memory + used;
        if (memory) t->layers[i].ffn_norm = memory + used + dim;
        used += 2 * dim;
        for (which = 0; which < LINEARS; which++) {
            const linear *l = &t->m->layers[i].linears[which];
            if (memory) t->layers[i].scales[which] = memory + used;
            used += l->out_features * groups_of(t, l);
        }
    }
    return used;
}

static bool open_tuning(tuning *t, failure *why)
{
    size_t hidden = WINDOW * t->m->dim, logits = CHUNK * t->m->vocabulary;

    t->count = place_layers(t, NULL);
    t->layers = calloc(t->m->layers_count, sizeof *t->layers);
    t->change = calloc(t->count, sizeof *t->change);
    t->gradient = malloc(t->count * sizeof *t->gradient);
    t->mean = calloc(t->count, sizeof *t->mean);
    t->square = calloc(t->count, sizeof *t->square);
    t->d_hidden = malloc(hidden * sizeof *t->d_hidden);
    t->d_normed = malloc(hidden * sizeof *t->d_normed);
    t->logits = malloc(logits * sizeof *t->logits);
    t->target = malloc(logits * sizeof *t->target);
    t->losses = malloc(WINDOW * sizeof *t->losses);
    if (!t->layers || !t->change || !t->gradient || !t->mean || !t->square || !t->d_hidden
        || !t->d_normed || !t->logits || !t->target || !t->losses)
        return fail(why, "out of memory");
    place_layers(t, t->gradient);
    return open_student(t, why) && session_open(&t->teacher, t->m, t->c, WINDOW, WINDOW, why)
           && tape_open(&t->tape, &t->student, t->c, WINDOW, group_size(t), why);
}

static void close_tuning(tuning *t)
{
    tape_close(&t->tape);
    if (t->teacher.m) session_close(&t->teacher);
    free(t->student.layers);
    free(t->weights);
    free(t->layers);
    free(t->change);
    free(t->gradient);
    free(t->mean);
    free(t->square);
    free(t->d_hidden);
    free(t->d_normed);
    free(t->logits);
    free(t->target);
    free(t->losses);
}

/* ---- the loss and its gradient --------------------------------------------------------------- */

typedef struct divergence_job {
    tuning *t;
    size_t first;
} divergence_job;

/*  sum p log(p / q) of a token, p the target's; logits become (q - p) / WINDOW. */
static void divergence_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const divergence_job *job = arg;
    size_t words = job->t->m->vocabulary, i;

    (void)worker;
    for (; begin < end; begin++) {
        float *q = job->t->logits + begin * words, *p = job->t->target + begin * words, most[2];
        double sum_q = exp_sum(q, words, &most[0]), sum_p = exp_sum(p, words, &most[1]), loss = 0;
        double offset = (double)most[0] + log(sum_q) - (double)most[1] - log(sum_p);
        for (i = 0; i < words; i++) {
            double apart = (double)p[i] - (double)q[i];
            float share_q = expf(q[i] - most[0]) / (float)sum_q;
            float share_p = expf(p[i] - most[1]) / (float)sum_p;
            loss += (double)share_p * (apart + offset);
            q[i] = (share_q - share_p) / WINDOW;
        }
        job->t->losses[job->first + begin] = loss;
    }
}

/*  d_normed of some tokens, from the hidden states of both models. */
static bool differ(tuning *t, size_t first, failure *why)
{
    const float *d_logits = t->logits;
    divergence_job job = { t, first };

    if (!session_logits(&t->tape.s, first, CHUNK, t->logits, why)
        || !session_logits(&t->teacher, first, CHUNK, t->target, why))
        return false;
    parallel_run(&t->c->pool, CHUNK, 1, divergence_task, &job);
    linears_backward(t->c, &t->student.head, 1, &d_logits, CHUNK,
                     t->d_normed + first * t->m->dim);
    return true;
}

/*  Adds to the gradient; *loss: the mean divergence of the window. */
static bool add_window(tuning *t, const uint32_t *ids, double *loss, failure *why)
{
    size_t dim = t->m->dim, i;
    const float *hidden = t->tape.s.hidden;

    t->teacher.position = 0;
    if (!tape_forward(&t->tape, ids, why) || !session_forward(&t->teacher, ids, WINDOW, why))
        return false;
    for (i = 0; i < WINDOW; i += CHUNK)
        if (!differ(t, i, why)) return false;
    for (*loss = 0, i = 0; i < WINDOW; i++) *loss += t->losses[i] / WINDOW;
    memset(t->d_hidden, 0, WINDOW * dim * sizeof *t->d_hidden);
    norm_backward(hidden, t->student.output_norm, hidden, t->d_normed, WINDOW, dim,
                  (float)t->m->norm_epsilon, t->d_hidden, NULL);
    tape_backward(&t->tape, t->d_hidden, t->layers);
    return true;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/*  Up in WARM_UP steps, then down along a cosine to a twentieth. */
static double rate_at(size_t step, size_t steps)
{
    double warm = step < WARM_UP ? (double)(step + 1) / WARM_UP : 1;
    double falling = 0.5 * (1 + cos(3.14159265358979 * (double)step / (double)steps));

    return RATE * warm * (0.05 + 0.95 * falling);
}

/*  Adam: the gradient becomes the change of this step. */
static void make_changes(tuning *t, size_t step, double rate)
{
    const double keep = 0.9, keep_square = 0.98;
    double mean_share = 1 - pow(keep, (double)step + 1);
    double square_share = 1 - pow(keep_square, (double)step + 1);
    size_t i;

    for (i = 0; i < t->count; i++) {
        double g = (double)t->gradient[i];
        t->mean[i] = (float)(keep * (double)t->mean[i] + (1 - keep) * g);
        t->square[i] = (float)(keep_square * (double)t->square[i] + (1 - keep_square) * g * g);
        t->gradient[i] = (float)(-rate * ((double)t->mean[i] / mean_share)
                                 / (sqrt((double)t->square[i] / square_share) + 1e-12));
        t->change[i] += t->gradient[i];
    }
}

typedef struct change_job {
    float *weights;
    const float *changes;       /* [rows][groups] */
    size_t in, groups, size;
} change_job;

static void change_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const change_job *job = arg;
    size_t group, i;

    (void)worker;
    for (; begin < end; begin++)
        for (group = 0, i = 0; group < job->groups; group++) {
            float factor = expf(job->changes[begin * job->groups + group]);
            size_t stop = group + 1 < job->groups ? (group + 1) * job->size : job->in;
            for (; i < stop; i++) job->weights[begin * job->in + i] *= factor;
        }
}

static void apply_changes(tuning *t)
{
    size_t dim = t->m->dim, i, j, which;

    for (i = 0; i < t->m->layers_count; i++) {
        layer *l = &t->student.layers[i]; /* its norms are q's */
        for (j = 0; j < dim; j++) {
            l->attention_norm[j] *= expf(t->layers[i].attention_norm[j]);
            l->ffn_norm[j] *= expf(t->layers[i].ffn_norm[j]);
        }
        for (which = 0; which < LINEARS; which++) {
            linear *w = &l->linears[which];
            change_job job = { (float *)(uintptr_t)w->weight, t->layers[i].scales[which],
                               w->in_features, groups_of(t, w), (size_t)group_size(t) };
            parallel_run(&t->c->pool, w->out_features, 16, change_task, &job);
        }
    }
}

static size_t common_divisor(size_t a, size_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

/*  Window number `visit` of a walk through all of them, with neighbours far apart. */
static size_t window_at(size_t visit, size_t windows)
{
    size_t stride = windows * 5 / 8 + 1;

    while (common_divisor(windows, stride) > 1) stride++;
    return visit * stride % windows;
}

static bool take_steps(tuning *t, const token_list *text, size_t steps, failure *why)
{
    progress bar = progress_begin("tuning", steps);
    size_t windows = text->count / WINDOW, quarter = (steps + 3) / 4, step, i;
    double *divergence = t->q->divergence;

    for (step = 0; step < steps; step++) {
        memset(t->gradient, 0, t->count * sizeof *t->gradient);
        for (i = 0; i < STEP_WINDOWS; i++) {
            double loss, share = 1 / (double)(quarter * STEP_WINDOWS);
            size_t window = window_at(step * STEP_WINDOWS + i, windows);
            if (!add_window(t, text->ids + window * WINDOW, &loss, why)) return false;
            divergence[0] += step < quarter ? loss * share : 0;
            divergence[1] += step >= steps - quarter ? loss * share : 0;
        }
        make_changes(t, step, rate_at(step, steps));
        apply_changes(t);
        progress_step(&bar, step + 1);
    }
    progress_end(&bar);
    return true;
}

/* ---- back into the packed model -------------------------------------------------------------- */

/*  scales *= e^change, as they are stored */
static awq_status change_scales(awq_tensor *tensor, const float *changes, size_t count)
{
    float *scales = malloc(count * sizeof *scales);
    awq_matrix stored = awq_matrix_view(tensor->scales, tensor->quant.scale_dtype, 1, count);
    awq_matrix wide = awq_matrix_view(scales, AWQ_F32, 1, count);
    awq_status status = scales ? awq_convert(stored, wide) : AWQ_ERR_MEMORY;
    size_t i;

    for (i = 0; status == AWQ_OK && i < count; i++) scales[i] *= expf(changes[i]);
    if (status == AWQ_OK) status = awq_convert(wide, stored);
    free(scales);
    return status;
}

static bool pack_again(tuning *t, size_t index, size_t which, const float *changes, failure *why)
{
    linear *l = &t->q->m.layers[index].linears[which];
    awq_quant quant = l->packed.quant;
    size_t size = awq_tensor_size(quant, l->out_features, l->in_features), rows = l->out_features;
    unsigned char *bytes = (unsigned char *)(uintptr_t)l->packed.data;
    void *memory = malloc(size);
    awq_status status = memory ? AWQ_OK : AWQ_ERR_MEMORY;
    awq_tensor tensor;

    if (status == AWQ_OK) status = awq_tensor_init(&tensor, quant, rows, l->in_features, memory, size);
    if (status == AWQ_OK) status = awq_unpack(&t->c->kernels, &l->packed, &tensor, 0, rows);
    if (status == AWQ_OK) status = change_scales(&tensor, changes, rows * groups_of(t, l));
    if (status == AWQ_OK)
        status = awq_pack(&t->c->kernels, &tensor, bytes, l->packed.size, 0, rows, NULL);
    free(memory);
    return check(status, why);
}

static bool pack_all(tuning *t, failure *why)
{
    size_t i, which;

    place_layers(t, t->change);
    for (i = 0; i < t->m->layers_count; i++)
        for (which = 0; which < LINEARS; which++)
            if (!pack_again(t, i, which, t->layers[i].scales[which], why)) return false;
    return true;
}

bool tune_model(quantized_model *q, const model *m, compute *c, const token_list *text, size_t steps,
                failure *why)
{
    tuning t;
    bool done;

    memset(&t, 0, sizeof t);
    t.q = q;
    t.m = m;
    t.c = c;
    if (text->count < WINDOW)
        return fail(why, "tuning needs a text of at least %d tokens", WINDOW);
    done = open_tuning(&t, why) && take_steps(&t, text, steps, why) && pack_all(&t, why);
    close_tuning(&t);
    return done;
}
