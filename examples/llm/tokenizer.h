/*  tokenizer.h - text to token ids and back.

    Byte-level BPE with the pre-tokenizers smollm, gpt-2 and llama-bpe. Bytes that are not UTF-8
    count as U+FFFD. */
#ifndef LLM_TOKENIZER_H
#define LLM_TOKENIZER_H

#include "../formats/vocabulary.h"

typedef struct token_list {
    uint32_t *ids;
    size_t count, capacity;
} token_list;

bool token_list_add(token_list *list, uint32_t id, failure *why);
void token_list_free(token_list *list);

typedef struct vocabulary_token {
    const unsigned char *bytes;     /* what the token stands for, in the text's own bytes */
    uint32_t length;
    bool is_special;                /* found in text before anything else is done with it */
    bool is_control;                /* never in plain text: only where the host puts it */
} vocabulary_token;

typedef struct bpe_merge { uint32_t left, right, rank, result; } bpe_merge;

typedef struct tokenizer {
    pre_tokenizer pre;
    vocabulary_token *tokens;
    size_t tokens_count;
    unsigned char *bytes;           /* of all tokens */
    uint32_t *by_bytes;             /* hash table of token ids, NO_TOKEN where empty */
    size_t by_bytes_mask;
    bpe_merge *merges;              /* hash table by (left, right), rank NO_TOKEN where empty */
    size_t merges_mask;
    uint32_t *specials;             /* ids, longest first */
    size_t specials_count;
    uint32_t byte_tokens[256];      /* the token of one byte; NO_TOKEN if the vocabulary lacks it */
    uint32_t bos, eos, eot;         /* NO_TOKEN where there is none */
    bool add_bos;
    gguf_string chat_template;
} tokenizer;

/*  The words' strings must stay; the rest of them may go. */
bool tokenizer_open(tokenizer *tok, const vocabulary *words, failure *why);
void tokenizer_close(tokenizer *tok);

/*  Appends the tokens of text. Control tokens written out in the text are taken for what they name
    only if `controls`: say false for text that comes from somebody else. */
bool tokenizer_encode(const tokenizer *tok, const char *text, size_t length, bool controls,
                      token_list *out, failure *why);

/*  Appends a question in the form that chat models were trained on (ChatML or Llama 3), so that the
    answer comes next; for other models the plain text. */
bool tokenizer_encode_chat(const tokenizer *tok, const char *question, token_list *out,
                           failure *why);

/*  True for the tokens that end an answer. */
bool tokenizer_is_end(const tokenizer *tok, uint32_t id);

#endif
