/*  rows.h - the lists of lines, one function per file.                                           */
#ifndef BENCH_ROWS_H
#define BENCH_ROWS_H

#include "layers.h"

/*  The shapes of a 4096-wide model; they are rotated past the caches.                            */
#define LARGE_SHAPES 3
extern const shape large_shapes[LARGE_SHAPES];
#define TOKEN_COUNTS 5
extern const size_t token_counts[TOKEN_COUNTS];
size_t threads_most(void);              /* 2, or the one there is                                 */

void add_matmuls(const awq_kernels *k, size_t shape_begin, size_t shape_end);
void add_small_matmuls(const awq_kernels *k);
void add_prepares(const awq_kernels *k);
void add_quantizers(const awq_kernels *k, int is_best);
void add_layouts(const awq_kernels *k);
void add_openblas(size_t shape_begin, size_t shape_end);

#endif
