/*  bert.c - see bert.h. */
#include "bert.h"

/* ---- config ---------------------------------------------------------------------------------- */

static bool need_size(const json_t *config, const char *key, size_t *out, failure *why)
{
    if (json_get_size(json_object_get(config, key), out) && *out > 0) return true;
    return fail(why, "config.json has no size \"%s\"", key);
}

static bool need_text(const json_t *config, const char *key, const char *wanted, failure *why)
{
    const char *text = json_string_value(json_object_get(config, key));

    if (text && strcmp(text, wanted) == 0) return true;
    return fail(why, "config.json: \"%s\" is \"%s\"; only \"%s\" is run", key,
                text ? json_show(text).text : "nothing", wanted);
}

static bool read_config(encoder *e, const json_t *config, failure *why)
{
    const json_t *positions = json_object_get(config, "position_embedding_type");

    e->norm_epsilon = (float)json_number_value(json_object_get(config, "layer_norm_eps"));
    return need_text(config, "model_type", "bert", why)
           && need_text(config, "hidden_act", "gelu", why)
           && (!positions || need_text(config, "position_embedding_type", "absolute", why))
           && need_size(config, "hidden_size", &e->dim, why)
           && need_size(config, "intermediate_size", &e->ffn_dim, why)
           && need_size(config, "num_attention_heads", &e->heads, why)
           && need_size(config, "num_hidden_layers", &e->layers, why)
           && need_size(config, "vocab_size", &e->vocabulary, why)
           && need_size(config, "max_position_embeddings", &e->room, why);
}

/*  Sentence encoders are trained on shorter texts than their positions allow. */
static bool read_room(encoder *e, const char *path, failure *why)
{
    json_t *config;
    size_t room;

    if (access(path, F_OK) != 0) return true;
    config = json_read_file(path, why);
    if (!config) return false;
    if (json_get_size(json_object_get(config, "max_seq_length"), &room) && room < e->room)
        e->room = room;
    json_decref(config);
    return true;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static bool find_dtype(const safetensors_tensor *tensor, awq_dtype *out)
{
    switch (tensor->dtype) {
    case SAFETENSORS_F32: *out = AWQ_F32; return true;
    case SAFETENSORS_F16: *out = AWQ_F16; return true;
    case SAFETENSORS_BF16: *out = AWQ_BF16; return true;
    default: return false;
    }
}

/*  Memory that lives as long as the model. */
static float *keep_floats(bert *m, size_t count, failure *why)
{
    float **list = realloc(m->converted, (m->converted_count + 1) * sizeof *list);
    float *floats = NULL;

    if (list) {
        m->converted = list;
        floats = malloc(count * sizeof *floats);
    }
    if (!floats) fail(why, "out of memory");
    else m->converted[m->converted_count++] = floats;
    return floats;
}

/*  The tensor [rows][columns] in fp32 (rows = 1: of rank 1): where it lies, or a copy. Some
    directories have all names after "bert.". */
static bool find_floats(bert *m, const char *name, const char *suffix, size_t rows, size_t columns,
                        const float **out, failure *why)
{
    const safetensors_tensor *tensor;
    char full[128];
    awq_dtype dtype = AWQ_F32;
    float *copy;

    snprintf(full, sizeof full, "bert.%s%s", name, suffix);
    tensor = safetensors_find(&m->weights, full + 5);
    if (!tensor) tensor = safetensors_find(&m->weights, full);
    if (!tensor) return fail(why, "model.safetensors has no tensor \"%s\"", full + 5);
    if (!find_dtype(tensor, &dtype) || tensor->rank != (rows > 1 ? 2u : 1u)
        || tensor->shape[0] != (rows > 1 ? rows : columns)
        || (rows > 1 && tensor->shape[1] != columns))
        return fail(why, "model.safetensors: \"%s\" is %s, not floats [%zu, %zu]", full + 5,
                    safetensors_show(tensor).text, rows, columns);
    if (dtype == AWQ_F32 && (uintptr_t)tensor->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)tensor->data;
        return true;
    }
    copy = keep_floats(m, rows * columns, why);
    if (!copy) return false;
    awq_convert(awq_matrix_view(tensor->data, dtype, rows, columns),
                awq_matrix_view(copy, AWQ_F32, rows, columns));
    *out = copy;
    return true;
}

static bool find_norm(bert *m, const char *name, norm *out, failure *why)
{
    return find_floats(m, name, ".weight", 1, m->e.dim, &out->weight, why)
           && find_floats(m, name, ".bias", 1, m->e.dim, &out->bias, why);
}

/*  All texts are of token type 0. */
static bool find_positions(bert *m, size_t positions, failure *why)
{
    encoder *e = &m->e;
    const float *position, *type;
    float *sum;
    size_t i;

    if (!find_floats(m, "embeddings.position_embeddings", ".weight", positions, e->dim, &position,
                     why)
        || !find_floats(m, "embeddings.token_type_embeddings", ".weight", 2, e->dim, &type, why))
        return false;
    sum = keep_floats(m, e->room * e->dim, why);
    for (i = 0; sum && i < e->room * e->dim; i++) sum[i] = position[i] + type[i % e->dim];
    e->positions = sum;
    return sum != NULL;
}

static bool find_layer(bert *m, size_t layer, failure *why)
{
    encoder *e = &m->e;
    char name[64];
    size_t which;

    for (which = 0; which < LINEARS; which++) {
        linear *l = &e->linears[layer * LINEARS + which];
        if (!find_floats(m, l->name, ".weight", l->out_features, l->in_features, &l->weight, why)
            || !find_floats(m, l->name, ".bias", 1, l->out_features, &l->bias, why))
            return false;
    }
    snprintf(name, sizeof name, "encoder.layer.%zu.attention.output.LayerNorm", layer);
    if (!find_norm(m, name, &e->attention_norms[layer], why)) return false;
    snprintf(name, sizeof name, "encoder.layer.%zu.output.LayerNorm", layer);
    return find_norm(m, name, &e->ffn_norms[layer], why);
}

static bool find_tensors(bert *m, size_t positions, failure *why)
{
    encoder *e = &m->e;
    size_t i;

    if (!find_floats(m, e->embedding.name, ".weight", e->vocabulary, e->dim, &e->embedding.weight,
                     why)
        || !find_positions(m, positions, why)
        || !find_norm(m, "embeddings.LayerNorm", &e->embedding_norm, why))
        return false;
    for (i = 0; i < e->layers; i++)
        if (!find_layer(m, i, why)) return false;
    return true;
}

/* ---- the directory --------------------------------------------------------------------------- */

static bool open_config(encoder *e, const char *path, failure *why)
{
    json_t *config = json_read_file(path, why);
    bool read = config && read_config(e, config, why);

    json_decref(config);
    return read;
}

static bool open_vocabulary(bert *m, const char *path, failure *why)
{
    failure reason;

    if (!file_map(&m->vocabulary, path, why)) return false;
    if (!wordpiece_open(&m->e.words, (const char *)m->vocabulary.bytes, m->vocabulary.size,
                        &reason))
        return fail(why, "%.200s: %.280s", path, reason.text);
    if (m->e.words.count > m->e.vocabulary)
        return fail(why, "%s: %zu words, but the model has only %zu", path, m->e.words.count,
                    m->e.vocabulary);
    return true;
}

static bool open_files(bert *m, char *const *paths, failure *why)
{
    size_t positions;

    if (!open_config(&m->e, paths[0], why)) return false;
    positions = m->e.room;
    return read_room(&m->e, paths[1], why) && encoder_open(&m->e, why)
           && open_vocabulary(m, paths[2], why) && safetensors_open(&m->weights, paths[3], why)
           && find_tensors(m, positions, why);
}

bool bert_open(bert *m, const char *directory, failure *why)
{
    static const char *const names[4] = { "config.json", "sentence_bert_config.json", "vocab.txt",
                                          "model.safetensors" };
    char *paths[4];
    bool opened = true;
    failure reason;
    size_t i;

    memset(m, 0, sizeof *m);
    for (i = 0; i < 4; i++) {
        paths[i] = join(directory, "/", names[i]);
        if (!paths[i]) opened = fail(&reason, "out of memory");
    }
    opened = opened && open_files(m, paths, &reason);
    for (i = 0; i < 4; i++) free(paths[i]);
    if (opened) return true;
    bert_close(m);
    return fail(why, "%.120s: %.380s", directory, reason.text);
}

void bert_close(bert *m)
{
    size_t i;

    encoder_close(&m->e);
    safetensors_close(&m->weights);
    file_unmap(&m->vocabulary);
    for (i = 0; i < m->converted_count; i++) free(m->converted[i]);
    free(m->converted);
    memset(m, 0, sizeof *m);
}
