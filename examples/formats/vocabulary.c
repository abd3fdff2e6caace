/*  vocabulary.c - see vocabulary.h. */
#include "vocabulary.h"

const char *pre_tokenizer_name(pre_tokenizer pre)
{
    static const char names[PRE_TOKENIZERS][12] = { "gpt-2", "smollm", "llama-bpe" };
    return names[pre];
}

static bool read_kind(vocabulary *words, const gguf_file *gguf, failure *why)
{
    gguf_string model, pre;
    int i;

    if (!gguf_get_string(gguf, "tokenizer.ggml.model", &model) || !gguf_string_is(model, "gpt2"))
        return fail(why,
                    "this program tokenizes byte-level BPE only (tokenizer.ggml.model = gpt2)");
    if (!gguf_get_string(gguf, "tokenizer.ggml.pre", &pre))
        return fail(why, "the GGUF file does not name its pre-tokenizer (tokenizer.ggml.pre)");
    for (i = 0; i < PRE_TOKENIZERS; i++) {
        words->pre = (pre_tokenizer)i;
        if (gguf_string_is(pre, pre_tokenizer_name(words->pre))) return true;
    }
    return fail(why, "pre-tokenizer \"%s\" is not known; smollm, gpt-2 and llama-bpe are",
                gguf_show(pre).text);
}

static const gguf_value *string_array(const gguf_file *gguf, const char *key)
{
    const gguf_value *value = gguf_find_value(gguf, key);
    return value && value->is_array && value->type == GGUF_STRING ? value : NULL;
}

static token_kind kind_of_type(uint32_t type)
{
    enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };
    if (type == TYPE_USER_DEFINED) return TOKEN_USER;
    return type == TYPE_UNKNOWN || type == TYPE_CONTROL ? TOKEN_CONTROL : TOKEN_NORMAL;
}

static bool read_tokens(vocabulary *words, const gguf_file *gguf, failure *why)
{
    const gguf_value *texts = string_array(gguf, "tokenizer.ggml.tokens");
    const gguf_value *types = gguf_find_value(gguf, "tokenizer.ggml.token_type");
    const unsigned char *cursor;
    size_t i;

    if (!texts || texts->count == 0 || texts->count >= NO_TOKEN / 2 || texts->size >= NO_TOKEN)
        return fail(why, "the GGUF file has no usable vocabulary (tokenizer.ggml.tokens)");
    if (types
        && (!types->is_array || (types->type != GGUF_S32 && types->type != GGUF_U32)
            || types->count != texts->count))
        return fail(why, "tokenizer.ggml.token_type does not fit the vocabulary");
    words->tokens_count = (size_t)texts->count;
    words->tokens = calloc(words->tokens_count, sizeof *words->tokens);
    if (!words->tokens) return fail(why, "out of memory");
    cursor = texts->data;
    for (i = 0; i < words->tokens_count; i++) {
        words->tokens[i].text = gguf_next_string(&cursor);
        words->tokens[i].kind = types ? kind_of_type(gguf_u32_at(types, i)) : TOKEN_NORMAL;
    }
    return true;
}

static bool read_merges(vocabulary *words, const gguf_file *gguf, failure *why)
{
    const gguf_value *texts = string_array(gguf, "tokenizer.ggml.merges");
    const unsigned char *cursor;
    size_t i;

    if (!texts || texts->count >= NO_TOKEN / 2)
        return fail(why, "the GGUF file has no usable merges (tokenizer.ggml.merges)");
    words->merges_count = (size_t)texts->count;
    words->merges = calloc(words->merges_count + 1, sizeof *words->merges);
    if (!words->merges) return fail(why, "out of memory");
    cursor = texts->data;
    for (i = 0; i < words->merges_count; i++)
        if (!vocabulary_split_merge(gguf_next_string(&cursor), &words->merges[i]))
            return fail(why, "tokenizer.ggml.merges: entry %zu is not two pieces", i);
    return true;
}

bool vocabulary_split_merge(gguf_string text, vocabulary_merge *merge)
{
    const char *space = text.length > 2 ? memchr(text.bytes + 1, ' ', text.length - 1) : NULL;

    if (!space) return false;
    merge->left.bytes = text.bytes;
    merge->left.length = (size_t)(space - text.bytes);
    merge->right.bytes = space + 1;
    merge->right.length = text.length - merge->left.length - 1;
    return true;
}

static uint32_t read_id(const vocabulary *words, const gguf_file *gguf, const char *key)
{
    size_t id;
    return gguf_get_size(gguf, key, &id) && id < words->tokens_count ? (uint32_t)id : NO_TOKEN;
}

bool vocabulary_from_gguf(vocabulary *words, const gguf_file *gguf, failure *why)
{
    memset(words, 0, sizeof *words);
    if (!read_kind(words, gguf, why) || !read_tokens(words, gguf, why)
        || !read_merges(words, gguf, why)) {
        vocabulary_close(words);
        return false;
    }
    words->bos = read_id(words, gguf, "tokenizer.ggml.bos_token_id");
    words->eos = read_id(words, gguf, "tokenizer.ggml.eos_token_id");
    words->eot = read_id(words, gguf, "tokenizer.ggml.eot_token_id");
    words->unknown = read_id(words, gguf, "tokenizer.ggml.unknown_token_id");
    words->padding = read_id(words, gguf, "tokenizer.ggml.padding_token_id");
    words->add_bos = words->pre == PRE_LLAMA_BPE;
    gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &words->add_bos);
    gguf_get_string(gguf, "tokenizer.chat_template", &words->chat_template);
    return true;
}

void vocabulary_close(vocabulary *words)
{
    free(words->tokens);
    free(words->merges);
    json_decref(words->json[0]);
    json_decref(words->json[1]);
    memset(words, 0, sizeof *words);
}
