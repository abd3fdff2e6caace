/*  compare.h - quantized models beside the one in fp32 that they come from. */
#ifndef SEARCH_COMPARE_H
#define SEARCH_COMPARE_H

#include "embed.h"

typedef struct compare_options {
    const char *original;       /* directory in fp32 */
    const char *folder;         /* texts to search; the questions are sentences of it */
    char **models;              /* quantized files */
    size_t models_count, questions, threads;
    const char *questions_file; /* to be written, a question to a line; or NULL */
} compare_options;

/*  Prints two tables: agreement with size and memory, and speed. */
bool compare(const compare_options *options, failure *why);

#endif
