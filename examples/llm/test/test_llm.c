/*  test_llm.c - the parts of examples/llm on a small random model: hostile files, tokens, the
    forward pass against a plain one in double, quantize, save, load. */
#include "../export.h"
#include "../rope_order.h"
#include "../study.h"
#include "tiny.h"

#include "../../common/asserts.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <time.h>

static char path[64], other_path[64], directory[64];
static failure why;

static void write_file(const char *to, const unsigned char *bytes, size_t size)
{
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static byte_buffer make_tiny(const char *pre, bool tied, uint32_t type, size_t *header_size)
{
    tiny_options options;
    size_t ignored;

    options.pre = pre;
    options.tied = tied;
    options.type = type;
    options.rope = TINY_ROPE_RANDOM;
    return tiny_gguf(options, header_size ? header_size : &ignored);
}

static void write_tiny(const char *pre, bool tied, uint32_t type)
{
    byte_buffer file = make_tiny(pre, tied, type, NULL);
    write_file(path, file.bytes, file.size);
    free(file.bytes);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- files ----------------------------------------------------------------------------------- */

static void file_is_written_whole_or_not_at_all(void **state)
{
    file_writer writer;
    mapped_file file;
    (void)state;

    remove(path);
    assert_done(file_write_begin(&writer, path, &why));
    assert_done(file_write(&writer, "half", 4, &why));
    assert_int_not_equal(access(path, F_OK), 0);
    file_write_abandon(&writer);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_done(file_write_whole(path, "whole", 5, &why));
    assert_done(file_map(&file, path, &why));
    assert_int_equal(file.size, 5);
    assert_memory_equal(file.bytes, "whole", 5);
    file_unmap(&file);
    assert_refused(file_write_whole("/nonexistent/x", "", 0, &why), "cannot create");
    assert_refused(file_write_whole("/dev/null", "", 0, &why), "not a regular file");
    assert_refused(file_map(&file, "/nonexistent", &why), "cannot open");
    assert_refused(file_map(&file, "/tmp", &why), "not a regular file");
}

typedef struct visits {
    unsigned char seen[1000];
    size_t step;
    bool misplaced;
} visits;

static void visit(void *arg, size_t begin, size_t end, size_t worker)
{
    visits *v = arg;
    (void)worker;
    if (begin % v->step) v->misplaced = true;
    for (; begin < end; begin++) v->seen[begin]++;
}

static void parallel_for_covers_every_item_once(void **state)
{
    static const size_t counts[] = { 0, 1, 2, 15, 16, 17, 100, 999, 1000 };
    static const struct timespec pause = { 0, 2000000 };
    size_t threads, i, k;
    (void)state;

    for (threads = 1; threads <= 5; threads++) {
        parallel_pool pool;
        parallel_start(&pool, threads);
        for (k = 0; k < 50 * sizeof counts / sizeof counts[0]; k++) {
            size_t count = counts[k % (sizeof counts / sizeof counts[0])];
            visits v;
            memset(&v, 0, sizeof v);
            v.step = 1 + k % 33;
            if (k % 50 == 7) nanosleep(&pause, NULL); /* the threads fall asleep */
            parallel_run(&pool, count, v.step, visit, &v);
            assert_false(v.misplaced);
            for (i = 0; i < 1000; i++) assert_int_equal(v.seen[i], i < count);
        }
        parallel_stop(&pool);
    }
}

/* ---- hostile GGUF files ---------------------------------------------------------------------- */

static void truncated_file_is_refused(void **state)
{
    size_t header_size, size;
    byte_buffer file = make_tiny("smollm", false, GGUF_F32, &header_size);
    (void)state;

    for (size = 1; size < file.size; size += size < header_size ? 7 : 4001) {
        model m;
        write_file(path, file.bytes, size);
        assert_refused(model_open(&m, path, &why), path);
    }
    free(file.bytes);
}

/*  Opens what it can of a damaged file or directory and lets it speak. */
static void use_model(compute *c, const char *name)
{
    token_list prompt = { 0 }, made = { 0 };
    double rate;
    model m;

    why.text[0] = '\0';
    if (!model_open(&m, name, &why)) {
        assert_true(why.text[0]);
        return;
    }
    if (m.context <= 4096 && tokenizer_encode_chat(&m.tok, "the a1 'S <user>", &prompt, &why))
        generate(&m, c, &prompt, 2, &made, &rate, &why);
    token_list_free(&prompt);
    token_list_free(&made);
    model_close(&m);
}

static void damaged_file_never_crashes(void **state)
{
    size_t header_size, i, k;
    byte_buffer file = make_tiny("smollm", true, GGUF_BF16, &header_size);
    unsigned char *bytes = malloc(file.size);
    uint64_t random = 88172645463325252u;
    compute c;
    (void)state;

    assert_non_null(bytes);
    assert_done(compute_open(&c, 1, AWQ_A16, &why));
    for (i = 0; i < 1500; i++) {
        memcpy(bytes, file.bytes, file.size);
        for (k = 0; k <= next_random(&random) % 3; k++) {
            size_t at = next_random(&random) % (header_size - 8);
            if (next_random(&random) % 2)
                bytes[at] = (unsigned char)next_random(&random);
            else
                memset(bytes + at, (int)(next_random(&random) % 2 * 255), 8);
        }
        write_file(path, bytes, file.size);
        use_model(&c, path);
    }
    compute_close(&c);
    free(bytes);
    free(file.bytes);
}

static size_t find(const byte_buffer *file, const char *text)
{
    size_t i, length = strlen(text);
    for (i = 0; i + length <= file->size; i++)
        if (memcmp(file->bytes + i, text, length) == 0) return i;
    fail_msg("the tiny model has no \"%s\"", text);
    return 0;
}

/*  Changes bytes at (end of the first `near` + offset) and wants the message to contain `part`. */
static void refuse_changed(const char *near, size_t offset, const void *bytes, size_t size,
                           const char *part)
{
    byte_buffer file = make_tiny("smollm", false, GGUF_F32, NULL);
    model m;

    memcpy(file.bytes + (near ? find(&file, near) + strlen(near) : 0) + offset, bytes, size);
    write_file(path, file.bytes, file.size);
    assert_refused(model_open(&m, path, &why), part);
    free(file.bytes);
}

static void each_broken_field_has_its_message(void **state)
{
    static const unsigned char ones[8] = { 255, 255, 255, 255, 255, 255, 255, 255 };
    (void)state;

    refuse_changed(NULL, 0, "GGML", 4, "not a GGUF file");
    refuse_changed(NULL, 4, "\1\0\0\0", 4, "version 1");
    refuse_changed(NULL, 4, "\0\0\0\3", 4, "big-endian");
    refuse_changed(NULL, 8, ones, 8, "cannot fit");
    refuse_changed(NULL, 16, ones, 8, "cannot fit");
    refuse_changed(NULL, 24, ones, 8, "ends inside");
    refuse_changed("general.architecture", 0, "\x20", 1, "type 32");
    refuse_changed("general.architecture", 12, "gemma", 5, "architecture");
    refuse_changed("llama.block_count", 4, "\0\0\0\0", 4, "block_count");
    refuse_changed("llama.block_count", 4, "\xff\0\0\0", 4, "promises 255 layers");
    refuse_changed("llama.block_count", 4, "\3\0\0\0", 4, "blk.2.attn_norm.weight");
    refuse_changed("llama.embedding_length", 4, "\x41\0\0\0", 4, "but the model needs");
    refuse_changed("attention.head_count_kv", 4, "\3\0\0\0", 4, "cannot share");
    refuse_changed("layer_norm_rms_epsilon", 4, "\0\0\0\0", 4, "epsilon");
    refuse_changed("tokenizer.ggml.model", 12, "bert", 4, "byte-level BPE");
    refuse_changed("tokenizer.ggml.pre", 12, "qwen77", 6, "qwen77");
    refuse_changed("tokenizer.ggml.token_type", 4, "\6", 1, "token_type");
    refuse_changed("tokenizer.ggml.merges", 24, "1#", 2, "merges");
    refuse_changed("token_embd.weight", 0, "\5\0\0\0", 4, "5 dimensions");
    refuse_changed("token_embd.weight", 4, ones, 8, "impossible shape");
    refuse_changed("token_embd.weight", 4, "\0\0\0\0\0\0\0\0", 8, "impossible shape");
    refuse_changed("token_embd.weight", 20, "\x0c\0\0\0", 4, "has type 12");
    refuse_changed("token_embd.weight", 24, "\1", 1, "not a multiple of 32");
    refuse_changed("token_embd.weight", 24, "\0\0\0\0\0\0\0\x10", 8, "beyond the end");
    refuse_changed("blk.0.ffn_norm.weigh", 0, "x", 1, "no tensor \"blk.0.ffn_norm.weight\"");
}

static void names_may_not_repeat(void **state)
{
    (void)state;
    refuse_changed("blk.", 0, "1", 1, "tensor \"blk.1.attn_norm.weight\" occurs twice");
    refuse_changed("ggml.bos_token_id", 31, "b", 1,
                   "metadata \"tokenizer.ggml.bos_token_id\" occurs");
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/*  Encodes and writes the tokens' bytes with | between them; specials as @number. */
static void assert_split(const char *pre, const char *text, bool controls, const char *expected)
{
    token_list tokens = { 0 };
    char shown[256];
    size_t i, used = 0;
    model m;

    write_tiny(pre, true, GGUF_F32);
    assert_done(model_open(&m, path, &why));
    assert_done(tokenizer_encode(&m.tok, text, strlen(text), controls, &tokens, &why));
    for (i = 0; i < tokens.count; i++) {
        const vocabulary_token *token = &m.tok.tokens[tokens.ids[i]];
        if (i) shown[used++] = '|';
        if (token->is_special)
            used += (size_t)sprintf(shown + used, "@%u", (unsigned)tokens.ids[i]);
        else {
            memcpy(shown + used, token->bytes, token->length);
            used += token->length;
        }
    }
    shown[used] = '\0';
    token_list_free(&tokens);
    model_close(&m);
    assert_string_equal(shown, expected);
}

static void words_are_split_as_the_pre_tokenizer_says(void **state)
{
    (void)state;
    assert_split("gpt-2", "1234", false, "1234");
    assert_split("smollm", "1234", false, "1|2|3|4");
    assert_split("llama-bpe", "1234", false, "123|4");
    assert_split("gpt-2", "12 1", false, "12| 1");
    assert_split("smollm", "12 1", false, "1|2| |1");
    assert_split("llama-bpe", "12 1", false, "12| |1");
    assert_split("gpt-2", "a1", false, "a|1");
    assert_split("gpt-2", "!a", false, "!|a");
    assert_split("llama-bpe", "!a", false, "!a");
    assert_split("gpt-2", "t's", false, "t|'s");
    assert_split("gpt-2", "t'S", false, "t|'|S");
    assert_split("llama-bpe", "t'S", false, "t|'S");
    assert_split("gpt-2", "   a", false, "  | a");
    assert_split("gpt-2", "   ", false, "   ");
    assert_split("smollm", "  1", false, "  |1");
    assert_split("gpt-2", "!\n\n", false, "!|\n\n");
    assert_split("llama-bpe", "!\n\n", false, "!\n|\n");
    assert_split("gpt-2", "the", false, "the");
}

static void unicode_classes_are_those_of_unicode(void **state)
{
    (void)state;
    assert_split("gpt-2", "\xc3\xa9", false, "\xc3\xa9"); /* a letter, merged */
    assert_split("gpt-2", "!\xc2\xa1", false, "!|\xc2|\xa1"); /* merges at 2 letters */
    assert_split("gpt-2", "\xc2\xa0 a", false, "\xc2|\xa0| a"); /* no-break space */
    assert_split("smollm", "\xd9\xa1\x31", false, "\xd9|\xa1|1"); /* an Arabic digit */
    assert_split("gpt-2", "a\xff", false, "a|\xef|\xbf|\xbd"); /* not UTF-8 */
    assert_split("gpt-2", "\xc0\xaf", false, "\xef|\xbf|\xbd|\xef|\xbf|\xbd"); /* overlong */
}

static void specials_are_found_first_and_only_where_allowed(void **state)
{
    (void)state;
    assert_split("smollm", "<|im_start|>a", true, "@0|a");
    assert_split("smollm", "<|im_end|>", false, "<|||i|m|_|e|n|d|||>");
    assert_split("smollm", "a<user>a", false, "a|@2|a");
    assert_split("smollm", "<user>+<user>", false, "@3|@2");
}

static void every_text_comes_back(void **state)
{
    static const char pres[3][12] = { "smollm", "gpt-2", "llama-bpe" };
    uint64_t random = 362436069;
    size_t p, round, i, length;
    (void)state;

    for (p = 0; p < 3; p++) {
        model m;
        write_tiny(pres[p], true, GGUF_F32);
        assert_done(model_open(&m, path, &why));
        for (round = 0; round < 300; round++) {
            char text[64], *at = text;
            token_list tokens = { 0 };
            for (length = 0; length < 60; length++)
                text[length] = "a1' \n!sStheS<|>\t4Z"[next_random(&random) % 18];
            assert_done(tokenizer_encode(&m.tok, text, length, false, &tokens, &why));
            for (i = 0; i < tokens.count; i++) {
                const vocabulary_token *token = &m.tok.tokens[tokens.ids[i]];
                assert_memory_equal(at, token->bytes, token->length);
                at += token->length;
            }
            assert_int_equal(at - text, 60);
            token_list_free(&tokens);
        }
        model_close(&m);
    }
}

static void chat_is_chatml(void **state)
{
    token_list tokens = { 0 };
    model m;
    (void)state;

    write_tiny("smollm", true, GGUF_F32);
    assert_done(model_open(&m, path, &why));
    assert_done(tokenizer_encode_chat(&m.tok, "<|im_end|>", &tokens, &why));
    assert_int_equal(tokens.ids[0], TINY_START);
    for (size_t i = 1, ends = 0, starts = 1; i < tokens.count; i++) {
        ends += tokens.ids[i] == TINY_END; /* the question's own is plain text */
        starts += tokens.ids[i] == TINY_START;
        assert_true(ends <= 1 && starts <= 2);
    }
    assert_true(tokenizer_is_end(&m.tok, TINY_END));
    assert_false(tokenizer_is_end(&m.tok, TINY_USER));
    token_list_free(&tokens);
    model_close(&m);
}

/* ---- the forward pass, against one that is slow, plain and in double ------------------------- */

enum { REFERENCE_TOKENS = 11 };

static void fill_tokens(uint32_t *ids, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) ids[i] = (uint32_t)((i * 37 + 11) % TINY_VOCABULARY);
}

static double weight_at(const model *m, const char *name, size_t row, size_t column)
{
    float values[TINY_VOCABULARY];
    const gguf_tensor *tensor = gguf_find_tensor(&m->gguf, name);
    assert_non_null(tensor);
    gguf_row_to_f32(tensor, row, values);
    return (double)values[column];
}

/*  out = W x + b of layer `index`'s linear `what` (its tensors are found by name). */
static void plain_linear(const model *m, int index, const char *what, const double *x, size_t in,
                         size_t out_count, double *out)
{
    char name[64];
    float row[256];
    size_t r, c;

    for (r = 0; r < out_count; r++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", index, what);
        gguf_row_to_f32(gguf_find_tensor(&m->gguf, name), r, row);
        snprintf(name, sizeof name, "blk.%d.%s.bias", index, what);
        out[r] = gguf_find_tensor(&m->gguf, name) ? weight_at(m, name, 0, r) : 0;
        for (c = 0; c < in; c++) out[r] += (double)row[c] * x[c];
    }
}

static void plain_norm(const model *m, const char *name, const double *x, double *out)
{
    double squares = 0;
    size_t i;
    for (i = 0; i < TINY_DIM; i++) squares += x[i] * x[i];
    for (i = 0; i < TINY_DIM; i++)
        out[i] = x[i] / sqrt(squares / TINY_DIM + 1e-5) * weight_at(m, name, 0, i);
}

static void plain_rope(const model *m, double *x, size_t heads, size_t position)
{
    size_t h, i;
    for (h = 0; h < heads; h++)
        for (i = 0; i < TINY_HEAD_DIM / 2; i++) {
            double *pair = x + h * TINY_HEAD_DIM + 2 * i, a = pair[0], b = pair[1];
            double angle = (double)position * pow(10000.0, -2.0 * (double)i / TINY_HEAD_DIM)
                           / weight_at(m, "rope_freqs.weight", 0, i);
            pair[0] = a * cos(angle) - b * sin(angle);
            pair[1] = a * sin(angle) + b * cos(angle);
        }
}

typedef struct plain_cache {
    double k[REFERENCE_TOKENS][TINY_KV_HEADS * TINY_HEAD_DIM];
    double v[REFERENCE_TOKENS][TINY_KV_HEADS * TINY_HEAD_DIM];
} plain_cache;

static void plain_attend(const plain_cache *cache, const double *q, size_t position, double *out)
{
    size_t h, j, i;

    for (h = 0; h < TINY_HEADS; h++) {
        size_t kv = h / (TINY_HEADS / TINY_KV_HEADS) * TINY_HEAD_DIM;
        double p[REFERENCE_TOKENS], sum = 0;
        for (j = 0; j <= position; j++) {
            double dot = 0;
            for (i = 0; i < TINY_HEAD_DIM; i++)
                dot += q[h * TINY_HEAD_DIM + i] * cache->k[j][kv + i];
            sum += p[j] = exp(dot / sqrt(TINY_HEAD_DIM));
        }
        for (i = 0; i < TINY_HEAD_DIM; i++) {
            double *o = &out[h * TINY_HEAD_DIM + i];
            for (*o = 0, j = 0; j <= position; j++) *o += p[j] / sum * cache->v[j][kv + i];
        }
    }
}

static void plain_layer(const model *m, int index, plain_cache *cache, size_t position, double *x)
{
    double normed[TINY_DIM], q[TINY_DIM], attended[TINY_DIM], delta[TINY_DIM];
    double gate[TINY_FFN], up[TINY_FFN];
    char name[64];
    size_t i;

    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", index);
    plain_norm(m, name, x, normed);
    plain_linear(m, index, "attn_q", normed, TINY_DIM, TINY_DIM, q);
    plain_linear(m, index, "attn_k", normed, TINY_DIM, TINY_KV_HEADS * TINY_HEAD_DIM,
                 cache->k[position]);
    plain_linear(m, index, "attn_v", normed, TINY_DIM, TINY_KV_HEADS * TINY_HEAD_DIM,
                 cache->v[position]);
    plain_rope(m, q, TINY_HEADS, position);
    plain_rope(m, cache->k[position], TINY_KV_HEADS, position);
    plain_attend(cache, q, position, attended);
    plain_linear(m, index, "attn_output", attended, TINY_DIM, TINY_DIM, delta);
    for (i = 0; i < TINY_DIM; i++) x[i] += delta[i];
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", index);
    plain_norm(m, name, x, normed);
    plain_linear(m, index, "ffn_gate", normed, TINY_DIM, TINY_FFN, gate);
    plain_linear(m, index, "ffn_up", normed, TINY_DIM, TINY_FFN, up);
    for (i = 0; i < TINY_FFN; i++) gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    plain_linear(m, index, "ffn_down", gate, TINY_FFN, TINY_DIM, delta);
    for (i = 0; i < TINY_DIM; i++) x[i] += delta[i];
}

static void assert_near_reference(const model *m, const uint32_t *ids, const float *logits)
{
    static plain_cache caches[TINY_LAYERS];
    const char *head =
        gguf_find_tensor(&m->gguf, "output.weight") ? "output.weight" : "token_embd.weight";
    size_t t, i, c;
    int l;

    for (t = 0; t < REFERENCE_TOKENS; t++) {
        double x[TINY_DIM], normed[TINY_DIM];
        for (i = 0; i < TINY_DIM; i++) x[i] = weight_at(m, "token_embd.weight", ids[t], i);
        for (l = 0; l < TINY_LAYERS; l++) plain_layer(m, l, &caches[l], t, x);
        plain_norm(m, "output_norm.weight", x, normed);
        for (i = 0; i < TINY_VOCABULARY; i++) {
            double logit = 0;
            for (c = 0; c < TINY_DIM; c++) logit += weight_at(m, head, i, c) * normed[c];
            assert_true(fabs(logit - (double)logits[t * TINY_VOCABULARY + i]) < 1e-4);
        }
    }
}

static void run_tokens(const model *m, compute *c, const uint32_t *ids, size_t tokens, size_t batch,
                       float *logits)
{
    size_t done, count;
    session s;

    assert_done(session_open(&s, m, c, tokens, batch, &why));
    for (done = 0; done < tokens; done += count) {
        count = tokens - done < batch ? tokens - done : batch;
        assert_done(session_forward(&s, ids + done, count, &why));
        assert_done(session_logits(&s, 0, count, logits + done * TINY_VOCABULARY, &why));
    }
    session_close(&s);
}

static void logits_are_those_of_a_plain_forward_pass(void **state)
{
    static const uint32_t types[3] = { GGUF_F32, GGUF_BF16, GGUF_Q8_0 };
    static float logits[REFERENCE_TOKENS * TINY_VOCABULARY],
        again[REFERENCE_TOKENS * TINY_VOCABULARY];
    uint32_t ids[REFERENCE_TOKENS];
    size_t i;
    (void)state;

    fill_tokens(ids, REFERENCE_TOKENS);
    for (i = 0; i < 3; i++) {
        compute c;
        model m;
        write_tiny("smollm", i % 2, types[i]);
        assert_done(compute_open(&c, 3, AWQ_A16, &why));
        assert_done(model_open(&m, path, &why));
        run_tokens(&m, &c, ids, REFERENCE_TOKENS, REFERENCE_TOKENS, logits);
        assert_near_reference(&m, ids, logits);
        run_tokens(&m, &c, ids, REFERENCE_TOKENS, 1, again);
        assert_memory_equal(logits, again, sizeof logits);
        assert_done(model_decode(&m, &c, &why));
        run_tokens(&m, &c, ids, REFERENCE_TOKENS, 4, again);
        assert_memory_equal(logits, again, sizeof logits);
        model_close(&m);
        compute_close(&c);
    }
}

typedef struct sight {
    size_t calls;
    double received;
    size_t widths[INPUTS];
} sight;

static bool look(void *context, size_t layer_index, input_group group, const float *rows,
                 size_t tokens, const float *received, failure *why_not)
{
    sight *seen = context;
    size_t t;
    (void)layer_index;
    (void)rows;
    (void)why_not;
    seen->calls++;
    seen->widths[group] += tokens;
    for (t = 0; t < tokens; t++) seen->received += (double)received[t];
    return true;
}

static void attention_received_adds_up(void **state)
{
    uint32_t ids[64];
    sight seen;
    observer watch;
    compute c;
    session s;
    model m;
    (void)state;

    memset(&seen, 0, sizeof seen);
    watch.see = look;
    watch.context = &seen;
    fill_tokens(ids, 64);
    write_tiny("smollm", true, GGUF_F32);
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    assert_done(session_open(&s, &m, &c, 64, 64, &why));
    assert_done(session_embed(&s, ids, 64, &why));
    assert_done(session_layer(&s, 0, s.hidden, 64, &watch, &why));
    assert_int_equal(seen.calls, INPUTS);
    assert_true(fabs(seen.received - INPUTS * 64.0 * TINY_HEADS) < 1e-2);
    session_close(&s);
    model_close(&m);
    compute_close(&c);
}

/* ---- quantize, save, load -------------------------------------------------------------------- */

static void fill_text(token_list *text, size_t count)
{
    uint64_t random = 521288629;
    size_t i;
    for (i = 0; i < count; i++)
        assert_done(token_list_add(text, (uint32_t)(next_random(&random) % TINY_VOCABULARY), &why));
}

static quantize_options options_of(int group_size, bool plain)
{
    quantize_options options = quantize_defaults();

    options.quant.group_size = group_size;
    options.method = plain ? METHOD_NEAREST : METHOD_AWQ;
    options.scale = SCALE_MEAN;
    options.round.passes = 0;
    return options;
}

/*  max |logits - base| over the first tokens of the text. */
static double logits_error(const model *base, const model *m, compute *c, const token_list *text)
{
    static float a[64 * TINY_VOCABULARY], b[64 * TINY_VOCABULARY];
    double sum = 0, power = 0;
    size_t i;

    run_tokens(base, c, text->ids, 64, 64, a);
    run_tokens(m, c, text->ids, 64, 64, b);
    for (i = 0; i < 64 * TINY_VOCABULARY; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        power += (double)a[i] * (double)a[i];
    }
    return sqrt(sum / power);
}

static void quantize_and_reload(int group_size, bool plain, double most)
{
    quantize_options options = options_of(group_size, plain);
    uint64_t before, after, one_thread;
    token_list text = { 0 };
    quantized_model q;
    model m, loaded;
    compute c, single;

    fill_text(&text, 2 * WINDOW);
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(compute_open(&single, 1, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    assert_done(quantize_model(&q, &m, &c, &text, &options, &why));
    assert_true(plain || (q.loss > 0 && q.loss <= q.plain_loss));
    assert_true(logits_error(&m, &q.m, &c, &text) < most);
    assert_done(save_model(&q.m, other_path, &why));
    assert_done(fingerprint(&q.m, &c, &text, &before, &why));
    assert_done(model_open(&loaded, other_path, &why));
    assert_true(model_is_quantized(&loaded));
    assert_done(fingerprint(&loaded, &c, &text, &after, &why));
    assert_done(fingerprint(&loaded, &single, &text, &one_thread, &why));
    assert_true(before == after && after == one_thread);
    model_close(&loaded);
    quantized_model_close(&q);
    model_close(&m);
    compute_close(&single);
    compute_close(&c);
    token_list_free(&text);
}

static void saved_models_load_bit_for_bit(void **state)
{
    (void)state;
    write_tiny("smollm", true, GGUF_F32);
    quantize_and_reload(64, true, 0.2);
    quantize_and_reload(64, false, 0.2);
    quantize_and_reload(40, false, 0.2); /* 64 = 40 + 24, 96 = 40 + 40 + 16 */
    quantize_and_reload(-1, false, 0.25);
    write_tiny("gpt-2", false, GGUF_Q8_0);
    quantize_and_reload(16, false, 0.15);
}

static double error_of(const model *m, compute *c, const token_list *text,
                       const quantize_options *options)
{
    quantized_model q;
    double error;
    assert_done(quantize_model(&q, m, c, text, options, &why));
    error = logits_error(m, &q.m, c, text);
    quantized_model_close(&q);
    return error;
}

/*  Fitted grids and the Hessian's rounding come closer than AWQ with clipping; so do passes. */
static void improved_models_err_less(void **state)
{
    quantize_options options = options_of(32, false);
    token_list text = { 0 };
    double awq, rounded, descended;
    compute c;
    model m;
    (void)state;

    write_tiny("smollm", true, GGUF_F32);
    fill_text(&text, 4 * WINDOW);
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    options.head_bits = 16;
    awq = error_of(&m, &c, &text, &options);
    options.method = METHOD_BEST;
    options.scale = SCALE_BETTER;
    options.round.refit = 0;
    options.damping = 0.01;
    rounded = error_of(&m, &c, &text, &options);
    options.round.passes = 3;
    options.round.refit = 1;
    descended = error_of(&m, &c, &text, &options);
    assert_true(rounded < 0.9 * awq);
    assert_true(descended < 0.9 * awq);
    model_close(&m);
    compute_close(&c);
    token_list_free(&text);
}

/*  With 8 bits nearly nothing is lost, so scales that were folded wrongly would show. */
static void folding_keeps_the_function(void **state)
{
    quantize_options options = options_of(32, false);
    token_list text = { 0 };
    quantized_model q;
    compute c;
    model m;
    (void)state;

    options.quant.bits = 8;
    options.clip = false;
    fill_text(&text, WINDOW);
    write_tiny("smollm", true, GGUF_F32);
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    assert_done(quantize_model(&q, &m, &c, &text, &options, &why));
    assert_true(logits_error(&m, &q.m, &c, &text) < 0.02);
    quantized_model_close(&q);
    model_close(&m);
    compute_close(&c);
    token_list_free(&text);
}

/*  All of a packed matrix, decoded the long way round. */
static void unpack_all(const awq_packed *packed, float *out)
{
    size_t rows = packed->out_features, columns = packed->in_features;
    size_t size = awq_tensor_size(packed->quant, rows, columns);
    awq_kernels kernels = awq_kernels_portable();
    awq_matrix view = awq_matrix_view(out, AWQ_F32, rows, columns);
    void *memory = malloc(size);
    awq_tensor tensor;

    assert_non_null(memory);
    assert_int_equal(awq_tensor_init(&tensor, packed->quant, rows, columns, memory, size), AWQ_OK);
    assert_int_equal(awq_unpack(&kernels, packed, &tensor, 0, rows), AWQ_OK);
    assert_int_equal(awq_dequantize(&tensor, NULL, view, 0, rows), AWQ_OK);
    free(memory);
}

/*  At most a step: half for the rounding, half where the rounded zero point cuts the range. */
static void assert_row_near(const float *row, const float *original, float step)
{
    float least = 0, most = 0;
    size_t i;

    for (i = 0; i < TINY_DIM; i++) {
        least = fminf(least, original[i]);
        most = fmaxf(most, original[i]);
    }
    for (i = 0; i < TINY_DIM; i++)
        assert_true(fabsf(row[i] - original[i]) <= step * (most - least));
}

/*  Quantizes what `path` holds, head included, and opens what was saved. */
static void open_quantized(model *original, model *loaded, int group_size, int head_bits)
{
    quantize_options options = options_of(group_size, true);
    quantized_model q;
    compute c;

    options.head_bits = head_bits;
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(model_open(original, path, &why));
    assert_done(quantize_model(&q, original, &c, NULL, &options, &why));
    assert_done(save_model(&q.m, other_path, &why));
    assert_done(model_open(loaded, other_path, &why));
    quantized_model_close(&q);
    compute_close(&c);
}

static bool has_tensor(const model *m, const char *name)
{
    return gguf_find_tensor(&m->gguf, name) != NULL;
}

static void check_embedding(int group_size, int head_bits, float step)
{
    static float all[TINY_VOCABULARY * TINY_DIM];
    float row[TINY_DIM], expected[TINY_DIM];
    model original, loaded;
    size_t i;

    open_quantized(&original, &loaded, group_size, head_bits);
    assert_true(loaded.tied && loaded.embedding.packed.data);
    assert_false(has_tensor(&loaded, "token_embd.weight"));
    assert_ptr_equal(loaded.embedding.packed.data, loaded.head.packed.data);
    unpack_all(&loaded.embedding.packed, all);
    for (i = 0; i < TINY_VOCABULARY; i++) {
        assert_done(linear_row(&loaded.embedding, i, row, &why));
        assert_memory_equal(row, all + i * TINY_DIM, sizeof row);
        assert_done(linear_row(&original.embedding, i, expected, &why));
        assert_row_near(row, expected, step);
    }
    model_close(&loaded);
    model_close(&original);
}

static void a_tied_embedding_is_read_from_the_packed_head(void **state)
{
    (void)state;
    write_tiny("smollm", true, GGUF_F32);
    check_embedding(64, 8, 1.01f / 255);
    check_embedding(40, 8, 1.01f / 255);
    check_embedding(-1, 4, 1.01f / 15);
}

static void an_untied_head_leaves_the_embedding_alone(void **state)
{
    float row[TINY_DIM], expected[TINY_DIM];
    model original, loaded;
    (void)state;

    write_tiny("smollm", false, GGUF_F32);
    open_quantized(&original, &loaded, 64, 8);
    assert_true(!loaded.tied && loaded.head.packed.data);
    assert_int_equal(loaded.head.packed.quant.bits, 8);
    assert_true(has_tensor(&loaded, "output.awq") && !has_tensor(&loaded, "output.weight"));
    assert_done(linear_row(&loaded.embedding, 7, row, &why));
    assert_done(linear_row(&original.embedding, 7, expected, &why));
    assert_memory_equal(row, expected, sizeof row);
    model_close(&loaded);
    model_close(&original);
}

static void a_head_of_16_bits_stays_as_it_is(void **state)
{
    model original, loaded;
    (void)state;

    write_tiny("smollm", true, GGUF_Q8_0);
    open_quantized(&original, &loaded, 64, 16);
    assert_true(loaded.head.packed.data == NULL && loaded.layers[0].linears[0].packed.data);
    assert_true(has_tensor(&loaded, "token_embd.weight") && !has_tensor(&loaded, "token_embd.awq"));
    model_close(&loaded);
    model_close(&original);
}

static void damaged_packed_linears_are_refused(void **state)
{
    quantize_options options = options_of(64, true);
    quantized_model q;
    mapped_file file;
    unsigned char *bytes;
    size_t i, magic = 0;
    compute c;
    model m;
    (void)state;

    write_tiny("smollm", true, GGUF_F32);
    assert_done(compute_open(&c, 1, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    assert_done(quantize_model(&q, &m, &c, NULL, &options, &why));
    assert_done(save_model(&q.m, other_path, &why));
    quantized_model_close(&q);
    model_close(&m);
    compute_close(&c);
    assert_done(file_map(&file, other_path, &why));
    for (i = 0; i + 4 < file.size; i++)
        if (memcmp(file.bytes + i, "AWQ1", 4) == 0) magic = i;
    assert_true(magic > 0);
    bytes = malloc(file.size);
    assert_non_null(bytes);
    memcpy(bytes, file.bytes, file.size);
    bytes[magic + 3] = '2';
    write_file(path, bytes, file.size);
    assert_refused(model_open(&m, path, &why), ".awq\": not a packed tensor");
    write_file(path, file.bytes, magic + 100);
    assert_refused(model_open(&m, path, &why), "beyond the end");
    free(bytes);
    file_unmap(&file);
}

static void larger_sketches_pick_better_ratios(void **state)
{
    quantize_options options = options_of(32, false);
    token_list text = { 0 };
    sketch_study study;
    compute c;
    size_t i;
    model m;
    (void)state;

    fill_text(&text, 2 * WINDOW);
    write_tiny("smollm", true, GGUF_F32);
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    assert_done(study_sketches(&m, &c, &text, &options, &study, &why));
    for (i = 0; i < SKETCH_SIZES; i++) {
        const excess *e = &study.alone[i];
        assert_int_equal(e->searches, TINY_LAYERS * LINEARS * SKETCH_SEEDS);
        assert_int_equal(study.together[i].searches, TINY_LAYERS * INPUTS * SKETCH_SEEDS);
        assert_true(e->median > -1e-6 && e->median <= e->ninth_decile);
        assert_true(e->ninth_decile <= e->most && e->most < 0.1);
    }
    assert_true(study.alone[SKETCH_SIZES - 1].none > 0.3);
    assert_true(study.alone[SKETCH_SIZES - 1].none > study.alone[0].none);
    model_close(&m);
    compute_close(&c);
    token_list_free(&text);
}

static void perplexity_of_random_text_is_the_vocabulary(void **state)
{
    token_list text = { 0 }, short_text = { 0 };
    text_score score;
    compute c;
    model m;
    (void)state;

    fill_text(&text, 3 * WINDOW + 5);
    fill_text(&short_text, WINDOW - 1);
    write_tiny("smollm", true, GGUF_F32);
    assert_done(compute_open(&c, 2, AWQ_A16, &why));
    assert_done(model_open(&m, path, &why));
    assert_done(score_text(&m, &c, &text, "score", &score, &why));
    assert_int_equal(score.scored, 3 * (WINDOW - 1));
    assert_true(score.perplexity > TINY_VOCABULARY); /* no model beats chance on random tokens */
    assert_refused(score_text(&m, &c, &short_text, "score", &score, &why), "at least 512");
    model_close(&m);
    compute_close(&c);
    token_list_free(&text);
    token_list_free(&short_text);
}

/* ---- exports --------------------------------------------------------------------------------- */

typedef struct file_path { char text[128]; } file_path;

static file_path in_directory(const char *name)
{
    file_path of;
    snprintf(of.text, sizeof of.text, "%.64s/%.60s", directory, name);
    return of;
}

static void remove_directory(void)
{
    static const char names[][32] = { "config.json", "generation_config.json", "tokenizer.json",
                                      "tokenizer_config.json", "model.safetensors" };
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) remove(in_directory(names[i]).text);
    rmdir(directory);
}

/*  Files and directories of this process here, whatever their names end with. */
static size_t count_leftovers(void)
{
    DIR *here = opendir(".");
    struct dirent *entry;
    size_t count = 0;

    assert_non_null(here);
    while ((entry = readdir(here)) != NULL)
        count += strncmp(entry->d_name, directory, strlen(directory)) == 0
                 || strncmp(entry->d_name, other_path, strlen(other_path)) == 0;
    closedir(here);
    return count;
}

static void write_exportable(const char *pre, bool tied, tiny_rope rope)
{
    tiny_options options;
    size_t ignored;
    byte_buffer file;

    options.pre = pre;
    options.tied = tied;
    options.type = GGUF_F32;
    options.rope = rope;
    file = tiny_gguf(options, &ignored);
    write_file(path, file.bytes, file.size);
    free(file.bytes);
}

/*  A tiny model quantized with AWQ, so that norms and biases are folded, and what is exported. */
typedef struct export_case {
    compute c;
    model original, exported;
    quantized_model q;
    token_list text;
} export_case;

static void open_case(export_case *e, awq_quant quant)
{
    quantize_options options = options_of(quant.group_size, false);

    memset(e, 0, sizeof *e);
    options.quant = quant;
    options.head_bits = 16;
    fill_text(&e->text, WINDOW);
    assert_done(compute_open(&e->c, 2, AWQ_A16, &why));
    assert_done(model_open(&e->original, path, &why));
    assert_done(quantize_model(&e->q, &e->original, &e->c, &e->text, &options, &why));
    assert_done(exported_model(&e->exported, &e->q.m, &e->original, &why));
    remove_directory();
}

static void close_case(export_case *e)
{
    free(e->exported.rope_frequencies);
    quantized_model_close(&e->q);
    model_close(&e->original);
    compute_close(&e->c);
    token_list_free(&e->text);
}

static awq_quant quant_of(int group_size, int symmetric)
{
    awq_quant quant = options_of(group_size, false).quant;
    quant.symmetric = symmetric;
    return quant;
}

static void assert_same_packed(const model *a, const model *b)
{
    size_t i, which;

    for (i = 0; i < TINY_LAYERS; i++)
        for (which = 0; which < LINEARS; which++) {
            const awq_packed *x = &a->layers[i].linears[which].packed;
            const awq_packed *y = &b->layers[i].linears[which].packed;
            assert_int_equal(x->size, y->size);
            assert_memory_equal(x->data, y->data, x->size);
        }
}

static void assert_same_tokens(const tokenizer *a, const tokenizer *b)
{
    static const char text[] = "the a1' 'S\n\n <user>+ 1234 \xc3\xa9!\xc2\xa1 <|im_end|>";
    token_list x = { 0 }, y = { 0 };

    assert_done(tokenizer_encode(a, text, sizeof text - 1, true, &x, &why));
    assert_done(tokenizer_encode(b, text, sizeof text - 1, true, &y, &why));
    assert_int_equal(x.count, y.count);
    assert_memory_equal(x.ids, y.ids, x.count * sizeof *x.ids);
    assert_true(a->bos == b->bos && a->eos == b->eos && a->eot == b->eot);
    assert_int_equal(a->add_bos, b->add_bos);
    token_list_free(&x);
    token_list_free(&y);
}

static void export_and_reload(const char *pre, bool tied, tiny_rope rope, int group_size)
{
    uint64_t before, after;
    export_case e;
    model loaded;

    write_exportable(pre, tied, rope);
    open_case(&e, quant_of(group_size, 0));
    assert_done(export_hf(&e.exported, directory, &why));
    assert_done(model_open(&loaded, directory, &why));
    assert_int_equal(loaded.tied, tied);
    assert_same_packed(&e.exported, &loaded);
    assert_same_tokens(&e.original.tok, &loaded.tok);
    assert_done(fingerprint(&e.exported, &e.c, &e.text, &before, &why));
    assert_done(fingerprint(&loaded, &e.c, &e.text, &after, &why));
    assert_true(before == after);
    model_close(&loaded);
    close_case(&e);
}

static void exported_directories_load_bit_for_bit(void **state)
{
    (void)state;
    export_and_reload("smollm", true, TINY_ROPE_NONE, 32);
    export_and_reload("smollm", false, TINY_ROPE_NONE, -1);
    export_and_reload("gpt-2", true, TINY_ROPE_NONE, 32);
    export_and_reload("llama-bpe", false, TINY_ROPE_LLAMA3, 32);
}

/*  Row i of a head in HF's order is row 2 i of GGUF's, and row head_dim / 2 + i is row 2 i + 1. */
static void rotated_rows_are_reordered(void **state)
{
    static const float hf[8] = { 0, 1, 2, 3, 10, 11, 12, 13 };
    static const float gguf[8] = { 0, 2, 1, 3, 10, 12, 11, 13 };
    float rows[8];
    (void)state;

    memcpy(rows, hf, sizeof rows);
    assert_done(reorder_rows(rows, 8, sizeof *rows, 4, ORDER_GGUF, &why));
    assert_memory_equal(rows, gguf, sizeof rows);
    assert_done(reorder_rows(rows, 8, sizeof *rows, 4, ORDER_HF, &why));
    assert_memory_equal(rows, hf, sizeof rows);
}

/*  Blocks hold (q - zero) scale, except that -zero scale is rounded to fp16. */
static void assert_blocks_near(const export_case *e, const model *blocks)
{
    float row[TINY_FFN], expected[TINY_FFN];
    size_t i, which, r, c;

    for (i = 0; i < TINY_LAYERS; i++)
        for (which = 0; which < LINEARS; which++) {
            const linear *l = &e->exported.layers[i].linears[which];
            float bound = l->packed.quant.symmetric ? 0.0f : 1.0f / 2048;
            for (r = 0; r < l->out_features; r++) {
                float most = 0;
                assert_done(linear_row(l, r, expected, &why));
                assert_done(linear_row(&blocks->layers[i].linears[which], r, row, &why));
                for (c = 0; c < l->in_features; c++) most = fmaxf(most, fabsf(expected[c]));
                for (c = 0; c < l->in_features; c++)
                    assert_true(fabsf(row[c] - expected[c]) <= bound * most);
            }
        }
}

static void export_blocks_and_reload(bool tied, awq_quant quant, uint32_t type, size_t file_type)
{
    size_t found_type = 99, version = 99;
    export_case e;
    model loaded;

    write_exportable("smollm", tied, TINY_ROPE_LLAMA3);
    open_case(&e, quant);
    assert_done(export_gguf(&e.exported, other_path, &why));
    assert_done(model_open(&loaded, other_path, &why));
    assert_int_equal(loaded.layers[1].linears[LINEAR_DOWN].stored->type, type);
    assert_true(gguf_get_size(&loaded.gguf, "general.file_type", &found_type));
    assert_true(gguf_get_size(&loaded.gguf, "general.quantization_version", &version));
    assert_true(found_type == file_type && version == 2);
    assert_memory_equal(loaded.embedding.stored->data, e.original.embedding.stored->data,
                        gguf_tensor_bytes(loaded.embedding.stored));
    assert_memory_equal(loaded.layers[1].ffn_norm, e.exported.layers[1].ffn_norm,
                        TINY_DIM * sizeof(float));
    assert_blocks_near(&e, &loaded);
    assert_same_tokens(&e.original.tok, &loaded.tok);
    model_close(&loaded);
    close_case(&e);
    remove(other_path);
}

static void exported_blocks_hold_the_same_weights(void **state)
{
    (void)state;
    export_blocks_and_reload(true, quant_of(32, 0), GGUF_Q4_1, 3);
    export_blocks_and_reload(false, quant_of(64, 0), GGUF_Q4_1, 3); /* 96 = 64 + 32 */
    export_blocks_and_reload(true, quant_of(-1, 0), GGUF_Q4_1, 3);
    export_blocks_and_reload(true, quant_of(32, 1), GGUF_Q4_0, 2);
}

static void what_does_not_fit_is_refused_before_anything_is_written(void **state)
{
    export_case e;
    (void)state;

    write_exportable("smollm", true, TINY_ROPE_NONE);
    open_case(&e, quant_of(64, 0));
    assert_refused(export_hf(&e.exported, directory, &why), "in_features % group_size");
    assert_non_null(strstr(why.text, "mlp.down_proj (64 x 96, groups of 64)"));
    assert_non_null(strstr(why.text, "--group 32 would do"));
    close_case(&e);
    open_case(&e, quant_of(4, 0));
    assert_refused(export_hf(&e.exported, directory, &why), "no such group_size");
    assert_refused(export_gguf(&e.exported, other_path, &why), "groups of 4");
    close_case(&e);
    write_exportable("smollm", true, TINY_ROPE_RANDOM);
    open_case(&e, quant_of(32, 0));
    assert_refused(export_hf(&e.exported, directory, &why), "rope_freqs.weight");
    assert_int_equal(count_leftovers(), 0);
    close_case(&e);
}

/*  What fails after the weights were written: a token that JSON cannot hold; or a full disk. */
static void interrupted_exports_leave_nothing(void **state)
{
    struct rlimit before, small;
    vocabulary_entry *token;
    export_case e;
    (void)state;

    write_exportable("smollm", true, TINY_ROPE_NONE);
    open_case(&e, quant_of(32, 0));
    token = &e.exported.words.tokens[TINY_VOCABULARY - 1];
    token->text.bytes = "\xff";
    token->text.length = 1;
    assert_refused(export_hf(&e.exported, directory, &why), "not UTF-8");
    assert_int_equal(count_leftovers(), 0);

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 40000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_refused(export_hf(&e.exported, directory, &why), "cannot write");
    assert_refused(export_gguf(&e.exported, other_path, &why), "cannot write");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(count_leftovers(), 0);
    close_case(&e);
}

/* ---- directories of other people ------------------------------------------------------------- */

static void export_tiny(bool tied)
{
    export_case e;

    write_exportable("smollm", tied, TINY_ROPE_NONE);
    open_case(&e, quant_of(32, 0));
    assert_done(export_hf(&e.exported, directory, &why));
    close_case(&e);
}

/*  The file with the first `old` replaced; the caller frees it. */
static byte_buffer replaced(const char *name, const char *old, const char *new)
{
    byte_buffer out = { NULL, 0, 0 };
    const unsigned char *at;
    mapped_file file;
    size_t before;

    assert_done(file_map(&file, in_directory(name).text, &why));
    out.bytes = malloc(file.size + strlen(new));
    assert_non_null(out.bytes);
    for (at = file.bytes; memcmp(at, old, strlen(old)) != 0; at++)
        if (at + strlen(old) >= file.bytes + file.size) fail_msg("%s has no %s", name, old);
    before = (size_t)(at - file.bytes);
    memcpy(out.bytes, file.bytes, before);
    memcpy(out.bytes + before, new, strlen(new));
    out.size = file.size - strlen(old) + strlen(new);
    memcpy(out.bytes + before + strlen(new), at + strlen(old),
           out.size - before - strlen(new));
    file_unmap(&file);
    return out;
}

/*  Changes one file of the directory, wants a message that contains `part`, and restores it. */
static void refuse_file(const char *name, const char *old, const char *new, const char *part)
{
    byte_buffer bytes = replaced(name, old, new), original = replaced(name, "", "");
    model m;

    write_file(in_directory(name).text, bytes.bytes, bytes.size);
    assert_refused(model_open(&m, directory, &why), part);
    write_file(in_directory(name).text, original.bytes, original.size);
    free(bytes.bytes);
    free(original.bytes);
}

static void each_broken_file_of_a_directory_has_its_message(void **state)
{
    static const char config[] = "config.json", words[] = "tokenizer.json";
    static const char weights[] = "model.safetensors";
    model m;
    (void)state;

    export_tiny(false);
    refuse_file(config, "\"model_type\": \"llama\"", "\"model_type\": \"gemma\"", "gemma");
    refuse_file(config, "\"silu\"", "\"gelu\"", "gelu");
    refuse_file(config, "\"hidden_size\": 64", "\"hidden_size\": -64", "hidden_size");
    refuse_file(config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 999", "999 layers");
    refuse_file(config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2");
    refuse_file(config, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "share");
    refuse_file(config, "\"head_dim\": 16", "\"head_dim\": 17", "not run");
    refuse_file(config, "\"head_dim\": 16", "\"head_dim\": 32", "but the model needs");
    refuse_file(config, "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"yarn\"}", "yarn");
    refuse_file(config, "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"llama3\"}",
                "lacks usable factors");
    refuse_file(config, "\"vocab_size\": 277", "\"vocab_size\": 276", "needs 276 rows");
    refuse_file(config, "\"vocab_size\": 277", "\"vocab_size\": 999999999", "999999999 rows");
    refuse_file(config, "\"quant_method\": \"awq\"", "\"quant_method\": \"nf4\"", "nf4");
    refuse_file(words, "\"individual_digits\": true", "\"individual_digits\": false",
                "pre_tokenizer");
    refuse_file(words, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", "normalizer");
    refuse_file(words, "\"type\": \"BPE\"", "\"type\": \"Unigram\"", "Unigram");
    refuse_file(words, "\"ignore_merges\": false", "\"ignore_merges\": true", "ignore_merges");
    refuse_file(words, "\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback");
    refuse_file(words, "\"lstrip\": false", "\"lstrip\": true", "<|im_start|>");
    refuse_file(words, "\"id\": 0", "\"id\": 18446744073709551616", "tokenizer.json");
    refuse_file(words, "\"id\": 0", "\"id\": 4294967296", "not one of the model's 277");
    refuse_file(words, "\"\\\"\": 38", "\"\\\"\": 39", "has the id of another token");
    refuse_file(words, "\"1 2\"", "\"1#2\"", "not two pieces");
    refuse_file(words, "\"1 2\"", "[\"1\", \"#\"]", "merges");
    refuse_file(words, "\"vocab\"", "\"vocal\"", "no model.vocab");
    refuse_file(weights, "model.norm.weight", "model.nerm.weight", "no tensor \"model.norm.weight");
    refuse_file(weights, "lm_head.weight", "lm_tail.weight", "no tensor \"lm_head.weight");
    remove(in_directory(words).text);
    assert_refused(model_open(&m, directory, &why), words);
}

static void damaged_directories_never_crash(void **state)
{
    static const struct {
        char name[20];
        size_t most; /* bytes from the beginning that are damaged */
    } files[3] = { { "config.json", 2000 }, { "tokenizer.json", 20000 },
                   { "model.safetensors", 6000 } };
    uint64_t random = 88172645463325252u;
    compute c;
    size_t i;
    (void)state;

    export_tiny(true);
    assert_done(compute_open(&c, 1, AWQ_A16, &why));
    for (i = 0; i < 900; i++) {
        const char *name = files[i % 3].name;
        byte_buffer bytes = replaced(name, "", "");
        size_t most = bytes.size < files[i % 3].most ? bytes.size : files[i % 3].most;
        size_t at = next_random(&random) % most;
        unsigned char old = bytes.bytes[at];
        bytes.bytes[at] = (unsigned char)(next_random(&random) % 2
                                              ? next_random(&random) % 256
                                              : '0' + next_random(&random) % 10);
        write_file(in_directory(name).text, bytes.bytes, bytes.size);
        use_model(&c, directory);
        bytes.bytes[at] = old;
        write_file(in_directory(name).text, bytes.bytes, bytes.size);
        free(bytes.bytes);
    }
    compute_close(&c);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_is_written_whole_or_not_at_all),
        cmocka_unit_test(parallel_for_covers_every_item_once),
        cmocka_unit_test(truncated_file_is_refused),
        cmocka_unit_test(damaged_file_never_crashes),
        cmocka_unit_test(each_broken_field_has_its_message),
        cmocka_unit_test(names_may_not_repeat),
        cmocka_unit_test(words_are_split_as_the_pre_tokenizer_says),
        cmocka_unit_test(unicode_classes_are_those_of_unicode),
        cmocka_unit_test(specials_are_found_first_and_only_where_allowed),
        cmocka_unit_test(every_text_comes_back),
        cmocka_unit_test(chat_is_chatml),
        cmocka_unit_test(logits_are_those_of_a_plain_forward_pass),
        cmocka_unit_test(attention_received_adds_up),
        cmocka_unit_test(saved_models_load_bit_for_bit),
        cmocka_unit_test(improved_models_err_less),
        cmocka_unit_test(folding_keeps_the_function),
        cmocka_unit_test(a_tied_embedding_is_read_from_the_packed_head),
        cmocka_unit_test(an_untied_head_leaves_the_embedding_alone),
        cmocka_unit_test(a_head_of_16_bits_stays_as_it_is),
        cmocka_unit_test(damaged_packed_linears_are_refused),
        cmocka_unit_test(larger_sketches_pick_better_ratios),
        cmocka_unit_test(perplexity_of_random_text_is_the_vocabulary),
        cmocka_unit_test(exported_directories_load_bit_for_bit),
        cmocka_unit_test(rotated_rows_are_reordered),
        cmocka_unit_test(exported_blocks_hold_the_same_weights),
        cmocka_unit_test(what_does_not_fit_is_refused_before_anything_is_written),
        cmocka_unit_test(interrupted_exports_leave_nothing),
        cmocka_unit_test(each_broken_file_of_a_directory_has_its_message),
        cmocka_unit_test(damaged_directories_never_crash)
    };
    int failed;

    snprintf(path, sizeof path, "test-llm-%ld.gguf", (long)getpid());
    snprintf(other_path, sizeof other_path, "test-llm-%ld-saved.gguf", (long)getpid());
    snprintf(directory, sizeof directory, "test-llm-%ld-directory", (long)getpid());
    setenv("CMOCKA_TEST_ABORT", "1", 0); /* a failed test's threads would run on in its frame */
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove(path);
    remove(other_path);
    remove_directory();
    return failed;
}
