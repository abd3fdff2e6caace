/*  study.h - a sentence encoder whose weights are the true fp32 ones, two texts, and what it costs to
    put approximations in the place of its linears. */
#ifndef QUALITY_STUDY_H
#define QUALITY_STUDY_H

#include "../search/bert.h"
#include "../search/embed.h"

#include "methods.h"

typedef struct study_options {
    const char *model;          /* a directory */
    const char *calibration, *text;     /* files, of different kinds */
    size_t layers;              /* only the first so many are approximated; 0: all */
    double damping;             /* of the Hessian */
} study_options;

/*  What is known about one text: the Gram matrix of every linear's input, and its embeddings. */
typedef struct evidence {
    passages texts;
    mapped_file file;
    awq_stats *inputs;          /* [layers][INPUTS] */
    void **memory;
    float *vectors;             /* [texts.count][dim] */
    size_t tokens;
} evidence;

typedef struct study {
    bert model;
    encoder approximate;        /* the same with other linears in its first layers */
    size_t inputs, linears;     /* of those layers */
    parallel_pool pool;
    awq_parallel parallel;
    awq_kernels kernels;
    workshop shop;
    evidence calibration, heldout;
    float *approximations;      /* weights of all linears, in order, then their biases */
    float *vectors;
} study;

/*  Opens the model and reads both texts; close it in any case. */
bool study_open(study *s, const study_options *options, failure *why);
void study_close(study *s);

/*  The linears that read an input (of `inputs`): the first, and the one behind the last. */
size_t study_first(size_t input);
size_t study_end(size_t input);

/*  Weights of the first linears, and bits that a weight of all takes on average. */
size_t study_weights(const study *s, size_t count);
/*  Where in `approximations` the bias of a linear stands; of s->linears: how many floats there are. */
size_t study_bias(const study *s, size_t which);
double study_bits(const study *s, awq_quant quant);

/*  What one way to approximate costs on the held-out text. */
typedef struct result {
    double mean, down;          /* relative squared error of the output: all linears, FFN down */
    double cosine;              /* 1 - that of an embedding and its original */
    double seconds;             /* to quantize all */
    double *errors;             /* [linears] */
} result;

/*  To be freed; NULL: out of memory. */
result *results_new(const study *s, size_t count, failure *why);

/*  Of || (What - W) X ||^2 / || W X ||^2, of a linear; X: that evidence's. */
bool output_error(study *s, evidence *of, size_t which, double *relative, failure *why);

/*  1 - the mean cosine of the first `texts` embeddings and their originals. */
bool embedding_error(study *s, const evidence *of, size_t texts, double *distance, failure *why);

/*  Means over r->errors, and the embeddings. */
bool study_conclude(study *s, result *r, failure *why);

/*  Writes all->approximations, of the linears that share an input (of `inputs`). */
typedef bool approach(study *s, void *how, size_t input, const sharing *all, failure *why);

/*  Approximates and measures all linears. */
bool study_measure(study *s, approach *approximate, void *how, result *r, failure *why);
bool study_method(study *s, const method *how, awq_quant quant, result *r, failure *why);

#endif
