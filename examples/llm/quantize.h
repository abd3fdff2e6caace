/*  quantize.h - the AWQ pipeline over a whole model, one layer at a time: calibrate, search, fold,
    clip, quantize, pack. */
#ifndef LLM_QUANTIZE_H
#define LLM_QUANTIZE_H

#include "evaluate.h"

typedef enum method {
    METHOD_NEAREST,             /* no calibration, nothing of what follows */
    METHOD_AWQ,                 /* AutoAWQ's recipe: scales, then clip maxima */
    METHOD_BEST,                /* scales, grids by weighted error, integers by the Hessian */
    METHOD_TUNED,               /* then group scales and norms by what the whole model says */
    METHODS
} method;

typedef enum scale_rule {       /* what makes scales: */
    SCALE_MEAN,                 /* llm-awq's rule */
    SCALE_MAX,                  /* the paper's */
    SCALE_DUO,                  /* AutoAWQ's */
    SCALE_BETTER,               /* for every input the better one of mean and duo */
    SCALE_BALANCED,             /* ours, awq_balance; METHOD_AWQ takes the better one instead */
    SCALE_RULES
} scale_rule;

typedef struct quantize_options {
    awq_quant quant;
    int head_bits;              /* of the output head, rounded to nearest; 16: left as it is */
    method method;
    scale_rule scale;
    bool clip;                  /* METHOD_AWQ */
    bool weigh_tokens;          /* by the square root of the attention they receive */
    double damping;             /* METHOD_BEST: of the Hessian */
    awq_round_config round;
    size_t tune_steps;          /* METHOD_TUNED */
} quantize_options;

/*  A model whose linears are packed; what it does not change it shares with the original, which
    must outlive it. */
typedef struct quantized_model {
    model m;
    unsigned char *packed;      /* all packed linears, the head last */
    size_t packed_size;
    double loss, plain_loss;    /* summed output error per token on the calibration text: AWQ's and
                                   plain rounding's */
    double divergence[2];       /* METHOD_TUNED: from the original's tokens, at first and at last */
} quantized_model;

quantize_options quantize_defaults(void);
bool rounds_by_hessian(const quantize_options *options);
/*  From the words of a command line. */
bool parse_method(const char *word, quantize_options *options, failure *why);
bool parse_scale_rule(const char *word, quantize_options *options, failure *why);

bool quantize_model(quantized_model *out, const model *m, compute *c, const token_list *text,
                    const quantize_options *options, failure *why);
void quantized_model_close(quantized_model *q);

#endif
