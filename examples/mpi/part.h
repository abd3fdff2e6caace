/*  part.h - one rank's part of a quantized model, as tensor parallelism cuts it: whole attention
    heads (rows of q, k, v; inputs of o), some of the FFN's channels (rows of gate and up; inputs of
    down), some rows of the head. What o and down make of their part must be added up. */
#ifndef MPI_PART_H
#define MPI_PART_H

#include "deal.h"

#include "../llm/model.h"

typedef struct model_part {
    model m;                        /* borrows from the whole model all that is not cut */
    range heads, kv_heads, ffn, head_rows;      /* which part of the whole it is */
    int group_size[2];              /* of o and of down: theirs, or what the cut left of it */
    unsigned char *packed;
    size_t packed_size;
    gguf_tensor head;               /* its rows, if it is not packed */
} model_part;

/*  The heads of one of `ranks` ranks: whole groups of query heads that share a kv head while there
    are enough of those; then ranks share a kv head, and each has a copy of its k and v. */
void deal_heads(size_t heads, size_t kv_heads, size_t ranks, size_t rank, range *mine,
                range *my_kv_heads);

/*  Groups of `group_size` inputs, seen from input `begin` on: the same size if one begins there, else
    the largest whose boundaries hold the old ones. */
int cut_group_size(int group_size, size_t in_features, size_t begin);

/*  `whole` must be quantized and outlive the part. */
bool part_open(model_part *part, const model *whole, size_t ranks, size_t rank, failure *why);
void part_close(model_part *part);

#endif
