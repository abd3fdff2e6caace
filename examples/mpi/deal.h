/*  deal.h - who does what: work dealt over ranks by its cost. Every rank computes the same answer
    from the same costs, so nothing has to be sent. */
#ifndef MPI_DEAL_H
#define MPI_DEAL_H

#include <stddef.h>

/*  Items that cannot be divided: owner[i] of costs[i]. The dearest go first, each to whoever has
    least until then; load [ranks] is what each has in the end. */
void deal_items(const size_t *costs, size_t count, size_t ranks, size_t *owner, size_t *load);

typedef struct range {
    size_t begin, end;
} range;

/*  Rows can be divided, at multiples of AWQ_ROW_STEP. All rows of all linears count as one line, as
    long as they cost in `total`, of which every rank has an equal piece: here the rows in it of a
    linear that begins at `start`. */
range deal_rows(size_t total, size_t ranks, size_t rank, size_t start, size_t rows,
                size_t row_cost);

/*  Part i of `count` units of size `unit` (the last may be smaller, the sum is `size`). */
range deal_units(size_t size, size_t unit, size_t parts, size_t i);

/*  The `i`th of `parts` parts of `count` things, as equal as they go. */
range deal(size_t count, size_t parts, size_t i);

#endif
