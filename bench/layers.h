/*  layers.h - random layers, quantized once, and the pages their copies rotate through.          */
#ifndef BENCH_LAYERS_H
#define BENCH_LAYERS_H

#include "awq.h"

#define GROUP_SIZE 128
#define TOKENS_MAX 512

typedef struct shape { size_t out_features, in_features; } shape;

typedef struct layer {
    shape shape;
    unsigned char *bytes;       /* packed                                                         */
    awq_packed packed;
    float *x;                   /* [TOKENS_MAX][in_features]                                      */
    float *dequantized;         /* [out_features][in_features]                                    */
    double *exact;              /* the product, in float64, of the tokens below                   */
} layer;

/*  The tokens whose products are compared with float64: the last ones of 1, 4, 16, 64, 512.      */
#define CHECKED_TOKENS 5
extern const size_t checked_tokens[CHECKED_TOKENS];

awq_quant quant_4bit(void);
double    weight_count(shape s);
/*  Stops the program with a message, if it is not AWQ_OK.                                        */
void      must(awq_status status, const char *doing);

/*  The layer of this shape, made when first asked for.                                           */
const layer *layer_of(shape s);
/*  Largest and root mean square error of y (tokens, out_features), relative to the root mean
    square of the exact product.                                                                  */
void layer_errors(const layer *l, const float *y, size_t tokens, double *largest, double *rms);

/*  Copies of some bytes in one buffer larger than the caches, so that whoever walks over them finds
    each copy in memory. Everything that is compared walks over the same pages.                   */
typedef struct rotation {
    const unsigned char *bytes;
    size_t size, copies, next;
} rotation;

size_t rotation_size(void);             /* of the buffer                                          */
const char *rotation_pages(void);
rotation rotation_of(const void *master, size_t size);
void rotation_forget(const void *master);       /* before it is freed                             */
rotation rotation_in_place(const void *bytes, size_t size);     /* no copies: stays in a cache    */
const unsigned char *rotation_next(rotation *r);

#endif
