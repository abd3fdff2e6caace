/*  tables.h - the tables of docs/quality.md, each by one run over the study. */
#ifndef QUALITY_TABLES_H
#define QUALITY_TABLES_H

#include "study.h"

typedef struct table_options {
    int bits;
    const long *groups;         /* group sizes, a table of methods for each */
    size_t groups_count;
    const char *ggml;           /* libggml-base, or NULL */
    const double *budgets;      /* bits per weight */
    size_t budgets_count;
} table_options;

typedef bool table(study *s, const table_options *options, failure *why);

/*  All methods, a table for every group size. */
table print_methods;
/*  Nearest, AutoAWQ's recipe and the best method: over group sizes, then over bits. */
table print_groups, print_bits;
/*  The best method beside llama.cpp's types; without its library the rows are left out, in words. */
table print_ggml;
/*  Group sizes mixed by sensitivity, for every budget, beside one for all. */
table print_budgets;

#endif
