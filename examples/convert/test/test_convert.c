/*  test_convert.c - conversions of small models: there and back, refused, interrupted. */
#include "assert.h"

static char *path_of(const char *name)
{
    return join(folder, "/", name);
}

static convert_options to(awq_layout layout)
{
    convert_options options;
    memset(&options, 0, sizeof options);
    options.layout = layout;
    options.shard_size = (size_t)1 << 40;
    return options;
}

/*  `from` and `into` are names in the folder; what `into` held is removed. */
static bool convert(const char *from, const char *into, const convert_options *options)
{
    char *input = path_of(from), *output = path_of(into);
    hf_model model;
    bool converted;

    tiny_remove(output);
    assert_done(hf_open(&model, input, &why));
    converted = convert_directory(&model, output, options, &why);
    hf_close(&model);
    free(input);
    free(output);
    return converted;
}

static bool make(const char *name, const tiny_options *options)
{
    char *path = path_of(name);
    bool made;

    tiny_remove(path);
    made = tiny_model(path, options, &why);
    free(path);
    return made;
}

static void assert_same_file(const char *folder_a, const char *folder_b, const char *name)
{
    char *a = path_of(folder_a), *b = path_of(folder_b);
    char *path_a = join(a, "/", name), *path_b = join(b, "/", name);
    mapped_file file_a, file_b;

    assert_done(file_map(&file_a, path_a, &why));
    assert_done(file_map(&file_b, path_b, &why));
    assert_int_equal(file_a.size, file_b.size);
    assert_memory_equal(file_a.bytes, file_b.bytes, file_a.size);
    file_unmap(&file_a);
    file_unmap(&file_b);
    free(path_a);
    free(path_b);
    free(a);
    free(b);
}

/*  What a run of this test must find in the layout's directory. */
static void assert_has_layout(const char *name, awq_layout layout)
{
    char *path = path_of(name);
    hf_model model;

    assert_done(hf_open(&model, path, &why));
    assert_int_equal(model.linears[0].weight.layout, layout);
    assert_int_equal(model.linears_count, 3);
    assert_non_null(hf_find_linear(&model, "model.layers.0.mlp.up_proj")->bias);
    assert_non_null(hf_find_tensor(&model, "odd"));
    assert_done(convert_check(&model, 1, &why));
    hf_close(&model);
    free(path);
}

/*  From gemm to every layout, from there to every other one, and back: the same file. */
static void all_layouts_come_back(const tiny_options *shape, awq_layout base,
                                  const awq_layout *layouts, size_t count)
{
    tiny_options options = *shape;
    convert_options first, second, last = to(base);
    size_t i, j;

    options.layout = base;
    assert_done(make("base", &options));
    assert_done(convert("base", "start", &last));           /* its order of files and configs */
    for (i = 0; i < count; i++) {
        first = to(layouts[i]);
        assert_done(convert("start", "one", &first));
        assert_has_layout("one", layouts[i]);
        for (j = 0; j < count; j++) {
            second = to(layouts[j]);
            assert_done(convert("one", "two", &second));
            assert_done(convert("two", "back", &last));
            assert_same_file("start", "back", "model.safetensors");
            assert_same_file("start", "back", "config.json");
            assert_same_file("start", "back", "tokenizer.json");
        }
    }
}

static void asymmetric_layouts_come_back(void **state)
{
    static const awq_layout layouts[] = { AWQ_GEMM, AWQ_GEMV, AWQ_GEMV_FAST, AWQ_MARLIN_ZP,
                                          AWQ_GPTQ_V2, AWQ_COMPRESSED };
    tiny_options options = tiny_default();
    (void)state;

    all_layouts_come_back(&options, AWQ_GEMM, layouts, 6);
}

static void gptq_comes_back_without_zero_points_of_0(void **state)
{
    static const awq_layout layouts[] = { AWQ_GEMM, AWQ_GPTQ, AWQ_COMPRESSED };
    tiny_options options = tiny_default();
    (void)state;

    options.least_zero = 1;
    all_layouts_come_back(&options, AWQ_GEMM, layouts, 3);
}

static void symmetric_layouts_come_back(void **state)
{
    static const awq_layout layouts[] = { AWQ_MARLIN, AWQ_GPTQ, AWQ_GPTQ_V2, AWQ_COMPRESSED };
    tiny_options options = tiny_default();
    int i;
    (void)state;

    options.out_features = 256;
    options.in_features = 256;
    options.symmetric = 1;
    for (i = 0; i < 2; i++) {
        options.group_size = i ? -1 : 128;
        all_layouts_come_back(&options, AWQ_MARLIN, layouts, 4);
    }
}

static void groups_may_become_finer_and_coarser_again(void **state)
{
    tiny_options options = tiny_default();
    convert_options finer = to(AWQ_GEMM), same = to(AWQ_GEMM), coarser = to(AWQ_GEMM);
    (void)state;

    options.group_size = 64;
    finer.group_size = 32;
    coarser.group_size = 64;
    assert_done(make("base", &options));
    assert_done(convert("base", "start", &same));
    assert_done(convert("start", "one", &finer));
    assert_done(convert("one", "back", &coarser));
    assert_same_file("start", "back", "model.safetensors");
    assert_same_file("start", "back", "config.json");
    coarser.group_size = 128;
    assert_refused(convert("one", "back", &coarser), "groups differ");
    assert_int_equal(tiny_count(folder, "back"), 0);
}

static void shards_are_converted(void **state)
{
    tiny_options options = tiny_default();
    convert_options back = to(AWQ_GEMM), pieces = to(AWQ_GPTQ_V2);
    (void)state;

    assert_done(make("base", &options));
    assert_done(convert("base", "start", &back));
    pieces.shard_size = 3000;
    assert_done(convert("start", "one", &pieces));
    assert_has_layout("one", AWQ_GPTQ_V2);
    assert_done(convert("one", "back", &back));
    assert_same_file("start", "back", "model.safetensors");
}

/*  Every refusal names the linear, the rule and a way out, and leaves nothing behind. */
static void refusals_name_the_rule(void **state)
{
    static const struct {
        awq_layout from, into;
        int group_size, symmetric;
        size_t out_features, in_features;
        const char *rule, *way_out;
    } cases[] = {
        { AWQ_GEMM, AWQ_MARLIN, 128, 0, 256, 128, "a zero point is not 8", "layout with zero poi" },
        { AWQ_GEMM, AWQ_GPTQ, 32, 0, 64, 128, "cannot hold a zero point", "gptq_v2, gemm and" },
        { AWQ_GEMM, AWQ_MARLIN, 128, 0, 64, 128, "out_features is not a multi", "another layout" },
        { AWQ_GEMM, AWQ_GEMV_FAST, 32, 0, 64, 96, "in_features is not a multi", "another layout" },
        { AWQ_GEMM, AWQ_GEMV, 16, 0, 64, 128, "no such group_size", "another group size" },
        { AWQ_GPTQ_V2, AWQ_GEMM, 64, 0, 64, 96, "no short last group", "another group size" }
    };
    size_t i;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tiny_options options = tiny_default();
        convert_options into = to(cases[i].into);
        options.layout = cases[i].from;
        options.group_size = cases[i].group_size;
        options.symmetric = cases[i].symmetric;
        options.out_features = cases[i].out_features;
        options.in_features = cases[i].in_features;
        assert_done(make("base", &options));
        assert_refused(convert("base", "out", &into), cases[i].rule);
        assert_non_null(strstr(why.text, cases[i].way_out));
        assert_non_null(strstr(why.text, "model.layers."));
        assert_int_equal(tiny_count(folder, "out"), 0);
    }
}

/*  Overwrites bytes of a tensor in the only file of a model. */
static void patch(const char *name, const char *tensor, const void *bytes, size_t size)
{
    char *path = path_of(name), *file = join(path, "/", "model.safetensors");
    safetensors_file read;
    size_t offset;
    FILE *stream;

    assert_done(safetensors_open(&read, file, &why));
    offset = (size_t)(safetensors_find(&read, tensor)->data - read.file.bytes);
    safetensors_close(&read);
    stream = fopen(file, "r+b");
    assert_int_equal(fseek(stream, (long)offset, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
    free(file);
    free(path);
}

static void bad_values_are_refused(void **state)
{
    static const unsigned char nan[] = { 0, 0x7e }, one[] = { 1 };
    tiny_options options = tiny_default();
    convert_options into = to(AWQ_GEMM);
    (void)state;

    assert_done(make("base", &options));
    patch("base", "model.layers.1.self_attn.q_proj.scales", nan, 2);
    assert_refused(convert("base", "out", &into), "layers.1.self_attn.q_proj: a value is NaN");
    options.layout = AWQ_GPTQ_V2;
    assert_done(make("base", &options));
    patch("base", "model.layers.0.mlp.up_proj.g_idx", one, 1);
    assert_refused(convert("base", "out", &into), "act order is not supported");
    assert_non_null(strstr(why.text, "without act order"));
    assert_int_equal(tiny_count(folder, "out"), 0);
}

static void an_interrupted_conversion_leaves_nothing(void **state)
{
    tiny_options options = tiny_default();
    convert_options into = to(AWQ_GPTQ_V2);
    (void)state;

    assert_done(make("base", &options));
    convert_interrupted = 1;
    assert_refused(convert("base", "out", &into), "interrupted");
    convert_interrupted = 0;
    assert_int_equal(tiny_count(folder, "out"), 0);
}

static void nothing_to_convert_is_said(void **state)
{
    convert_options into = to(AWQ_GPTQ_V2);
    safetensors_tensor tensor = safetensors_describe("a.weight", SAFETENSORS_F32, 2, 2, 2);
    hf_writer writer;
    char *path = path_of("plain");
    (void)state;

    assert_done(hf_write_begin(&writer, path, &tensor, 1, 1000, &why));
    assert_done(hf_write_bytes(&writer, "config.json", "{}", 2, &why));
    assert_done(hf_write_end(&writer, &why));
    assert_refused(convert("plain", "out", &into), "nothing in this model is quantized");
    free(path);
}

/*  The config of a directory; json_decref() it. */
static json_t *config_of(const char *name)
{
    char *path = path_of(name), *file = join(path, "/", "config.json");
    json_t *config = json_read_file(file, &why);

    free(file);
    free(path);
    assert_non_null(config);
    return config;
}

static void assert_only_exception(const char *name, const char *key, const char *module)
{
    json_t *config = config_of(name);
    json_t *modules = json_object_get(json_object_get(config, "quantization_config"), key);

    assert_int_equal(json_array_size(modules), 1);
    assert_string_equal(json_string_value(json_array_get(modules, 0)), module);
    assert_int_equal(json_integer_value(json_object_get(config, "hidden_size")), 128);
    json_decref(config);
}

/*  Another method gets its own list of what is not quantized; the same one keeps its words. */
static void exceptions_are_said_in_the_new_words(void **state)
{
    static const char config[] =
        "{\"hidden_size\": 128, \"quantization_config\": {\"quant_method\": \"awq\", "
        "\"group_size\": 32, \"modules_to_not_convert\": [\"vision\"]}}";
    tiny_options options = tiny_default();
    convert_options other = to(AWQ_COMPRESSED), same = to(AWQ_GEMV);
    char *path = path_of("base");
    (void)state;

    assert_done(make("base", &options));
    assert_done(tiny_text(path, "config.json", config, &why));
    assert_done(convert("base", "one", &other));
    assert_only_exception("one", "ignore", "lm_head");
    assert_done(convert("base", "one", &same));
    assert_only_exception("one", "modules_to_not_convert", "vision");
    free(path);
}

/*  Also where the input has to store zero points, all of them 8. */
static void symmetric_weights_stay_symmetric(void **state)
{
    tiny_options options = tiny_default();
    convert_options into = to(AWQ_COMPRESSED);
    char *path = path_of("one");
    json_t *config;
    hf_model model;
    (void)state;

    options.layout = AWQ_GPTQ;
    options.symmetric = 1;
    assert_done(make("base", &options));
    assert_done(convert("base", "one", &into));
    assert_done(hf_open(&model, path, &why));
    assert_int_equal(model.quant.symmetric, 1);
    assert_null(hf_find_tensor(&model, "model.layers.0.mlp.up_proj.weight_zero_point"));
    hf_close(&model);
    into = to(AWQ_GPTQ_V2);
    assert_done(convert("one", "two", &into));
    config = config_of("two");
    assert_true(json_is_true(json_object_get(json_object_get(config, "quantization_config"),
                                             "sym")));
    json_decref(config);
    free(path);
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static bool convert_llama(const tiny_options *options, bool allow_rounding, hf_model *model,
                          char **file)
{
    convert_options into = to(options->symmetric ? AWQ_GGML_Q4_0 : AWQ_GGML_Q4_1);
    char *path = path_of("llama");
    bool converted;

    into.allow_rounding = allow_rounding;
    tiny_remove(path);
    assert_done(tiny_llama(path, options, &why));
    assert_done(hf_open(model, path, &why));
    *file = path_of("llama.gguf");
    unlink(*file);
    converted = convert_gguf(model, *file, &into, &why);
    free(path);
    return converted;
}

static float half_to_float(const unsigned char *bytes)
{
    float number = 0;
    awq_convert(awq_matrix_view(bytes, AWQ_F16, 1, 1), awq_matrix_view(&number, AWQ_F32, 1, 1));
    return number;
}

/*  Element (row, column) of a gemm linear, from AutoAWQ's definition. */
static float gemm_weight(const awq_foreign *weight, size_t row, size_t column)
{
    static const unsigned places[] = { 0, 4, 1, 5, 2, 6, 3, 7 };
    size_t group = column / (size_t)weight->quant.group_size, words = weight->out_features / 8;
    const unsigned char *q = (const unsigned char *)weight->weights.data;
    const unsigned char *z = (const unsigned char *)weight->zeros.data;
    const unsigned char *s = (const unsigned char *)weight->scales.data;
    unsigned place = places[row % 8], shift = place % 2 * 4;
    int integer = q[(column * words + row / 8) * 4 + place / 2] >> shift & 15;
    int zero = z[(group * words + row / 8) * 4 + place / 2] >> shift & 15;

    return (float)(integer - zero) * half_to_float(s + (group * weight->out_features + row) * 2);
}

/*  llama.cpp turns rows 2i and 2i + 1 of a head together, Hugging Face i and i + 16. */
static size_t hf_row(size_t row, bool rotated)
{
    size_t within = row % 32;
    return rotated ? row - within + within / 2 + within % 2 * 16 : row;
}

/*  Of layer 0. */
static void assert_same_weights(const gguf_file *gguf, const hf_model *model, const char *there,
                                const char *here, bool rotated)
{
    char *gguf_name = join("blk.0.", there, ".weight");
    char *hf_name = join("model.layers.0.", here, "");
    const gguf_tensor *tensor = gguf_find_tensor(gguf, gguf_name);
    const hf_linear *linear = hf_find_linear(model, hf_name);
    float row[128];
    size_t r, c;

    free(gguf_name);
    free(hf_name);
    assert_non_null(tensor);
    assert_int_equal(tensor->type, linear->weight.quant.symmetric ? GGUF_Q4_0 : GGUF_Q4_1);
    assert_int_equal(tensor->rows, linear->weight.out_features);
    assert_int_equal(tensor->columns, linear->weight.in_features);
    for (r = 0; r < tensor->rows; r++) {
        gguf_row_to_f32(tensor, r, row);
        for (c = 0; c < tensor->columns; c++) {
            float expected = gemm_weight(&linear->weight, hf_row(r, rotated), c);
            float off = row[c] - expected;              /* the minimum has 11 bits */
            assert_true((off < 0 ? -off : off) <= 15 * 0.0157f / 2048);
        }
    }
}

static void a_llama_becomes_a_gguf_file(void **state)
{
    tiny_options options = tiny_default();
    gguf_string text;
    gguf_file gguf;
    hf_model model;
    size_t number, i;
    double real;
    float row[128];
    const unsigned char *bias;
    char *file;
    (void)state;

    assert_done(convert_llama(&options, true, &model, &file));
    assert_done(gguf_open(&gguf, file, &why));
    assert_same_weights(&gguf, &model, "attn_q", "self_attn.q_proj", true);
    assert_same_weights(&gguf, &model, "attn_k", "self_attn.k_proj", true);
    assert_same_weights(&gguf, &model, "attn_v", "self_attn.v_proj", false);
    assert_same_weights(&gguf, &model, "ffn_gate", "mlp.gate_proj", false);
    gguf_row_to_f32(gguf_find_tensor(&gguf, "blk.0.attn_k.bias"), 0, row);
    bias = hf_find_tensor(&model, "model.layers.0.self_attn.k_proj.bias")->data;
    for (i = 0; i < 32; i++) assert_true(row[i] == half_to_float(bias + 2 * hf_row(i, true)));
    assert_int_equal(gguf_find_tensor(&gguf, "blk.0.ffn_down.weight")->type, GGUF_F16);
    assert_int_equal(gguf_find_tensor(&gguf, "output.weight")->type, GGUF_BF16);
    assert_int_equal(gguf_find_tensor(&gguf, "blk.0.attn_norm.weight")->type, GGUF_F32);
    assert_int_equal(gguf.tensors_count, 7 + 1 + 2 + 3);
    assert_true(gguf_get_size(&gguf, "llama.context_length", &number) && number == 77);
    assert_true(gguf_get_size(&gguf, "llama.attention.head_count_kv", &number) && number == 1);
    assert_true(gguf_get_size(&gguf, "tokenizer.ggml.eos_token_id", &number) && number == 3);
    assert_true(gguf_get_double(&gguf, "llama.rope.freq_base", &real) && real == 5e4);
    assert_true(gguf_get_string(&gguf, "tokenizer.ggml.pre", &text));
    assert_true(gguf_string_is(text, "gpt-2"));
    assert_int_equal(gguf_find_value(&gguf, "tokenizer.ggml.tokens")->count, 5);
    assert_int_equal(gguf_find_value(&gguf, "tokenizer.ggml.merges")->count, 1);
    gguf_close(&gguf);
    hf_close(&model);
    free(file);
}

static void gguf_files_round_only_with_leave(void **state)
{
    tiny_options options = tiny_default();
    hf_model model;
    char *file;
    (void)state;

    assert_refused(convert_llama(&options, false, &model, &file), "may not round it");
    assert_non_null(strstr(why.text, "--allow-rounding"));
    assert_int_equal(tiny_count(folder, "llama.gguf"), 0);
    hf_close(&model);
    free(file);
}

static void other_models_become_no_gguf_file(void **state)
{
    static const struct { const char *key, *json, *said; } cases[] = {
        { "model_type", "\"gpt2\"", "model_type \"gpt2\"" },
        { "num_hidden_layers", "1000000000", "promises 1000000000 layers" },
        { "num_hidden_layers", "2", "no tensor \"model.layers.1.input_layernorm.weight\"" },
        { "vocab_size", "6", "promises 6 tokens" },
        { "hidden_size", "65", "is not what config.json promises" },
        { "num_key_value_heads", "2", "self_attn.k_proj.bias is not what config.json promises" },
        { "intermediate_size", "96", "mlp.gate_proj is not what config.json promises" },
        { "max_position_embeddings", "4294967296", "4294967296 positions are too many" }
    };
    tiny_options options = tiny_default();
    convert_options into = to(AWQ_GGML_Q4_1);
    hf_model model;
    size_t i;
    char *file;
    (void)state;

    into.allow_rounding = true;
    assert_done(convert_llama(&options, true, &model, &file));
    unlink(file);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *config = json_deep_copy(model.config), *right = model.config;
        json_object_set_new(config, cases[i].key,
                            json_loads(cases[i].json, JSON_DECODE_ANY, NULL));
        model.config = config;
        assert_refused(convert_gguf(&model, file, &into, &why), cases[i].said);
        model.config = right;
        json_decref(config);
        assert_int_equal(tiny_count(folder, "llama.gguf"), 0);
    }
    hf_close(&model);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asymmetric_layouts_come_back),
        cmocka_unit_test(gptq_comes_back_without_zero_points_of_0),
        cmocka_unit_test(symmetric_layouts_come_back),
        cmocka_unit_test(groups_may_become_finer_and_coarser_again),
        cmocka_unit_test(shards_are_converted),
        cmocka_unit_test(refusals_name_the_rule),
        cmocka_unit_test(bad_values_are_refused),
        cmocka_unit_test(an_interrupted_conversion_leaves_nothing),
        cmocka_unit_test(nothing_to_convert_is_said),
        cmocka_unit_test(exceptions_are_said_in_the_new_words),
        cmocka_unit_test(symmetric_weights_stay_symmetric),
        cmocka_unit_test(a_llama_becomes_a_gguf_file),
        cmocka_unit_test(gguf_files_round_only_with_leave),
        cmocka_unit_test(other_models_become_no_gguf_file)
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
