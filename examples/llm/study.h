/*  study.h - what the random sketch costs the scale search: it picks a ratio by an estimate of the
    loss, and the exact loss of that ratio may be above the least one. */
#ifndef LLM_STUDY_H
#define LLM_STUDY_H

#include "quantize.h"

enum { SKETCH_SIZES = 3, SKETCH_SEEDS = 4 };     /* 128, 256 and 512 rows */

/*  Excess exact loss of the ratios that sketches of one size pick, over all searches and seeds:
    0.01 is one percent above the least loss. */
typedef struct excess {
    size_t sketch_rows, searches;
    double none, median, ninth_decile, most;    /* none: the share that picked the best */
} excess;

typedef struct sketch_study {
    excess alone[SKETCH_SIZES];     /* every linear searched alone */
    excess together[SKETCH_SIZES];  /* those that share an input together, as quantize.c does */
} sketch_study;

bool study_sketches(const model *m, compute *c, const token_list *text,
                    const quantize_options *options, sketch_study *out, failure *why);

#endif
