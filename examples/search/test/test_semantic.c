/*  test_semantic.c - the parts of examples/search on a small random model: tokens, the encoder against
    a plain one in double, quantize, index, ask, and files that are damaged. */
#include "../compare.h"
#include "../folder.h"
#include "../index.h"
#include "../model.h"
#include "../quantize.h"
#include "tiny.h"

#include "../../common/asserts.h"

#include <math.h>

static failure why;
static parallel_pool pool;

static const char text[] =
    "the tides of the harbour, high water and low water. ship and ships!\n\nbread is baked at "
    "sunrise, and ships of the harbour\nleaves at high water?\n\n\nthe sun, the sea; shipping in "
    "the caf\xc3\xa9 is low\n\nhigh tide - low tide, low water and high water, a b c d, and bread is "
    "baked in the harbour and the ship leaves at sunrise and the tide is high and the sun is low\n";

/* ---- tokens ---------------------------------------------------------------------------------- */

/*  `wanted`: the pieces between [CLS] and [SEP], with blanks between. */
static void assert_pieces(const wordpiece *words, const char *from, const char *wanted)
{
    uint32_t ids[64];
    size_t count = wordpiece_encode(words, from, strlen(from), ids, 64, NULL), i;
    char found[1024] = "";

    assert_true(count >= 2 && ids[0] == words->first && ids[count - 1] == words->last);
    for (i = 1; i + 1 < count; i++) {
        const wordpiece_entry *piece = &words->pieces[ids[i]];
        bool continues = piece->offset >= 2 && memcmp(words->text + piece->offset - 2, "##", 2) == 0;
        size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%s%s%.*s", i > 1 ? " " : "",
                 continues ? "##" : "", (int)piece->length, words->text + piece->offset);
    }
    assert_string_equal(found, wanted);
}

static void words_become_pieces(void **state)
{
    wordpiece words;
    char word[101 + 1];

    (void)state;
    assert_done(wordpiece_open(&words, tiny_vocabulary, strlen(tiny_vocabulary), &why));
    assert_pieces(&words, "", "");
    assert_pieces(&words, "  The\tships\n", "the ship ##s");
    assert_pieces(&words, "shipping,tides-a", "ship ##ping , tides - a");
    assert_pieces(&words, "abcab", "a ##b ##c ##a ##b");
    assert_pieces(&words, "shipz sun", "[UNK] sun");
    assert_pieces(&words, "CAF\xc3\x89 cafe\xcc\x81", "cafe cafe");              /* accents */
    assert_pieces(&words, "Stra\xc3\x9f" "e strasse", "[UNK] stra ##sse");
    assert_pieces(&words, "a\xe4\xb8\xad\xe5\x9c\x8b" "b", "a \xe4\xb8\xad \xe5\x9c\x8b b");
    assert_pieces(&words, "\xed\x95\x9c", "\xe1\x84\x92 ##\xe1\x85\xa1 ##\xe1\x86\xab");
    assert_pieces(&words, "\xe2\x89\xa0", "=");         /* not equal: an equals sign, crossed out */
    assert_pieces(&words, "su\xc2\xadn\xe2\x80\x83low", "sun low");   /* soft hyphen, em space */
    assert_pieces(&words, "[CLS]", "[UNK] [UNK] [UNK]");    /* text is never a special token */
    assert_pieces(&words, "su\xffn \xc3", "sun");
    memset(word, 'a', sizeof word);
    word[101] = '\0';
    assert_pieces(&words, word, "[UNK]");
    wordpiece_close(&words);
    assert_refused(wordpiece_open(&words, "a\nb\n", 4, &why), "[UNK]");
}

static void full_room_ends_between_words(void **state)
{
    static const char sentence[] = "the ships leaves";
    wordpiece words;
    uint32_t ids[8];
    size_t used, room;

    (void)state;
    assert_done(wordpiece_open(&words, tiny_vocabulary, strlen(tiny_vocabulary), &why));
    for (room = 2; room <= 7; room++) {
        size_t count = wordpiece_encode(&words, sentence, strlen(sentence), ids, room, &used);
        static const size_t expected[8] = { 0, 0, 0, 4, 4, 10, 16, 16 };
        assert_int_equal(count, room < 6 ? room : 6);
        assert_int_equal(ids[count - 1], words.last);
        assert_int_equal(used, expected[room]);
    }
    wordpiece_close(&words);
}

/* ---- the encoder ----------------------------------------------------------------------------- */

static void plain_linear(const linear *l, const double *x, size_t tokens, double *y)
{
    size_t t, r, c;
    for (t = 0; t < tokens; t++)
        for (r = 0; r < l->out_features; r++) {
            double sum = (double)l->bias[r];
            for (c = 0; c < l->in_features; c++)
                sum += (double)l->weight[r * l->in_features + c] * x[t * l->in_features + c];
            y[t * l->out_features + r] = sum;
        }
}

static void plain_norm(double *x, size_t dim, const norm *n)
{
    double mean = 0, square = 0;
    size_t c;
    for (c = 0; c < dim; c++) mean += x[c] / (double)dim;
    for (c = 0; c < dim; c++) square += (x[c] - mean) * (x[c] - mean) / (double)dim;
    for (c = 0; c < dim; c++)
        x[c] = (x[c] - mean) / sqrt(square + 1e-12) * (double)n->weight[c] + (double)n->bias[c];
}

static void plain_attention(const double *q, const double *k, const double *v, size_t tokens,
                            double *out)
{
    enum { DIM = TINY_DIM, HEAD = TINY_DIM / TINY_HEADS };
    size_t h, i, j, c;
    for (h = 0; h < TINY_HEADS; h++)
        for (i = 0; i < tokens; i++) {
            double share[TINY_ROOM], sum = 0;
            for (j = 0; j < tokens; j++) {
                share[j] = 0;
                for (c = h * HEAD; c < (h + 1) * HEAD; c++)
                    share[j] += q[i * DIM + c] * k[j * DIM + c] / sqrt((double)HEAD);
                share[j] = exp(share[j]);
                sum += share[j];
            }
            for (c = h * HEAD; c < (h + 1) * HEAD; c++) {
                out[i * DIM + c] = 0;
                for (j = 0; j < tokens; j++) out[i * DIM + c] += share[j] / sum * v[j * DIM + c];
            }
        }
}

static void plain_layer(const encoder *e, size_t layer, double *x, size_t tokens)
{
    static double q[TINY_ROOM * TINY_DIM], k[TINY_ROOM * TINY_DIM], v[TINY_ROOM * TINY_DIM];
    static double mixed[TINY_ROOM * TINY_DIM], wide[TINY_ROOM * TINY_FFN];
    const linear *l = e->linears + layer * LINEARS;
    size_t i, t;

    plain_linear(&l[LINEAR_Q], x, tokens, q);
    plain_linear(&l[LINEAR_K], x, tokens, k);
    plain_linear(&l[LINEAR_V], x, tokens, v);
    plain_attention(q, k, v, tokens, mixed);
    plain_linear(&l[LINEAR_O], mixed, tokens, q);
    for (i = 0; i < tokens * TINY_DIM; i++) x[i] += q[i];
    for (t = 0; t < tokens; t++) plain_norm(x + t * TINY_DIM, TINY_DIM, &e->attention_norms[layer]);
    plain_linear(&l[LINEAR_UP], x, tokens, wide);
    for (i = 0; i < tokens * TINY_FFN; i++) wide[i] *= 0.5 * (1 + erf(wide[i] / sqrt(2.0)));
    plain_linear(&l[LINEAR_DOWN], wide, tokens, q);
    for (i = 0; i < tokens * TINY_DIM; i++) x[i] += q[i];
    for (t = 0; t < tokens; t++) plain_norm(x + t * TINY_DIM, TINY_DIM, &e->ffn_norms[layer]);
}

static void plain_encode(const encoder *e, const uint32_t *ids, size_t tokens, double *vector)
{
    double x[TINY_ROOM * TINY_DIM], length = 0;
    size_t t, c, i;

    for (t = 0; t < tokens; t++) {
        for (c = 0; c < TINY_DIM; c++)
            x[t * TINY_DIM + c] = (double)e->embedding.weight[ids[t] * TINY_DIM + c]
                                  + (double)e->positions[t * TINY_DIM + c];
        plain_norm(x + t * TINY_DIM, TINY_DIM, &e->embedding_norm);
    }
    for (i = 0; i < e->layers; i++) plain_layer(e, i, x, tokens);
    for (c = 0; c < TINY_DIM; c++) vector[c] = 0;
    for (i = 0; i < tokens * TINY_DIM; i++) vector[i % TINY_DIM] += x[i];
    for (c = 0; c < TINY_DIM; c++) length += vector[c] * vector[c];
    for (c = 0; c < TINY_DIM; c++) vector[c] /= sqrt(length);
}

static void open_texts(passages *p, const encoder *e)
{
    memset(p, 0, sizeof *p);
    assert_done(passages_add(p, &e->words, e->room, "text", text, strlen(text), &why));
    assert_true(p->count >= 5);     /* the last paragraph does not fit into one */
}

static float *embed_all(const encoder *e, const passages *p)
{
    float *vectors = malloc(p->count * e->dim * sizeof *vectors);
    assert_done(embed_passages(e, &pool, p, NULL, vectors, NULL, &why));
    return vectors;
}

static void encoder_is_bert(void **state)
{
    double expected[TINY_DIM];
    uint32_t ids[TINY_ROOM];
    passages p;
    float *vectors;
    model m;
    size_t i, c;

    (void)state;
    assert_done(model_open(&m, tiny_folder, &why));
    assert_int_equal(m.e->room, TINY_ROOM);
    open_texts(&p, m.e);
    vectors = embed_all(m.e, &p);
    for (i = 0; i < p.count; i++) {
        const passage *item = &p.items[i];
        size_t tokens = wordpiece_encode(&m.e->words, p.text + item->begin, item->end - item->begin,
                                         ids, TINY_ROOM, NULL);
        plain_encode(m.e, ids, tokens, expected);
        for (c = 0; c < TINY_DIM; c++)
            assert_true(fabs((double)vectors[i * TINY_DIM + c] - expected[c]) < 2e-6);
    }
    free(vectors);
    passages_close(&p);
    model_close(&m);
}

static void vectors_do_not_depend_on_the_batch(void **state)
{
    float alone[TINY_DIM];
    passages p;
    workspace w;
    float *vectors;
    model m;
    size_t i;

    (void)state;
    assert_done(model_open(&m, tiny_folder, &why));
    open_texts(&p, m.e);
    vectors = embed_all(m.e, &p);
    assert_done(workspace_open(&w, m.e, 0, &why));
    for (i = 0; i < p.count; i++) {
        const passage *item = &p.items[i];
        assert_done(encoder_text(m.e, &w, p.text + item->begin, item->end - item->begin, alone,
                                 &why));
        assert_memory_equal(alone, vectors + i * TINY_DIM, sizeof alone);
    }
    workspace_close(&w);
    free(vectors);
    passages_close(&p);
    model_close(&m);
}

typedef struct seen {
    size_t calls[TINY_LAYERS][INPUTS], tokens[INPUTS];
    double weight;
} seen;

static bool see(void *context, size_t layer, input_group group, awq_matrix x,
                const float *token_weight, failure *ignored)
{
    seen *s = context;
    size_t t;

    (void)ignored;
    s->calls[layer][group]++;
    s->tokens[group] += x.rows;
    assert_int_equal(x.cols, group == INPUT_DOWN ? TINY_FFN : TINY_DIM);
    for (t = 0; group == INPUT_QKV && t < x.rows; t++)
        s->weight += (double)token_weight[t] * (double)token_weight[t];
    return true;
}

static void observer_sees_every_input(void **state)
{
    observer watch = { see, NULL };
    seen s;
    passages p;
    model m;
    size_t i;

    (void)state;
    memset(&s, 0, sizeof s);
    watch.context = &s;
    assert_done(model_open(&m, tiny_folder, &why));
    open_texts(&p, m.e);
    assert_done(watch_passages(m.e, &p, NULL, &watch, &why));
    for (i = 0; i < TINY_LAYERS * INPUTS; i++)
        assert_int_equal(s.calls[i / INPUTS][i % INPUTS], s.calls[0][0]);
    assert_true(s.calls[0][0] > 0);
    for (i = 1; i < INPUTS; i++) assert_int_equal(s.tokens[i], s.tokens[0]);
    assert_true(fabs(s.weight / (double)s.tokens[0] - 1) < 1e-4);     /* their mean square is 1 */
    passages_close(&p);
    model_close(&m);
}

static void linears_can_be_replaced(void **state)
{
    static float zero[TINY_FFN * TINY_DIM];
    passages p;
    float *before, *after;
    model m;

    (void)state;
    assert_done(model_open(&m, tiny_folder, &why));
    open_texts(&p, m.e);
    before = embed_all(m.e, &p);
    m.e->linears[LINEARS + LINEAR_DOWN].weight = zero;
    after = embed_all(m.e, &p);
    assert_memory_not_equal(before, after, p.count * TINY_DIM * sizeof *before);
    free(before);
    free(after);
    passages_close(&p);
    model_close(&m);
}

/* ---- quantized ------------------------------------------------------------------------------- */

static quantize_options options_of(int bits)
{
    quantize_options options = { { 4, 32, 0, AWQ_F16 }, 8, false, true, true };
    options.quant.bits = bits;
    return options;
}

/*  Mean of 1 - cosine to the vectors in fp32. */
static double quantized_loss(const encoder *e, const passages *p, const float *exact,
                             const quantize_options *options)
{
    size_t size, i, c;
    unsigned char *bytes = quantize_encoder(e, &pool, p, options, &size, &why);
    packed_model packed;
    float *vectors;
    double loss = 0;

    assert_done(bytes != NULL);
    assert_done(packed_model_open(&packed, bytes, size, &why));
    vectors = embed_all(&packed.e, p);
    for (i = 0; i < p->count; i++) {
        double cosine = 0;
        for (c = 0; c < TINY_DIM; c++)
            cosine += (double)vectors[i * TINY_DIM + c] * (double)exact[i * TINY_DIM + c];
        loss += (1 - cosine) / (double)p->count;
    }
    packed_model_close(&packed);
    free(vectors);
    free(bytes);
    return loss;
}

/*  At 8 bits next to nothing is lost, so that a scale folded wrongly would be seen. */
static void quantized_is_near(void **state)
{
    quantize_options options = options_of(8);
    double plain, clipped, improved;
    passages p;
    float *exact;
    model m;

    (void)state;
    assert_done(model_open(&m, tiny_folder, &why));
    open_texts(&p, m.e);
    exact = embed_all(m.e, &p);
    assert_true(quantized_loss(m.e, &p, exact, &options) < 2e-5);
    options = options_of(4);
    improved = quantized_loss(m.e, &p, exact, &options);
    options.improve = false;
    clipped = quantized_loss(m.e, &p, exact, &options);
    options.plain = true;
    plain = quantized_loss(m.e, &p, exact, &options);
    print_message("1 - cosine: plain %.2e, clipped %.2e, improved %.2e\n", plain, clipped, improved);
    assert_true(plain < 0.05);
    assert_true(clipped < plain);
    assert_true(improved < plain);
    free(exact);
    passages_close(&p);
    model_close(&m);
}

/* ---- passages and index ---------------------------------------------------------------------- */

static void texts_are_cut_into_paragraphs(void **state)
{
    static const size_t lines[4] = { 1, 3, 7, 9 };
    wordpiece words;
    passages p;
    size_t i;

    (void)state;
    assert_done(wordpiece_open(&words, tiny_vocabulary, strlen(tiny_vocabulary), &why));
    memset(&p, 0, sizeof p);
    assert_done(passages_add(&p, &words, 1000, "a", "\n \n", 3, &why));
    assert_int_equal(p.count, 0);
    assert_done(passages_add(&p, &words, 1000, "b", text, strlen(text), &why));
    assert_int_equal(p.count, 4);
    for (i = 0; i < 4; i++) {
        assert_int_equal(p.items[i].line, lines[i]);
        assert_int_equal(p.items[i].file, 1);
        assert_string_equal(passages_name(&p, p.items[i].file), "b");
    }
    assert_memory_equal(p.text + p.items[1].begin, "bread is", 8);
    assert_memory_equal(p.text + p.items[1].end - 6, "water?", 6);
    assert_done(passages_add_lines(&p, "c", "x\n\n y", 5, &why));
    assert_int_equal(p.count, 6);
    assert_int_equal(p.items[5].line, 3);
    passages_close(&p);
    wordpiece_close(&words);
}

static void long_paragraphs_lose_nothing(void **state)
{
    wordpiece words;
    passages p;
    uint32_t ids[8];
    size_t i, used, at;

    (void)state;
    assert_done(wordpiece_open(&words, tiny_vocabulary, strlen(tiny_vocabulary), &why));
    memset(&p, 0, sizeof p);
    assert_done(passages_add(&p, &words, 8, "b", text, strlen(text), &why));
    for (i = 0, at = 0; i < p.count; at = p.items[i++].end) {
        const passage *item = &p.items[i];
        wordpiece_encode(&words, p.text + item->begin, item->end - item->begin, ids, 8, &used);
        assert_int_equal(used, item->end - item->begin);
        for (; at < item->begin; at++) assert_non_null(strchr(" \n", p.text[at]));
    }
    passages_close(&p);
    wordpiece_close(&words);
}

static unsigned char *make_index(const passages *p, const float *vectors, size_t *size)
{
    awq_kernels k = awq_kernels_best();
    unsigned char *bytes = index_make(&k, p, vectors, TINY_DIM, 42, size, &why);
    assert_done(bytes != NULL);
    return bytes;
}

/*  Vectors far from one another, of length 1. */
static float *random_vectors(size_t count)
{
    float *vectors = malloc(count * TINY_DIM * sizeof *vectors);
    uint32_t bits = 3;
    size_t i, c;

    for (i = 0; i < count; i++) {
        double square = 0;
        for (c = 0; c < TINY_DIM; c++) {
            bits = bits * 1664525u + 1013904223u;
            vectors[i * TINY_DIM + c] = (float)(bits >> 8) / 8388608.0f - 1.0f;
            square += pow((double)vectors[i * TINY_DIM + c], 2);
        }
        for (c = 0; c < TINY_DIM; c++) vectors[i * TINY_DIM + c] /= (float)sqrt(square);
    }
    return vectors;
}

/*  The answers against products in double; likenesses are as exact as 8 bits. */
static void check_answers(const search_index *index, const float *vectors, size_t question)
{
    awq_kernels k = awq_kernels_best();
    size_t count = index->p.count, i, c, found;
    answer *answers = malloc(count * sizeof *answers), first;

    found = index_find(index, &k, vectors + question * TINY_DIM, answers, count, &why);
    assert_int_equal(found, count);
    assert_int_equal(answers[0].passage, question);
    for (i = 0; i < found; i++) {
        double cosine = 0;
        for (c = 0; c < TINY_DIM; c++)
            cosine += (double)vectors[question * TINY_DIM + c]
                      * (double)vectors[answers[i].passage * TINY_DIM + c];
        assert_true(fabs(cosine - (double)answers[i].likeness) < 0.01);
        assert_true(i == 0 || answers[i].likeness <= answers[i - 1].likeness);
    }
    assert_int_equal(index_find(index, &k, vectors + question * TINY_DIM, &first, 1, &why), 1);
    assert_true(first.passage == question && first.likeness >= answers[0].likeness);
    free(answers);
}

static void index_finds_the_nearest(void **state)
{
    wordpiece words;
    search_index index;
    unsigned char *bytes;
    passages p;
    float *vectors;
    size_t size, i;

    (void)state;
    memset(&p, 0, sizeof p);
    assert_done(wordpiece_open(&words, tiny_vocabulary, strlen(tiny_vocabulary), &why));
    for (i = 0; i < 9; i++)
        assert_done(passages_add(&p, &words, 8, "text", text, strlen(text), &why));
    vectors = random_vectors(p.count);
    bytes = make_index(&p, vectors, &size);
    assert_done(index_open(&index, bytes, size, &why));
    assert_true(index.model == 42 && index.p.count == p.count && index.p.files == 9);
    assert_memory_equal(index.p.items, p.items, p.count * sizeof *p.items);
    assert_memory_equal(index.p.text, p.text, p.text_size);
    assert_string_equal(passages_name(&index.p, 8), "text");
    for (i = 0; i < p.count; i++) check_answers(&index, vectors, i);
    index_close(&index);
    free(bytes);
    free(vectors);
    passages_close(&p);
    wordpiece_close(&words);
}

/* ---- damaged files --------------------------------------------------------------------------- */

typedef bool opens(const unsigned char *bytes, size_t size);

static bool opens_model(const unsigned char *bytes, size_t size)
{
    packed_model m;
    bool opened = packed_model_open(&m, bytes, size, &why);
    if (opened) packed_model_close(&m);
    return opened;
}

static bool opens_index(const unsigned char *bytes, size_t size)
{
    search_index index;
    bool opened = index_open(&index, bytes, size, &why);
    if (opened) index_close(&index);
    return opened;
}

/*  Every truncation and every changed byte is refused in words; the bytes stand at the end of
    memory of their own, so that a read beyond them is seen by the sanitizers. */
static void damage(const unsigned char *bytes, size_t size, opens *open_it)
{
    size_t step = size / 400 + 1, at;

    assert_done(open_it(bytes, size));
    for (at = 0; at < size; at += at < 512 ? 1 : step) {
        unsigned char *copy = malloc(size);
        memcpy(copy + size - at, bytes, at);
        assert_refused(open_it(copy + size - at, at), "");
        assert_true(why.text[0] != '\0');
        memcpy(copy, bytes, size);
        copy[at] ^= (unsigned char)(1u << at % 8);
        assert_refused(open_it(copy, size), "");
        assert_true(why.text[0] != '\0');
        free(copy);
    }
    assert_refused(open_it(bytes, size - 1), "truncated");
}

static void damaged_files_are_refused(void **state)
{
    quantize_options options = options_of(4);
    unsigned char *bytes;
    passages p;
    float *vectors;
    model m;
    size_t size;

    (void)state;
    options.plain = true;
    assert_done(model_open(&m, tiny_folder, &why));
    open_texts(&p, m.e);
    bytes = quantize_encoder(m.e, &pool, &p, &options, &size, &why);
    assert_done(bytes != NULL);
    damage(bytes, size, opens_model);
    assert_refused(opens_index(bytes, size), "not an index");
    assert_done(file_write_whole(tiny_path("model.awqs"), bytes, size, &why));
    free(bytes);
    vectors = embed_all(m.e, &p);
    bytes = make_index(&p, vectors, &size);
    damage(bytes, size, opens_index);
    assert_refused(opens_model(bytes, size), "not a quantized model");
    free(bytes);
    free(vectors);
    passages_close(&p);
    model_close(&m);
    assert_done(model_open(&m, tiny_path("model.awqs"), &why));
    assert_true(m.id != 0);
    model_close(&m);
}

static void replace_file(const char *name, const char *old, const char *new_text)
{
    mapped_file file;
    char *copy, *place;
    size_t size;

    assert_done(file_map(&file, tiny_path(name), &why));
    size = file.size;
    copy = calloc(1, size + 1);
    memcpy(copy, file.bytes, size);
    file_unmap(&file);
    place = strstr(copy, old);
    assert_non_null(place);
    memcpy(place, new_text, strlen(new_text));
    assert_done(file_write_whole(tiny_path(name), copy, size, &why));
    free(copy);
}

static void wrong_directories_are_refused(void **state)
{
    static const struct { const char *old, *changed, *part; } cases[] = {
        { "\"bert\"", "\"gpt2\"", "model_type" },
        { "\"gelu\"", "\"relu\"", "hidden_act" },
        { "\"hidden_size\": 40", "\"hidden_size\": 45", "is F32 [" },
        { "\"num_attention_heads\": 5", "\"num_attention_heads\": 7", "heads" },
        { "\"vocab_size\": 48", "\"vocab_size\": 47", "words" },
        { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "encoder.layer.2" },
        { "1e-12", "0e-12", "epsilon" },
    };
    model m;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        replace_file("config.json", cases[i].old, cases[i].changed);
        assert_refused(model_open(&m, tiny_folder, &why), cases[i].part);
        replace_file("config.json", cases[i].changed, cases[i].old);
    }
    assert_done(model_open(&m, tiny_folder, &why));
    model_close(&m);
    assert_refused(model_open(&m, tiny_path("vocab.txt"), &why), "not a quantized model");
    assert_refused(model_open(&m, tiny_path("none"), &why), "none");
}

static void folders_are_read(void **state)
{
    wordpiece words;
    passages p;
    size_t skipped = 0;

    (void)state;
    memset(&p, 0, sizeof p);
    assert_done(wordpiece_open(&words, tiny_vocabulary, strlen(tiny_vocabulary), &why));
    assert_int_equal(mkdir(tiny_path("texts"), 0777), 0);
    assert_int_equal(mkdir(tiny_path("texts/b"), 0777), 0);
    assert_done(file_write_whole(tiny_path("texts/c.txt"), "the sun", 7, &why));
    assert_done(file_write_whole(tiny_path("texts/b/a.txt"), "the tide", 8, &why));
    assert_done(file_write_whole(tiny_path("texts/b/.hidden"), "the ship", 8, &why));
    assert_done(file_write_whole(tiny_path("texts/zero"), "a\0b", 3, &why));
    assert_int_equal(symlink(tiny_path("texts"), tiny_path("texts/b/loop")), 0);
    assert_done(folder_add(&p, &words, 100, tiny_path("texts"), &skipped, &why));
    assert_int_equal(p.count, 2);
    assert_int_equal(skipped, 2);
    assert_memory_equal(p.text + p.items[0].begin, "the tide", 8);
    assert_refused(folder_add(&p, &words, 100, tiny_path("nothing"), &skipped, &why), "nothing");
    passages_close(&p);
    wordpiece_close(&words);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int begin(void **state)
{
    (void)state;
    parallel_start(&pool, 3);
    return tiny_open(&why) ? 0 : -1;
}

static int end(void **state)
{
    static const char *const files[] = { "model.awqs", "texts/b/loop", "texts/b/.hidden",
                                         "texts/b/a.txt", "texts/c.txt", "texts/zero", "texts/b",
                                         "texts" };

    (void)state;
    parallel_stop(&pool);
    return tiny_close(files, sizeof files / sizeof files[0]) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_become_pieces),
        cmocka_unit_test(full_room_ends_between_words),
        cmocka_unit_test(encoder_is_bert),
        cmocka_unit_test(vectors_do_not_depend_on_the_batch),
        cmocka_unit_test(observer_sees_every_input),
        cmocka_unit_test(linears_can_be_replaced),
        cmocka_unit_test(quantized_is_near),
        cmocka_unit_test(texts_are_cut_into_paragraphs),
        cmocka_unit_test(long_paragraphs_lose_nothing),
        cmocka_unit_test(index_finds_the_nearest),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(wrong_directories_are_refused),
        cmocka_unit_test(folders_are_read),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
