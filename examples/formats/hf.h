/*  hf.h - Hugging Face model directories: config.json, quantization_config, *.safetensors.

    hf_open() checks everything it reads: the JSON, the shards, and of every quantized linear the
    dtypes and shapes of its tensors. After it succeeds, the views below lie inside the files.
    Needs jansson and awq.h. */
#ifndef FORMATS_HF_H
#define FORMATS_HF_H

#include "safetensors.h"

#include "../../awq.h"

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct hf_linear {
    char *name;                         /* "model.layers.0.self_attn.q_proj" */
    awq_foreign weight;                 /* planes and group_index lie in the files */
    const safetensors_tensor *bias;     /* [out_features], or NULL */
} hf_linear;

typedef struct hf_model {
    char *path;
    json_t *config;                     /* config.json */
    awq_layout layout;                  /* of the quantized linears; 0: nothing is quantized */
    awq_quant quant;                    /* without scale_dtype: every linear has its own */
    json_t *excluded;                   /* what the config says is not quantized: array, or NULL */
    safetensors_file *shards;
    size_t shards_count;
    const safetensors_tensor **tensors; /* of all shards, sorted by name */
    size_t tensors_count;
    hf_linear *linears;                 /* the quantized ones, sorted by name */
    size_t linears_count;
} hf_model;

bool hf_open(hf_model *model, const char *path, failure *why);
/*  The same from memory that stays the caller's: a config.json and one safetensors file. */
bool hf_read(hf_model *model, const void *config, size_t config_size, const void *weights,
             size_t weights_size, failure *why);
void hf_close(hf_model *model);

/*  Whether weight_map names plain files: part of hf_open(), apart for tests. */
bool hf_check_index(const json_t *index, const char *name, failure *why);

/*  NULL if there is none of that name. */
const safetensors_tensor *hf_find_tensor(const hf_model *model, const char *name);
const hf_linear *hf_find_linear(const hf_model *model, const char *name);
/*  The linear that this tensor is a part of (its bias is not), or NULL: a tensor to be copied. */
const hf_linear *hf_owner(const hf_model *model, const safetensors_tensor *tensor);

/*  Why awq.h refused these weights in this layout, with the numbers, the rules and a way out; where
    may be NULL. */
bool hf_refuse(const char *name, const awq_foreign *weight, awq_status status,
               const awq_where *where, failure *why);

/* ---- describing linears to write ------------------------------------------------------------- */

#define HF_MAX_PARTS 4

/*  Writes the tensors that hold `weight` (of awq_foreign_init) under their names in its layout to
    parts[], and returns how many. The names are allocated: hf_free_names(). 0: out of memory, or a
    layout that is not kept in safetensors. */
size_t hf_describe(const awq_foreign *weight, const char *name, safetensors_tensor *parts);
/*  After hf_write_begin(): points weight's planes at those tensors, and fills the ones that follow
    from the shape alone (g_idx, weight_shape). */
void hf_attach(awq_foreign *weight, const safetensors_tensor *parts, size_t count);

/*  The quantization_config of such a model, or NULL: out of memory. excluded, an array of modules
    that are not quantized, may be NULL. */
json_t *hf_quantization_config(awq_layout layout, awq_quant quant, const json_t *excluded);

/* ---- writing: the whole directory or nothing ------------------------------------------------- */

typedef struct hf_writer {
    char *path, *temporary;             /* directories */
    safetensors_writer *shards;
    size_t shards_count;
    bool begun;
} hf_writer;

/*  Makes a directory under a temporary name with model.safetensors, or shards of at most shard_size
    bytes (but at least one tensor) and their index, and sets data of every tensor: fill it in. */
bool hf_write_begin(hf_writer *writer, const char *path, safetensors_tensor *tensors, size_t count,
                    size_t shard_size, failure *why);
/*  More files: config.json is the caller's to write. */
bool hf_write_json(hf_writer *writer, const char *name, const json_t *value, failure *why);
bool hf_write_bytes(hf_writer *writer, const char *name, const void *bytes, size_t size,
                    failure *why);
/*  Tokenizer, chat template, licence ... of another directory: all but weights and configs that
    describe them. */
bool hf_copy_others(hf_writer *writer, const char *from, failure *why);
/*  Only after this returns true does `path` exist. */
bool hf_write_end(hf_writer *writer, failure *why);
/*  Leaves nothing; also fine after a failed begin or end. */
void hf_write_abandon(hf_writer *writer);

#endif
