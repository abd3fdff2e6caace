/*  numbers.h - numbers on a command line. */
#ifndef EXAMPLES_NUMBERS_H
#define EXAMPLES_NUMBERS_H

#include "failure.h"

#include <errno.h>
#include <stdlib.h>

static inline bool parse_number(const char *option, const char *text, long least, long most,
                                long *out, failure *why)
{
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && *out >= least && *out <= most) return true;
    return fail(why, "%s: \"%s\" is not a number from %ld to %ld", option, text, least, most);
}

static inline bool parse_real(const char *option, const char *text, double least, double most,
                              double *out, failure *why)
{
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    if (errno == 0 && end != text && *end == '\0' && *out >= least && *out <= most) return true;
    return fail(why, "%s: \"%s\" is not a number from %g to %g", option, text, least, most);
}

#endif
