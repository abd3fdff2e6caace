/*  part.c - see part.h. */
#include "part.h"

/* ---- where to cut ---------------------------------------------------------------------------- */

void deal_heads(size_t heads, size_t kv_heads, size_t ranks, size_t rank, range *mine,
                range *my_kv_heads)
{
    size_t repeat = heads / kv_heads, kv;
    range sharers;

    if (ranks <= kv_heads) {
        *my_kv_heads = deal(kv_heads, ranks, rank);
        mine->begin = my_kv_heads->begin * repeat;
        mine->end = my_kv_heads->end * repeat;
        return;
    }
    for (kv = 0; deal(ranks, kv_heads, kv).end <= rank;) kv++;
    sharers = deal(ranks, kv_heads, kv);
    *mine = deal(repeat, sharers.end - sharers.begin, rank - sharers.begin);
    mine->begin += kv * repeat;
    mine->end += kv * repeat;
    my_kv_heads->begin = kv;
    my_kv_heads->end = kv + 1;
}

static size_t whole_group(int group_size, size_t in_features)
{
    return group_size < 0 || (size_t)group_size > in_features ? in_features : (size_t)group_size;
}

int cut_group_size(int group_size, size_t in_features, size_t begin)
{
    size_t a = whole_group(group_size, in_features), b = begin, rest;

    if (begin % a == 0) return group_size;
    for (; b; b = rest) {
        rest = a % b;
        a = b;
    }
    return (int)a;
}

/*  Groups stay whole while every rank can have one, then blocks of rows do. */
static bool deal_ffn(const model *m, size_t ranks, size_t rank, range *mine, failure *why)
{
    const linear *down = &m->layers[0].linears[LINEAR_DOWN];
    size_t unit = whole_group(down->packed.quant.group_size, m->ffn_dim);

    if ((m->ffn_dim + unit - 1) / unit < ranks) unit = AWQ_ROW_STEP;
    *mine = deal_units(m->ffn_dim, unit, ranks, rank);
    if ((m->ffn_dim + unit - 1) / unit >= ranks) return true;
    return fail(why, "%zu FFN channels cannot be cut into %zu parts", m->ffn_dim, ranks);
}

static bool deal_part(model_part *part, const model *whole, size_t ranks, size_t rank, failure *why)
{
    const linear *linears = whole->layers[0].linears;

    if (ranks > whole->heads)
        return fail(why, "it has %zu attention heads, so at most so many ranks can run it, not %zu",
                    whole->heads, ranks);
    deal_heads(whole->heads, whole->kv_heads, ranks, rank, &part->heads, &part->kv_heads);
    if (!deal_ffn(whole, ranks, rank, &part->ffn, why)) return false;
    part->head_rows = deal_units(whole->head.out_features, AWQ_ROW_STEP, ranks, rank);
    part->group_size[0] = cut_group_size(linears[LINEAR_O].packed.quant.group_size,
                                         linears[LINEAR_O].in_features,
                                         part->heads.begin * whole->head_dim);
    part->group_size[1] = cut_group_size(linears[LINEAR_DOWN].packed.quant.group_size,
                                         whole->ffn_dim, part->ffn.begin);
    return true;
}

/* ---- cutting a linear ------------------------------------------------------------------------ */

typedef struct cut {
    range rows, inputs;
    awq_quant quant;        /* of the part */
} cut;

static range scaled(range r, size_t by)
{
    r.begin *= by;
    r.end *= by;
    return r;
}

/*  What a part has of linear `which`; all layers are alike. */
static cut cut_of(const model_part *part, const model *whole, size_t which)
{
    const linear *l = &whole->layers[0].linears[which];
    cut c;

    c.rows.begin = c.inputs.begin = 0;
    c.rows.end = l->out_features;
    c.inputs.end = l->in_features;
    c.quant = l->packed.quant;
    switch (which) {
    case LINEAR_Q: c.rows = scaled(part->heads, whole->head_dim); break;
    case LINEAR_K:
    case LINEAR_V: c.rows = scaled(part->kv_heads, whole->head_dim); break;
    case LINEAR_O: c.inputs = scaled(part->heads, whole->head_dim); break;
    case LINEAR_DOWN: c.inputs = part->ffn; break;
    default: c.rows = part->ffn;
    }
    if (which == LINEAR_O) c.quant.group_size = part->group_size[0];
    if (which == LINEAR_DOWN) c.quant.group_size = part->group_size[1];
    return c;
}

static size_t cut_size(const cut *c)
{
    return awq_packed_size(c->quant, c->rows.end - c->rows.begin, c->inputs.end - c->inputs.begin);
}

/*  One row: its q, and the grid of the group that every group of the part lies in. */
static void cut_row(const awq_tensor *from, const cut *c, size_t row, awq_tensor *to)
{
    size_t group = whole_group(from->quant.group_size, from->in_features);
    size_t part_group = whole_group(to->quant.group_size, to->in_features);
    size_t groups = awq_group_count(from->in_features, from->quant.group_size);
    size_t part_groups = awq_group_count(to->in_features, to->quant.group_size), g;
    size_t size = awq_dtype_size(from->quant.scale_dtype), old = c->rows.begin + row;

    memcpy(to->q + row * to->in_features, from->q + old * from->in_features + c->inputs.begin,
           to->in_features);
    for (g = 0; g < part_groups; g++) {
        size_t at = old * groups + (c->inputs.begin + g * part_group) / group;
        to->zeros[row * part_groups + g] = from->zeros[at];
        memcpy((unsigned char *)to->scales + (row * part_groups + g) * size,
               (const unsigned char *)from->scales + at * size, size);
    }
}

static awq_status cut_tensor(const awq_packed *packed, const cut *c, awq_tensor *from,
                             awq_tensor *to, unsigned char *out)
{
    awq_kernels kernels = awq_kernels_best();
    size_t row, rows = c->rows.end - c->rows.begin;
    awq_status status = awq_unpack(&kernels, packed, from, 0, packed->out_features);

    if (status != AWQ_OK) return status;
    for (row = 0; row < rows; row++) cut_row(from, c, row, to);
    status = awq_packed_init(c->quant, rows, to->in_features, out, cut_size(c));
    if (status != AWQ_OK) return status;
    return awq_pack(&kernels, to, out, cut_size(c), 0, rows, NULL);
}

/*  Packs what `c` cuts out of a linear at `out`, which has cut_size() bytes. */
static bool cut_linear(const linear *whole, const cut *c, unsigned char *out, linear *part,
                       failure *why)
{
    size_t rows = c->rows.end - c->rows.begin, inputs = c->inputs.end - c->inputs.begin;
    const awq_packed *packed = &whole->packed;
    size_t from_size = awq_tensor_size(packed->quant, packed->out_features, packed->in_features);
    size_t to_size = awq_tensor_size(c->quant, rows, inputs);
    void *from_memory = malloc(from_size), *to_memory = malloc(to_size);
    awq_tensor from, to;
    awq_status status = AWQ_ERR_MEMORY;

    if (from_memory && to_memory)
        status = awq_tensor_init(&from, packed->quant, packed->out_features, packed->in_features,
                                 from_memory, from_size);
    if (status == AWQ_OK)
        status = awq_tensor_init(&to, c->quant, rows, inputs, to_memory, to_size);
    if (status == AWQ_OK) status = cut_tensor(packed, c, &from, &to, out);
    if (status == AWQ_OK) status = awq_packed_open(&part->packed, out, cut_size(c));
    free(from_memory);
    free(to_memory);
    part->out_features = rows;
    part->in_features = inputs;
    return status == AWQ_OK ? true
                            : fail(why, "cutting a linear: %s", awq_status_string(status));
}

/* ---- the whole part -------------------------------------------------------------------------- */

/*  A bias is a row's; where inputs are cut, only the first rank may add it. */
static const float *cut_bias(const linear *l, const cut *c)
{
    if (!l->bias || c->inputs.begin != 0) return NULL;
    return l->bias + c->rows.begin;
}

static bool cut_layer(model_part *part, const model *whole, size_t index, unsigned char **out,
                      failure *why)
{
    size_t which;

    part->m.layers[index] = whole->layers[index];
    for (which = 0; which < LINEARS; which++) {
        const linear *from = &whole->layers[index].linears[which];
        linear *to = &part->m.layers[index].linears[which];
        cut c = cut_of(part, whole, which);
        if (!from->packed.data
            || memcmp(&from->packed.quant, &whole->layers[0].linears[which].packed.quant,
                      sizeof from->packed.quant) != 0)
            return fail(why, "layer %zu: %s is not quantized as in layer 0", index,
                        gguf_name(index, which, "").text);
        if (!cut_linear(from, &c, *out, to, why)) return false;
        to->bias = cut_bias(from, &c);
        *out += cut_size(&c);
    }
    return true;
}

static cut cut_of_head(const model_part *part, const linear *head)
{
    cut c;

    c.rows = part->head_rows;
    c.inputs.begin = 0;
    c.inputs.end = head->in_features;
    c.quant = head->packed.quant;
    return c;
}

static bool cut_head(model_part *part, const linear *head, unsigned char *out, failure *why)
{
    cut c = cut_of_head(part, head);

    if (head->packed.data) return cut_linear(head, &c, out, &part->m.head, why);
    part->head = *head->stored;
    part->head.rows = c.rows.end - c.rows.begin;
    part->head.data += c.rows.begin * head->stored->row_bytes;
    part->m.head.stored = &part->head;
    part->m.head.out_features = part->head.rows;
    return true;
}

static size_t part_size(const model_part *part, const model *whole)
{
    size_t which, size = 0;
    cut c;

    for (which = 0; which < LINEARS; which++) {
        c = cut_of(part, whole, which);
        size += cut_size(&c);
    }
    c = cut_of_head(part, &whole->head);
    return size * whole->layers_count + (whole->head.packed.data ? cut_size(&c) : 0);
}

static bool cut_model(model_part *part, const model *whole, failure *why)
{
    unsigned char *out;
    size_t i;

    part->m = *whole;
    part->m.heads = part->heads.end - part->heads.begin;
    part->m.kv_heads = part->kv_heads.end - part->kv_heads.begin;
    part->m.ffn_dim = part->ffn.end - part->ffn.begin;
    part->m.layers = calloc(whole->layers_count, sizeof *part->m.layers);
    part->packed_size = part_size(part, whole);
    out = part->packed = malloc(part->packed_size);
    if (!part->m.layers || !part->packed) return fail(why, "out of memory");
    for (i = 0; i < whole->layers_count; i++)
        if (!cut_layer(part, whole, i, &out, why)) return false;
    return cut_head(part, &whole->head, out, why);
}

bool part_open(model_part *part, const model *whole, size_t ranks, size_t rank, failure *why)
{
    memset(part, 0, sizeof *part);
    if (!model_is_quantized(whole))
        return fail(why, "is not quantized; \"quantize\" makes a file that can be run");
    if (deal_part(part, whole, ranks, rank, why) && cut_model(part, whole, why)) return true;
    part_close(part);
    return false;
}

void part_close(model_part *part)
{
    free(part->m.layers);
    free(part->packed);
    memset(part, 0, sizeof *part);
}
