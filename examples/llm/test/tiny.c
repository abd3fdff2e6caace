/*  tiny.c - see tiny.h. */
#include "tiny.h"

#include "../rope.h"

#include <math.h>

static void put(byte_buffer *out, const void *bytes, size_t size)
{
    if (out->size + size > out->capacity) {
        out->capacity = 2 * (out->size + size);
        out->bytes = realloc(out->bytes, out->capacity);
        if (!out->bytes) abort();
    }
    if (size) memcpy(out->bytes + out->size, bytes, size);
    out->size += size;
}

static void put_number(byte_buffer *out, uint64_t number, size_t size)
{
    unsigned char bytes[8];
    size_t i;
    for (i = 0; i < size; i++) bytes[i] = (unsigned char)(number >> (8 * i));
    put(out, bytes, size);
}

static void put_float(byte_buffer *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_number(out, bits, 4);
}

static void put_string(byte_buffer *out, const char *text)
{
    put_number(out, strlen(text), 8);
    put(out, text, strlen(text));
}

/* ---- metadata -------------------------------------------------------------------------------- */

typedef struct header {
    byte_buffer bytes;
    uint64_t values;
} header;

static void key(header *h, const char *name, uint32_t type)
{
    put_string(&h->bytes, name);
    put_number(&h->bytes, type, 4);
    h->values++;
}

static void number(header *h, const char *name, uint32_t value)
{
    key(h, name, GGUF_U32);
    put_number(&h->bytes, value, 4);
}

static void real(header *h, const char *name, float value)
{
    key(h, name, GGUF_FLOAT);
    put_float(&h->bytes, value);
}

static void text(header *h, const char *name, const char *value)
{
    key(h, name, GGUF_STRING);
    put_string(&h->bytes, value);
}

static void array(header *h, const char *name, uint32_t type, uint64_t count)
{
    key(h, name, GGUF_ARRAY);
    put_number(&h->bytes, type, 4);
    put_number(&h->bytes, count, 8);
}

/*  A byte as byte-level BPE writes it. */
static void put_byte_letter(byte_buffer *out, int byte)
{
    int code = byte, other, next = 256;
    unsigned char utf8[2];

    for (other = 0; other < 256; other++) {
        bool printable = (other > 32 && other < 127) || (other > 160 && other != 173);
        if (printable) continue;
        if (other == byte) code = next;
        next++;
    }
    if (code < 128) {
        put_number(out, 1, 8);
        put_number(out, (uint64_t)code, 1);
        return;
    }
    utf8[0] = (unsigned char)(0xc0 | code >> 6);
    utf8[1] = (unsigned char)(0x80 | (code & 0x3f));
    put_number(out, 2, 8);
    put(out, utf8, 2);
}

#define MERGES 17
static const char merges[MERGES][16] = { "1 2",
                                         "12 3",
                                         "123 4",
                                         "\xc4\xa0 1",
                                         "a 1",
                                         "' s",
                                         "' S",
                                         "\xc4\xa0 a",
                                         "! a",
                                         "\xc4\xa0 \xc4\xa0",
                                         "\xc4\xa0\xc4\xa0 \xc4\xa0",
                                         "t h",
                                         "th e",
                                         "! \xc4\x8a",
                                         "\xc4\x8a \xc4\x8a",
                                         "\xc3\x83 \xc2\xa9",
                                         "! \xc2\xa1" };

static void put_vocabulary(header *h)
{
    static const char specials[4][24] = { "<|im_start|>", "<|im_end|>", "<user>", "<user>+" };
    int i;

    array(h, "tokenizer.ggml.tokens", GGUF_STRING, TINY_VOCABULARY);
    for (i = 0; i < 4; i++) put_string(&h->bytes, specials[i]);
    for (i = 0; i < 256; i++) put_byte_letter(&h->bytes, i);
    for (i = 0; i < MERGES; i++) {
        const char *space = strchr(merges[i] + 1, ' ');
        put_number(&h->bytes, strlen(merges[i]) - 1, 8);
        put(&h->bytes, merges[i], (size_t)(space - merges[i]));
        put(&h->bytes, space + 1, strlen(space + 1));
    }
    array(h, "tokenizer.ggml.token_type", GGUF_S32, TINY_VOCABULARY);
    for (i = 0; i < TINY_VOCABULARY; i++) put_number(&h->bytes, i < 2 ? 3 : i < 4 ? 4 : 1, 4);
    array(h, "tokenizer.ggml.merges", GGUF_STRING, MERGES);
    for (i = 0; i < MERGES; i++) put_string(&h->bytes, merges[i]);
}

static void put_metadata(header *h, tiny_options options)
{
    text(h, "general.architecture", "llama");
    text(h, "general.name", "tiny");
    number(h, "llama.block_count", TINY_LAYERS);
    number(h, "llama.context_length", TINY_CONTEXT);
    number(h, "llama.embedding_length", TINY_DIM);
    number(h, "llama.feed_forward_length", TINY_FFN);
    number(h, "llama.attention.head_count", TINY_HEADS);
    number(h, "llama.attention.head_count_kv", TINY_KV_HEADS);
    real(h, "llama.rope.freq_base", 10000.0f);
    real(h, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    text(h, "tokenizer.ggml.model", "gpt2");
    text(h, "tokenizer.ggml.pre", options.pre);
    number(h, "tokenizer.ggml.bos_token_id", TINY_START);
    number(h, "tokenizer.ggml.eos_token_id", TINY_END);
    put_vocabulary(h);
}

/* ---- tensors --------------------------------------------------------------------------------- */

typedef struct tensors {
    byte_buffer infos, data;
    uint64_t count;
    uint64_t random;
} tensors;

/*  Nearly normal, mean 0, variance 1. */
static float next_random(tensors *t)
{
    double sum = 0;
    int i;
    for (i = 0; i < 12; i++) {
        t->random = t->random * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(t->random >> 40) / 16777216.0;
    }
    return (float)(sum - 6.0);
}

static void put_bf16(byte_buffer *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_number(out, bits >> 16, 2);
}

/*  32 random weights as one Q8_0 block with the fp16 scale 2^-9. */
static void put_q8_0(tensors *t, float deviation)
{
    int i;
    put_number(&t->data, 0x1800, 2);
    for (i = 0; i < 32; i++) {
        long q = lroundf(next_random(t) * deviation * 512.0f);
        q = q > 127 ? 127 : q < -127 ? -127 : q;
        put_number(&t->data, (uint64_t)q & 0xff, 1);
    }
}

static void tensor(tensors *t, const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                   float mean, float deviation)
{
    uint64_t i;

    while (t->data.size % 32) put_number(&t->data, 0, 1);
    put_string(&t->infos, name);
    put_number(&t->infos, rows > 1 ? 2 : 1, 4);
    put_number(&t->infos, columns, 8);
    if (rows > 1) put_number(&t->infos, rows, 8);
    put_number(&t->infos, type, 4);
    put_number(&t->infos, t->data.size, 8);
    t->count++;
    if (type == GGUF_Q8_0)
        for (i = 0; i < rows * columns / 32; i++) put_q8_0(t, deviation);
    else
        for (i = 0; i < rows * columns; i++) {
            float value = mean + deviation * next_random(t);
            if (type == GGUF_BF16)
                put_bf16(&t->data, value);
            else
                put_float(&t->data, value);
        }
}

static void put_layer(tensors *t, int index, uint32_t type)
{
    static const struct {
        char name[16];
        uint64_t rows, columns;
    } linears[7] = { { "attn_q", TINY_HEADS * TINY_HEAD_DIM, TINY_DIM },
                     { "attn_k", TINY_KV_HEADS * TINY_HEAD_DIM, TINY_DIM },
                     { "attn_v", TINY_KV_HEADS * TINY_HEAD_DIM, TINY_DIM },
                     { "attn_output", TINY_DIM, TINY_HEADS * TINY_HEAD_DIM },
                     { "ffn_gate", TINY_FFN, TINY_DIM },
                     { "ffn_up", TINY_FFN, TINY_DIM },
                     { "ffn_down", TINY_DIM, TINY_FFN } };
    char name[64];
    int i;

    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", index);
    tensor(t, name, 1, TINY_DIM, GGUF_F32, 1.0f, 0.2f);
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", index);
    tensor(t, name, 1, TINY_DIM, GGUF_F32, 1.0f, 0.2f);
    for (i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "blk.%d.%.15s.weight", index, linears[i].name);
        tensor(t, name, linears[i].rows, linears[i].columns, type, 0.0f, 0.1f);
        snprintf(name, sizeof name, "blk.%d.%.15s.bias", index, linears[i].name);
        if (i < 3 || i == 5) tensor(t, name, 1, linears[i].rows, GGUF_F32, 0.0f, 0.1f);
    }
}

static void put_rope(tensors *t, tiny_rope rope)
{
    static const llama3_scaling llama31 = { 8, 1, 4, 8192 };
    float factors[TINY_HEAD_DIM / 2];
    size_t i;

    if (rope == TINY_ROPE_NONE) return;
    tensor(t, "rope_freqs.weight", 1, TINY_HEAD_DIM / 2, GGUF_F32, 2.0f, 0.2f);
    if (rope == TINY_ROPE_RANDOM) return;
    t->data.size -= sizeof factors;
    llama3_factors(&llama31, 10000.0, TINY_HEAD_DIM, factors);
    for (i = 0; i < TINY_HEAD_DIM / 2; i++) put_float(&t->data, factors[i]);
}

byte_buffer tiny_gguf(tiny_options options, size_t *header_size)
{
    byte_buffer file = { NULL, 0, 0 };
    header h;
    tensors t;
    int i;

    memset(&h, 0, sizeof h);
    memset(&t, 0, sizeof t);
    t.random = 20240607;
    put_metadata(&h, options);
    tensor(&t, "token_embd.weight", TINY_VOCABULARY, TINY_DIM, GGUF_F32, 0.0f, 1.0f);
    tensor(&t, "output_norm.weight", 1, TINY_DIM, GGUF_F32, 1.0f, 0.2f);
    if (!options.tied) tensor(&t, "output.weight", TINY_VOCABULARY, TINY_DIM, GGUF_F32, 0.0f, 0.3f);
    put_rope(&t, options.rope);
    for (i = 0; i < TINY_LAYERS; i++) put_layer(&t, i, options.type);

    put(&file, "GGUF", 4);
    put_number(&file, 3, 4);
    put_number(&file, t.count, 8);
    put_number(&file, h.values, 8);
    put(&file, h.bytes.bytes, h.bytes.size);
    put(&file, t.infos.bytes, t.infos.size);
    while (file.size % 32) put_number(&file, 0, 1);
    *header_size = file.size;
    put(&file, t.data.bytes, t.data.size);
    free(h.bytes.bytes);
    free(t.infos.bytes);
    free(t.data.bytes);
    return file;
}
