/*  tiny.c - see tiny.h. */
#include "tiny.h"

#include "../../formats/safetensors.h"

const char tiny_vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n!\n#\n,\n-\n.\n?\n"
    "a\nb\nc\nd\n##a\n##b\n##c\n##d\ncafe\nthe\nship\n##s\n##ping\nharbour\ntide\ntides\nbread\n"
    "\xe4\xb8\xad\n\xe5\x9c\x8b\n\xe1\x84\x92\n##\xe1\x85\xa1\n##\xe1\x86\xab\nhigh\nlow\nwater\n"
    "of\nand\nin\nsun\n##rise\nis\nbaked\nat\nleaves\nstra\n##sse\n=\n";

enum { WORDS = 48, POSITIONS = 32, MOST = 64 };

static float random_number(void)
{
    static uint32_t state = 7;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

typedef struct tensors {
    safetensors_tensor list[MOST];
    char names[MOST][96];
    float around[MOST];
    size_t count;
} tensors;

/*  Random numbers of +-1/4 around a middle, one channel of norms far larger than the others. */
static void add(tensors *t, const char *name, const char *suffix, size_t rank, size_t rows,
                size_t columns, float around)
{
    char *full = t->names[t->count];

    snprintf(full, sizeof t->names[0], "%s%s", name, suffix);
    t->around[t->count] = around;
    t->list[t->count++] = safetensors_describe(full, SAFETENSORS_F32, rank, rows, columns);
}

static void add_linear(tensors *t, const char *layer, const char *name, size_t out, size_t in)
{
    char full[80];

    snprintf(full, sizeof full, "%s%s", layer, name);
    add(t, full, ".weight", 2, out, in, 0);
    add(t, full, ".bias", 1, out, 1, 0);
}

static void add_norm(tensors *t, const char *layer, const char *name)
{
    char full[80];

    snprintf(full, sizeof full, "%s%s", layer, name);
    add(t, full, ".weight", 1, TINY_DIM, 1, 1);
    add(t, full, ".bias", 1, TINY_DIM, 1, 0);
}

static void add_all(tensors *t)
{
    char layer[40];
    int i;

    add(t, "embeddings.word_embeddings", ".weight", 2, WORDS, TINY_DIM, 0);
    add(t, "embeddings.position_embeddings", ".weight", 2, POSITIONS, TINY_DIM, 0);
    add(t, "embeddings.token_type_embeddings", ".weight", 2, 2, TINY_DIM, 0);
    add_norm(t, "embeddings.", "LayerNorm");
    for (i = 0; i < TINY_LAYERS; i++) {
        snprintf(layer, sizeof layer, "encoder.layer.%d.", i);
        add_linear(t, layer, "attention.self.query", TINY_DIM, TINY_DIM);
        add_linear(t, layer, "attention.self.key", TINY_DIM, TINY_DIM);
        add_linear(t, layer, "attention.self.value", TINY_DIM, TINY_DIM);
        add_linear(t, layer, "attention.output.dense", TINY_DIM, TINY_DIM);
        add_norm(t, layer, "attention.output.LayerNorm");
        add_linear(t, layer, "intermediate.dense", TINY_FFN, TINY_DIM);
        add_linear(t, layer, "output.dense", TINY_DIM, TINY_FFN);
        add_norm(t, layer, "output.LayerNorm");
    }
}

static void fill(const tensors *t, size_t i)
{
    float *out = (float *)(void *)t->list[i].data;
    size_t k;

    for (k = 0; k < t->list[i].size / 4; k++) {
        out[k] = t->around[i] + 0.25f * random_number();
        if (t->around[i] > 0 && k == 3) out[k] *= 12.0f;
    }
}

static bool write_weights(const char *path, failure *why)
{
    safetensors_writer writer;
    tensors t;
    size_t i;

    t.count = 0;
    add_all(&t);
    if (!safetensors_write_begin(&writer, path, t.list, t.count, why)) return false;
    for (i = 0; i < t.count; i++) fill(&t, i);
    return safetensors_write_end(&writer, why);
}

/* ---- the folder ------------------------------------------------------------------------------ */

static const char *const files[] = { "model.safetensors", "config.json", "sentence_bert_config.json",
                                     "vocab.txt" };

char tiny_folder[64];

const char *tiny_path(const char *name)
{
    static char path[2][128];
    static int next;

    next = !next;
    snprintf(path[next], sizeof path[next], "%s/%s", tiny_folder, name);
    return path[next];
}

static bool write_text(const char *name, const char *text, failure *why)
{
    return file_write_whole(tiny_path(name), text, strlen(text), why);
}

bool tiny_open(failure *why)
{
    char config[512];

    snprintf(tiny_folder, sizeof tiny_folder, "/tmp/awq-search-XXXXXX");
    if (!mkdtemp(tiny_folder)) return fail(why, "no folder in /tmp");
    snprintf(config, sizeof config,
             "{\"model_type\": \"bert\", \"hidden_act\": \"gelu\", \"hidden_size\": %d, "
             "\"intermediate_size\": %d, \"num_attention_heads\": %d, \"num_hidden_layers\": %d, "
             "\"vocab_size\": %d, \"max_position_embeddings\": %d, \"layer_norm_eps\": 1e-12}",
             (int)TINY_DIM, (int)TINY_FFN, (int)TINY_HEADS, (int)TINY_LAYERS, (int)WORDS,
             (int)POSITIONS);
    return write_weights(tiny_path(files[0]), why) && write_text(files[1], config, why)
           && write_text(files[2], "{\"max_seq_length\": 24}", why)
           && write_text(files[3], tiny_vocabulary, why);
}

bool tiny_close(const char *const *others, size_t count)
{
    size_t i;

    for (i = 0; i < sizeof files / sizeof *files; i++) remove(tiny_path(files[i]));
    for (i = 0; i < count; i++) remove(tiny_path(others[i]));
    return rmdir(tiny_folder) == 0;
}
