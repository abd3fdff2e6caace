/*  index.h - passages and their vectors, to be asked which are nearest. The vectors are the rows of
    a linear: 8 bits per number, packed as weights are, so that one awq_matmul gives every
    passage's product with the question. As a file: sections of a container.

        0       numbers: checksum of the model, count, files
        1       the vectors, a packed tensor of awq.h [count][dim]
        2       for each passage: file, line, begin, end as numbers
        3, 4    names of the files, each ended by NUL; text                                      */
#ifndef SEARCH_INDEX_H
#define SEARCH_INDEX_H

#include "container.h"
#include "encoder.h"
#include "passages.h"

typedef struct search_index {
    passages p;                 /* in an opened index names and text lie in the file */
    awq_packed vectors;
    uint64_t model;             /* checksum; 0: of a model that is not quantized */
    container file;
} search_index;

typedef struct answer {
    size_t passage;
    float likeness;             /* cosine */
} answer;

/*  Bytes of the file, to be freed; vectors [p->count][dim], and there is at least one. */
unsigned char *index_make(const awq_kernels *k, const passages *p, const float *vectors, size_t dim,
                          uint64_t model, size_t *size, failure *why);

/*  bytes stay the caller's. Everything is checked. */
bool index_open(search_index *index, const void *bytes, size_t size, failure *why);
void index_close(search_index *index);

/*  The passages nearest to a vector [dim], best first; of equals the earlier. Returns how many:
    wanted, or all there are. 0: failed. */
size_t index_find(const search_index *index, const awq_kernels *k, const float *vector,
                  answer *answers, size_t wanted, failure *why);

#endif
