/*  run_team.h - one model run by all ranks: every layer's linears are cut over them, and two sums
    over the ranks per layer put its output together. */
#ifndef MPI_RUN_TEAM_H
#define MPI_RUN_TEAM_H

#include "part.h"
#include "team.h"

#include "../llm/evaluate.h"

typedef struct team_session {
    team *t;
    model_part part;
    session s;
} team_session;

bool team_session_open(team_session *ts, team *t, const model *whole, compute *c, size_t context,
                       size_t batch, failure *why);
void team_session_close(team_session *ts);

/*  Appends up to `limit` tokens to *answer, each the likeliest; the same on every rank. rates [2]:
    tokens per second of the prompt and after it. */
bool generate_together(team_session *ts, const token_list *prompt, size_t limit, token_list *answer,
                       double *rates, failure *why);

/*  How far the ranks' logits of some tokens are from those of one process. */
typedef struct difference {
    double rms, most;       /* relative to the root mean square of the logits */
    size_t tokens, agree;   /* tokens after which the same token is the likeliest */
    bool same_bits;
} difference;

/*  Only rank 0 learns *d; it runs the whole model, too. */
bool compare_with_one(team_session *ts, const model *whole, compute *c, const token_list *text,
                      difference *d, failure *why);

#endif
