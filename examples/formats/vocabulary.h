/*  vocabulary.h - the byte-level BPE vocabulary of a model, from the metadata of a GGUF file; from
    a Hugging Face directory it comes by tokenizer_json.h. Its strings stay where they were read. */
#ifndef FORMATS_VOCABULARY_H
#define FORMATS_VOCABULARY_H

#include "gguf.h"

#include <jansson.h>

#define NO_TOKEN UINT32_MAX

/*  How text is cut into words before bytes are merged; named as in tokenizer.ggml.pre. */
typedef enum pre_tokenizer { PRE_GPT2, PRE_SMOLLM, PRE_LLAMA_BPE, PRE_TOKENIZERS } pre_tokenizer;
const char *pre_tokenizer_name(pre_tokenizer pre);

typedef enum token_kind {
    TOKEN_NORMAL,       /* its text is written in the alphabet of byte-level BPE */
    TOKEN_USER,         /* text as it is, found before anything else is done */
    TOKEN_CONTROL       /* the same, but never in plain text: only where the host puts it */
} token_kind;

typedef struct vocabulary_entry {
    gguf_string text;
    token_kind kind;
} vocabulary_entry;

typedef struct vocabulary_merge { gguf_string left, right; } vocabulary_merge;

typedef struct vocabulary {
    pre_tokenizer pre;
    vocabulary_entry *tokens;           /* an id without a token: empty, TOKEN_CONTROL */
    size_t tokens_count;
    vocabulary_merge *merges;           /* the first has the lowest rank */
    size_t merges_count;
    uint32_t bos, eos, eot, unknown, padding;       /* NO_TOKEN where there is none */
    bool add_bos;
    gguf_string chat_template;
    json_t *json[2];                    /* where the strings are, unless in a GGUF file */
} vocabulary;

/*  "left right" at its first space; false if there are no two pieces. */
bool vocabulary_split_merge(gguf_string text, vocabulary_merge *merge);

bool vocabulary_from_gguf(vocabulary *words, const gguf_file *gguf, failure *why);
/*  Also fine after a failed read. */
void vocabulary_close(vocabulary *words);

#endif
