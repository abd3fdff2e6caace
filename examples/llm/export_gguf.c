/*  export_gguf.c - see export.h: GGUF files, for this program and for llama.cpp. */
#include "export.h"

/*  A copy of the original's tensors in which some are replaced. */
typedef struct tensor_list {
    gguf_output *tensors;
    tensor_name *names;         /* of the packed linears */
    size_t count, names_count;
} tensor_list;

static bool list_tensors(tensor_list *list, const model *m, failure *why)
{
    const gguf_file *from = &m->gguf;
    size_t i;

    memset(list, 0, sizeof *list);
    list->tensors = malloc((from->tensors_count + 1) * sizeof *list->tensors);
    list->names = malloc((m->layers_count * LINEARS + 1) * sizeof *list->names);
    if (!list->tensors || !list->names) return fail(why, "out of memory");
    for (i = 0; i < from->tensors_count; i++)
        list->tensors[i] = gguf_output_copy(&from->tensors[i]);
    list->count = from->tensors_count;
    return true;
}

static void free_list(tensor_list *list)
{
    free(list->tensors);
    free(list->names);
}

static gguf_output *find_output(const tensor_list *list, const char *name)
{
    size_t i;
    for (i = 0; i < list->count; i++)
        if (gguf_string_is(list->tensors[i].name, name)) return &list->tensors[i];
    return NULL;
}

/*  A tensor of fp32 numbers in place of what the original has under that name. */
static void replace_floats(const tensor_list *list, tensor_name name, const float *data,
                           size_t count)
{
    gguf_output *tensor = find_output(list, name.text);

    if (!tensor || !data) return;
    tensor->type = GGUF_F32;
    tensor->data = data;
    tensor->size = count * sizeof *data;
}

/*  The norms of a layer and the biases of its linears, folded. */
static void replace_vectors(const tensor_list *list, const model *m, size_t index)
{
    const layer *l = &m->layers[index];
    size_t which;

    replace_floats(list, gguf_name(index, ATTENTION_NORM, ".weight"), l->attention_norm, m->dim);
    replace_floats(list, gguf_name(index, FFN_NORM, ".weight"), l->ffn_norm, m->dim);
    for (which = 0; which < LINEARS; which++)
        replace_floats(list, gguf_name(index, which, ".bias"), l->linears[which].bias,
                       l->linears[which].out_features);
}

/* ---- packed bytes, for this program ---------------------------------------------------------- */

/*  NAME.awq in place of the original's NAME.weight. */
static void replace_packed(tensor_list *list, size_t index, size_t which, const linear *l)
{
    gguf_output *tensor = find_output(list, gguf_name(index, which, ".weight").text);
    tensor_name *name = &list->names[list->names_count++];

    *name = gguf_name(index, which, ".awq");
    tensor->name.bytes = name->text;
    tensor->name.length = strlen(name->text);
    tensor->type = GGUF_I8;
    tensor->dims_count = 1;
    tensor->dims[0] = l->packed.size;
    tensor->data = l->packed.data;
    tensor->size = l->packed.size;
}

bool save_model(const model *m, const char *path, failure *why)
{
    tensor_list list;
    size_t i, which;
    bool saved = list_tensors(&list, m, why);

    for (i = 0; saved && i < m->layers_count; i++) {
        replace_vectors(&list, m, i);
        for (which = 0; which < LINEARS; which++)
            replace_packed(&list, i, which, &m->layers[i].linears[which]);
    }
    if (saved && m->head.packed.data)
        replace_packed(&list, 0, m->tied ? EMBEDDING : HEAD, &m->head);
    saved = saved && gguf_write(path, &m->gguf, NULL, 0, list.tensors, list.count, why);
    free_list(&list);
    return saved;
}

/* ---- blocks, for llama.cpp ------------------------------------------------------------------- */

/*  Blocks have a group of 32 each: a grid of the packed tensor goes into several. */
static awq_status describe_blocks(awq_foreign *blocks, const linear *l, awq_quant quant)
{
    quant.group_size = 32;
    quant.scale_dtype = AWQ_F16;
    return awq_foreign_init(blocks, quant.symmetric ? AWQ_GGML_Q4_0 : AWQ_GGML_Q4_1, quant,
                            l->out_features, l->in_features);
}

bool export_check_gguf(const model *m, awq_quant quant, failure *why)
{
    size_t which;

    for (which = 0; which < LINEARS; which++) {
        const linear *l = &m->layers[0].linears[which];
        awq_foreign blocks;
        awq_status status = describe_blocks(&blocks, l, quant);
        if (status == AWQ_OK && quant.group_size > 0 && quant.group_size % 32 != 0)
            status = AWQ_ERR_GROUP_SPLIT;
        if (status != AWQ_OK)
            return fail(why, "a GGUF file of blocks of 32 cannot hold %s (%zu x %zu, groups of %d):"
                             " %s",
                        gguf_name(0, which, "").text, l->out_features, l->in_features,
                        quant.group_size, awq_status_string(status));
    }
    return true;
}

static bool make_blocks(const gguf_output *output, void *bytes, failure *why)
{
    const linear *l = output->context;
    awq_kernels kernels = awq_kernels_best();
    awq_where where = { 0, 0, 0 };
    awq_foreign blocks;
    awq_status status = describe_blocks(&blocks, l, l->packed.quant);

    blocks.weights.data = bytes;
    if (status == AWQ_OK)
        status = awq_export(&kernels, &l->packed, &blocks, 1, 0, l->out_features, &where);
    return status == AWQ_OK ? true
                            : fail(why, "%s: %s (row %zu, column %zu)",
                                   gguf_show(output->name).text, awq_status_string(status),
                                   where.row, where.col);
}

static void replace_blocks(const tensor_list *list, size_t index, size_t which, const linear *l)
{
    gguf_output *tensor = find_output(list, gguf_name(index, which, ".weight").text);
    bool symmetric = l->packed.quant.symmetric;

    tensor->type = symmetric ? GGUF_Q4_0 : GGUF_Q4_1;
    tensor->data = NULL;
    tensor->make = make_blocks;
    tensor->context = l;
    tensor->size = l->out_features * (l->in_features / 32) * (symmetric ? 18 : 20);
}

bool export_gguf(const model *m, const char *path, failure *why)
{
    enum { MOSTLY_Q4_0 = 2, MOSTLY_Q4_1 = 3, BLOCKS_VERSION = 2 };
    awq_quant quant = m->layers[0].linears[0].packed.quant;
    gguf_number numbers[2] = { { "general.file_type", quant.symmetric ? MOSTLY_Q4_0 : MOSTLY_Q4_1 },
                               { "general.quantization_version", BLOCKS_VERSION } };
    tensor_list list;
    size_t i, which;
    bool written;

    if (!export_check_gguf(m, quant, why)) return false;
    written = list_tensors(&list, m, why);
    for (i = 0; written && i < m->layers_count; i++) {
        replace_vectors(&list, m, i);
        for (which = 0; which < LINEARS; which++)
            replace_blocks(&list, i, which, &m->layers[i].linears[which]);
    }
    written = written && gguf_write(path, &m->gguf, numbers, 2, list.tensors, list.count, why);
    free_list(&list);
    return written;
}
