/*  tokenizer_json.c - see tokenizer_json.h. */
#include "tokenizer_json.h"

/* ---- pre-tokenizers -------------------------------------------------------------------------- */

#define BYTE_LEVEL(regex)                                                                          \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "              \
    "\"use_regex\": " regex "}"
#define SEQUENCE(first)                                                                            \
    "{\"type\": \"Sequence\", \"pretokenizers\": [" first "]}"

static const char *const pre_tokenizer_texts[PRE_TOKENIZERS] = {
    BYTE_LEVEL("true"),
    SEQUENCE("{\"type\": \"Digits\", \"individual_digits\": true}, " BYTE_LEVEL("true")),
    SEQUENCE("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
             "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
             "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
             "\"behavior\": \"Isolated\", \"invert\": false}, " BYTE_LEVEL("false"))
};

static json_t *pre_tokenizer_json(pre_tokenizer pre)
{
    return json_loads(pre_tokenizer_texts[pre], 0, NULL);
}

/*  What makes no difference to the words is made the same. */
static void normalize(json_t *step)
{
    json_t *steps = json_object_get(step, "pretokenizers");
    const char *type = json_string_value(json_object_get(step, "type"));
    size_t i;

    for (i = 0; i < json_array_size(steps); i++) normalize(json_array_get(steps, i));
    if (!type || strcmp(type, "ByteLevel") != 0) return;
    json_object_set_new(step, "trim_offsets", json_true());
    if (!json_object_get(step, "use_regex")) json_object_set_new(step, "use_regex", json_true());
}

static bool read_pre_tokenizer(vocabulary *words, const json_t *root, failure *why)
{
    json_t *found = json_deep_copy(json_object_get(root, "pre_tokenizer"));
    bool known = false;
    int i;

    normalize(found);
    for (i = 0; i < PRE_TOKENIZERS && !known; i++) {
        json_t *candidate = pre_tokenizer_json((pre_tokenizer)i);
        known = candidate && json_equal(found, candidate);
        words->pre = (pre_tokenizer)i;
        json_decref(candidate);
    }
    json_decref(found);
    return known ? true
                 : fail(why, "tokenizer.json: its pre_tokenizer is none that is known "
                             "(those of GPT-2, SmolLM and Llama 3 are)");
}

/* ---- reading --------------------------------------------------------------------------------- */

static gguf_string string_of(const json_t *value)
{
    gguf_string string = { json_string_value(value), json_string_length(value) };
    return string;
}

static bool is_empty(const json_t *value)
{
    return !value || json_is_null(value) || json_is_false(value)
           || (json_is_string(value) && json_string_length(value) == 0)
           || (json_is_array(value) && json_array_size(value) == 0);
}

/*  What this tokenizer would do differently is refused by name. */
static bool check_kind(const vocabulary *words, const json_t *root, failure *why)
{
    static const char *const absent[] = { "dropout", "continuing_subword_prefix",
                                          "end_of_word_suffix", "byte_fallback" };
    const json_t *bpe = json_object_get(root, "model");
    const char *type = json_string_value(json_object_get(bpe, "type"));
    bool whole_words = json_is_true(json_object_get(bpe, "ignore_merges"));
    size_t i;

    if (type && strcmp(type, "BPE") != 0)
        return fail(why, "tokenizer.json: model \"%s\"; only byte-level BPE is known",
                    json_show(type).text);
    if (!is_empty(json_object_get(root, "normalizer")))
        return fail(why, "tokenizer.json: has a normalizer; only tokenizers without one are known");
    for (i = 0; i < sizeof absent / sizeof absent[0]; i++)
        if (!is_empty(json_object_get(bpe, absent[i])))
            return fail(why, "tokenizer.json: its BPE uses \"%s\", which is not known", absent[i]);
    if (whole_words != (words->pre == PRE_LLAMA_BPE))
        return fail(why, "tokenizer.json: ignore_merges with the pre_tokenizer of %s is not known",
                    pre_tokenizer_name(words->pre));
    return true;
}

static bool set_token(vocabulary *words, const json_t *id, gguf_string text, token_kind kind,
                      failure *why)
{
    size_t index;

    if (!json_get_size(id, &index) || index >= words->tokens_count)
        return fail(why, "tokenizer.json: the id of \"%s\" is not one of the model's %zu",
                    gguf_show(text).text, words->tokens_count);
    if (kind == TOKEN_NORMAL && words->tokens[index].text.length)
        return fail(why, "tokenizer.json: \"%s\" has the id of another token",
                    gguf_show(text).text);
    words->tokens[index].text = text;
    words->tokens[index].kind = kind;
    return true;
}

static bool read_words(vocabulary *words, json_t *root, failure *why)
{
    json_t *texts = json_object_get(json_object_get(root, "model"), "vocab"), *id;
    const char *text;
    size_t i;

    words->tokens = calloc(words->tokens_count, sizeof *words->tokens);
    if (!words->tokens) return fail(why, "out of memory");
    for (i = 0; i < words->tokens_count; i++) words->tokens[i].kind = TOKEN_CONTROL;
    if (json_object_size(texts) == 0) return fail(why, "tokenizer.json: it has no model.vocab");
    json_object_foreach(texts, text, id) {
        gguf_string string = { text, strlen(text) };
        if (!set_token(words, id, string, TOKEN_NORMAL, why)) return false;
    }
    return true;
}

static bool read_added(vocabulary *words, const json_t *root, failure *why)
{
    const json_t *added = json_object_get(root, "added_tokens"), *token;
    size_t i;

    json_array_foreach(added, i, token) {
        const json_t *text = json_object_get(token, "content");
        bool special = json_is_true(json_object_get(token, "special"));
        if (!json_is_string(text))
            return fail(why, "tokenizer.json: added token %zu has no content", i);
        if (json_is_true(json_object_get(token, "lstrip"))
            || json_is_true(json_object_get(token, "rstrip"))
            || json_is_true(json_object_get(token, "single_word")))
            return fail(why, "tokenizer.json: \"%s\" strips blanks or is a single word, which is "
                             "not known",
                        json_show(json_string_value(text)).text);
        if (!set_token(words, json_object_get(token, "id"), string_of(text),
                       special ? TOKEN_CONTROL : TOKEN_USER, why))
            return false;
    }
    return true;
}

/*  "left right", or since 2024 ["left", "right"]. */
static bool read_merge(const json_t *entry, vocabulary_merge *merge)
{
    if (json_is_string(entry)) return vocabulary_split_merge(string_of(entry), merge);
    merge->left = string_of(json_array_get(entry, 0));
    merge->right = string_of(json_array_get(entry, 1));
    return json_array_size(entry) == 2 && merge->left.length && merge->right.length;
}

static bool read_merges(vocabulary *words, const json_t *root, failure *why)
{
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    size_t i;

    words->merges_count = json_array_size(merges);
    words->merges = calloc(words->merges_count + 1, sizeof *words->merges);
    if (!words->merges) return fail(why, "out of memory");
    for (i = 0; i < words->merges_count; i++)
        if (!read_merge(json_array_get(merges, i), &words->merges[i]))
            return fail(why, "tokenizer.json: entry %zu of its merges is not two pieces", i);
    return true;
}

static uint32_t find_token(const vocabulary *words, const json_t *text)
{
    size_t i;

    if (json_is_object(text)) text = json_object_get(text, "content");
    for (i = 0; json_is_string(text) && i < words->tokens_count; i++) {
        gguf_string token = words->tokens[i].text;
        if (token.length && gguf_string_is(token, json_string_value(text))) return (uint32_t)i;
    }
    return NO_TOKEN;
}

/*  The token that a template puts first, or NULL. The template may be a step of a sequence. */
static const json_t *first_of_template(const json_t *processor)
{
    const json_t *steps = json_object_get(processor, "processors"), *step;
    const json_t *first = json_array_get(json_object_get(processor, "single"), 0);
    const json_t *found = json_object_get(json_object_get(first, "SpecialToken"), "id");
    size_t i;

    json_array_foreach(steps, i, step) if (!found) found = first_of_template(step);
    return found;
}

static void read_config(vocabulary *words, const json_t *root, const json_t *config)
{
    const json_t *template = json_object_get(config, "chat_template");
    const json_t *first = first_of_template(json_object_get(root, "post_processor"));

    words->bos = find_token(words, json_object_get(config, "bos_token"));
    words->eos = find_token(words, json_object_get(config, "eos_token"));
    words->unknown = find_token(words, json_object_get(config, "unk_token"));
    words->padding = find_token(words, json_object_get(config, "pad_token"));
    words->eot = NO_TOKEN;
    words->add_bos = first && find_token(words, first) != NO_TOKEN;
    if (words->add_bos) words->bos = find_token(words, first);
    if (json_is_string(template)) words->chat_template = string_of(template);
}

static json_t *open_json(const char *directory, const char *name, failure *why)
{
    size_t length = strlen(directory) + strlen(name) + 2;
    char *path = malloc(length);
    json_t *root = NULL;

    if (!path) {
        fail(why, "out of memory");
        return NULL;
    }
    snprintf(path, length, "%s/%s", directory, name);
    root = json_read_file(path, why);
    free(path);
    return root;
}

static bool read_tokenizer(vocabulary *words, failure *why)
{
    json_t *root = words->json[0];
    return read_pre_tokenizer(words, root, why) && check_kind(words, root, why)
           && read_words(words, root, why) && read_added(words, root, why)
           && read_merges(words, root, why);
}

bool tokenizer_json_read(vocabulary *words, const char *directory, size_t count, failure *why)
{
    failure unread;

    memset(words, 0, sizeof *words);
    words->tokens_count = count;
    words->json[0] = open_json(directory, "tokenizer.json", why);
    if (!words->json[0] || !read_tokenizer(words, why)) {
        vocabulary_close(words);
        return false;
    }
    words->json[1] = open_json(directory, "tokenizer_config.json", &unread);
    read_config(words, words->json[0], words->json[1]);
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

/*  NULL and a message for bytes that are not UTF-8. */
static json_t *json_of(gguf_string text, failure *why)
{
    json_t *value = json_stringn(text.bytes, text.length);
    if (!value || strlen(json_string_value(value)) != text.length) {
        fail(why, "the token \"%s\" is not UTF-8 text, which tokenizer.json needs",
             gguf_show(text).text);
        json_decref(value);
        return NULL;
    }
    return value;
}

static json_t *make_words(const vocabulary *words, failure *why)
{
    json_t *made = json_object();
    size_t i;

    for (i = 0; i < words->tokens_count; i++) {
        json_t *text = json_of(words->tokens[i].text, why);
        const char *key = json_string_value(text);
        bool twice = text && json_object_get(made, key);
        if (text && !twice) json_object_set_new(made, key, json_integer((json_int_t)i));
        if (twice)
            fail(why, "two tokens are \"%s\"; tokenizer.json holds one", json_show(key).text);
        json_decref(text);
        if (text && !twice) continue;
        json_decref(made);
        return NULL;
    }
    return made;
}

/*  All of them are valid texts: make_words() came first. */
static json_t *make_added(const vocabulary *words)
{
    json_t *made = json_array();
    size_t i;

    for (i = 0; i < words->tokens_count; i++) {
        const vocabulary_entry *token = &words->tokens[i];
        if (token->kind == TOKEN_NORMAL) continue;
        json_array_append_new(
            made, json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content",
                            token->text.bytes, token->text.length, "single_word", 0, "lstrip", 0,
                            "rstrip", 0, "normalized", 0, "special",
                            token->kind == TOKEN_CONTROL));
    }
    return made;
}

static json_t *make_merges(const vocabulary *words, failure *why)
{
    json_t *made = json_array();
    size_t i;

    for (i = 0; i < words->merges_count; i++) {
        const vocabulary_merge *merge = &words->merges[i];
        json_t *text = json_pack("s%++%", merge->left.bytes, merge->left.length, " ",
                                 merge->right.bytes, merge->right.length);
        if (text) {
            json_array_append_new(made, text);
            continue;
        }
        fail(why, "entry %zu of the merges is not UTF-8 text, which tokenizer.json needs", i);
        json_decref(made);
        return NULL;
    }
    return made;
}

/*  Steals the text of token `id`, which comes before every text. */
static json_t *template_of(json_t *text, uint32_t id)
{
    json_t *first = json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", text, "type_id", 0);
    json_t *second = json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", text, "type_id", 1);
    json_t *a = json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0);
    json_t *b = json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1);
    json_t *specials = json_object();

    json_object_set_new(specials, json_string_value(text),
                        json_pack("{s:O, s:[I], s:[O]}", "id", text, "ids", (json_int_t)id,
                                  "tokens", text));
    json_decref(text);
    return json_pack("{s:s, s:[O, O], s:[o, o, o, o], s:o}", "type", "TemplateProcessing",
                     "single", first, a, "pair", first, a, second, b, "special_tokens", specials);
}

static json_t *make_template(const vocabulary *words)
{
    gguf_string bos;

    if (!words->add_bos || words->bos == NO_TOKEN) return json_null();
    bos = words->tokens[words->bos].text;
    return template_of(json_stringn(bos.bytes, bos.length), words->bos);
}

json_t *tokenizer_json_make(const vocabulary *words, failure *why)
{
    json_t *vocab = make_words(words, why), *merges = vocab ? make_merges(words, why) : NULL;
    json_t *made = NULL;

    if (vocab && merges)
        made = json_pack(
            "{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:{s:s, s:b, s:b, s:b},"
            " s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}}",
            "version", "1.0", "truncation", "padding", "added_tokens", make_added(words),
            "normalizer", "pre_tokenizer", pre_tokenizer_json(words->pre), "post_processor",
            make_template(words), "decoder", "type", "ByteLevel", "add_prefix_space", 1,
            "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "dropout", "unk_token",
            "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
            "ignore_merges", words->pre == PRE_LLAMA_BPE, "vocab", vocab, "merges", merges);
    if (vocab && merges && !made) fail(why, "out of memory");
    json_decref(vocab);
    json_decref(merges);
    return made;
}

static void set_text(json_t *object, const char *key, const vocabulary *words, uint32_t id)
{
    if (id == NO_TOKEN) return;
    json_object_set_new(object, key, json_stringn(words->tokens[id].text.bytes,
                                                  words->tokens[id].text.length));
}

json_t *tokenizer_config_make(const vocabulary *words, size_t context, failure *why)
{
    json_t *made = json_pack("{s:s, s:b, s:I}", "tokenizer_class", "PreTrainedTokenizerFast",
                             "clean_up_tokenization_spaces", 0, "model_max_length",
                             (json_int_t)context);

    if (!made) {
        fail(why, "out of memory");
        return NULL;
    }
    set_text(made, "bos_token", words, words->bos);
    set_text(made, "eos_token", words, words->eos);
    set_text(made, "unk_token", words, words->unknown);
    set_text(made, "pad_token", words, words->padding);
    if (words->chat_template.length)
        json_object_set_new(made, "chat_template", json_stringn(words->chat_template.bytes,
                                                                words->chat_template.length));
    return made;
}
