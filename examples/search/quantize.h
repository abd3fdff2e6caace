/*  quantize.h - AWQ over a whole encoder: calibrate, scale, fold, better grids and integers, pack. */
#ifndef SEARCH_QUANTIZE_H
#define SEARCH_QUANTIZE_H

#include "embed.h"

typedef struct quantize_options {
    awq_quant quant;
    int embedding_bits;         /* rounded to nearest */
    bool plain;                 /* linears too: no calibration, nothing below */
    bool weigh_tokens;          /* by the square root of the attention they receive */
    bool improve;               /* awq_balance, awq_fit and awq_round; else AWQ's search and clipping */
} quantize_options;

/*  Bytes of the file (packed_model.h), to be freed; NULL on failure. e is in fp32 and stays as it
    is. */
unsigned char *quantize_encoder(const encoder *e, parallel_pool *pool, const passages *calibration,
                                const quantize_options *options, size_t *size, failure *why);

#endif
