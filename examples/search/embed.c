/*  embed.c - see embed.h. */
#include "embed.h"

#include "../common/progress.h"

/*  Passages to a worker between two looks at the progress bar. */
#define STRIDE 32

typedef struct worker {
    workspace w;
    failure why;
    size_t tokens;
    bool failed;
} worker;

typedef struct job {
    const encoder *e;
    const passages *p;
    const observer *watch;
    float *vectors;
    size_t first;               /* passage of the current stride */
    worker *workers;
} job;

/*  Runs as many of the passages [begin, end) as fit and returns how many; 0: failed. */
static size_t run_some(const job *j, worker *me, size_t begin, size_t end)
{
    const encoder *e = j->e;
    size_t ends[EMBED_TOKENS], used = 0, texts = 0, length;
    batch b;

    while (begin + texts < end && texts < EMBED_TOKENS && me->w.room - used >= e->room) {
        const passage *item = &j->p->items[begin + texts];
        length = wordpiece_encode(&e->words, j->p->text + item->begin, item->end - item->begin,
                                  me->w.ids + used, e->room, NULL);
        used += length;
        ends[texts++] = used;
    }
    b.ids = me->w.ids;
    b.ends = ends;
    b.texts = texts;
    me->tokens += used;
    if (!encoder_run(e, &me->w, &b, j->vectors + begin * e->dim, j->watch, &me->why)) return 0;
    return texts;
}

static void embed_task(void *arg, size_t begin, size_t end, size_t number)
{
    const job *j = arg;
    worker *me = &j->workers[number];
    size_t at = j->first + begin, stop = j->first + end, done;

    for (; at < stop && !me->failed; at += done) {
        done = run_some(j, me, at, stop);
        me->failed = done == 0;
    }
}

static bool open_workers(job *j, size_t count, failure *why)
{
    size_t i;

    j->workers = calloc(count, sizeof *j->workers);
    if (!j->workers) return fail(why, "out of memory");
    for (i = 0; i < count; i++)
        if (!workspace_open(&j->workers[i].w, j->e, j->e->room + EMBED_TOKENS, why)) return false;
    return true;
}

static bool run_job(job *j, parallel_pool *pool, const char *label, size_t *tokens, failure *why)
{
    size_t stride = STRIDE * pool->workers, i;
    progress bar = progress_begin(label, j->p->count);

    for (j->first = 0; j->first < j->p->count; j->first += stride) {
        size_t left = j->p->count - j->first;
        parallel_run(pool, left < stride ? left : stride, 1, embed_task, j);
        for (i = 0; i < pool->workers; i++)
            if (j->workers[i].failed) return fail(why, "%s", j->workers[i].why.text);
        if (label) progress_step(&bar, j->first + stride);
    }
    if (label) progress_end(&bar);
    for (i = 0; tokens && i < pool->workers; i++) *tokens += j->workers[i].tokens;
    return true;
}

static bool embed(job *j, parallel_pool *pool, const char *label, size_t *tokens, failure *why)
{
    bool done = open_workers(j, pool->workers, why) && run_job(j, pool, label, tokens, why);
    size_t i;

    for (i = 0; j->workers && i < pool->workers; i++) workspace_close(&j->workers[i].w);
    free(j->workers);
    return done;
}

bool embed_passages(const encoder *e, parallel_pool *pool, const passages *p, const char *label,
                    float *vectors, size_t *tokens, failure *why)
{
    job j = { e, p, NULL, vectors, 0, NULL };

    if (tokens) *tokens = 0;
    return embed(&j, pool, label, tokens, why);
}

bool watch_passages(const encoder *e, const passages *p, const char *label, const observer *watch,
                    failure *why)
{
    parallel_pool alone;
    float *vectors = malloc((p->count * e->dim + 1) * sizeof *vectors);
    job j = { e, p, watch, vectors, 0, NULL };
    bool done;

    if (!vectors) return fail(why, "out of memory");
    parallel_start(&alone, 1);
    done = embed(&j, &alone, label, NULL, why);
    parallel_stop(&alone);
    free(vectors);
    return done;
}
