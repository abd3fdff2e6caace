/*  tokenizer_json.h - a vocabulary from and to tokenizer.json, the file of Hugging Face's
    tokenizers: byte-level BPE with the pre-tokenizers that vocabulary.h names. */
#ifndef FORMATS_TOKENIZER_JSON_H
#define FORMATS_TOKENIZER_JSON_H

#include "json.h"
#include "vocabulary.h"

/*  From tokenizer.json and (if there is one) tokenizer_config.json in this directory. The model has
    `count` ids; those that no token has stay empty. eos and eot are not known to these files. */
bool tokenizer_json_read(vocabulary *words, const char *directory, size_t count, failure *why);

/*  NULL and a message for words that JSON cannot hold. The caller owns what they return. */
json_t *tokenizer_json_make(const vocabulary *words, failure *why);
json_t *tokenizer_config_make(const vocabulary *words, size_t context, failure *why);

#endif
