/*  quantize.h - the AWQ pipeline over a whole model, one layer at a time: calibrate, search, fold,
    clip, quantize, pack. */
#ifndef LLM_QUANTIZE_H
#define LLM_QUANTIZE_H

#include "evaluate.h"

typedef struct quantize_options {
    awq_quant quant;
    int head_bits;              /* of the output head, rounded to nearest; 16: left as it is */
    bool plain;                 /* round to nearest: no calibration, nothing below */
    awq_preset preset;          /* the rule that makes scales */
    bool clip;                  /* unless improve: awq_fit does what clipping does, and more */
    bool weigh_tokens;          /* by the square root of the attention they receive */
    bool improve;               /* grids by weighted error, integers by the Hessian, ... */
    double damping;             /* ... damped so */
    awq_round_config round;
} quantize_options;

/*  A model whose linears are packed; what it does not change it shares with the original, which
    must outlive it. */
typedef struct quantized_model {
    model m;
    unsigned char *packed;      /* all packed linears, the head last */
    size_t packed_size;
    double loss, plain_loss;    /* summed output error per token on the calibration text: AWQ's and
                                   plain rounding's */
} quantized_model;

bool quantize_model(quantized_model *out, const model *m, compute *c, const token_list *text,
                    const quantize_options *options, failure *why);
void quantized_model_close(quantized_model *q);

#endif
