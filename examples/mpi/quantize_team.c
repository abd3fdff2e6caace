/*  quantize_team.c - see quantize_team.h. */
#include "quantize_team.h"

#include "deal.h"

#include "../common/progress.h"
#include "../llm/calibrate.h"

/*  What a row costs per input: rounding alone is 1. Measured on SmolLM2's layers. */
#define CLIP_COST 150
#define IMPROVE_COST 400

/*  What is found out about one layer of a batch. */
typedef struct layer_state {
    awq_stats stats[INPUTS];        /* of all shards */
    scratch memory[INPUTS];
    float *scale[INPUTS];
} layer_state;

typedef struct job {
    team *t;
    const team_options *options;
    team_report *report;
    const model *m;
    compute *c;
    pipeline p;                     /* its stats: of one shard, then those of a layer */
    calibration inputs;             /* the windows of this rank's shards */
    size_t windows;                 /* of the whole text */
    layer_state *layers;            /* [options->batch] */
    float *own_scale[INPUTS];       /* the pipeline's own */
    size_t *owner, *load;           /* of searches */
    progress bar;
} job;

/*  Work is measured in seconds of processor time, which other processes of the machine do not
    lengthen; what is spent waiting, in seconds. */
typedef struct stopwatch {
    double worked, passed;
} stopwatch;

static stopwatch start_watch(void)
{
    struct timespec worked;
    stopwatch watch;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &worked);
    watch.worked = (double)worked.tv_sec + 1e-9 * (double)worked.tv_nsec;
    watch.passed = seconds_now();
    return watch;
}

/*  Adds what has gone by since the watch was started, and starts it anew. */
static void add_work(double *clock, stopwatch *watch)
{
    stopwatch now = start_watch();
    *clock += now.worked - watch->worked;
    *watch = now;
}

static void add_wait(double *clock, stopwatch *watch)
{
    stopwatch now = start_watch();
    *clock += now.passed - watch->passed;
    *watch = now;
}

/* ---- calibrate: every rank its shards -------------------------------------------------------- */

static range shard_windows(const job *j, size_t shard)
{
    return deal(j->windows, j->options->shards, shard);
}

/*  The tokens of this rank's shards, one shard after the other. */
static bool open_shards(job *j, const token_list *text, failure *why)
{
    token_list mine = { 0 };
    size_t shard, i;
    bool opened = true;

    j->windows = text->count / WINDOW;
    if (j->windows == 0)
        return fail(why, "the calibration text has %zu tokens; at least %d are needed", text->count,
                    WINDOW);
    for (shard = j->t->rank; shard < j->options->shards; shard += j->t->ranks) {
        range windows = shard_windows(j, shard);
        for (i = windows.begin * WINDOW; opened && i < windows.end * WINDOW; i++)
            opened = token_list_add(&mine, text->ids[i], why);
    }
    if (opened && mine.count) opened = calibration_open(&j->inputs, j->m, j->c, &mine, why);
    token_list_free(&mine);
    return opened;
}

/*  Runs a shard, the windows from `first` on of this rank, through a layer. */
static bool see_shard(job *j, size_t index, range windows, size_t first, failure *why)
{
    observer watch;
    size_t group;

    watch.see = see_inputs;
    watch.context = &j->p;
    for (group = 0; group < INPUTS; group++)
        j->p.stats[group].first_token = windows.begin * WINDOW;
    return calibration_windows(&j->inputs, index, first, first + windows.end - windows.begin,
                               &watch, why);
}

/*  One shard of every rank into the sums. */
static void add_shards(job *j, const awq_stats *shard, size_t shards, awq_stats *total)
{
    size_t in = total->in_features, i;

    total->count += shard->count;
    for (i = 0; i < in; i++)
        if (shard->abs_max[i] > total->abs_max[i]) total->abs_max[i] = shard->abs_max[i];
    team_add(j->t, DOUBLES, &shard->weight, shards, &total->weight, 1);
    team_add(j->t, DOUBLES, shard->sum, shards, total->sum, in);
    team_add(j->t, DOUBLES, shard->abs_sum, shards, total->abs_sum, in);
    team_add(j->t, DOUBLES, shard->sq_sum, shards, total->sq_sum, in);
    team_add(j->t, FLOATS, shard->sketch, shards, total->sketch, in * total->sketch_rows);
    if (total->gram) team_add(j->t, FLOATS, shard->gram, shards, total->gram, in * in);
}

static void complete_sums(job *j, awq_stats *total)
{
    size_t in = total->in_features;

    total->count = team_count(j->t, total->count);
    team_max(j->t, total->abs_max, in);
    team_complete(j->t, DOUBLES, &total->weight, 1);
    team_complete(j->t, DOUBLES, total->sum, in);
    team_complete(j->t, DOUBLES, total->abs_sum, in);
    team_complete(j->t, DOUBLES, total->sq_sum, in);
    team_complete(j->t, FLOATS, total->sketch, in * total->sketch_rows);
    if (total->gram) team_complete(j->t, FLOATS, total->gram, in * in);
}

static void report_stats(const awq_stats *s, group_report *report)
{
    size_t i;

    memset(report, 0, sizeof *report);
    report->count = s->count;
    report->weight = s->weight;
    for (i = 0; i < s->in_features; i++) {
        report->abs_max += (double)s->abs_max[i];
        report->abs_sum += s->abs_sum[i];
        report->sq_sum += s->sq_sum[i];
    }
    for (i = 0; i < s->sketch_rows * s->in_features; i++)
        report->sketch_power += (double)s->sketch[i] * (double)s->sketch[i];
}

/*  Every rank runs one of its shards (a rank without one adds nothing), then all add them up. */
static bool calibrate_round(job *j, size_t index, size_t round, size_t *first, layer_state *state,
                            failure *why)
{
    size_t group, shards = j->options->shards, shard = round + j->t->rank, left = shards - round;
    stopwatch watch = start_watch();

    if (!start_stats(&j->p, j->p.stats, j->p.stats_memory, why)) return false;
    if (shard < shards) {
        range windows = shard_windows(j, shard);
        if (!see_shard(j, index, windows, *first, why)) return false;
        *first += windows.end - windows.begin;
    }
    add_work(&j->report->calibrate, &watch);
    for (group = 0; group < INPUTS; group++)
        add_shards(j, &j->p.stats[group], left < j->t->ranks ? left : j->t->ranks,
                   &state->stats[group]);
    add_wait(&j->report->exchange, &watch);
    return true;
}

static bool calibrate_layer(job *j, size_t index, layer_state *state, failure *why)
{
    size_t round, group, first = 0;
    uint64_t sent = j->t->sent;
    stopwatch watch;

    if (!start_stats(&j->p, state->stats, state->memory, why)) return false;
    for (round = 0; round < j->options->shards; round += j->t->ranks)
        if (!calibrate_round(j, index, round, &first, state, why)) return false;
    watch = start_watch();
    for (group = 0; group < INPUTS; group++) {
        complete_sums(j, &state->stats[group]);
        report_stats(&state->stats[group], &j->report->groups[index * INPUTS + group]);
    }
    add_wait(&j->report->exchange, &watch);
    j->report->sum_sent += j->t->sent - sent;
    return true;
}

/* ---- search: every rank some groups of linears ----------------------------------------------- */

/*  The pipeline works on one layer of the batch at a time. */
static void choose_layer(job *j, layer_state *state)
{
    memcpy(j->p.stats, state->stats, sizeof j->p.stats);
    memset(j->p.hessian, 0, sizeof j->p.hessian); /* another layer's */
    memcpy(j->p.scale, state->scale, sizeof j->p.scale);
}

static size_t search_cost(const model *m, size_t group)
{
    size_t which = group_first((input_group)group), end = which + group_count((input_group)group);
    size_t cost = 0;

    for (; which < end; which++)
        cost += m->layers[0].linears[which].out_features * m->layers[0].linears[which].in_features;
    return cost;
}

static bool search_mine(job *j, size_t index, size_t group, failure *why)
{
    size_t which = group_first((input_group)group), end = which + group_count((input_group)group);

    for (; which < end; which++) decode_linear(&j->p, index, which);
    return search_group(&j->p, index, (input_group)group,
                        &j->report->groups[index * INPUTS + group].search, why);
}

static void share_scales(job *j, size_t first, size_t count)
{
    size_t i;

    for (i = 0; i < count * INPUTS; i++) {
        team_share(j->t, j->owner[i], j->layers[i / INPUTS].scale[i % INPUTS],
                   group_inputs(j->m, i % INPUTS) * sizeof(float));
        team_share(j->t, j->owner[i], &j->report->groups[first * INPUTS + i].search,
                   sizeof(awq_search_result));
    }
}

static bool search_batch(job *j, size_t first, size_t count, failure *why)
{
    size_t *costs = j->load + j->t->ranks, i;
    stopwatch watch = start_watch();
    uint64_t sent = j->t->sent;

    for (i = 0; i < count * INPUTS; i++) costs[i] = search_cost(j->m, i % INPUTS);
    deal_items(costs, count * INPUTS, j->t->ranks, j->owner, j->load);
    for (i = 0; i < count * INPUTS; i++) {
        if (j->owner[i] != j->t->rank) continue;
        choose_layer(j, &j->layers[i / INPUTS]);
        if (!search_mine(j, first + i / INPUTS, i % INPUTS, why)) return false;
    }
    add_work(&j->report->search, &watch);
    share_scales(j, first, count);
    add_wait(&j->report->exchange, &watch);
    j->report->share_sent += j->t->sent - sent;
    return true;
}

/* ---- quantize: every rank some rows ---------------------------------------------------------- */

static size_t row_cost(const job *j, size_t which)
{
    const quantize_options *options = &j->options->quantize;
    size_t in = j->m->layers[0].linears[which].in_features;

    if (options->method == METHOD_BEST) return in * (IMPROVE_COST + in);
    return is_clipped(options, which) ? in * CLIP_COST : in;
}

static size_t layer_cost(const job *j)
{
    size_t which, cost = 0;

    for (which = 0; which < LINEARS; which++)
        cost += row_cost(j, which) * j->m->layers[0].linears[which].out_features;
    return cost;
}

/*  The rows of a linear of the batch's layer `i` that are `rank`'s. */
static range rows_of(const job *j, size_t count, size_t rank, size_t i, size_t which)
{
    size_t cost = layer_cost(j), start = i * cost, before;

    for (before = 0; before < which; before++)
        start += row_cost(j, before) * j->m->layers[0].linears[before].out_features;
    return deal_rows(count * cost, j->t->ranks, rank, start,
                     j->m->layers[0].linears[which].out_features, row_cost(j, which));
}

static bool has_rows(const job *j, size_t count, size_t i, size_t which, size_t end)
{
    for (; which < end; which++) {
        range rows = rows_of(j, count, j->t->rank, i, which);
        if (rows.begin < rows.end) return true;
    }
    return false;
}

/*  A linear's place among the packed bytes of the whole model: all ranks reserve all of them, but
    memory is only used where a rank has rows. */
static unsigned char *place_of(const job *j, size_t index, size_t which)
{
    awq_quant quant = j->options->quantize.quant;
    size_t layer_size = 0, before = 0, i;

    for (i = 0; i < LINEARS; i++) {
        const linear *l = &j->m->layers[0].linears[i];
        size_t size = awq_packed_size(quant, l->out_features, l->in_features);
        if (i < which) before += size;
        layer_size += size;
    }
    return j->p.out->packed + index * layer_size + before;
}

static bool quantize_mine(job *j, size_t count, size_t index, size_t i, size_t which, failure *why)
{
    range rows = rows_of(j, count, j->t->rank, i, which);
    unsigned char *place = place_of(j, index, which);

    if (j->t->rank != 0 && rows.begin == rows.end) return true;
    if (!place_linear(&j->p.out->m.layers[index].linears[which], j->options->quantize.quant, place,
                      why))
        return false;
    return rows.begin == rows.end
           || quantize_rows(&j->p, index, which, rows.begin, rows.end, place, why);
}

static bool quantize_group(job *j, size_t count, size_t index, size_t i, input_group group,
                           failure *why)
{
    size_t which = group_first(group), end = which + group_count(group);

    if (has_rows(j, count, i, which, end) && !ready_group(&j->p, index, group, why)) return false;
    for (; which < end; which++)
        if (!quantize_mine(j, count, index, i, which, why)) return false;
    return true;
}

/*  Rank 0 has the norms and biases of all layers to fold. */
static bool quantize_layer(job *j, size_t count, size_t index, size_t i, failure *why)
{
    size_t which, group;

    if (j->t->rank != 0 && !has_rows(j, count, i, 0, LINEARS)) return true;
    choose_layer(j, &j->layers[i]);
    for (which = 0; which < LINEARS; which++) decode_linear(&j->p, index, which);
    if (!fold_layer(&j->p, index, why)) return false;
    for (group = 0; group < INPUTS; group++)
        if (!quantize_group(j, count, index, i, (input_group)group, why)) return false;
    return true;
}

/* ---- gather: the rows to rank 0 -------------------------------------------------------------- */

static void gather_rows(job *j, linear *l, size_t from, range rows)
{
    awq_span spans[3];
    size_t i;

    if (from == 0 || rows.begin == rows.end || (j->t->rank != 0 && j->t->rank != from)) return;
    if (awq_packed_spans(&l->packed, rows.begin, rows.end, spans) != AWQ_OK) return;
    for (i = 0; i < 3; i++)
        team_move(j->t, from, 0, (unsigned char *)(uintptr_t)l->packed.data + spans[i].offset,
                  spans[i].size);
}

static void gather_batch(job *j, size_t first, size_t count)
{
    size_t i, which, from;
    stopwatch watch = start_watch();
    uint64_t sent = j->t->sent;

    for (from = 1; from < j->t->ranks; from++)
        for (i = 0; i < count; i++)
            for (which = 0; which < LINEARS; which++)
                gather_rows(j, &j->p.out->m.layers[first + i].linears[which], from,
                            rows_of(j, count, from, i, which));
    add_wait(&j->report->gather, &watch);
    j->report->gather_sent += j->t->sent - sent;
}

/* ---- the output head ------------------------------------------------------------------------- */

static bool decode_rows(const linear *l, range rows, float *weight, failure *why)
{
    for (; rows.begin < rows.end; rows.begin++)
        if (!linear_row(l, rows.begin, weight + rows.begin * l->in_features, why)) return false;
    return true;
}

static bool round_head(job *j, linear *head, float *weight, unsigned char *place, failure *why)
{
    awq_quant quant = head_quant(&j->options->quantize);
    size_t rows = head->out_features, from;
    range mine = deal_rows(rows, j->t->ranks, j->t->rank, 0, rows, 1);
    awq_matrix view = awq_matrix_view(weight, AWQ_F32, rows, head->in_features);

    if (!weight) return fail(why, "out of memory");
    if (!place_linear(head, quant, place, why) || !decode_rows(&j->m->head, mine, weight, why)
        || !round_rows(&j->p, view, quant, mine.begin, mine.end, place, why))
        return false;
    for (from = 1; from < j->t->ranks; from++)
        gather_rows(j, head, from, deal_rows(rows, j->t->ranks, from, 0, rows, 1));
    return true;
}

static bool quantize_head(job *j, failure *why)
{
    model *m = &j->p.out->m;
    float *weight = malloc(m->head.out_features * m->head.in_features * sizeof *weight);
    stopwatch watch = start_watch();
    uint64_t sent = j->t->sent;
    bool rounded = round_head(j, &m->head, weight, place_of(j, m->layers_count, 0), why);

    if (rounded && m->tied) m->embedding = m->head;
    free(weight);
    add_work(&j->report->quantize, &watch);
    j->report->gather_sent += j->t->sent - sent;
    return rounded;
}

/* ---- the layers ------------------------------------------------------------------------------ */

static bool quantize_batch(job *j, size_t first, size_t count, failure *why)
{
    stopwatch watch;
    size_t i;

    for (i = 0; i < count; i++)
        if (!calibrate_layer(j, first + i, &j->layers[i], why)) return false;
    if (!search_batch(j, first, count, why)) return false;
    watch = start_watch();
    for (i = 0; i < count; i++)
        if (!quantize_layer(j, count, first + i, i, why)) return false;
    add_work(&j->report->quantize, &watch);
    gather_batch(j, first, count);
    return true;
}

static bool quantize_layers(job *j, failure *why)
{
    size_t first, count, layers = j->m->layers_count;

    for (first = 0; first < layers; first += count) {
        count = layers - first < j->options->batch ? layers - first : j->options->batch;
        if (!quantize_batch(j, first, count, why)) return false;
        if (j->t->rank == 0) progress_step(&j->bar, first + count);
    }
    return j->options->quantize.head_bits >= 16 || quantize_head(j, why);
}

static bool open_batch(job *j, failure *why)
{
    size_t batch = j->options->batch, i, group;

    j->layers = calloc(batch, sizeof *j->layers);
    j->owner = malloc(batch * INPUTS * sizeof *j->owner);
    j->load = malloc((j->t->ranks + batch * INPUTS) * sizeof *j->load);
    j->report->groups = calloc(j->m->layers_count * INPUTS, sizeof *j->report->groups);
    if (!j->layers || !j->owner || !j->load || !j->report->groups)
        return fail(why, "out of memory");
    for (i = 0; i < batch; i++)
        for (group = 0; group < INPUTS; group++) {
            j->layers[i].scale[group] = malloc(group_inputs(j->m, group) * sizeof(float));
            if (!j->layers[i].scale[group]) return fail(why, "out of memory");
        }
    return true;
}

static void close_job(job *j)
{
    size_t i, group;

    for (i = 0; j->layers && i < j->options->batch; i++)
        for (group = 0; group < INPUTS; group++) {
            free(j->layers[i].scale[group]);
            free(j->layers[i].memory[group].bytes);
        }
    free(j->layers);
    free(j->owner);
    free(j->load);
    calibration_close(&j->inputs);
    memcpy(j->p.scale, j->own_scale, sizeof j->p.scale);
    pipeline_close(&j->p);
}

bool quantize_together(team *t, quantized_model *out, const model *m, compute *c,
                       const token_list *text, const team_options *options, team_report *report,
                       failure *why)
{
    bool done;
    job j;

    memset(&j, 0, sizeof j);
    memset(report, 0, sizeof *report);
    j.t = t;
    j.options = options;
    j.report = report;
    j.m = m;
    j.c = c;
    if (t->rank == 0) j.bar = progress_begin("quantizing with AWQ", m->layers_count);
    done = pipeline_open(&j.p, out, m, c, &options->quantize, why);
    memcpy(j.own_scale, j.p.scale, sizeof j.own_scale);
    done = done && open_batch(&j, why) && open_shards(&j, text, why) && quantize_layers(&j, why);
    if (t->rank == 0) progress_end(&j.bar);
    close_job(&j);
    if (!done) quantized_model_close(out);
    return done;
}
