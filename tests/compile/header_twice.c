/*  The header alone, and again: declarations only, no definition.                                */
#include "awq.h"
#include "awq.h"

extern size_t rows_of(const awq_matrix *matrix);
size_t rows_of(const awq_matrix *matrix)
{
    return matrix->rows;
}
