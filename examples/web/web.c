/*  web.c - the search host as functions that a page calls: open a model, take in texts, ask. The code
    behind them is examples/search, compiled to WebAssembly. One page, one model, one index. */
#include "../search/index.h"
#include "../search/packed_model.h"

#include <stdlib.h>
#include <string.h>

#if defined(__wasm__)
#define EXPORT __attribute__((visibility("default")))
#else
#define EXPORT
#endif

enum { ANSWERS = 20 };

static packed_model model;
static workspace scratch;
static passages texts;
static float *vectors;              /* [texts.count][dim] */
static size_t embedded;             /* how many of them are there */
static unsigned char *index_bytes;
static search_index found_in;
static answer answers[ANSWERS];
static failure why;

EXPORT void *web_allocate(size_t size);
EXPORT void web_free(void *memory);
EXPORT const char *web_error(void);
EXPORT const char *web_kernels(void);
EXPORT int web_open(const unsigned char *bytes, size_t size);
EXPORT int web_take(const char *name, const char *text, size_t size);
EXPORT int web_embed(void);
EXPORT int web_ask(const char *question, size_t size);
EXPORT size_t web_passage(size_t place);
EXPORT float web_likeness(size_t place);
EXPORT const char *web_text(size_t passage_number);
EXPORT size_t web_text_size(size_t passage_number);
EXPORT size_t web_line(size_t passage_number);
EXPORT const char *web_name(size_t passage_number);

/*  Memory for what the page hands over. */
void *web_allocate(size_t size)
{
    return malloc(size + 1);
}

void web_free(void *memory)
{
    free(memory);
}

/*  What the last function that returned -1 has to say. */
const char *web_error(void)
{
    return why.text;
}

const char *web_kernels(void)
{
    return model.e.kernels.name;
}

/*  The bytes are used in place and must stay. 0, or -1: failed. */
int web_open(const unsigned char *bytes, size_t size)
{
    return packed_model_open(&model, bytes, size, &why)
           && workspace_open(&scratch, &model.e, 0, &why) ? 0 : -1;
}

static void forget(void)
{
    free(index_bytes);
    index_bytes = NULL;
    index_close(&found_in);
    free(vectors);
    vectors = NULL;
    embedded = 0;
    passages_close(&texts);
}

/*  Forgets the texts before and cuts a new one; returns how many passages it has, or -1. */
int web_take(const char *name, const char *text, size_t size)
{
    forget();
    if (!passages_add(&texts, &model.e.words, model.e.room, name, text, size, &why)) return -1;
    vectors = malloc((texts.count * model.e.dim + 1) * sizeof *vectors);
    if (!vectors) fail(&why, "out of memory for %zu passages", texts.count);
    return vectors ? (int)texts.count : -1;
}

/*  Reads one passage, so that the page can show how far it is. Returns how many are left; at 0 the
    index is ready. -1: failed. */
int web_embed(void)
{
    const passage *item = &texts.items[embedded];
    size_t size;

    if (embedded < texts.count) {
        if (!encoder_text(&model.e, &scratch, texts.text + item->begin, item->end - item->begin,
                          vectors + embedded * model.e.dim, &why))
            return -1;
        embedded++;
    }
    if (embedded < texts.count || texts.count == 0) return (int)(texts.count - embedded);
    index_bytes = index_make(&model.e.kernels, &texts, vectors, model.e.dim, model.file.checksum,
                             &size, &why);
    return index_bytes && index_open(&found_in, index_bytes, size, &why) ? 0 : -1;
}

/*  Returns how many answers there are, best first, or -1. */
int web_ask(const char *question, size_t size)
{
    float *vector = malloc(model.e.dim * sizeof *vector);
    int found = -1;

    if (!vector || !index_bytes) fail(&why, "there is nothing to search yet");
    else if (encoder_text(&model.e, &scratch, question, size, vector, &why))
        found = (int)index_find(&found_in, &model.e.kernels, vector, answers, ANSWERS, &why);
    free(vector);
    return found == 0 ? -1 : found;
}

size_t web_passage(size_t place)
{
    return answers[place].passage;
}

float web_likeness(size_t place)
{
    return answers[place].likeness;
}

const char *web_text(size_t passage_number)
{
    return texts.text + texts.items[passage_number].begin;
}

size_t web_text_size(size_t passage_number)
{
    return texts.items[passage_number].end - texts.items[passage_number].begin;
}

size_t web_line(size_t passage_number)
{
    return texts.items[passage_number].line;
}

const char *web_name(size_t passage_number)
{
    return passages_name(&texts, texts.items[passage_number].file);
}
