/*  hf_write.c - the writing half of hf.h. */
#include "hf.h"

#include <dirent.h>

/* ---- the tensors of a linear ----------------------------------------------------------------- */

static safetensors_dtype scale_dtype(const awq_foreign *weight)
{
    static const safetensors_dtype dtypes[] = { SAFETENSORS_F32, SAFETENSORS_F16,
                                                SAFETENSORS_BF16 };
    return dtypes[weight->quant.scale_dtype];
}

static safetensors_tensor describe(const char *prefix, const char *part, safetensors_dtype dtype,
                                   size_t rank, size_t rows, size_t columns)
{
    return safetensors_describe(join(prefix, ".", part), dtype, rank, rows, columns);
}

static safetensors_tensor describe_plane(const char *prefix, const char *part,
                                         safetensors_dtype dtype, const awq_plane *plane)
{
    return describe(prefix, part, dtype, 2, plane->rows, plane->cols);
}

static bool is_gptq(awq_layout layout)
{
    return layout == AWQ_GPTQ || layout == AWQ_GPTQ_V2;
}

size_t hf_describe(const awq_foreign *weight, const char *name, safetensors_tensor *parts)
{
    bool compressed = weight->layout == AWQ_COMPRESSED;
    bool fast = weight->layout == AWQ_GEMV_FAST;
    size_t count = 0, i;

    if (weight->layout > AWQ_COMPRESSED) return 0;
    parts[count++] = describe_plane(name, compressed ? "weight_packed" : "qweight",
                                    fast ? SAFETENSORS_I16 : SAFETENSORS_I32, &weight->weights);
    parts[count++] = describe_plane(name, compressed ? "weight_scale" : "scales",
                                    scale_dtype(weight), &weight->scales);
    if (weight->zeros.rows)
        parts[count++] = describe_plane(name, compressed ? "weight_zero_point" : "qzeros",
                                        fast ? scale_dtype(weight) : SAFETENSORS_I32,
                                        &weight->zeros);
    if (compressed) parts[count++] = describe(name, "weight_shape", SAFETENSORS_I64, 1, 2, 0);
    if (is_gptq(weight->layout))
        parts[count++] = describe(name, "g_idx", SAFETENSORS_I32, 1, weight->in_features, 0);
    for (i = 0; i < count; i++)
        if (!parts[i].name) return 0;
    return count;
}

static void store(unsigned char *to, uint64_t number, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++) to[i] = (unsigned char)(number >> (8 * i));
}

static void fill_group_index(const awq_foreign *weight, unsigned char *to)
{
    size_t group_size = weight->quant.group_size < 0 ? weight->in_features
                                                     : (size_t)weight->quant.group_size;
    size_t i;
    for (i = 0; i < weight->in_features; i++) store(to + 4 * i, i / group_size, 4);
}

void hf_attach(awq_foreign *weight, const safetensors_tensor *parts, size_t count)
{
    weight->weights.data = parts[0].data;
    weight->scales.data = parts[1].data;
    if (weight->zeros.rows) weight->zeros.data = parts[2].data;
    if (weight->layout == AWQ_COMPRESSED) {
        store(parts[count - 1].data, weight->out_features, 8);
        store(parts[count - 1].data + 8, weight->in_features, 8);
    }
    if (is_gptq(weight->layout)) fill_group_index(weight, parts[count - 1].data);
}

/* ---- quantization_config --------------------------------------------------------------------- */

static json_t *awq_config(awq_layout layout, awq_quant quant, json_t *excluded)
{
    if (json_array_size(excluded) == 0) {       /* readers choose by themselves if it is null */
        json_decref(excluded);
        excluded = json_null();
    }
    return json_pack("{s:s, s:i, s:i, s:b, s:s, s:o}", "quant_method", "awq", "bits", quant.bits,
                     "group_size", quant.group_size, "zero_point", layout != AWQ_MARLIN, "version",
                     awq_layout_rules_of(layout).name, "modules_to_not_convert", excluded);
}

/*  GPTQ has no list of exceptions; `dynamic` is what its readers understand instead. */
static json_t *gptq_exceptions(const json_t *excluded)
{
    json_t *dynamic = json_object();
    size_t i;

    for (i = 0; i < json_array_size(excluded); i++) {
        const char *module = json_string_value(json_array_get(excluded, i));
        char *rule = strcmp(module, "lm_head") ? join("-:^", module, "$") : NULL;
        if (rule) json_object_set_new(dynamic, rule, json_object());
        free(rule);
    }
    return dynamic;
}

static json_t *gptq_config(awq_layout layout, awq_quant quant, json_t *excluded)
{
    json_t *config = json_pack("{s:s, s:i, s:i, s:b, s:b, s:b, s:s}", "quant_method", "gptq",
                               "bits", quant.bits, "group_size", quant.group_size, "sym",
                               quant.symmetric, "desc_act", 0, "lm_head", 0, "checkpoint_format",
                               layout == AWQ_GPTQ ? "gptq" : "gptq_v2");
    json_t *dynamic = gptq_exceptions(excluded);

    if (json_object_size(dynamic)) json_object_set(config, "dynamic", dynamic);
    json_decref(dynamic);
    json_decref(excluded);
    return config;
}

static json_t *compressed_config(awq_quant quant, json_t *excluded)
{
    bool whole = quant.group_size < 0;
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:o, s:b, s:n}", "num_bits", quant.bits,
                                "type", "int", "symmetric", quant.symmetric, "strategy",
                                whole ? "channel" : "group", "group_size",
                                whole ? json_null() : json_integer(quant.group_size), "dynamic", 0,
                                "actorder");
    return json_pack("{s:s, s:s, s:s, s:o, s:{s:{s:[s], s:o, s:n, s:n}}}", "quant_method",
                     "compressed-tensors", "format", "pack-quantized", "quantization_status",
                     "compressed", "ignore", excluded, "config_groups", "group_0", "targets",
                     "Linear", "weights", weights, "input_activations", "output_activations");
}

json_t *hf_quantization_config(awq_layout layout, awq_quant quant, const json_t *excluded)
{
    json_t *copy = excluded ? json_deep_copy(excluded) : json_array();

    if (!copy) return NULL;
    if (layout == AWQ_COMPRESSED) return compressed_config(quant, copy);
    if (is_gptq(layout)) return gptq_config(layout, quant, copy);
    return awq_config(layout, quant, copy);
}

/* ---- the directory --------------------------------------------------------------------------- */

static bool out_of_memory(const hf_writer *writer, failure *why)
{
    return fail(why, "%s: out of memory", writer->path ? writer->path : "output");
}

static bool create(hf_writer *writer, const char *path, failure *why)
{
    char end[32];
    size_t length = strlen(path);

    memset(writer, 0, sizeof *writer);
    while (length > 1 && path[length - 1] == '/') length--;
    snprintf(end, sizeof end, ".tmp.%ld", (long)getpid());
    writer->path = strndup(path, length);
    writer->temporary = writer->path ? join(writer->path, end, "") : NULL;
    if (!writer->temporary) return out_of_memory(writer, why);
    if (access(writer->path, F_OK) == 0 && rmdir(writer->path) != 0)    /* an empty one is fine */
        return fail(why, "%s: is there already; remove it or choose another name", writer->path);
    if (mkdir(writer->temporary, 0777) != 0)
        return fail(why, "%s: cannot create: %s", writer->temporary, strerror(errno));
    writer->begun = true;
    return true;
}

/*  The end of the shard that begins at tensor `begin`. */
static size_t shard_end(const safetensors_tensor *tensors, size_t begin, size_t count, size_t limit)
{
    size_t end = begin, used = 0;

    for (; end < count; end++) {
        if (end > begin && (tensors[end].size > limit || used > limit - tensors[end].size)) break;
        used += tensors[end].size;
    }
    return end;
}

static size_t count_shards(const safetensors_tensor *tensors, size_t count, size_t limit)
{
    size_t shards = 0, begin = 0;

    do {
        begin = shard_end(tensors, begin, count, limit);
        shards++;
    } while (begin < count);
    return shards;
}

typedef struct shard_name { char text[64]; } shard_name;

static shard_name name_shard(size_t number, size_t count)
{
    shard_name name = { "model.safetensors" };
    if (count > 1)
        snprintf(name.text, sizeof name.text, "model-%05zu-of-%05zu.safetensors", number + 1,
                 count);
    return name;
}

static bool begin_shard(hf_writer *writer, size_t number, safetensors_tensor *tensors, size_t count,
                        failure *why)
{
    char *path = join(writer->temporary, "/", name_shard(number, writer->shards_count).text);
    bool begun = path ? safetensors_write_begin(&writer->shards[number], path, tensors, count, why)
                      : out_of_memory(writer, why);
    free(path);
    return begun;
}

static bool write_index(hf_writer *writer, const safetensors_tensor *tensors, size_t count,
                        size_t limit, failure *why)
{
    json_t *map = json_object(), *index;
    size_t begin = 0, number, total = 0, i;
    bool written;

    for (number = 0; number < writer->shards_count; number++) {
        size_t end = shard_end(tensors, begin, count, limit);
        shard_name name = name_shard(number, writer->shards_count);
        for (i = begin; i < end; i++) {
            json_object_set_new(map, tensors[i].name, json_string(name.text));
            total += tensors[i].size;
        }
        begin = end;
    }
    index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map",
                      map);
    written = index ? hf_write_json(writer, "model.safetensors.index.json", index, why)
                    : out_of_memory(writer, why);
    json_decref(index);
    return written;
}

static bool begin_shards(hf_writer *writer, safetensors_tensor *tensors, size_t count, size_t limit,
                         failure *why)
{
    size_t begin = 0, number, shards = count_shards(tensors, count, limit);

    writer->shards = calloc(shards, sizeof *writer->shards);
    if (!writer->shards) return out_of_memory(writer, why);
    writer->shards_count = shards;
    for (number = 0; number < shards; number++) {
        size_t end = shard_end(tensors, begin, count, limit);
        if (!begin_shard(writer, number, tensors + begin, end - begin, why)) return false;
        begin = end;
    }
    return shards == 1 || write_index(writer, tensors, count, limit, why);
}

bool hf_write_begin(hf_writer *writer, const char *path, safetensors_tensor *tensors, size_t count,
                    size_t shard_size, failure *why)
{
    if (create(writer, path, why) && begin_shards(writer, tensors, count, shard_size, why))
        return true;
    hf_write_abandon(writer);
    return false;
}

bool hf_write_bytes(hf_writer *writer, const char *name, const void *bytes, size_t size,
                    failure *why)
{
    char *path = join(writer->temporary, "/", name);
    bool written = path ? file_write_whole(path, bytes, size, why) : out_of_memory(writer, why);
    free(path);
    return written;
}

/*  Numbers with the fewest digits that read back as they were. */
static char *shortest_text(const json_t *value)
{
    char *text = NULL;
    size_t digits;

    for (digits = 15; digits <= 17; digits++) {
        json_t *again;
        bool same;
        free(text);
        text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        again = text ? json_loads(text, 0, NULL) : NULL;
        same = json_equal(again, value);
        json_decref(again);
        if (same) break;
    }
    return text;
}

bool hf_write_json(hf_writer *writer, const char *name, const json_t *value, failure *why)
{
    char *text = shortest_text(value);
    bool written;

    if (!text) return out_of_memory(writer, why);
    written = hf_write_bytes(writer, name, text, strlen(text), why);
    free(text);
    return written;
}

/* ---- files beside the weights ---------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/*  Weights in other formats, and configs of the old quantization, would be wrong beside the new. */
static bool is_copied(const char *name)
{
    static const char *const kinds[] = { ".json", ".txt", ".model", ".jinja", ".tiktoken", ".py",
                                         ".md", "LICENSE", "NOTICE" };
    static const char *const not[] = { "config.json", "quant_config.json", "quantize_config.json" };
    size_t i;

    if (name[0] == '.' || ends_with(name, ".index.json")) return false;
    for (i = 0; i < sizeof not / sizeof not[0]; i++)
        if (strcmp(name, not[i]) == 0) return false;
    for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (ends_with(name, kinds[i])) return true;
    return false;
}

static bool copy_file(hf_writer *writer, const char *from, const char *name, failure *why)
{
    char *path = join(from, "/", name);
    mapped_file file = { NULL, 0 };
    struct stat status;
    bool copied = true;

    if (!path) copied = out_of_memory(writer, why);
    else if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_size)
        copied = file_map(&file, path, why)
                 && hf_write_bytes(writer, name, file.bytes, file.size, why);
    file_unmap(&file);
    free(path);
    return copied;
}

bool hf_copy_others(hf_writer *writer, const char *from, failure *why)
{
    DIR *directory = opendir(from);
    struct dirent *entry;
    bool copied = true;

    if (!directory) return fail(why, "%s: cannot list: %s", from, strerror(errno));
    while (copied && (entry = readdir(directory)) != NULL)
        if (is_copied(entry->d_name)) copied = copy_file(writer, from, entry->d_name, why);
    closedir(directory);
    return copied;
}

/* ---- all of it, or nothing ------------------------------------------------------------------- */

bool hf_write_end(hf_writer *writer, failure *why)
{
    size_t i;

    for (i = 0; i < writer->shards_count; i++)
        if (!safetensors_write_end(&writer->shards[i], why)) {
            hf_write_abandon(writer);
            return false;
        }
    if (rename(writer->temporary, writer->path) != 0) {
        fail(why, "%s: cannot write: %s", writer->path, strerror(errno));
        hf_write_abandon(writer);
        return false;
    }
    writer->begun = false;
    hf_write_abandon(writer);
    return true;
}

static void remove_directory(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;

    while (directory && (entry = readdir(directory)) != NULL) {
        char *file = join(path, "/", entry->d_name);
        if (file) unlink(file);         /* "." and ".." refuse */
        free(file);
    }
    if (directory) closedir(directory);
    rmdir(path);
}

void hf_write_abandon(hf_writer *writer)
{
    size_t i;

    for (i = 0; i < writer->shards_count; i++) safetensors_write_abandon(&writer->shards[i]);
    if (writer->begun) remove_directory(writer->temporary);
    free(writer->shards);
    free(writer->temporary);
    free(writer->path);
    memset(writer, 0, sizeof *writer);
}
