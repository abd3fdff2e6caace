/*  encoder.c - see encoder.h. */
#include "encoder.h"

#include "../common/dense.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- shapes ---------------------------------------------------------------------------------- */

size_t group_first(input_group group)
{
    static const unsigned char first[INPUTS] = { LINEAR_Q, LINEAR_O, LINEAR_UP, LINEAR_DOWN };
    return first[group];
}

size_t group_count(input_group group)
{
    return group == INPUT_QKV ? 3 : 1;
}

static void describe_linear(const encoder *e, size_t layer, size_t which, linear *l)
{
    static const char *const names[LINEARS] = {
        "attention.self.query",   "attention.self.key", "attention.self.value",
        "attention.output.dense", "intermediate.dense", "output.dense"
    };

    snprintf(l->name, sizeof l->name, "encoder.layer.%zu.%s", layer, names[which]);
    l->out_features = which == LINEAR_UP ? e->ffn_dim : e->dim;
    l->in_features = which == LINEAR_DOWN ? e->ffn_dim : e->dim;
}

/*  Limits far beyond any such model, so that no size overflows, 32 bits or not. */
static bool check_sizes(const encoder *e, failure *why)
{
    if (e->dim == 0 || e->heads == 0 || e->dim > 1u << 14 || e->dim % e->heads != 0)
        return fail(why, "%zu channels cannot be shared by %zu heads", e->dim, e->heads);
    if (e->ffn_dim == 0 || e->ffn_dim > 1u << 15 || e->layers == 0 || e->layers > 256)
        return fail(why, "%zu layers of %zu channels are not run", e->layers, e->ffn_dim);
    if (e->vocabulary == 0 || e->vocabulary > 1u << 20 || e->room < 3 || e->room > 1u << 14)
        return fail(why, "%zu words and %zu tokens to a text are not run", e->vocabulary, e->room);
    return e->norm_epsilon > 0 ? true : fail(why, "the epsilon of its norms is not > 0");
}

bool encoder_open(encoder *e, failure *why)
{
    size_t i;

    e->matmul = matmul_f32;
    e->kernels = awq_kernels_best();
    e->precision = AWQ_A16;
    if (!check_sizes(e, why)) return false;
    e->linears = calloc(e->layers * LINEARS, sizeof *e->linears);
    e->attention_norms = calloc(e->layers, sizeof *e->attention_norms);
    e->ffn_norms = calloc(e->layers, sizeof *e->ffn_norms);
    if (!e->linears || !e->attention_norms || !e->ffn_norms) return fail(why, "out of memory");
    for (i = 0; i < e->layers * LINEARS; i++)
        describe_linear(e, i / LINEARS, i % LINEARS, &e->linears[i]);
    snprintf(e->embedding.name, sizeof e->embedding.name, "embeddings.word_embeddings");
    e->embedding.out_features = e->vocabulary;
    e->embedding.in_features = e->dim;
    return true;
}

void encoder_close(encoder *e)
{
    wordpiece_close(&e->words);
    free(e->linears);
    free(e->attention_norms);
    free(e->ffn_norms);
    memset(e, 0, sizeof *e);
}

/* ---- workspace ------------------------------------------------------------------------------- */

static size_t largest_prepared(const encoder *e, size_t tokens)
{
    size_t i, most = 0;

    for (i = 0; i < e->layers * LINEARS; i++) {
        const linear *l = &e->linears[i];
        size_t size = l->packed.data ? awq_prepared_size(&e->kernels, l->in_features,
                                                         l->packed.quant.group_size, e->precision,
                                                         tokens)
                                     : 0;
        if (size > most) most = size;
    }
    return most;
}

bool workspace_open(workspace *w, const encoder *e, size_t room, failure *why)
{
    memset(w, 0, sizeof *w);
    w->room = room > e->room ? room : e->room;
    w->hidden = malloc(w->room * e->dim * sizeof(float));
    w->q = malloc(w->room * e->dim * sizeof(float));
    w->k = malloc(w->room * e->dim * sizeof(float));
    w->v = malloc(w->room * e->dim * sizeof(float));
    w->attended = malloc(w->room * e->dim * sizeof(float));
    w->wide = malloc(w->room * e->ffn_dim * sizeof(float));
    w->keys = malloc(e->room * e->dim / e->heads * sizeof(float));
    w->scores = malloc(e->room * e->room * sizeof(float));
    w->received = malloc(w->room * sizeof(float));
    w->ids = malloc(w->room * sizeof *w->ids);
    w->prepared_size = largest_prepared(e, w->room);
    w->prepared = malloc(w->prepared_size + 1);
    if (w->hidden && w->q && w->k && w->v && w->attended && w->wide && w->keys && w->scores
        && w->received && w->ids && w->prepared)
        return true;
    workspace_close(w);
    return fail(why, "out of memory for %zu tokens at a time", room);
}

void workspace_close(workspace *w)
{
    free(w->hidden);
    free(w->q);
    free(w->k);
    free(w->v);
    free(w->attended);
    free(w->wide);
    free(w->keys);
    free(w->scores);
    free(w->received);
    free(w->ids);
    free(w->prepared);
    memset(w, 0, sizeof *w);
}

/* ---- linears --------------------------------------------------------------------------------- */

/*  What is computed at the moment. */
typedef struct run {
    const encoder *e;
    workspace *w;
    const batch *b;
    size_t tokens;
    const observer *watch;
    failure *why;
} run;

static void apply_f32(const run *r, const linear *l, const float *x, float *y)
{
    size_t t, c;

    r->e->matmul(l->weight, l->in_features, l->out_features, x, l->in_features, r->tokens,
                 l->in_features, y, l->out_features);
    for (t = 0; t < r->tokens; t++)
        for (c = 0; c < l->out_features; c++) y[t * l->out_features + c] += l->bias[c];
}

static bool prepare(const run *r, const linear *l, awq_matrix x, awq_prepared *prepared)
{
    const encoder *e = r->e;
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_prepare(&e->kernels, l->packed.quant.group_size, e->precision, x,
                                    l->input_scale, r->w->prepared, r->w->prepared_size, 0,
                                    r->tokens, prepared, &where);

    return status == AWQ_OK ? true
                            : fail(r->why, "%s: %s (token %zu, channel %zu)", l->name,
                                   awq_status_string(status), where.row, where.col);
}

/*  Applies linears that share x [tokens][in_features]; packed ones are of one group size and input
    scale. */
static bool apply(const run *r, const linear *linears, size_t count, const float *x,
                  float *const *outputs)
{
    awq_matrix in = awq_matrix_view(x, AWQ_F32, r->tokens, linears[0].in_features);
    awq_prepared prepared;
    size_t i;

    if (linears[0].packed.data && !prepare(r, &linears[0], in, &prepared)) return false;
    for (i = 0; i < count; i++) {
        const linear *l = &linears[i];
        awq_matrix out = awq_matrix_view(outputs[i], AWQ_F32, r->tokens, l->out_features);
        awq_status status = AWQ_OK;
        if (!l->packed.data) apply_f32(r, l, x, outputs[i]);
        else status = awq_matmul(&r->e->kernels, &l->packed, &prepared, l->bias, out, 0,
                                 l->out_features);
        if (status != AWQ_OK) return fail(r->why, "%s: %s", l->name, awq_status_string(status));
    }
    return true;
}

/* ---- a layer --------------------------------------------------------------------------------- */

static size_t text_begin(const batch *b, size_t text)
{
    return text ? b->ends[text - 1] : 0;
}

/*  attended = softmax(q k^T / sqrt(head_dim)) v, for one head of one text. The keys stand side by
    side, channel by channel: what is summed is one stream, not 32 numbers at a time. */
static void attend(const run *r, size_t text, size_t head)
{
    const workspace *w = r->w;
    size_t dim = r->e->dim, head_dim = dim / r->e->heads, first = text_begin(r->b, text);
    size_t tokens = r->b->ends[text] - first, at = first * dim + head * head_dim, i, k;

    for (i = 0; i < tokens; i++)
        for (k = 0; k < head_dim; k++) w->keys[k * tokens + i] = w->k[at + i * dim + k];
    mix_rows(w->q + at, dim, tokens, w->keys, tokens, head_dim, tokens, w->scores, tokens);
    for (i = 0; i < tokens; i++)
        softmax(w->scores + i * tokens, tokens, 1.0f / sqrtf((float)head_dim));
    mix_rows(w->scores, tokens, tokens, w->v + at, dim, tokens, head_dim, w->attended + at, dim);
    if (!r->watch) return;
    for (i = 0; i < tokens; i++)
        for (k = 0; k < tokens; k++) w->received[first + k] += w->scores[i * tokens + k];
}

static void attention(const run *r)
{
    workspace *w = r->w;
    size_t text, head, t;

    for (t = 0; t < r->tokens; t++) w->received[t] = 0;
    for (text = 0; text < r->b->texts; text++)
        for (head = 0; head < r->e->heads; head++) attend(r, text, head);
    for (text = 0; r->watch && text < r->b->texts; text++) {
        size_t first = text_begin(r->b, text);
        weigh_tokens(w->received + first, r->b->ends[text] - first, w->received + first);
    }
}

/*  hidden = norm(hidden + delta). */
static void add_and_norm(const run *r, const float *delta, const norm *n)
{
    size_t dim = r->e->dim, i, t;
    float *hidden = r->w->hidden;

    for (i = 0; i < r->tokens * dim; i++) hidden[i] += delta[i];
    for (t = 0; t < r->tokens; t++)
        layer_norm(hidden + t * dim, dim, n->weight, n->bias, r->e->norm_epsilon, hidden + t * dim);
}

static bool show(const run *r, size_t layer, input_group group, const float *x)
{
    size_t columns = group == INPUT_DOWN ? r->e->ffn_dim : r->e->dim;

    if (!r->watch) return true;
    return r->watch->see(r->watch->context, layer, group,
                         awq_matrix_view(x, AWQ_F32, r->tokens, columns), r->w->received, r->why);
}

static bool run_layer(const run *r, size_t layer)
{
    const encoder *e = r->e;
    workspace *w = r->w;
    const linear *linears = e->linears + layer * LINEARS;
    float *qkv[3];

    qkv[0] = w->q;
    qkv[1] = w->k;
    qkv[2] = w->v;
    if (!apply(r, linears + LINEAR_Q, 3, w->hidden, qkv)) return false;
    attention(r);
    if (!show(r, layer, INPUT_QKV, w->hidden) || !show(r, layer, INPUT_O, w->attended)
        || !apply(r, linears + LINEAR_O, 1, w->attended, &w->q))
        return false;
    add_and_norm(r, w->q, &e->attention_norms[layer]);
    if (!show(r, layer, INPUT_UP, w->hidden)
        || !apply(r, linears + LINEAR_UP, 1, w->hidden, &w->wide))
        return false;
    gelu(w->wide, r->tokens * e->ffn_dim);
    if (!show(r, layer, INPUT_DOWN, w->wide)
        || !apply(r, linears + LINEAR_DOWN, 1, w->wide, &w->q))
        return false;
    add_and_norm(r, w->q, &e->ffn_norms[layer]);
    return true;
}

/* ---- texts to vectors ------------------------------------------------------------------------ */

static bool token_vector(const run *r, uint32_t id, float *out)
{
    const linear *l = &r->e->embedding;
    awq_status status;

    if (id >= l->out_features)
        return fail(r->why, "token %u is beyond the vocabulary of %zu", (unsigned)id,
                    l->out_features);
    if (!l->packed.data) {
        memcpy(out, l->weight + id * l->in_features, l->in_features * sizeof *out);
        return true;
    }
    status = awq_packed_dequantize(&l->packed, NULL, awq_matrix_view(out, AWQ_F32, 1, l->in_features),
                                   id, id + 1);
    return status == AWQ_OK ? true : fail(r->why, "%s: %s", l->name, awq_status_string(status));
}

static bool embed(const run *r)
{
    const encoder *e = r->e;
    size_t text, t, c;

    for (text = 0; text < r->b->texts; text++) {
        size_t first = text_begin(r->b, text), tokens = r->b->ends[text] - first;
        if (tokens == 0 || tokens > e->room)
            return fail(r->why, "a text of %zu tokens; 1 to %zu are run", tokens, e->room);
        for (t = 0; t < tokens; t++) {
            float *row = r->w->hidden + (first + t) * e->dim;
            if (!token_vector(r, r->b->ids[first + t], row)) return false;
            for (c = 0; c < e->dim; c++) row[c] += e->positions[t * e->dim + c];
            layer_norm(row, e->dim, e->embedding_norm.weight, e->embedding_norm.bias,
                       e->norm_epsilon, row);
        }
    }
    return true;
}

/*  The mean of a text's tokens, scaled to length 1. */
static void pool(const run *r, size_t text, float *vector)
{
    size_t dim = r->e->dim, t, c;
    double square = 0;
    float scale;

    for (c = 0; c < dim; c++) vector[c] = 0;
    for (t = text_begin(r->b, text); t < r->b->ends[text]; t++)
        for (c = 0; c < dim; c++) vector[c] += r->w->hidden[t * dim + c];
    for (c = 0; c < dim; c++) square += (double)vector[c] * (double)vector[c];
    scale = square > 0 ? (float)(1.0 / sqrt(square)) : 0;
    for (c = 0; c < dim; c++) vector[c] *= scale;
}

bool encoder_run(const encoder *e, workspace *w, const batch *b, float *vectors,
                 const observer *watch, failure *why)
{
    run r = { e, w, b, 0, watch, why };
    size_t i;

    if (b->texts == 0) return true;
    r.tokens = b->ends[b->texts - 1];
    if (r.tokens > w->room)
        return fail(why, "%zu tokens at a time, in a workspace for %zu", r.tokens, w->room);
    if (!embed(&r)) return false;
    for (i = 0; i < e->layers; i++)
        if (!run_layer(&r, i)) return false;
    for (i = 0; i < b->texts; i++) pool(&r, i, vectors + i * e->dim);
    return true;
}

bool encoder_text(const encoder *e, workspace *w, const char *text, size_t size, float *vector,
                  failure *why)
{
    batch b;
    size_t end = wordpiece_encode(&e->words, text, size, w->ids, e->room, NULL);

    b.ids = w->ids;
    b.ends = &end;
    b.texts = 1;
    return encoder_run(e, w, &b, vector, NULL, why);
}
