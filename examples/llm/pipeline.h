/*  pipeline.h - the steps of AWQ on a layer of a model. quantize.c takes them in turn; examples/mpi
    deals them over processes. */
#ifndef LLM_PIPELINE_H
#define LLM_PIPELINE_H

#include "quantize.h"

/*  Rows of the random sketch that stands for all calibration tokens in the search: its cost and
    memory do not depend on how many tokens there were. */
#define SKETCH_ROWS 512

/*  Memory that grows to the largest size asked for. */
typedef struct scratch {
    void *bytes;
    size_t size;
} scratch;

typedef struct pipeline {
    const model *m; /* the original */
    compute *c;
    const quantize_options *options;
    quantized_model *out;
    awq_stats stats[INPUTS]; /* of the current layer */
    scratch stats_memory[INPUTS];
    float *weights[LINEARS]; /* of the current layer, in fp32, folded step by step */
    float *scale[INPUTS];
    float *candidate;        /* another scale */
    float *clip_max;
    awq_hessian hessian[INPUTS];
    scratch hessian_memory[INPUTS];
    awq_tensor tensor;       /* the current linear, if it is improved */
    scratch tensor_memory;
    scratch work;
    size_t packed_used;
} pipeline;

/*  Makes `out` too, its linears not yet packed. To be closed even if it fails. */
bool pipeline_open(pipeline *p, quantized_model *out, const model *m, compute *c,
                   const quantize_options *options, failure *why);
void pipeline_close(pipeline *p);

size_t group_inputs(const model *m, size_t group);
awq_quant head_quant(const quantize_options *options);
bool is_clipped(const quantize_options *options, size_t which);

/*  Empty statistics of a layer's inputs, [INPUTS] of them. */
bool start_stats(pipeline *p, awq_stats *stats, scratch *memory, failure *why);
/*  An observer, its context the pipeline: adds what it sees to p->stats. */
bool see_inputs(void *context, size_t layer_index, input_group group, const float *rows,
                size_t tokens, const float *received, failure *why);

/*  p->weights[which] = that linear of the layer, as it is in the file. */
void decode_linear(pipeline *p, size_t index, size_t which);
/*  p->scale[group], from p->stats and the weights of the group's linears, none of them folded. */
bool search_group(pipeline *p, size_t index, input_group group, awq_search_result *result,
                  failure *why);
/*  All scales of a layer into its norms, into v and up. */
bool fold_layer(pipeline *p, size_t index, failure *why);

/*  Before the first rows of a group's linears. */
bool ready_group(pipeline *p, size_t index, input_group group, failure *why);
/*  Quantizes rows [begin, end) of a folded linear into `memory`, where it was placed; begin is a
    multiple of AWQ_ROW_STEP, end too or the last. */
bool quantize_rows(pipeline *p, size_t index, size_t which, size_t begin, size_t end,
                   unsigned char *memory, failure *why);
/*  The same for the output head: rounded to nearest. */
bool round_rows(pipeline *p, awq_matrix weight, awq_quant quant, size_t begin, size_t end,
                unsigned char *memory, failure *why);
/*  Writes the header of a packed linear; l->packed views it. */
bool place_linear(linear *l, awq_quant quant, unsigned char *memory, failure *why);

#endif
