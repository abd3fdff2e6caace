/*  failure.h - an error as one line that says what, where and what to do. */
#ifndef EXAMPLES_FAILURE_H
#define EXAMPLES_FAILURE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

typedef struct failure { char text[512]; } failure;

/*  Records the message and returns false, so that a function can `return fail(why, ...)`. */
static inline bool fail(failure *why, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why->text, sizeof why->text, format, arguments);
    va_end(arguments);
    return false;
}

#endif
