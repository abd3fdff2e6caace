/*  evaluate.h - what a model card tells: perplexity and speed; and a generated answer. */
#ifndef LLM_EVALUATE_H
#define LLM_EVALUATE_H

#include "model.h"

/*  Perplexity is taken over windows of this many tokens, each on its own, without a BOS token;
    every token but the first of its window is scored. A rest that fills no window is left out. */
#define WINDOW 512

/*  The tokens of a text file, without a BOS token; to be freed. */
bool read_tokens(const tokenizer *tok, const char *path, token_list *tokens, failure *why);

typedef struct text_score {
    double perplexity;
    size_t scored;              /* tokens */
    double prompt_rate;         /* tokens per second through the layers, a window at a time */
} text_score;

bool score_text(const model *m, compute *c, const token_list *text, const char *label,
                text_score *score, failure *why);

/*  Appends up to `limit` tokens, each the likeliest, until the model ends its answer. *rate: tokens
    per second after the prompt. */
bool generate(const model *m, compute *c, const token_list *prompt, size_t limit,
              token_list *answer, double *rate, failure *why);

/*  Tokens per second, for a prompt of WINDOW tokens up to the logits of its last, and for
    SPEED_TOKENS more, each the likeliest; after one prompt that is not timed. */
#define SPEED_TOKENS 128
typedef struct text_speed {
    double prompt_rate, generation_rate;
} text_speed;

bool measure_speed(const model *m, compute *c, const token_list *text, text_speed *speed,
                   failure *why);

/*  A fingerprint of the logits of the text's first 64 tokens: equal bits, equal fingerprints. */
bool fingerprint(const model *m, compute *c, const token_list *text, uint64_t *print, failure *why);

#endif
