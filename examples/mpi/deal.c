/*  deal.c - see deal.h. */
#include "deal.h"

#include "../../awq.h"

range deal(size_t count, size_t parts, size_t i)
{
    size_t each = count / parts, extra = count % parts;
    range share;

    share.begin = each * i + (i < extra ? i : extra);
    share.end = share.begin + each + (i < extra ? 1 : 0);
    return share;
}

range deal_units(size_t size, size_t unit, size_t parts, size_t i)
{
    range share = deal((size + unit - 1) / unit, parts, i);

    share.begin = share.begin * unit < size ? share.begin * unit : size;
    share.end = share.end * unit < size ? share.end * unit : size;
    return share;
}

void deal_items(const size_t *costs, size_t count, size_t ranks, size_t *owner, size_t *load)
{
    size_t dealt, i, r;

    for (r = 0; r < ranks; r++) load[r] = 0;
    for (i = 0; i < count; i++) owner[i] = ranks;
    for (dealt = 0; dealt < count; dealt++) {
        size_t dearest = count, least = 0;
        for (i = 0; i < count; i++)
            if (owner[i] == ranks && (dearest == count || costs[i] > costs[dearest])) dearest = i;
        for (r = 1; r < ranks; r++)
            if (load[r] < load[least]) least = r;
        owner[dearest] = least;
        load[least] += costs[dearest];
    }
}

/*  The row of a linear where the first `i` of `ranks` equal pieces of the line end. */
static size_t cut_row(size_t total, size_t ranks, size_t i, size_t start, size_t rows,
                      size_t row_cost)
{
    size_t cut = total / ranks * i + total % ranks * i / ranks, step = row_cost * AWQ_ROW_STEP;
    size_t row;

    if (cut <= start) return 0;
    row = ((cut - start) + step / 2) / step * AWQ_ROW_STEP;
    return i == ranks || row > rows ? rows : row;
}

range deal_rows(size_t total, size_t ranks, size_t rank, size_t start, size_t rows,
                size_t row_cost)
{
    range share;

    share.begin = cut_row(total, ranks, rank, start, rows, row_cost);
    share.end = cut_row(total, ranks, rank + 1, start, rows, row_cost);
    return share;
}
