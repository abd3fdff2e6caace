/*  tiny.h - writes a small Llama-architecture GGUF with random weights, for the tests. */
#ifndef LLM_TINY_H
#define LLM_TINY_H

#include "../../formats/gguf.h"

enum {
    TINY_DIM = 64, TINY_FFN = 96, TINY_HEADS = 4, TINY_KV_HEADS = 2, TINY_HEAD_DIM = 16,
    TINY_LAYERS = 2, TINY_CONTEXT = 1024, TINY_VOCABULARY = 256 + 4 + 17
};

enum { TINY_END = 1, TINY_START = 0, TINY_USER = 2, TINY_LONGER = 3 };     /* special tokens */

typedef struct byte_buffer {
    unsigned char *bytes;
    size_t size, capacity;
} byte_buffer;

typedef enum tiny_rope {        /* rope_freqs.weight: */
    TINY_ROPE_RANDOM, TINY_ROPE_NONE, TINY_ROPE_LLAMA3
} tiny_rope;

typedef struct tiny_options {
    const char *pre;            /* pre-tokenizer */
    bool tied;                  /* no output.weight */
    uint32_t type;              /* of the linears */
    tiny_rope rope;
} tiny_options;

/*  The whole file; *header_size is where the tensor data begins. */
byte_buffer tiny_gguf(tiny_options options, size_t *header_size);

#endif
