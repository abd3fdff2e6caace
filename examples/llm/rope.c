/*  rope.c - see rope.h. */
#include "rope.h"

#include <math.h>

double *rope_frequencies(const rope_rule *rule, size_t dims, failure *why)
{
    double *frequencies;
    size_t i;

    if (!(rule->base > 0) || !(rule->scale > 0)) {
        fail(why, "rope base %g or factor %g is not > 0", rule->base, rule->scale);
        return NULL;
    }
    frequencies = malloc((dims / 2 + 1) * sizeof *frequencies);
    if (!frequencies) fail(why, "out of memory");
    for (i = 0; frequencies && i < dims / 2; i++)
        frequencies[i] = pow(rule->base, -2.0 * (double)i / (double)dims) / rule->scale
                         / (rule->factors ? (double)rule->factors[i] : 1.0);
    return frequencies;
}

static double llama3_factor(const llama3_scaling *scaling, double frequency)
{
    double turns = scaling->original * frequency / 6.283185307179586, share;

    if (turns < scaling->low) return scaling->factor;
    if (turns > scaling->high) return 1.0;
    share = (turns - scaling->low) / (scaling->high - scaling->low);
    return 1.0 / ((1.0 - share) / scaling->factor + share);
}

void llama3_factors(const llama3_scaling *scaling, double base, size_t dims, float *factors)
{
    size_t i;
    for (i = 0; i < dims / 2; i++)
        factors[i] =
            (float)llama3_factor(scaling, pow(base, -2.0 * (double)i / (double)dims));
}

static bool made_by(const llama3_scaling *scaling, const rope_rule *rule, size_t dims)
{
    size_t i;

    for (i = 0; i < dims / 2; i++) {
        double factor = llama3_factor(scaling, pow(rule->base, -2.0 * (double)i / (double)dims));
        if (fabs((double)rule->factors[i] - factor) > 1e-3 * factor) return false;
    }
    return true;
}

const llama3_scaling *llama3_find(const rope_rule *rule, size_t dims)
{
    static const llama3_scaling published[2] = { { 8, 1, 4, 8192 }, { 32, 1, 4, 8192 } };
    size_t i;

    for (i = 0; i < 2; i++)
        if (made_by(&published[i], rule, dims)) return &published[i];
    return NULL;
}
