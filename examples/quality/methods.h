/*  methods.h - ways to quantize the linears that share an input, from rounding to nearest to all that
    awq.h knows: what a row of docs/quality.md is. */
#ifndef QUALITY_METHODS_H
#define QUALITY_METHODS_H

#include "../../awq.h"

#include "../common/failure.h"

typedef enum scale_rule {
    SCALE_NONE,
    SCALE_MEAN,
    SCALE_DUO,
    SCALE_BETTER,               /* of the two */
    SCALE_BALANCED              /* awq_balance, and what it knows for the grids; needs `round` */
} scale_rule;

typedef struct method {
    char name[48];
    scale_rule scale;
    bool clip;                  /* but not q and k */
    bool fit;                   /* grids by weighted error, not by range */
    bool round;                 /* integers by the Hessian ... */
    awq_round_config descent;   /* ... and passes after it */
    bool shift;                 /* mean errors into biases, the Gram matrix centred */
} method;

#define METHODS 15
#define METHOD_NEAREST 0
#define METHOD_RECIPE 4         /* AutoAWQ's, what the others are compared with */
#define METHOD_BEST (METHODS - 1)
extern const method methods[METHODS];

/*  The linears that share an input; approximations[i] [out_features][in_features] is written,
    biases[i] [out_features] may be. */
typedef struct sharing {
    size_t count;
    awq_matrix weights[3];
    bool clipped[3];            /* may be */
    float *approximations[3], *biases[3];
    awq_stats *stats;           /* of the input: with a Gram matrix */
} sharing;

/*  Scratch that grows; worker threads come with `parallel`. */
typedef struct workshop {
    awq_kernels kernels;
    const awq_parallel *parallel;
    double damping;
    void *work, *hessian, *tensor;
    float *scale, *candidate, *importance, *clip_max;
} workshop;

bool quantize_sharing(workshop *shop, const method *how, awq_quant quant, const sharing *all,
                      failure *why);
void workshop_close(workshop *shop);

#endif
