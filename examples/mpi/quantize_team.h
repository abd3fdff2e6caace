/*  quantize_team.h - quantizes a model by all ranks of a team: everyone calibrates on a part of the
    text, searches some scales and quantizes some rows. */
#ifndef MPI_QUANTIZE_TEAM_H
#define MPI_QUANTIZE_TEAM_H

#include "team.h"

#include "../llm/pipeline.h"

typedef struct team_options {
    quantize_options quantize;
    size_t shards;      /* of the text. Their statistics are summed in one order, so the result
                           depends on their number and not on that of the ranks. */
    size_t batch;       /* layers whose searches and rows are dealt out together */
} team_options;

/*  What the statistics of one input were and led to, to be compared between runs. */
typedef struct group_report {
    uint64_t count;             /* tokens */
    double weight;              /* of them */
    double abs_max, abs_sum;    /* sums over channels, ... */
    double sq_sum, sketch_power;    /* ... the last of the sketch's squares */
    awq_search_result search;
} group_report;

typedef struct team_report {
    double calibrate, search, quantize;             /* processor seconds of this rank */
    double exchange, gather;                        /* seconds, most of them waiting for others */
    uint64_t sum_sent, share_sent, gather_sent;     /* bytes of this rank */
    group_report *groups;       /* [layers][INPUTS], the same on every rank; to be freed */
} team_report;

/*  On rank 0 `out` is the quantized model, the others have their part of its bytes. To be closed. */
bool quantize_together(team *t, quantized_model *out, const model *m, compute *c,
                       const token_list *text, const team_options *options, team_report *report,
                       failure *why);

#endif
