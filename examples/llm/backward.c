/*  backward.c - see backward.h. */
#include "backward.h"

#include "../common/dense.h"

#include <math.h>

#define STRIP 64 /* columns of a product at a time, so that what is read stays in the cache */
#define ROWS 48  /* rows of dW at a time */
#define BLOCK 64 /* tokens of attention at a time, with what they see */

/* ---- memory ---------------------------------------------------------------------------------- */

/*  The widths of what is kept, in order. */
static void kept_widths(const model *m, size_t widths[11])
{
    size_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim, dim = m->dim;
    size_t all[11] = { dim, dim, q, kv, kv, q, dim, dim, m->ffn_dim, m->ffn_dim, m->ffn_dim };

    memcpy(widths, all, sizeof all);
}

static float *place_kept(kept *k, const size_t widths[11], size_t tokens, float *memory)
{
    float **all[11] = { &k->hidden, &k->attention_in, &k->q,      &k->k,    &k->v,      &k->attended,
                        &k->middle, &k->ffn_in,       &k->gate, &k->up, &k->product };
    size_t i;

    for (i = 0; i < 11; i++) {
        *all[i] = memory;
        memory += widths[i] * tokens;
    }
    return memory;
}

/*  Floats of one worker: some rows of dW, or two squares of attention and a head's keys. */
static size_t room_size(const model *m, size_t tokens)
{
    size_t q = m->heads * m->head_dim, widest = m->ffn_dim > m->dim ? m->ffn_dim : m->dim;
    size_t rows = ROWS * (q > widest ? q : widest), squares = (2 * tokens + m->head_dim) * tokens;

    return rows > squares ? rows : squares;
}

static float *room_of(const tape *t, size_t worker)
{
    return t->rooms + worker * room_size(t->s.m, t->tokens);
}

bool tape_open(tape *t, const model *m, compute *c, size_t tokens, int group_size, failure *why)
{
    size_t widths[11], width = 0, workers = c->pool.workers, i;
    float *memory;

    memset(t, 0, sizeof *t);
    if (!session_open(&t->s, m, c, tokens, tokens, why)) return false;
    t->tokens = tokens;
    t->group_size = group_size < 0 ? SIZE_MAX : (size_t)group_size;
    kept_widths(m, widths);
    for (i = 0; i < 11; i++) width += widths[i];
    t->layers = calloc(m->layers_count, sizeof *t->layers);
    memory = t->memory = malloc((m->layers_count + 1) * width * tokens * sizeof *memory);
    t->rooms = malloc(workers * room_size(m, tokens) * sizeof *t->rooms);
    if (!t->layers || !t->memory || !t->rooms) return fail(why, "out of memory");
    for (i = 0; i < m->layers_count; i++) memory = place_kept(&t->layers[i], widths, tokens, memory);
    place_kept(&t->back, widths, tokens, memory);
    return true;
}

void tape_close(tape *t)
{
    if (t->s.m) session_close(&t->s);
    free(t->layers);
    free(t->memory);
    free(t->rooms);
    memset(t, 0, sizeof *t);
}

/* ---- linears --------------------------------------------------------------------------------- */

typedef struct back_job {
    const linear *linears;
    size_t count, tokens;
    const float *const *d_y;
    float *d_x;
} back_job;

static void back_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const back_job *job = arg;
    size_t in = job->linears[0].in_features, i, t, n;

    (void)worker;
    for (t = 0; t < job->tokens; t++)
        memset(job->d_x + t * in + begin, 0, (end - begin) * sizeof *job->d_x);
    for (; begin < end; begin += n) {
        n = end - begin < STRIP ? end - begin : STRIP;
        for (i = 0; i < job->count; i++) {
            const linear *l = &job->linears[i];
            mix_factors f = { job->d_y[i], l->out_features, 1 };
            add_mixed_rows(f, job->tokens, l->weight + begin, in, l->out_features, n,
                           job->d_x + begin, in);
        }
    }
}

void linears_backward(compute *c, const linear *linears, size_t count, const float *const *d_y,
                      size_t tokens, float *d_x)
{
    back_job job = { linears, count, tokens, d_y, d_x };
    parallel_run(&c->pool, linears[0].in_features, STRIP, back_task, &job);
}

typedef struct scale_job {
    tape *t;
    const linear *l;
    const float *x, *d_y;
    float *scales;
} scale_job;

/*  d log scale = sum of dW W over the group, dW = d_y^T x. */
static void scale_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const scale_job *job = arg;
    const tape *t = job->t;
    size_t in = job->l->in_features, out = job->l->out_features, r, i, n, rows;
    size_t size = t->group_size < in ? t->group_size : in, groups = (in + size - 1) / size;
    float *d_w = room_of(t, worker);

    for (; begin < end; begin += rows) {
        mix_factors f = { job->d_y + begin, 1, out };
        rows = end - begin < ROWS ? end - begin : ROWS;
        memset(d_w, 0, rows * in * sizeof *d_w);
        for (i = 0; i < in; i += n) {
            n = in - i < STRIP ? in - i : STRIP;
            add_mixed_rows(f, rows, job->x + i, in, t->tokens, n, d_w + i, in);
        }
        for (r = 0; r < rows; r++) {
            const float *w = job->l->weight + (begin + r) * in;
            for (i = 0; i < in; i++)
                job->scales[(begin + r) * groups + i / size] += d_w[r * in + i] * w[i];
        }
    }
}

static void scale_gradients(tape *t, size_t index, size_t which, const float *x, const float *d_y,
                            const layer_gradients *out)
{
    const linear *l = &t->s.m->layers[index].linears[which];
    scale_job job = { t, l, x, d_y, out->scales[which] };
    parallel_run(&t->s.c->pool, l->out_features, ROWS, scale_task, &job);
}

/* ---- norms and gates ------------------------------------------------------------------------- */

void norm_backward(const float *x, const float *weight, const float *y, const float *d_y,
                   size_t tokens, size_t dim, float epsilon, float *gradient, float *d_weight)
{
    size_t t, i;

    for (t = 0; t < tokens; t++, x += dim, y += dim, d_y += dim, gradient += dim) {
        double squares = 0, along = 0, r;
        float scale, back;
        for (i = 0; i < dim; i++) {
            squares += (double)x[i] * (double)x[i];
            along += (double)weight[i] * (double)d_y[i] * (double)x[i];
            if (d_weight) d_weight[i] += d_y[i] * y[i];
        }
        r = 1 / sqrt(squares / (double)dim + (double)epsilon);
        scale = (float)r;
        back = (float)(along * r * r * r / (double)dim);
        for (i = 0; i < dim; i++) gradient[i] += scale * weight[i] * d_y[i] - back * x[i];
    }
}

typedef struct gate_job {
    const kept *k;
    kept *back;
} gate_job;

/*  of silu(gate) * up */
static void gate_back_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const gate_job *job = arg;

    (void)worker;
    for (; begin < end; begin++) {
        float gate = job->k->gate[begin], share = 1 / (1 + expf(-gate)), d = job->back->product[begin];
        job->back->up[begin] = d * gate * share;
        job->back->gate[begin] = d * job->k->up[begin] * share * (1 + gate * (1 - share));
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

typedef struct window_job {
    tape *t;
    const kept *k;
    kept *back;                 /* NULL: forward */
} window_job;

/*  Where the block of a token ends. */
static size_t block_end(const tape *t, size_t token)
{
    size_t end = token - token % BLOCK + BLOCK;
    return end < t->tokens ? end : t->tokens;
}

/*  y [n][n] = x k^T of one head's channels, each token with its past (and the rest of its block). */
static void past_products(const tape *t, const float *x, size_t x_stride, const float *k,
                          size_t k_stride, float *turned, float *y)
{
    size_t d = t->s.m->head_dim, n = t->tokens, i, j, end;

    for (i = 0; i < n; i++)
        for (j = 0; j < d; j++) turned[j * n + i] = k[i * k_stride + j];
    for (i = 0; i < n; i = end) {
        end = block_end(t, i);
        mix_rows(x + i * x_stride, x_stride, end - i, turned, n, d, end, y + i * n, n);
    }
}

/*  y = A v, where A [n][n] is zero in the rest of a token's block. */
static void mix_past(const tape *t, const float *a, const float *v, size_t v_stride, float *y,
                     size_t y_stride)
{
    size_t n = t->tokens, i, end;

    for (i = 0; i < n; i = end) {
        end = block_end(t, i);
        mix_rows(a + i * n, n, end - i, v, v_stride, end, t->s.m->head_dim, y + i * y_stride,
                 y_stride);
    }
}

/*  y += A^T x */
static void add_future(const tape *t, const float *a, const float *x, size_t x_stride, float *y,
                       size_t y_stride)
{
    size_t n = t->tokens, i, end;

    for (i = 0; i < n; i = end) {
        mix_factors f = { a + i * n + i, 1, n };
        end = block_end(t, i);
        add_mixed_rows(f, end - i, x + i * x_stride, x_stride, n - i, t->s.m->head_dim,
                       y + i * y_stride, y_stride);
    }
}

/*  Of one head, each token over its past, zero in the rest of its block: softmax(q k^T / sqrt(d)). */
static void attention_shares(const tape *t, const kept *k, size_t head, float *turned, float *shares)
{
    const model *m = t->s.m;
    size_t d = m->head_dim, kv_dim = m->kv_heads * d, n = t->tokens, i;

    past_products(t, k->q + head * d, m->heads * d, k->k + head / (m->heads / m->kv_heads) * d,
                  kv_dim, turned, shares);
    for (i = 0; i < n; i++) {
        softmax(shares + i * n, i + 1, 1 / sqrtf((float)d));
        memset(shares + i * n + i + 1, 0, (block_end(t, i) - i - 1) * sizeof *shares);
    }
}

static void attend_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const window_job *job = arg;
    const tape *t = job->t;
    const model *m = t->s.m;
    size_t d = m->head_dim, kv_dim = m->kv_heads * d;
    float *shares = room_of(t, worker), *turned = shares + t->tokens * t->tokens;

    for (; begin < end; begin++) {
        attention_shares(t, job->k, begin, turned, shares);
        mix_past(t, shares, job->k->v + begin / (m->heads / m->kv_heads) * d, kv_dim,
                 job->k->attended + begin * d, m->heads * d);
    }
}

/*  dS = P (dP - sum dP P) / sqrt(d), dP = d_attended v^T; then q, k and v by products. */
static void attend_back_head(const window_job *job, size_t head, float *room)
{
    const tape *t = job->t;
    const model *m = t->s.m;
    size_t d = m->head_dim, q_dim = m->heads * d, kv_dim = m->kv_heads * d, n = t->tokens, i, j;
    size_t kv = head / (m->heads / m->kv_heads) * d;
    float *shares = room, *d_shares = shares + n * n, *turned = d_shares + n * n;
    const float *d_out = job->back->attended + head * d;

    attention_shares(t, job->k, head, turned, shares);
    past_products(t, d_out, q_dim, job->k->v + kv, kv_dim, turned, d_shares);
    add_future(t, shares, d_out, q_dim, job->back->v + kv, kv_dim);
    for (i = 0; i < n; i++) {
        const float *p = shares + i * n;
        float *ds = d_shares + i * n, sum = 0, scale = 1 / sqrtf((float)d);
        for (j = 0; j <= i; j++) sum += ds[j] * p[j];
        for (j = 0; j < block_end(t, i); j++) ds[j] = p[j] * (ds[j] - sum) * scale;
    }
    mix_past(t, d_shares, job->k->k + kv, kv_dim, job->back->q + head * d, q_dim);
    add_future(t, d_shares, job->k->q + head * d, q_dim, job->back->k + kv, kv_dim);
}

static void attend_back_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const window_job *job = arg;
    const tape *t = job->t;
    size_t repeat = t->s.m->heads / t->s.m->kv_heads, head;

    for (head = begin * repeat; head < end * repeat; head++)
        attend_back_head(job, head, room_of(t, worker));
}

static void rotate(tape *t, kept *k, bool back)
{
    const model *m = t->s.m;
    size_t q_dim = m->heads * m->head_dim, kv_dim = m->kv_heads * m->head_dim, i;

    for (i = 0; i < t->tokens; i++) {
        session_rotate(&t->s, k->q + i * q_dim, m->heads, i, back);
        session_rotate(&t->s, k->k + i * kv_dim, m->kv_heads, i, back);
    }
}

/* ---- layers ---------------------------------------------------------------------------------- */

static bool apply(tape *t, size_t index, input_group group, const float *x, float *const *outputs,
                  failure *why)
{
    const linear *first = &t->s.m->layers[index].linears[group_first(group)];
    return linears_apply(t->s.c, first, group_count(group), x, t->tokens, outputs, why);
}

static bool add_output(tape *t, size_t index, input_group group, const float *x, float *hidden,
                       failure *why)
{
    size_t i;

    if (!apply(t, index, group, x, &t->s.delta, why)) return false;
    for (i = 0; i < t->tokens * t->s.m->dim; i++) hidden[i] += t->s.delta[i];
    return true;
}

static bool layer_forward(tape *t, size_t index, failure *why)
{
    const model *m = t->s.m;
    const layer *l = &m->layers[index];
    kept *k = &t->layers[index];
    float *hidden = t->s.hidden, *qkv[3] = { k->q, k->k, k->v }, *gate_up[2] = { k->gate, k->up };
    size_t size = t->tokens * m->dim * sizeof *hidden;
    window_job job = { t, k, NULL };

    memcpy(k->hidden, hidden, size);
    session_norm(&t->s, hidden, t->tokens, l->attention_norm, k->attention_in);
    if (!apply(t, index, INPUT_QKV, k->attention_in, qkv, why)) return false;
    rotate(t, k, false);
    parallel_run(&t->s.c->pool, m->heads, 1, attend_task, &job);
    if (!add_output(t, index, INPUT_O, k->attended, hidden, why)) return false;
    memcpy(k->middle, hidden, size);
    session_norm(&t->s, hidden, t->tokens, l->ffn_norm, k->ffn_in);
    if (!apply(t, index, INPUT_GATE_UP, k->ffn_in, gate_up, why)) return false;
    memcpy(k->product, k->gate, t->tokens * m->ffn_dim * sizeof *k->gate);
    silu_gate(k->product, k->up, t->tokens * m->ffn_dim);
    return add_output(t, index, INPUT_DOWN, k->product, hidden, why);
}

static void ffn_backward(tape *t, size_t index, float *gradient, const layer_gradients *out)
{
    const model *m = t->s.m;
    const layer *l = &m->layers[index];
    const kept *k = &t->layers[index];
    kept *back = &t->back;
    gate_job gates = { k, back };
    const float *d_down = gradient, *d_gate_up[2] = { back->gate, back->up };

    scale_gradients(t, index, LINEAR_DOWN, k->product, gradient, out);
    linears_backward(t->s.c, &l->linears[LINEAR_DOWN], 1, &d_down, t->tokens, back->product);
    parallel_run(&t->s.c->pool, t->tokens * m->ffn_dim, 4096, gate_back_task, &gates);
    scale_gradients(t, index, LINEAR_GATE, k->ffn_in, back->gate, out);
    scale_gradients(t, index, LINEAR_UP, k->ffn_in, back->up, out);
    linears_backward(t->s.c, &l->linears[LINEAR_GATE], 2, d_gate_up, t->tokens, back->ffn_in);
    norm_backward(k->middle, l->ffn_norm, k->ffn_in, back->ffn_in, t->tokens, m->dim,
                  (float)m->norm_epsilon, gradient, out->ffn_norm);
}

static void attention_backward(tape *t, size_t index, float *gradient, const layer_gradients *out)
{
    const model *m = t->s.m;
    const layer *l = &m->layers[index];
    const kept *k = &t->layers[index];
    kept *back = &t->back;
    size_t kv_size = t->tokens * m->kv_heads * m->head_dim * sizeof *back->k;
    window_job job = { t, k, back };
    const float *d_o = gradient, *d_qkv[3] = { back->q, back->k, back->v };

    scale_gradients(t, index, LINEAR_O, k->attended, gradient, out);
    linears_backward(t->s.c, &l->linears[LINEAR_O], 1, &d_o, t->tokens, back->attended);
    memset(back->k, 0, kv_size);
    memset(back->v, 0, kv_size);
    parallel_run(&t->s.c->pool, m->kv_heads, 1, attend_back_task, &job);
    rotate(t, back, true);
    scale_gradients(t, index, LINEAR_Q, k->attention_in, back->q, out);
    scale_gradients(t, index, LINEAR_K, k->attention_in, back->k, out);
    scale_gradients(t, index, LINEAR_V, k->attention_in, back->v, out);
    linears_backward(t->s.c, &l->linears[LINEAR_Q], 3, d_qkv, t->tokens, back->attention_in);
    norm_backward(k->hidden, l->attention_norm, k->attention_in, back->attention_in, t->tokens,
                  m->dim, (float)m->norm_epsilon, gradient, out->attention_norm);
}

bool tape_forward(tape *t, const uint32_t *ids, failure *why)
{
    size_t i;

    if (!session_embed(&t->s, ids, t->tokens, why)) return false;
    for (i = 0; i < t->s.m->layers_count; i++)
        if (!layer_forward(t, i, why)) return false;
    return true;
}

void tape_backward(tape *t, float *gradient, const layer_gradients *layers)
{
    size_t i;

    for (i = t->s.m->layers_count; i-- > 0;) {
        ffn_backward(t, i, gradient, &layers[i]);
        attention_backward(t, i, gradient, &layers[i]);
    }
}
