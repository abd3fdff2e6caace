/*  rope.h - rotary positions: how far each pair of channels turns per position. */
#ifndef LLM_ROPE_H
#define LLM_ROPE_H

#include "../common/files.h"

/*  Pair i turns by base^(-2 i / dims) / scale / factors[i] radians. */
typedef struct rope_rule {
    double base, scale;
    float *factors;             /* [dims / 2], or NULL for 1; owned by whoever has the rule */
} rope_rule;

/*  [dims / 2], to be freed; NULL and a message if there is no such rule. */
double *rope_frequencies(const rope_rule *rule, size_t dims, failure *why);

/*  The factors of Llama 3.1 and later: slow pairs (fewer than `low` turns in `original` positions)
    turn `factor` times slower, fast ones (more than `high`) as ever, those between in between. */
typedef struct llama3_scaling {
    double factor, low, high, original;
} llama3_scaling;

void llama3_factors(const llama3_scaling *scaling, double base, size_t dims, float *factors);
/*  Which of the published models' scalings made these factors; NULL if none did. */
const llama3_scaling *llama3_find(const rope_rule *rule, size_t dims);

#endif
