/*  run_team.c - see run_team.h. */
#include "run_team.h"

#include "../common/progress.h"

#include <math.h>

#define COMPARED 64     /* tokens */

static bool add_up(void *context, float *x, size_t count, failure *why)
{
    (void)why;
    team_sum(context, x, count);
    return true;
}

bool team_session_open(team_session *ts, team *t, const model *whole, compute *c, size_t context,
                       size_t batch, failure *why)
{
    memset(ts, 0, sizeof *ts);
    ts->t = t;
    if (!part_open(&ts->part, whole, t->ranks, t->rank, why)
        || !session_open(&ts->s, &ts->part.m, c, context, batch, why))
        return false;
    ts->s.add_up = add_up;
    ts->s.team = t;
    return true;
}

void team_session_close(team_session *ts)
{
    session_close(&ts->s);
    part_close(&ts->part);
}

/* ---- generating ------------------------------------------------------------------------------ */

static size_t likeliest(const float *logits, size_t count)
{
    size_t i, best = 0;
    for (i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/*  The likeliest token after token `last` of the last forward pass. */
static bool next_token(team_session *ts, size_t last, float *logits, uint32_t *next, failure *why)
{
    const range *rows = &ts->part.head_rows;
    size_t best;

    if (!session_logits(&ts->s, last, 1, logits, why)) return false;
    best = likeliest(logits, rows->end - rows->begin);
    *next = team_largest(ts->t, logits[best], (uint32_t)(rows->begin + best));
    return true;
}

static bool generate_in(team_session *ts, const token_list *prompt, size_t limit, float *logits,
                        token_list *answer, double *rates, failure *why)
{
    double started = seconds_now(), prompted;
    size_t made, last = prompt->count - 1;
    uint32_t next;

    if (!session_forward(&ts->s, prompt->ids, prompt->count, why)) return false;
    prompted = seconds_now();
    for (made = 0; made < limit; made++) {
        if (!next_token(ts, last, logits, &next, why)) return false;
        if (tokenizer_is_end(&ts->part.m.tok, next)) break;
        if (!token_list_add(answer, next, why)) return false;
        if (!session_forward(&ts->s, &next, 1, why)) return false;
        last = 0;
    }
    rates[0] = (double)prompt->count / (prompted - started);
    rates[1] = (double)made / (seconds_now() - prompted);
    return true;
}

bool generate_together(team_session *ts, const token_list *prompt, size_t limit, token_list *answer,
                       double *rates, failure *why)
{
    size_t rows = ts->part.head_rows.end - ts->part.head_rows.begin;
    float *logits;
    bool generated;

    if (prompt->count == 0 || prompt->count > ts->s.batch)
        return fail(why, "a prompt of %zu tokens; 1 to %zu are run", prompt->count, ts->s.batch);
    logits = malloc((rows + 1) * sizeof *logits);
    generated = logits ? generate_in(ts, prompt, limit, logits, answer, rates, why)
                       : fail(why, "out of memory");
    free(logits);
    return generated;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/*  Puts the columns that one rank has of the logits into their place. */
static void place_columns(float *all, size_t words, const float *part, range rows,
                          size_t tokens)
{
    size_t t, n = rows.end - rows.begin;
    for (t = 0; t < tokens; t++) memcpy(all + t * words + rows.begin, part + t * n,
                                        n * sizeof *part);
}

/*  Logits [tokens][vocabulary] on rank 0, from what every rank has. */
static void gather_logits(const team_session *ts, float *part, float *all, size_t tokens)
{
    size_t words = ts->part.m.vocabulary, r;

    for (r = 0; r < ts->t->ranks; r++) {
        range rows = deal_units(words, AWQ_ROW_STEP, ts->t->ranks, r);
        team_move(ts->t, r, 0, part, tokens * (rows.end - rows.begin) * sizeof *part);
        if (ts->t->rank == 0) place_columns(all, words, part, rows, tokens);
    }
}

static void measure(const float *x, const float *one, size_t tokens, size_t words,
                    difference *d)
{
    double error = 0, power = 0, most = 0;
    size_t i, t;

    for (i = 0; i < tokens * words; i++) {
        double e = fabs((double)x[i] - (double)one[i]);
        error += e * e;
        power += (double)one[i] * (double)one[i];
        if (e > most) most = e;
    }
    d->rms = sqrt(error / power);
    d->most = most / sqrt(power / (double)(tokens * words));
    d->tokens = tokens;
    d->same_bits = memcmp(x, one, tokens * words * sizeof *x) == 0;
    for (t = 0, d->agree = 0; t < tokens; t++)
        d->agree += likeliest(x + t * words, words)
                    == likeliest(one + t * words, words);
}

static bool run_alone(const model *whole, compute *c, const uint32_t *ids, size_t tokens,
                      float *logits, failure *why)
{
    session s;
    bool done;

    if (!session_open(&s, whole, c, tokens, tokens, why)) return false;
    done = session_forward(&s, ids, tokens, why) && session_logits(&s, 0, tokens, logits, why);
    session_close(&s);
    return done;
}

bool compare_with_one(team_session *ts, const model *whole, compute *c, const token_list *text,
                      difference *d, failure *why)
{
    size_t tokens = text->count < COMPARED ? text->count : COMPARED, words = whole->vocabulary;
    float *part = malloc(tokens * words * sizeof *part);
    float *all = malloc(tokens * words * sizeof *all);
    bool done = part && all ? true : fail(why, "out of memory");

    ts->s.position = 0;
    done = done && session_forward(&ts->s, text->ids, tokens, why)
           && session_logits(&ts->s, 0, tokens, part, why);
    if (done) gather_logits(ts, part, all, tokens);
    if (done && ts->t->rank == 0) {
        done = run_alone(whole, c, text->ids, tokens, part, why);
        if (done) measure(all, part, tokens, words, d);
    }
    free(part);
    free(all);
    return done;
}
