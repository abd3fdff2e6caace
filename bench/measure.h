/*  measure.h - things measured alternately, round by round, so that a clock that moves or a
    neighbour that wakes up meets all of them; what is reported are medians over the rounds.      */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "common.h"
#include "layers.h"
#include "limits.h"
#include "shim.h"

/*  A product: run() multiplies by the weights it is given, on all threads of the pool.           */
typedef struct work {
    void (*run)(void *arg, const unsigned char *weights, pool *p);
    void *arg;
    rotation weights;
    double weight_count, tokens;
    peak_kind peak;
    double peak_share;          /* of the peak that is within reach: two int8 dots per A16 dot    */
} work;

typedef struct measurement {
    double seconds;             /* of one call                                                    */
    double of_limit;            /* rate / min(tokens * rate of reading the weights, peak), or NAN */
    double of_other;            /* rate / rate of the other work, or NAN                          */
} measurement;

/*  `other` is measured alternately too; NULL: none.                                              */
measurement measure(pool *p, work *w, work *other);
/*  Nothing but these two: of_limit is NAN.                                                       */
measurement measure_beside(pool *p, work *w, work *other);
/*  Time and the columns that all products have.                                                  */
void report_product(bench_state *state, const work *w, const measurement *m);

/*  Median seconds of one call, with nothing beside it.                                           */
double measure_alone(void (*run)(void *arg, pool *p), void *arg, pool *p);

/*  The lines limit/...                                                                           */
void add_limits(void);

#endif
