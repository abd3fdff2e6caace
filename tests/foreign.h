/*  foreign.h - other projects' layouts, defined nibble by nibble from docs/formats.md.           */
#ifndef FOREIGN_H
#define FOREIGN_H

#include "product.h"

/*  A layout with a shape and quant that it allows.                                               */
typedef struct foreign_case {
    awq_layout layout;
    awq_quant quant;
    size_t rows, cols;
} foreign_case;

foreign_case random_foreign_case(rng *r, awq_layout layout);
/*  Planes in guarded memory, unaligned, wider than dense; filled with PATTERN.                   */
awq_foreign  new_foreign(pool *p, rng *r, const foreign_case *c);
/*  Writes what its project would for this tensor: q, and the grids of the foreign groups.        */
void         define_foreign(const awq_foreign *f, const awq_tensor *t);
/*  Counts planes that differ, gaps between the rows included.                                    */
int          compare_foreign(const awq_foreign *got, const awq_foreign *expected);
/*  Whether no byte of any plane was written.                                                     */
int          foreign_untouched(const awq_foreign *f);

/*  The same weights with groups of another size, a divisor of the tensor's, or another type of
    scales that can hold them.                                                                    */
awq_tensor   regrouped(pool *p, const awq_tensor *t, int group_size, int symmetric,
                       awq_dtype scale_dtype);

#endif
