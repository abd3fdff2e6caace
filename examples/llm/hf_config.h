/*  hf_config.h - config.json and generation_config.json of a Llama, read and written. */
#ifndef LLM_HF_CONFIG_H
#define LLM_HF_CONFIG_H

#include "model.h"

/*  Fills in sizes, rope, epsilon and whether the head is tied. *rows: of the embedding. */
bool hf_config_read(const json_t *config, model *m, size_t *rows, failure *why);

/*  Where a text begins and ends; the end is a number, or an array of them. */
void hf_config_read_ids(const json_t *config, vocabulary *words);

/*  What HF's Llama cannot express is refused: partial rope, rope factors of no published model. */
bool hf_config_check(const model *m, failure *why);
/*  HF's Llama has biases in all linears of attention, or of the ffn, or in none of them. */
bool hf_config_has_bias(const model *m, size_t which);
/*  NULL: out of memory. */
json_t *hf_config_make(const model *m, awq_quant quant);
json_t *hf_generation_config_make(const model *m);

#endif
