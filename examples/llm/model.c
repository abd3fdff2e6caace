/*  model.c - see model.h. */
#include "model.h"

#include "../common/dense.h"
#include "source.h"

#include <math.h>

/* ---- what stands where ----------------------------------------------------------------------- */

size_t group_first(input_group group)
{
    static const unsigned char first[INPUTS] = { LINEAR_Q, LINEAR_O, LINEAR_GATE, LINEAR_DOWN };
    return first[group];
}

size_t group_count(input_group group)
{
    static const unsigned char count[INPUTS] = { 3, 1, 2, 1 };
    return count[group];
}

input_group linear_group(size_t which)
{
    size_t group = INPUTS - 1;
    while (group_first((input_group)group) > which) group--;
    return (input_group)group;
}

static size_t linear_outputs(const model *m, size_t which)
{
    switch (which) {
    case LINEAR_Q: return m->heads * m->head_dim;
    case LINEAR_K:
    case LINEAR_V: return m->kv_heads * m->head_dim;
    case LINEAR_GATE:
    case LINEAR_UP: return m->ffn_dim;
    default: return m->dim;
    }
}

static size_t linear_inputs(const model *m, size_t which)
{
    if (which == LINEAR_O) return m->heads * m->head_dim;
    return which == LINEAR_DOWN ? m->ffn_dim : m->dim;
}

/* ---- loading --------------------------------------------------------------------------------- */

static bool check_sizes(const model *m, failure *why)
{
    if (m->kv_heads == 0 || m->heads % m->kv_heads != 0)
        return fail(why, "%zu attention heads cannot share %zu key-value heads", m->heads,
                    m->kv_heads);
    if (m->head_dim == 0 || m->head_dim > 4096 || m->rope_dims > m->head_dim
        || m->rope_dims % 2 != 0)
        return fail(why, "attention heads of %zu channels (rope %zu) are not run", m->head_dim,
                    m->rope_dims);
    if (!(m->norm_epsilon > 0)) return fail(why, "the epsilon of its norms is not > 0");
    return true;
}

/*  Activations are prepared once per input, so its linears must agree on how. */
static bool check_groups(const layer *layer_, size_t index, failure *why)
{
    size_t group, i;

    for (group = 0; group < INPUTS; group++) {
        const linear *first = &layer_->linears[group_first((input_group)group)];
        for (i = 1; i < group_count((input_group)group); i++)
            if (!first[i].packed.data != !first->packed.data
                || first[i].packed.quant.group_size != first->packed.quant.group_size)
                return fail(why, "layer %zu: linears that share an input are quantized differently",
                            index);
    }
    return true;
}

static bool need_vector(const model *m, const model_source *from, size_t index, size_t which,
                        float **out, failure *why)
{
    if (!from->vector(m, index, which, ".weight", m->dim, out, why)) return false;
    return *out ? true
                : fail(why, "it has no tensor \"%s\"", from->name(index, which, ".weight").text);
}

static bool load_linear(model *m, const model_source *from, size_t index, size_t which, linear *l,
                        failure *why)
{
    float *bias = NULL;
    bool read;

    l->in_features = linear_inputs(m, which);
    l->out_features = linear_outputs(m, which);
    read = from->vector(m, index, which, ".bias", l->out_features, &bias, why);
    l->bias = bias;
    return read && from->weight(m, index, which, l, why);
}

static bool load_layer(model *m, const model_source *from, size_t index, failure *why)
{
    layer *l = &m->layers[index];
    size_t which;

    if (!need_vector(m, from, index, ATTENTION_NORM, &l->attention_norm, why)) return false;
    if (!need_vector(m, from, index, FFN_NORM, &l->ffn_norm, why)) return false;
    for (which = 0; which < LINEARS; which++)
        if (!load_linear(m, from, index, which, &l->linears[which], why)) return false;
    return check_groups(l, index, why);
}

static bool load_layers(model *m, const model_source *from, failure *why)
{
    size_t i;

    m->layers = calloc(m->layers_count, sizeof *m->layers);
    if (!m->layers) return fail(why, "out of memory");
    for (i = 0; i < m->layers_count; i++)
        if (!load_layer(m, from, i, why)) return false;
    return true;
}

static bool load_ends(model *m, const model_source *from, failure *why)
{
    m->vocabulary = m->tok.tokens_count;
    m->embedding.in_features = m->dim;
    m->embedding.out_features = m->vocabulary;
    m->head = m->embedding;
    if (!from->weight(m, 0, EMBEDDING, &m->embedding, why)) return false;
    if (!need_vector(m, from, 0, OUTPUT_NORM, &m->output_norm, why)) return false;
    if (!m->tied) return from->weight(m, 0, HEAD, &m->head, why);
    m->head = m->embedding;
    return true;
}

static bool load_model(model *m, const model_source *from, failure *why)
{
    if (!from->describe(m, why) || !check_sizes(m, why)) return false;
    m->rope_frequencies = rope_frequencies(&m->rope, m->rope_dims, why);
    return m->rope_frequencies && tokenizer_open(&m->tok, &m->words, why)
           && load_ends(m, from, why) && load_layers(m, from, why);
}

bool model_open(model *m, const char *path, failure *why)
{
    struct stat status;
    bool directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    const model_source *from = directory ? &hf_source : &gguf_source;
    failure reason;

    memset(m, 0, sizeof *m);
    if (!from->open(m, path, why)) return false;
    if (load_model(m, from, &reason)) return true;
    model_close(m);
    return fail(why, "%.120s: %.380s", path, reason.text);
}

void model_close(model *m)
{
    size_t i, which;

    for (i = 0; m->layers && i < m->layers_count; i++) {
        free(m->layers[i].attention_norm);
        free(m->layers[i].ffn_norm);
        for (which = 0; which < LINEARS; which++)
            free((void *)(uintptr_t)m->layers[i].linears[which].bias);
    }
    free(m->layers);
    free(m->output_norm);
    free(m->rope.factors);
    free(m->rope_frequencies);
    free(m->decoded);
    free(m->imported);
    tokenizer_close(&m->tok);
    vocabulary_close(&m->words);
    hf_close(&m->hf);
    gguf_close(&m->gguf);
    memset(m, 0, sizeof *m);
}

bool model_is_quantized(const model *m)
{
    return m->layers[0].linears[0].packed.data != NULL;
}

size_t model_weights(const model *m)
{
    size_t which, layer_weights = 2 * m->dim, ends = m->vocabulary * m->dim * (m->tied ? 1 : 2);

    for (which = 0; which < LINEARS; which++)
        layer_weights += linear_inputs(m, which) * linear_outputs(m, which);
    return m->layers_count * layer_weights + ends + m->dim;
}

/* ---- decoding all weights -------------------------------------------------------------------- */

/*  Linear number i of the model, layer by layer; the head comes last. */
static linear *linear_number(const model *m, size_t i)
{
    if (i == m->layers_count * LINEARS) return (linear *)(uintptr_t)&m->head;
    return &m->layers[i / LINEARS].linears[i % LINEARS];
}

size_t model_decoded_size(const model *m)
{
    size_t i, floats = 0;
    for (i = 0; i <= m->layers_count * LINEARS; i++) {
        const linear *l = linear_number(m, i);
        if (!l->packed.data) floats += l->in_features * l->out_features;
    }
    return floats * sizeof(float);
}

bool model_decode(model *m, compute *c, failure *why)
{
    float *out = malloc(model_decoded_size(m));
    size_t i;

    if (!out)
        return fail(why, "out of memory for %zu MB of fp32 weights", model_decoded_size(m) >> 20);
    m->decoded = out;
    for (i = 0; i <= m->layers_count * LINEARS; i++) {
        linear *l = linear_number(m, i);
        if (l->packed.data) continue;
        linear_decode(c, l, out);
        l->weight = out;
        out += l->in_features * l->out_features;
    }
    return true;
}

/* ---- a session ------------------------------------------------------------------------------- */

static float *floats(size_t a, size_t b)
{
    return a && b > SIZE_MAX / sizeof(float) / a ? NULL : calloc(a * b + 1, sizeof(float));
}

static void fill_rope(session *s)
{
    size_t position, i, pairs = s->m->rope_dims / 2;

    for (position = 0; position < s->context; position++)
        for (i = 0; i < pairs; i++) {
            double angle = (double)position * s->m->rope_frequencies[i];
            s->cosines[position * pairs + i] = (float)cos(angle);
            s->sines[position * pairs + i] = (float)sin(angle);
        }
}

bool session_open(session *s, const model *m, compute *c, size_t context, size_t batch,
                  failure *why)
{
    size_t q_dim = m->heads * m->head_dim, kv_dim = m->kv_heads * m->head_dim;

    memset(s, 0, sizeof *s);
    s->m = m;
    s->c = c;
    s->context = context;
    s->batch = batch;
    s->row = (context + KEYS - 1) / KEYS * KEYS;
    s->keys = floats(m->layers_count * s->row, kv_dim);
    s->values = floats(m->layers_count * s->row, kv_dim);
    s->cosines = floats(context, m->rope_dims / 2);
    s->sines = floats(context, m->rope_dims / 2);
    s->hidden = floats(batch, m->dim);
    s->normed = floats(batch, m->dim);
    s->q = floats(batch, q_dim);
    s->k = floats(batch, kv_dim);
    s->v = floats(batch, kv_dim);
    s->attended = floats(batch, q_dim);
    s->gate = floats(batch, m->ffn_dim);
    s->up = floats(batch, m->ffn_dim);
    s->delta = floats(batch, m->dim);
    s->scores = floats(c->pool.workers * (m->heads / m->kv_heads) * QUERIES, s->row);
    s->received = floats(m->heads, batch);
    if (!s->keys || !s->values || !s->cosines || !s->sines || !s->hidden || !s->normed || !s->q
        || !s->k || !s->v || !s->attended || !s->gate || !s->up || !s->delta || !s->scores
        || !s->received) {
        session_close(s);
        return fail(why, "out of memory for a context of %zu tokens", context);
    }
    fill_rope(s);
    return true;
}

void session_close(session *s)
{
    float *all[15];
    size_t i;

    all[0] = s->keys;
    all[1] = s->values;
    all[2] = s->cosines;
    all[3] = s->sines;
    all[4] = s->hidden;
    all[5] = s->normed;
    all[6] = s->q;
    all[7] = s->k;
    all[8] = s->v;
    all[9] = s->attended;
    all[10] = s->gate;
    all[11] = s->up;
    all[12] = s->delta;
    all[13] = s->scores;
    all[14] = s->received;
    for (i = 0; i < 15; i++) free(all[i]);
    memset(s, 0, sizeof *s);
}

/* ---- the pieces of a layer ------------------------------------------------------------------- */

typedef struct norm_job {
    const float *x, *weight;
    size_t dim;
    float epsilon, *out;
} norm_job;

static void norm_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const norm_job *job = arg;
    (void)worker;
    for (; begin < end; begin++)
        rms_norm(job->x + begin * job->dim, job->dim, job->weight, job->epsilon,
                 job->out + begin * job->dim);
}

void session_norm(const session *s, const float *x, size_t tokens, const float *weight, float *out)
{
    norm_job job = { x, weight, s->m->dim, (float)s->m->norm_epsilon, out };
    parallel_run(&s->c->pool, tokens, 1, norm_task, &job);
}

void session_rotate(const session *s, float *x, size_t heads, size_t position, bool back)
{
    size_t pairs = s->m->rope_dims / 2, h, i;
    const float *cosines = s->cosines + position * pairs, *sines = s->sines + position * pairs;

    for (h = 0; h < heads; h++, x += s->m->head_dim)
        for (i = 0; i < pairs; i++) {
            float a = x[2 * i], b = x[2 * i + 1], sine = back ? -sines[i] : sines[i];
            x[2 * i] = a * cosines[i] - b * sine;
            x[2 * i + 1] = a * sine + b * cosines[i];
        }
}

typedef struct attention_job {
    session *s;
    float *keys, *values; /* of this layer */
    size_t tokens;
    bool watched;
} attention_job;

/*  Puts one token's k and v, [kv_heads][head_dim], into the cache. */
static void cache_token(const attention_job *job, const float *k, const float *v, size_t position)
{
    size_t d = job->s->m->head_dim, head, i;
    size_t first = position / KEYS * KEYS * d + position % KEYS;

    for (head = 0; head < job->s->m->kv_heads; head++, k += d, v += d) {
        float *keys = job->keys + head * job->s->row * d + first;
        for (i = 0; i < d; i++) keys[i * KEYS] = k[i];
        memcpy(job->values + (head * job->s->row + position) * d, v, d * sizeof *v);
    }
}

/*  Rotates q and k, and remembers k and v. */
static void cache_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const attention_job *job = arg;
    session *s = job->s;
    const model *m = s->m;
    size_t q_dim = m->heads * m->head_dim, kv_dim = m->kv_heads * m->head_dim, t;

    (void)worker;
    for (t = begin; t < end; t++) {
        session_rotate(s, s->q + t * q_dim, m->heads, s->position + t, false);
        session_rotate(s, s->k + t * kv_dim, m->kv_heads, s->position + t, false);
        cache_token(job, s->k + t * kv_dim, s->v + t * kv_dim, s->position + t);
    }
}

/*  Softmax of one head over each token's past; what lies beyond it becomes 0. */
static void score(const attention_job *job, size_t head, size_t token, size_t tokens, float *scores)
{
    const session *s = job->s;
    float scale = 1.0f / sqrtf((float)s->m->head_dim), *received = s->received + head * s->batch;
    size_t most = s->position + token + tokens, t, j;

    for (t = 0; t < tokens; t++, scores += s->row) {
        size_t past = s->position + token + t + 1;
        softmax(scores, past, scale);
        memset(scores + past, 0, (most - past) * sizeof *scores);
        if (!job->watched) continue;
        for (j = s->position; j < past; j++) received[j - s->position] += scores[j];
    }
}

/*  Some tokens of the heads that share a kv head: out = sum over their past of
    softmax(q . k / sqrt(d)) v. A single token's heads go through the cache together. */
static void attend(const attention_job *job, size_t kv_head, size_t token, size_t tokens,
                   float *scores)
{
    const session *s = job->s;
    size_t d = s->m->head_dim, q_dim = s->m->heads * d, repeat = s->m->heads / s->m->kv_heads;
    size_t past = s->position + token + tokens, at = token * q_dim + kv_head * repeat * d, i, j;
    size_t rows = tokens > 1 ? tokens : repeat, row_step = tokens > 1 ? q_dim : d;
    size_t parts = tokens > 1 ? repeat : 1;
    const float *keys = job->keys + kv_head * s->row * d;
    const float *values = job->values + kv_head * s->row * d;

    for (j = 0; j < past; j += KEYS)
        for (i = 0; i < parts; i++)
            mix_rows(s->q + at + i * d, row_step, rows, keys + j * d, KEYS, d, KEYS,
                     scores + i * rows * s->row + j, s->row);
    for (i = 0; i < repeat; i++)
        score(job, kv_head * repeat + i, token, tokens, scores + i * tokens * s->row);
    for (i = 0; i < parts; i++)
        mix_rows(scores + i * rows * s->row, s->row, rows, values, d, past, d,
                 s->attended + at + i * d, row_step);
}

static size_t query_blocks(const attention_job *job)
{
    return (job->tokens + QUERIES - 1) / QUERIES;
}

/*  Item i is a block of tokens of kv head i / blocks. Later tokens have a longer past: first and
    last blocks alternate, so that equal shares are equal work. */
static void attention_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const attention_job *job = arg;
    session *s = job->s;
    size_t blocks = query_blocks(job), repeat = s->m->heads / s->m->kv_heads, i;

    for (i = begin; i < end; i++) {
        size_t kv_head = i / blocks, k = i % blocks, block = k % 2 ? blocks - 1 - k / 2 : k / 2;
        size_t token = block * QUERIES, left = job->tokens - token;
        if (k == 0 && job->watched)
            memset(s->received + kv_head * repeat * s->batch, 0,
                   repeat * s->batch * sizeof *s->received);
        attend(job, kv_head, token, left < QUERIES ? left : QUERIES,
               s->scores + worker * repeat * QUERIES * s->row);
    }
}

/*  Puts k and v into the cache and attends. If watched, s->received[0 ...] are sums over heads
    afterwards; a kv head is then one worker's, so that its sums have one order. */
static void attention(session *s, size_t index, size_t tokens, bool watched)
{
    size_t kv_dim = s->m->kv_heads * s->m->head_dim, h, t;
    attention_job job = { s, s->keys + index * s->row * kv_dim,
                          s->values + index * s->row * kv_dim, tokens, watched };
    size_t blocks = query_blocks(&job);

    parallel_run(&s->c->pool, tokens, KEYS, cache_task, &job);
    parallel_run(&s->c->pool, s->m->kv_heads * blocks, watched ? blocks : 1, attention_task, &job);
    for (h = 1; h < s->m->heads && watched; h++)
        for (t = 0; t < tokens; t++) s->received[t] += s->received[h * s->batch + t];
}

/*  Elements of x and y; begin and end in steps of ELEMENTS. */
#define ELEMENTS 4096
typedef struct pair_job {
    float *x;
    const float *y;
} pair_job;

static void gate_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const pair_job *job = arg;
    (void)worker;
    silu_gate(job->x + begin, job->y + begin, end - begin);
}

static void add_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const pair_job *job = arg;
    (void)worker;
    for (; begin < end; begin++) job->x[begin] += job->y[begin];
}

static void for_pairs(session *s, parallel_task *task, float *x, const float *y, size_t count)
{
    pair_job job = { x, y };
    parallel_run(&s->c->pool, count, ELEMENTS, task, &job);
}

static bool apply_group(session *s, size_t index, input_group group, const float *x, size_t tokens,
                        float *const *outputs, failure *why)
{
    const linear *linears = &s->m->layers[index].linears[group_first(group)];
    return linears_apply(s->c, linears, group_count(group), x, tokens, outputs, why);
}

/*  hidden += s->delta, which is the sum of what the processes have made of it, if there are some. */
static bool add_delta(session *s, float *hidden, size_t tokens, failure *why)
{
    if (s->team && !s->add_up(s->team, s->delta, tokens * s->m->dim, why)) return false;
    for_pairs(s, add_task, hidden, s->delta, tokens * s->m->dim);
    return true;
}

static bool watched(const session *s, const observer *watch, size_t index, input_group group,
                    const float *rows, size_t tokens, failure *why)
{
    return !watch || watch->see(watch->context, index, group, rows, tokens, s->received, why);
}

static bool attention_half(session *s, size_t index, float *hidden, size_t tokens,
                           const observer *watch, failure *why)
{
    const layer *l = &s->m->layers[index];
    float *qkv[3];

    qkv[0] = s->q;
    qkv[1] = s->k;
    qkv[2] = s->v;
    session_norm(s, hidden, tokens, l->attention_norm, s->normed);
    if (!apply_group(s, index, INPUT_QKV, s->normed, tokens, qkv, why)) return false;
    attention(s, index, tokens, watch != NULL);
    if (!watched(s, watch, index, INPUT_QKV, s->normed, tokens, why)) return false;
    if (!watched(s, watch, index, INPUT_O, s->attended, tokens, why)) return false;
    return apply_group(s, index, INPUT_O, s->attended, tokens, &s->delta, why)
           && add_delta(s, hidden, tokens, why);
}

static bool ffn_half(session *s, size_t index, float *hidden, size_t tokens, const observer *watch,
                     failure *why)
{
    const layer *l = &s->m->layers[index];
    float *gate_up[2];

    gate_up[0] = s->gate;
    gate_up[1] = s->up;
    session_norm(s, hidden, tokens, l->ffn_norm, s->normed);
    if (!watched(s, watch, index, INPUT_GATE_UP, s->normed, tokens, why)) return false;
    if (!apply_group(s, index, INPUT_GATE_UP, s->normed, tokens, gate_up, why)) return false;
    for_pairs(s, gate_task, s->gate, s->up, tokens * s->m->ffn_dim);
    if (!watched(s, watch, index, INPUT_DOWN, s->gate, tokens, why)) return false;
    return apply_group(s, index, INPUT_DOWN, s->gate, tokens, &s->delta, why)
           && add_delta(s, hidden, tokens, why);
}

bool session_layer(session *s, size_t index, float *hidden, size_t tokens, const observer *watch,
                   failure *why)
{
    return attention_half(s, index, hidden, tokens, watch, why)
           && ffn_half(s, index, hidden, tokens, watch, why);
}

/* ---- the whole model ------------------------------------------------------------------------- */

bool session_embed(session *s, const uint32_t *ids, size_t tokens, failure *why)
{
    size_t t;
    for (t = 0; t < tokens; t++)
        if (!linear_row(&s->m->embedding, ids[t], s->hidden + t * s->m->dim, why)) return false;
    return true;
}

bool session_forward(session *s, const uint32_t *ids, size_t tokens, failure *why)
{
    size_t i;

    if (tokens > s->batch || tokens > s->context - s->position)
        return fail(why, "%zu tokens do not fit after %zu in a context of %zu", tokens, s->position,
                    s->context);
    if (!session_embed(s, ids, tokens, why)) return false;
    for (i = 0; i < s->m->layers_count; i++)
        if (!session_layer(s, i, s->hidden, tokens, NULL, why)) return false;
    s->position += tokens;
    return true;
}

bool session_logits(session *s, size_t first, size_t tokens, float *logits, failure *why)
{
    session_norm(s, s->hidden + first * s->m->dim, tokens, s->m->output_norm, s->normed);
    return linears_apply(s->c, &s->m->head, 1, s->normed, tokens, &logits, why);
}
