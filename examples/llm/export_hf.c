/*  export_hf.c - see export.h: a directory as AutoAWQ would have made it. */
#include "../formats/tokenizer_json.h"
#include "export.h"
#include "hf_config.h"
#include "rope_order.h"

#define SHARD_SIZE ((size_t)5 << 30)

/* ---- what fits ------------------------------------------------------------------------------- */

/*  The largest common group size that divides every linear's inputs; 0 if there is none. */
static int whole_groups(const model *m)
{
    int group_size = 128;
    size_t which;

    for (which = 0; which < LINEARS; which++)
        while (group_size >= 32 && m->layers[0].linears[which].in_features % (size_t)group_size)
            group_size /= 2;
    return group_size >= 32 ? group_size : 0;
}

static bool refuse(const model *m, size_t which, awq_quant quant, awq_status status, failure *why)
{
    const linear *l = &m->layers[0].linears[which];
    int group_size = whole_groups(m);
    char advice[48] = "";

    if (status == AWQ_ERR_SHORT_GROUP && group_size)
        snprintf(advice, sizeof advice, "; --group %d would do", group_size);
    return fail(why, "AutoAWQ's layout cannot hold %s (%zu x %zu, groups of %d): %s%s",
                hf_name(0, which, "").text, l->out_features, l->in_features, quant.group_size,
                awq_status_string(status), advice);
}

bool export_check_hf(const model *m, awq_quant quant, failure *why)
{
    size_t which;

    for (which = 0; which < LINEARS; which++) {
        const linear *l = &m->layers[0].linears[which];
        awq_foreign weight;
        awq_status status =
            awq_foreign_init(&weight, AWQ_GEMM, quant, l->out_features, l->in_features);
        if (status != AWQ_OK) return refuse(m, which, quant, status, why);
    }
    return hf_config_check(m, why);
}

bool exported_model(model *out, const model *m, const model *original, failure *why)
{
    rope_rule rope = m->rope;
    const llama3_scaling *scaling = rope.factors ? llama3_find(&rope, m->rope_dims) : NULL;

    *out = *m;
    out->head = original->head;
    out->embedding = original->embedding;
    if (scaling) {
        rope.factors = malloc((m->rope_dims / 2 + 1) * sizeof *rope.factors);
        if (!rope.factors) return fail(why, "out of memory");
        llama3_factors(scaling, rope.base, m->rope_dims, rope.factors);
    }
    out->rope_frequencies = rope_frequencies(&rope, m->rope_dims, why);
    if (scaling) free(rope.factors);
    return out->rope_frequencies != NULL;
}

/* ---- the narrowest type ---------------------------------------------------------------------- */

/*  Rows of numbers: a norm or a bias is one. */
typedef struct number_rows {
    const linear *matrix;       /* or NULL: */
    const float *vector;        /* NULL: zeros */
    size_t rows, columns;
} number_rows;

static bool get_row(const number_rows *from, size_t row, float *out, failure *why)
{
    if (from->matrix) return linear_row(from->matrix, row, out, why);
    if (from->vector) memcpy(out, from->vector, from->columns * sizeof *out);
    else memset(out, 0, from->columns * sizeof *out);
    return true;
}

/*  `room` is for 2 * columns floats. */
static bool holds(awq_dtype dtype, const float *row, size_t columns, float *room)
{
    awq_matrix narrow = awq_matrix_view(room, dtype, 1, columns);
    awq_matrix back = awq_matrix_view(room + columns, AWQ_F32, 1, columns);

    return awq_convert(awq_matrix_view(row, AWQ_F32, 1, columns), narrow) == AWQ_OK
           && awq_convert(narrow, back) == AWQ_OK
           && memcmp(row, room + columns, columns * sizeof *row) == 0;
}

/*  F16 or BF16 if that holds every number exactly. */
static bool narrowest(const number_rows *from, awq_dtype *dtype, failure *why)
{
    float *row = malloc(3 * from->columns * sizeof *row);
    bool half = true, brain = true, read = row != NULL;
    size_t r;

    if (!row) return fail(why, "out of memory");
    for (r = 0; read && (half || brain) && r < from->rows; r++) {
        read = get_row(from, r, row, why);
        half = half && holds(AWQ_F16, row, from->columns, row + from->columns);
        brain = brain && holds(AWQ_BF16, row, from->columns, row + from->columns);
    }
    *dtype = half ? AWQ_F16 : brain ? AWQ_BF16 : AWQ_F32;
    free(row);
    return read;
}

static bool write_rows(const number_rows *from, awq_dtype dtype, unsigned char *to, failure *why)
{
    size_t r, row_size = from->columns * awq_dtype_size(dtype);
    float *row = malloc(from->columns * sizeof *row);
    bool written = row != NULL || fail(why, "out of memory");

    for (r = 0; written && r < from->rows; r++) {
        written = get_row(from, r, row, why);
        if (written)
            awq_convert(awq_matrix_view(row, AWQ_F32, 1, from->columns),
                        awq_matrix_view(to + r * row_size, dtype, 1, from->columns));
    }
    free(row);
    return written;
}

/* ---- the list of tensors --------------------------------------------------------------------- */

/*  What a run of tensors is made from: a linear's integers, zeros and scales, or plain numbers. */
typedef struct export_item {
    const linear *packed;       /* or NULL: */
    number_rows numbers;
    awq_dtype dtype;
    size_t which;
    awq_foreign weight;
    size_t first, count;        /* its tensors */
} export_item;

typedef struct export_list {
    const model *m;
    export_item *items;
    size_t items_count;
    safetensors_tensor *tensors;
    size_t tensors_count;
} export_list;

static bool add_numbers(export_list *list, tensor_name name, size_t which, number_rows numbers,
                        failure *why)
{
    static const safetensors_dtype dtypes[] = { SAFETENSORS_F32, SAFETENSORS_F16,
                                                SAFETENSORS_BF16 };
    export_item *item = &list->items[list->items_count++];
    size_t rank = numbers.matrix ? 2 : 1;
    char *text = strdup(name.text);

    if (!text) return fail(why, "out of memory");
    item->which = which;
    item->numbers = numbers;
    item->first = list->tensors_count++;
    item->count = 1;
    list->tensors[item->first] = safetensors_describe(text, SAFETENSORS_F32, rank, 1, 1);
    if (!narrowest(&item->numbers, &item->dtype, why)) return false;
    list->tensors[item->first] =
        safetensors_describe(text, dtypes[item->dtype], rank,
                             numbers.matrix ? numbers.rows : numbers.columns, numbers.columns);
    return true;
}

static bool add_vector(export_list *list, size_t index, size_t which, const char *suffix,
                       const float *vector, size_t length, failure *why)
{
    number_rows numbers = { NULL, NULL, 1, 0 };

    numbers.vector = vector;
    numbers.columns = length;
    return add_numbers(list, hf_name(index, which, suffix), which, numbers, why);
}

static bool add_matrix(export_list *list, size_t which, const linear *matrix, failure *why)
{
    number_rows numbers = { NULL, NULL, 0, 0 };

    numbers.matrix = matrix;
    numbers.rows = matrix->out_features;
    numbers.columns = matrix->in_features;
    return add_numbers(list, hf_name(0, which, ".weight"), which, numbers, why);
}

static bool add_linear(export_list *list, size_t index, size_t which, failure *why)
{
    const linear *l = &list->m->layers[index].linears[which];
    export_item *item = &list->items[list->items_count++];
    awq_status status = awq_foreign_init(&item->weight, AWQ_GEMM, l->packed.quant, l->out_features,
                                         l->in_features);

    if (status != AWQ_OK) return refuse(list->m, which, l->packed.quant, status, why);
    item->packed = l;
    item->which = which;
    item->first = list->tensors_count;
    item->count = hf_describe(&item->weight, hf_name(index, which, "").text,
                              &list->tensors[item->first]);
    list->tensors_count += item->count;
    if (item->count == 0) return fail(why, "out of memory");
    return !hf_config_has_bias(list->m, which)
           || add_vector(list, index, which, ".bias", l->bias, l->out_features, why);
}

static bool add_layer(export_list *list, size_t index, failure *why)
{
    const layer *l = &list->m->layers[index];
    size_t which;

    for (which = 0; which < LINEARS; which++)
        if (!add_linear(list, index, which, why)) return false;
    return add_vector(list, index, ATTENTION_NORM, ".weight", l->attention_norm, list->m->dim, why)
           && add_vector(list, index, FFN_NORM, ".weight", l->ffn_norm, list->m->dim, why);
}

static bool add_all(export_list *list, failure *why)
{
    const model *m = list->m;
    size_t i, items = m->layers_count * (2 * LINEARS + 2) + 3;

    list->items = calloc(items, sizeof *list->items);
    list->tensors = calloc(items * HF_MAX_PARTS, sizeof *list->tensors);
    if (!list->items || !list->tensors) return fail(why, "out of memory");
    if (!add_matrix(list, EMBEDDING, &m->embedding, why)) return false;
    for (i = 0; i < m->layers_count; i++)
        if (!add_layer(list, i, why)) return false;
    return add_vector(list, 0, OUTPUT_NORM, ".weight", m->output_norm, m->dim, why)
           && (m->tied || add_matrix(list, HEAD, &m->head, why));
}

static void free_list(export_list *list)
{
    size_t i;

    for (i = 0; i < list->tensors_count; i++) free((void *)(uintptr_t)list->tensors[i].name);
    free(list->items);
    free(list->tensors);
}

/* ---- filling them ---------------------------------------------------------------------------- */

/*  The packed linear with its rows in HF's order; *memory is the caller's to free. */
static bool in_hf_order(const export_list *list, const export_item *item, awq_packed *packed,
                        void **memory, failure *why)
{
    *packed = item->packed->packed;
    if (!is_rotated(item->which)) return true;
    *memory = malloc(packed->size);
    if (!*memory) return fail(why, "out of memory");
    if (!reorder_packed(packed, list->m->head_dim, ORDER_HF, *memory, why)) return false;
    packed->data = *memory;
    return true;
}

static bool fill_linear(const export_list *list, export_item *item, failure *why)
{
    awq_kernels kernels = awq_kernels_best();
    awq_where where = { 0, 0, 0 };
    void *memory = NULL;
    awq_packed packed;
    awq_status status;
    bool filled = in_hf_order(list, item, &packed, &memory, why);

    if (filled) {
        hf_attach(&item->weight, &list->tensors[item->first], item->count);
        status = awq_export(&kernels, &packed, &item->weight, 0, 0, packed.out_features, &where);
        filled = status == AWQ_OK
                 || fail(why, "%s: %s (row %zu, column %zu)", list->tensors[item->first].name,
                         awq_status_string(status), where.row, where.col);
    }
    free(memory);
    return filled;
}

static bool fill_numbers(const export_list *list, const export_item *item, failure *why)
{
    unsigned char *data = list->tensors[item->first].data;
    size_t size = awq_dtype_size(item->dtype);

    if (!write_rows(&item->numbers, item->dtype, data, why)) return false;
    return !is_rotated(item->which)
           || reorder_rows(data, item->numbers.columns, size, list->m->head_dim, ORDER_HF, why);
}

static bool fill_all(const export_list *list, failure *why)
{
    size_t i;

    for (i = 0; i < list->items_count; i++) {
        export_item *item = &list->items[i];
        if (!(item->packed ? fill_linear(list, item, why) : fill_numbers(list, item, why)))
            return false;
    }
    return true;
}

/* ---- the files beside them ------------------------------------------------------------------- */

/*  Steals `value`, which may be NULL. */
static bool write_json(hf_writer *writer, const char *name, json_t *value, failure *why)
{
    bool written = value && hf_write_json(writer, name, value, why);
    json_decref(value);
    return written;
}

static bool write_configs(hf_writer *writer, const model *m, failure *why)
{
    fail(why, "out of memory");
    return write_json(writer, "config.json",
                      hf_config_make(m, m->layers[0].linears[0].packed.quant), why)
           && write_json(writer, "generation_config.json", hf_generation_config_make(m), why)
           && write_json(writer, "tokenizer.json", tokenizer_json_make(&m->words, why), why)
           && write_json(writer, "tokenizer_config.json",
                         tokenizer_config_make(&m->words, m->context, why), why);
}

static bool write_directory(export_list *list, const char *path, failure *why)
{
    hf_writer writer;

    if (!hf_write_begin(&writer, path, list->tensors, list->tensors_count, SHARD_SIZE, why))
        return false;
    if (fill_all(list, why) && write_configs(&writer, list->m, why))
        return hf_write_end(&writer, why);
    hf_write_abandon(&writer);
    return false;
}

bool export_hf(const model *m, const char *path, failure *why)
{
    export_list list;
    bool written;

    if (!export_check_hf(m, m->layers[0].linears[0].packed.quant, why)) return false;
    memset(&list, 0, sizeof list);
    list.m = m;
    written = add_all(&list, why) && write_directory(&list, path, why);
    free_list(&list);
    return written;
}
