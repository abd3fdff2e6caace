/*  evaluate.c - see evaluate.h. */
#include "evaluate.h"

#include "../common/progress.h"
#include "../common/dense.h"

#include <math.h>

#define LOGITS_AT_ONCE 64 /* tokens; logits are large */

bool read_tokens(const tokenizer *tok, const char *path, token_list *tokens, failure *why)
{
    mapped_file file;
    bool read;

    memset(tokens, 0, sizeof *tokens);
    if (!file_map(&file, path, why)) return false;
    read = tokenizer_encode(tok, (const char *)file.bytes, file.size, false, tokens, why);
    file_unmap(&file);
    return read;
}

typedef struct nll_job {
    const float *logits;
    size_t vocabulary;
    const uint32_t *targets;
    double nll[LOGITS_AT_ONCE];
} nll_job;

/*  -log of the probability that the logits give to the token that really came next. */
static double negative_log_likelihood(const float *logits, size_t count, uint32_t target)
{
    float most;
    double sum = exp_sum(logits, count, &most);

    return log(sum) - (double)(logits[target] - most);
}

static void nll_task(void *arg, size_t begin, size_t end, size_t worker)
{
    nll_job *job = arg;
    size_t t;
    (void)worker;
    for (t = begin; t < end; t++)
        job->nll[t] = negative_log_likelihood(job->logits + t * job->vocabulary, job->vocabulary,
                                              job->targets[t]);
}

/*  Adds the scores of ids[1] ... ids[tokens - 1], whose hidden states the session holds. */
static bool score_window(session *s, const uint32_t *ids, size_t tokens, float *logits, double *nll,
                         failure *why)
{
    size_t first, count, t;
    nll_job job;

    job.logits = logits;
    job.vocabulary = s->m->vocabulary;
    for (first = 0; first + 1 < tokens; first += count) {
        count = tokens - 1 - first < LOGITS_AT_ONCE ? tokens - 1 - first : LOGITS_AT_ONCE;
        if (!session_logits(s, first, count, logits, why)) return false;
        job.targets = ids + first + 1;
        parallel_run(&s->c->pool, count, 1, nll_task, &job);
        for (t = 0; t < count; t++) *nll += job.nll[t];
    }
    return true;
}

static bool score_windows(session *s, const token_list *text, const char *label, float *logits,
                          text_score *score, failure *why)
{
    size_t windows = text->count / WINDOW, i;
    double nll = 0, forward_seconds = 0;
    progress bar = progress_begin(label, windows);

    for (i = 0; i < windows; i++) {
        const uint32_t *ids = text->ids + i * WINDOW;
        double started = seconds_now();
        s->position = 0;
        if (!session_forward(s, ids, WINDOW, why)) return false;
        forward_seconds += seconds_now() - started;
        if (!score_window(s, ids, WINDOW, logits, &nll, why)) return false;
        progress_step(&bar, i + 1);
    }
    progress_end(&bar);
    score->scored = windows * (WINDOW - 1);
    score->perplexity = exp(nll / (double)score->scored);
    score->prompt_rate = (double)(windows * WINDOW) / forward_seconds;
    return true;
}

bool score_text(const model *m, compute *c, const token_list *text, const char *label,
                text_score *score, failure *why)
{
    float *logits;
    session s;
    bool scored;

    if (text->count < WINDOW)
        return fail(why, "the text has %zu tokens; perplexity needs at least %d", text->count,
                    WINDOW);
    if (!session_open(&s, m, c, WINDOW, WINDOW, why)) return false;
    logits = malloc(LOGITS_AT_ONCE * m->vocabulary * sizeof *logits);
    scored =
        logits ? score_windows(&s, text, label, logits, score, why) : fail(why, "out of memory");
    free(logits);
    session_close(&s);
    return scored;
}

/* ---- generation ------------------------------------------------------------------------------ */

static uint32_t likeliest(const float *logits, size_t count)
{
    size_t i, best = 0;
    for (i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return (uint32_t)best;
}

/*  Runs the whole prompt; the hidden state of its last token is then at *last. */
static bool run_prompt(session *s, const token_list *prompt, size_t *last, failure *why)
{
    size_t done, count = 0;

    for (done = 0; done < prompt->count; done += count) {
        count = prompt->count - done < s->batch ? prompt->count - done : s->batch;
        if (!session_forward(s, prompt->ids + done, count, why)) return false;
    }
    *last = count - 1;
    return true;
}

static bool generate_in(session *s, const token_list *prompt, size_t limit, float *logits,
                        token_list *answer, double *rate, failure *why)
{
    progress bar = progress_begin("answering", limit);
    size_t last, made = 0;
    double started;

    if (!run_prompt(s, prompt, &last, why)) return false;
    started = seconds_now();
    while (made < limit) {
        uint32_t next;
        if (made && !session_forward(s, &answer->ids[answer->count - 1], 1, why)) return false;
        if (!session_logits(s, made ? 0 : last, 1, logits, why)) return false;
        next = likeliest(logits, s->m->vocabulary);
        if (tokenizer_is_end(&s->m->tok, next)) break;
        if (!token_list_add(answer, next, why)) return false;
        progress_step(&bar, ++made);
    }
    progress_end(&bar);
    *rate = (double)made / (seconds_now() - started);
    return true;
}

bool generate(const model *m, compute *c, const token_list *prompt, size_t limit,
              token_list *answer, double *rate, failure *why)
{
    size_t context = prompt->count + limit;
    float *logits;
    session s;
    bool generated;

    if (prompt->count == 0) return fail(why, "the prompt is empty");
    if (context > m->context)
        return fail(why, "%zu prompt tokens and %zu new ones exceed the model's context of %zu",
                    prompt->count, limit, m->context);
    if (!session_open(&s, m, c, context, prompt->count < WINDOW ? prompt->count : WINDOW, why))
        return false;
    logits = malloc(m->vocabulary * sizeof *logits);
    generated = logits ? generate_in(&s, prompt, limit, logits, answer, rate, why)
                       : fail(why, "out of memory");
    free(logits);
    session_close(&s);
    return generated;
}

/* ---- speed ----------------------------------------------------------------------------------- */

static bool timed_prompt(session *s, const token_list *text, float *logits, double *rate,
                         failure *why)
{
    double started = seconds_now();

    s->position = 0;
    if (!session_forward(s, text->ids, WINDOW, why)) return false;
    if (!session_logits(s, WINDOW - 1, 1, logits, why)) return false;
    *rate = WINDOW / (seconds_now() - started);
    return true;
}

static bool timed_tokens(session *s, float *logits, double *rate, failure *why)
{
    double started = seconds_now();
    int i;

    for (i = 0; i < SPEED_TOKENS; i++) {
        uint32_t next = likeliest(logits, s->m->vocabulary);
        if (!session_forward(s, &next, 1, why)) return false;
        if (!session_logits(s, 0, 1, logits, why)) return false;
    }
    *rate = SPEED_TOKENS / (seconds_now() - started);
    return true;
}

bool measure_speed(const model *m, compute *c, const token_list *text, text_speed *speed,
                   failure *why)
{
    float *logits;
    session s;
    bool done;

    if (text->count < WINDOW)
        return fail(why, "the text has %zu tokens; at least %d are needed", text->count, WINDOW);
    if (!session_open(&s, m, c, WINDOW + SPEED_TOKENS, WINDOW, why)) return false;
    logits = malloc(m->vocabulary * sizeof *logits);
    done = logits ? timed_prompt(&s, text, logits, &speed->prompt_rate, why)
                        && timed_prompt(&s, text, logits, &speed->prompt_rate, why)
                        && timed_tokens(&s, logits, &speed->generation_rate, why)
                  : fail(why, "out of memory");
    free(logits);
    session_close(&s);
    return done;
}

/* ---- are two models the same? ---------------------------------------------------------------- */

static uint64_t hash_floats(const float *x, size_t count)
{
    uint64_t hash = 14695981039346656037u;
    size_t i;
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * 1099511628211u; /* FNV-1a over words */
    }
    return hash;
}

bool fingerprint(const model *m, compute *c, const token_list *text, uint64_t *print, failure *why)
{
    size_t tokens = text->count < LOGITS_AT_ONCE ? text->count : LOGITS_AT_ONCE;
    float *logits;
    session s;
    bool done;

    if (!session_open(&s, m, c, LOGITS_AT_ONCE, LOGITS_AT_ONCE, why)) return false;
    logits = malloc(LOGITS_AT_ONCE * m->vocabulary * sizeof *logits);
    done = logits ? session_forward(&s, text->ids, tokens, why)
                        && session_logits(&s, 0, tokens, logits, why)
                  : fail(why, "out of memory");
    if (done) *print = hash_floats(logits, tokens * m->vocabulary);
    free(logits);
    session_close(&s);
    return done;
}
