/*  rope_order.c - see rope_order.h. */
#include "rope_order.h"

/*  Row i < head_dim / 2 of a head is the first of pair i in HF's order, and so is 2 i in GGUF's. */
static void reorder_head(unsigned char *head, const unsigned char *copy, size_t row_size,
                         size_t head_dim, rope_order to)
{
    size_t i;

    for (i = 0; i < head_dim; i++) {
        size_t gguf = i, hf = i / 2 + i % 2 * (head_dim / 2);
        size_t into = to == ORDER_GGUF ? gguf : hf, from = to == ORDER_GGUF ? hf : gguf;
        memcpy(head + into * row_size, copy + from * row_size, row_size);
    }
}

bool reorder_rows(void *rows, size_t rows_count, size_t row_size, size_t head_dim, rope_order to,
                  failure *why)
{
    size_t head_size = head_dim * row_size, heads = rows_count / head_dim;
    unsigned char *copy = malloc(head_size), *head = rows;

    if (!copy) return fail(why, "out of memory");
    for (; heads; heads--, head += head_size) {
        memcpy(copy, head, head_size);
        reorder_head(head, copy, row_size, head_dim, to);
    }
    free(copy);
    return true;
}

static bool reorder_tensor(awq_tensor *t, size_t head_dim, rope_order to, failure *why)
{
    size_t rows = t->out_features, groups = awq_group_count(t->in_features, t->quant.group_size);

    return reorder_rows(t->q, rows, t->in_features, head_dim, to, why)
           && reorder_rows(t->zeros, rows, groups, head_dim, to, why)
           && reorder_rows(t->scales, rows, groups * awq_dtype_size(t->quant.scale_dtype),
                           head_dim, to, why);
}

static awq_status unpack(const awq_kernels *k, const awq_packed *packed, awq_tensor *tensor,
                         void *memory, size_t size)
{
    awq_status status = awq_tensor_init(tensor, packed->quant, packed->out_features,
                                        packed->in_features, memory, size);
    return status == AWQ_OK ? awq_unpack(k, packed, tensor, 0, packed->out_features) : status;
}

static awq_status pack(const awq_kernels *k, const awq_tensor *tensor, void *memory, size_t size)
{
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_packed_init(tensor->quant, tensor->out_features, tensor->in_features,
                                        memory, size);
    return status == AWQ_OK ? awq_pack(k, tensor, memory, size, 0, tensor->out_features, &where)
                            : status;
}

bool reorder_packed(const awq_packed *packed, size_t head_dim, rope_order to, void *memory,
                    failure *why)
{
    size_t packed_size = packed->size;
    size_t size = awq_tensor_size(packed->quant, packed->out_features, packed->in_features);
    awq_kernels kernels = awq_kernels_best();
    void *unpacked = malloc(size);
    awq_status status;
    awq_tensor tensor;
    bool done;

    if (!unpacked) return fail(why, "out of memory");
    status = unpack(&kernels, packed, &tensor, unpacked, size);
    done = status == AWQ_OK && reorder_tensor(&tensor, head_dim, to, why);
    if (done) status = pack(&kernels, &tensor, memory, packed_size);
    free(unpacked);
    return status == AWQ_OK ? done : fail(why, "%s", awq_status_string(status));
}
