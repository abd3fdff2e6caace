/*  list.c - the tables of convert --list. */
#include "convert.h"

static const char *dtype_name(awq_dtype dtype)
{
    return dtype == AWQ_F32 ? "F32" : dtype == AWQ_F16 ? "F16" : "BF16";
}

static size_t bytes_of(const awq_foreign *weight)
{
    return awq_plane_size(&weight->weights) + awq_plane_size(&weight->scales)
           + awq_plane_size(&weight->zeros);
}

static void print_linear(const hf_linear *linear)
{
    const awq_foreign *weight = &linear->weight;

    printf("%-48s %-10s %6zu x %-6zu %6d  %-4s %4s  %s%s\n", json_show(linear->name).text,
           awq_layout_rules_of(weight->layout).name, weight->out_features, weight->in_features,
           weight->quant.group_size, dtype_name(weight->quant.scale_dtype),
           weight->zeros.rows ? "yes" : "no", linear->bias ? "bias" : "",
           weight->group_index ? " g_idx" : "");
}

/*  Which layouts have room for these shapes and groups; zero points may still forbid one. */
static void print_choices(const hf_model *model)
{
    int layout;
    size_t i;

    printf("shapes fit into:");
    for (layout = AWQ_GEMM; layout <= AWQ_COMPRESSED; layout++) {
        bool fits = true;
        for (i = 0; fits && i < model->linears_count; i++) {
            const awq_foreign *weight = &model->linears[i].weight;
            awq_foreign other;
            fits = awq_foreign_init(&other, (awq_layout)layout, weight->quant, weight->out_features,
                                    weight->in_features) == AWQ_OK;
        }
        if (fits) printf(" %s", awq_layout_rules_of((awq_layout)layout).name);
    }
    printf("\n");
}

static void print_totals(const hf_model *model)
{
    size_t weights = 0, bytes = 0, others = 0, count = 0, i;

    for (i = 0; i < model->linears_count; i++) {
        const awq_foreign *weight = &model->linears[i].weight;
        weights += weight->out_features * weight->in_features;
        bytes += bytes_of(weight);
    }
    for (i = 0; i < model->tensors_count; i++)
        if (!hf_owner(model, model->tensors[i])) {
            others += model->tensors[i]->size;
            count++;
        }
    if (model->linears_count)
        printf("%zu linears of %.1f M weights: %.1f MB, %.3f bits per weight\n",
               model->linears_count, (double)weights / 1e6, (double)bytes / 1e6,
               8.0 * (double)bytes / (double)weights);
    printf("%zu other tensors: %.1f MB, in %zu file%s\n", count, (double)others / 1e6,
           model->shards_count, model->shards_count == 1 ? "" : "s");
}

bool list_directory(const hf_model *model, size_t threads, failure *why)
{
    size_t i;

    if (model->linears_count)
        printf("%-48s %-10s %15s %6s  %-4s zero points\n", "linear", "layout", "out x in", "group",
               "scales");
    for (i = 0; i < model->linears_count; i++) print_linear(&model->linears[i]);
    print_totals(model);
    if (model->linears_count == 0) return true;
    print_choices(model);
    fflush(stdout);
    if (!convert_check(model, threads, why)) return false;
    printf("every value can be read\n");
    return true;
}

bool list_gguf(const gguf_file *gguf, failure *why)
{
    size_t bytes = 0, i;

    if (gguf->tensors_count == 0) return fail(why, "no tensors in this GGUF file");
    printf("%-48s %-6s %s\n", "tensor", "type", "rows x columns");
    for (i = 0; i < gguf->tensors_count; i++) {
        const gguf_tensor *tensor = &gguf->tensors[i];
        printf("%-48s %-6s %7zu x %zu\n", gguf_show(tensor->name).text,
               gguf_type_name(tensor->type), tensor->rows, tensor->columns);
        bytes += gguf_tensor_bytes(tensor);
    }
    printf("GGUF version %u: %zu tensors, %.1f MB, %zu metadata entries\n",
           (unsigned)gguf->version, gguf->tensors_count, (double)bytes / 1e6, gguf->values_count);
    return true;
}
