/*  demo.h - what the demo's files share: the layer on its way through AWQ, and the report on it. */
#ifndef DEMO_H
#define DEMO_H

#include "../common/files.h"
#include "../common/parallel.h"
#include "../../awq.h"
#include "layer.h"

#define METHODS 4
#define OPINIONS 2
#define GRID_POINTS 20          /* ratios 0, 0.05 ... 0.95, as in the papers' code                */

typedef struct options {
    const char *data, *svg, *save;
    awq_quant quant;
    size_t threads;
} options;

/*  What all steps share.                                                                         */
typedef struct demo {
    layer layer;
    awq_quant quant;
    awq_kernels kernels;
    parallel_pool pool;
    awq_parallel parallel;
    awq_stats stats;
    void *stats_memory;
    awq_inputs inputs;          /* what a search may look at                                      */
    double calibration_power;   /* mean square of W x: losses are shown relative to it            */
    float *exact;               /* y of the held-out tokens with the original weights             */
    double heldout_power;
    awq_where where;            /* the element to blame when a step fails                         */
} demo;

/*  The layer quantized in one way.                                                               */
typedef struct version {
    void *bytes;
    awq_packed packed;          /* a view of bytes                                                */
    double calibration_loss, heldout_error;         /* |error of y|^2 / |y|^2                     */
    double seconds;             /* to search, clip, quantize and pack                             */
} version;

typedef struct method {
    const char *name;
    bool searches;
    awq_preset preset;
    float *scale;               /* s [in_features]; NULL: 1, plain rounding                       */
    double loss_curve[GRID_POINTS];
    awq_search_result found;
    double search_seconds;
    version plain, clipped;
} method;

/*  A search that does without the rows of X.                                                     */
typedef struct second_opinion {
    const char *name;
    awq_loss loss;
    size_t bytes;               /* what it looks at instead                                       */
    awq_search_result found;
    double seconds;
} second_opinion;

/*  demo.c: one line on stderr, and the end.                                                      */
void die(const char *format, ...);

/*  options.c                                                                                     */
options parse_options(int argc, char **argv);

/*  report.c                                                                                      */
void print_head(const demo *d, const char *path);
void print_table(const demo *d, const method *methods);
void print_opinions(const demo *d, const method *m, const second_opinion *opinions);
void print_lesson(const version *nearest, const method *best, double int8_error);
void write_chart(const demo *d, const method *methods, const char *path);

#endif
