/*  test_files.c - the readers and writers of examples/formats: right files, crooked files. */
#include "assert.h"

/* ---- safetensors ----------------------------------------------------------------------------- */

#define ENTRY(name, dtype, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

static bool read_header(const char *header, size_t data_size)
{
    safetensors_file file;
    size_t size;
    unsigned char *bytes = tiny_safetensors(header, data_size, &size);
    bool read = safetensors_read(&file, bytes, size, "file", &why);

    if (read) safetensors_close(&file);
    free(bytes);
    return read;
}

static void safetensors_are_read(void **state)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
        ENTRY("b", "I32", "[2,3]", 8, 32) "," ENTRY("a", "F16", "[4]", 0, 8) ","
        ENTRY("none", "F32", "[0,9]", 8, 8) "," ENTRY("one", "U8", "[]", 32, 33) ","
        ENTRY("nibbles", "F4", "[4]", 33, 35) "}   ";
    safetensors_file file;
    size_t size;
    unsigned char *bytes = tiny_safetensors(header, 35, &size);
    (void)state;

    assert_done(safetensors_read(&file, bytes, size, "file", &why));
    assert_int_equal(file.count, 5);
    assert_string_equal(file.tensors[0].name, "a");
    assert_ptr_equal(safetensors_find(&file, "b")->data, bytes + size - 27);
    assert_int_equal(safetensors_find(&file, "b")->shape[1], 3);
    assert_int_equal(safetensors_find(&file, "none")->size, 0);
    assert_int_equal(safetensors_find(&file, "one")->rank, 0);
    assert_int_equal(safetensors_find(&file, "nibbles")->size, 2);
    assert_null(safetensors_find(&file, "c"));
    assert_string_equal(safetensors_show(safetensors_find(&file, "b")).text, "I32 [2, 3]");
    safetensors_close(&file);
    free(bytes);
}

static void crooked_headers_are_refused(void **state)
{
    static const struct { const char *header; size_t data; const char *said; } cases[] = {
        { "", 0, "does not begin with {" },
        { "[]", 0, "does not begin with {" },
        { "{", 0, "not valid JSON" },
        { "{} x", 0, "not valid JSON" },
        { "{\"a\":1}", 0, "is not described by an object" },
        { "{\"a\":{}}", 0, "has no dtype" },
        { "{" ENTRY("a", "F17", "[1]", 0, 4) "}", 4, "has dtype \"F17\"" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "has no shape" },
        { "{" ENTRY("a", "F32", "[-1]", 0, 4) "}", 4, "dimension that is no size" },
        { "{" ENTRY("a", "F32", "[1.0]", 0, 4) "}", 4, "dimension that is no size" },
        { "{" ENTRY("a", "F32", "[\"1\"]", 0, 4) "}", 4, "dimension that is no size" },
        { "{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "more than 8 dimensions" },
        { "{" ENTRY("a", "F32", "[9223372036854775807]", 0, 4) "}", 4, "impossible shape" },
        { "{" ENTRY("a", "F32", "[4294967296,4294967296]", 0, 4) "}", 4, "impossible shape" },
        { "{" ENTRY("a", "F32", "[0,9223372036854775807,2]", 0, 0) "}", 0, "impossible shape" },
        { "{" ENTRY("a", "F4", "[3]", 0, 2) "}", 2, "impossible shape" },
        { "{" ENTRY("a", "F32", "[9223372036854775808]", 0, 4) "}", 4, "not valid JSON" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets" },
        { "{" ENTRY("a", "F32", "[1]", -4, 0) "}", 4, "data_offsets" },
        { "{" ENTRY("a", "F32", "[1]", 4, 0) "}", 4, "beyond the end" },
        { "{" ENTRY("a", "F32", "[1]", 4, 8) "}", 4, "beyond the end" },
        { "{" ENTRY("a", "F32", "[1]", 0, 9223372036854775807) "}", 4, "beyond the end" },
        { "{" ENTRY("a", "F32", "[2]", 0, 4) "}", 4, "is F32 [2] of 8 bytes" },
        { "{" ENTRY("a", "F32", "[1]", 0, 8) "}", 8, "is F32 [1] of 4 bytes" },
        { "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 2, 6) "}", 6,
          "overlaps" },
        { "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 0, 4) "}", 4,
          "overlaps" },
        { "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 6, 10) "}", 10,
          "begins after bytes of no tensor" },
        { "{" ENTRY("a", "F32", "[1]", 4, 8) "}", 8, "begins after bytes of no tensor" },
        { "{" ENTRY("a", "F32", "[1]", 0, 4) "}", 5, "1 bytes after the last tensor" },
        { "{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("a", "F32", "[1]", 4, 8) "}", 8,
          "not valid JSON: line 1: duplicate object key" },
        { "{" ENTRY("a\\u0000b", "F32", "[1]", 0, 4) "}", 4, "not valid JSON" },
        { "{" ENTRY("a\xc3\x28", "F32", "[1]", 0, 4) "}", 4, "not valid JSON" },
        { "{\"__metadata__\":[]}", 0, "__metadata__ is not an object" },
        { "{\"__metadata__\":{\"n\":1}}", 0, "__metadata__ \"n\" is not a string" }
    };
    size_t i;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(read_header(cases[i].header, cases[i].data), cases[i].said);
}

static void crooked_lengths_are_refused(void **state)
{
    static const struct { unsigned char bytes[9]; size_t size; const char *said; } cases[] = {
        { { 0 }, 0, "truncated safetensors: 0 bytes" },
        { { 2, 0, 0, 0, 0, 0, 0 }, 7, "truncated safetensors: 7 bytes" },
        { { 2, 0, 0, 0, 0, 0, 0, 0, '{' }, 9, "a header of 2 bytes in a file of 9" },
        { { 0, 0, 0, 0, 0, 0, 0, 0x80, '{' }, 9, "a header of 9223372036854775808 bytes" },
        { { 255, 255, 255, 255, 255, 255, 255, 255, '{' }, 9, "18446744073709551615" },
        { { 0, 0, 0, 0, 0, 0, 0, 0, '{' }, 9, "does not begin with {" }
    };
    safetensors_file file;
    size_t i;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(safetensors_read(&file, cases[i].bytes, cases[i].size, "file", &why),
                       cases[i].said);
    assert_refused(safetensors_open(&file, "/nonexistent", &why), "cannot open");
    assert_refused(safetensors_open(&file, folder, &why), "not a regular file");
}

/*  jansson descends by recursion: it has a limit, and we rely on it. */
static void deep_json_is_refused(void **state)
{
    static char header[100000];
    (void)state;

    memset(header, '[', sizeof header - 1);
    memcpy(header, "{\"a\":", 5);
    assert_refused(read_header(header, 0), "maximum parsing depth");
}

static void truncated_safetensors_are_refused(void **state)
{
    static const char header[] = "{" ENTRY("a", "F32", "[2]", 0, 8) ","
                                 ENTRY("b", "I8", "[3]", 8, 11) "}";
    safetensors_file file;
    size_t size, length;
    unsigned char *bytes = tiny_safetensors(header, 11, &size);
    (void)state;

    for (length = 0; length < size; length++) {
        unsigned char *cut = malloc(length + 1);            /* so that a sanitizer sees its end */
        memcpy(cut, bytes, length);
        assert_refused(safetensors_read(&file, cut, length, "cut", &why), "cut: ");
        free(cut);
    }
    assert_done(safetensors_read(&file, bytes, size, "file", &why));
    safetensors_close(&file);
    free(bytes);
}

static void fill(safetensors_tensor *tensors, size_t count)
{
    size_t i, j;
    for (i = 0; i < count; i++)
        for (j = 0; j < tensors[i].size; j++) tensors[i].data[j] = (unsigned char)(17 * i + j);
}

static void safetensors_come_back(void **state)
{
    safetensors_tensor tensors[4];
    safetensors_writer writer;
    safetensors_file file;
    char *path = join(folder, "/", "back.safetensors");
    size_t i, j;
    (void)state;

    tensors[0] = safetensors_describe("bytes", SAFETENSORS_U8, 1, 3, 0);
    tensors[1] = safetensors_describe("w \"\\\n\xc3\xa4", SAFETENSORS_F16, 2, 5, 7);
    tensors[2] = safetensors_describe("wide", SAFETENSORS_I64, 1, 2, 0);
    tensors[3] = safetensors_describe("words", SAFETENSORS_I32, 2, 1, 3);
    assert_done(safetensors_write_begin(&writer, path, tensors, 4, &why));
    fill(tensors, 4);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_done(safetensors_write_end(&writer, &why));
    assert_done(safetensors_open(&file, path, &why));
    assert_int_equal(file.count, 4);
    for (i = 0; i < 4; i++) {
        const safetensors_tensor *tensor = safetensors_find(&file, tensors[i].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->size, tensors[i].size);
        for (j = 0; j < tensor->size; j++)
            assert_int_equal(tensor->data[j], (unsigned char)(17 * i + j));
    }
    assert_int_equal((uintptr_t)safetensors_find(&file, "wide")->data % 8, 0);
    assert_int_equal((uintptr_t)safetensors_find(&file, "words")->data % 4, 0);
    safetensors_close(&file);
    free(path);
}

static void nothing_is_written_of_a_wrong_list(void **state)
{
    safetensors_tensor tensors[2];
    safetensors_writer writer;
    char *path = join(folder, "/", "wrong.safetensors");
    (void)state;

    tensors[0] = tensors[1] = safetensors_describe("same", SAFETENSORS_U8, 1, 3, 0);
    assert_refused(safetensors_write_begin(&writer, path, tensors, 2, &why), "is there twice");
    tensors[1] = safetensors_describe("\xff", SAFETENSORS_U8, 1, 3, 0);
    assert_refused(safetensors_write_begin(&writer, path, tensors, 2, &why), "no name");
    tensors[1] = safetensors_describe("huge", SAFETENSORS_F32, 2, SIZE_MAX / 2, 3);
    assert_refused(safetensors_write_begin(&writer, path, tensors, 2, &why), "impossible shape");
    assert_refused(safetensors_write_begin(&writer, folder, tensors, 1, &why), "not a regular");
    assert_refused(safetensors_write_begin(&writer, "/nonexistent/x", tensors, 1, &why),
                   "cannot write");
    assert_int_equal(tiny_count(folder, "wrong"), 0);
    free(path);
}

/*  Its space is reserved first: later, a page of the map that finds none would be a signal. */
static void a_full_disk_is_an_error(void **state)
{
    safetensors_tensor tensor = safetensors_describe("a", SAFETENSORS_U8, 2, 1024, 1024);
    struct rlimit limit, small;
    safetensors_writer writer;
    char *path = join(folder, "/", "full.safetensors");
    (void)state;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 1024;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_refused(safetensors_write_begin(&writer, path, &tensor, 1, &why), "cannot write");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(tiny_count(folder, "full"), 0);
    free(path);
}

static void an_abandoned_file_leaves_the_old_one(void **state)
{
    safetensors_tensor tensor = safetensors_describe("a", SAFETENSORS_U8, 1, 3, 0);
    safetensors_writer writer;
    char *path = join(folder, "/", "old.safetensors");
    mapped_file file;
    (void)state;

    assert_done(file_write_whole(path, "old", 3, &why));
    assert_done(safetensors_write_begin(&writer, path, &tensor, 1, &why));
    safetensors_write_abandon(&writer);
    safetensors_write_abandon(&writer);
    assert_int_equal(tiny_count(folder, "old"), 1);
    assert_done(file_map(&file, path, &why));
    assert_memory_equal(file.bytes, "old", 3);
    file_unmap(&file);
    free(path);
}

/* ---- GGUF: what test_llm leaves out ---------------------------------------------------------- */

/*  A file with two tensors of `columns` fp32 numbers, the second at this offset of 96 bytes. */
static bool read_two_tensors(unsigned char columns, unsigned char offset)
{
    static const unsigned char counts[] = { 'G', 'G', 'U', 'F', 3, 0, 0, 0, 2 };
    static const unsigned char info[] = { 1, 0, 0, 0, 0, 0, 0, 0, 'a', 1 };
    unsigned char bytes[96 + 96] = { 0 }, *at = bytes + 24;
    gguf_file gguf;
    bool read;
    int i;

    memcpy(bytes, counts, sizeof counts);
    for (i = 0; i < 2; i++, at += 33) {                 /* name, dims, type F32, offset */
        memcpy(at, info, sizeof info);
        at[8] = (unsigned char)('a' + i);
        at[13] = columns;
        at[25] = i ? offset : 0;
    }
    read = gguf_read(&gguf, bytes, sizeof bytes, "file", &why);
    if (read) gguf_close(&gguf);
    return read;
}

static void gguf_tensors_must_not_overlap(void **state)
{
    (void)state;

    assert_done(read_two_tensors(8, 32));
    assert_done(read_two_tensors(8, 64));
    assert_refused(read_two_tensors(9, 32), "tensors \"a\" and \"b\" overlap");
    assert_refused(read_two_tensors(8, 0), "overlap");
    assert_refused(read_two_tensors(8, 33), "not a multiple of 32");
    assert_refused(read_two_tensors(9, 64), "reaches beyond the end");
}

/* ---- Hugging Face directories ---------------------------------------------------------------- */

static char *make_model(const char *name, const tiny_options *options)
{
    char *path = join(folder, "/", name);
    tiny_remove(path);
    assert_done(tiny_model(path, options, &why));
    return path;
}

static void directories_are_read(void **state)
{
    tiny_options options = tiny_default();
    char *path = make_model("read", &options);
    const hf_linear *linear;
    hf_model model;
    (void)state;

    assert_done(hf_open(&model, path, &why));
    assert_int_equal(model.linears_count, 3);
    assert_int_equal(model.layout, AWQ_GEMM);
    linear = hf_find_linear(&model, "model.layers.0.mlp.up_proj");
    assert_non_null(linear);
    assert_int_equal(linear->weight.out_features, 64);
    assert_int_equal(linear->weight.in_features, 128);
    assert_int_equal(linear->weight.quant.group_size, 32);
    assert_string_equal(linear->bias->name, "model.layers.0.mlp.up_proj.bias");
    assert_ptr_equal(hf_owner(&model, hf_find_tensor(&model, "model.layers.0.mlp.up_proj.qzeros")),
                     linear);
    assert_null(hf_owner(&model, linear->bias));
    assert_null(hf_owner(&model, hf_find_tensor(&model, "odd")));
    assert_null(hf_find_linear(&model, "model.layers.0.mlp"));
    assert_null(hf_find_linear(&model, "model.layers.1.self_attn.q_proj")->bias);
    hf_close(&model);
    free(path);
}

static void set_config(const char *path, const char *text)
{
    assert_done(tiny_text(path, "config.json", text, &why));
}

static bool opens(const char *path, hf_model *model)
{
    bool opened = hf_open(model, path, &why);
    if (opened) hf_close(model);
    return opened;
}

#define CONFIG(inner) "{\"quantization_config\": {" inner "}}"
#define AWQ "\"quant_method\": \"awq\", \"group_size\": 32, "

static void every_spelling_of_a_config_is_read(void **state)
{
    static const struct { awq_layout layout; const char *text; } cases[] = {
        { AWQ_GEMM, CONFIG("\"quant_method\": \"awq\", \"group_size\": 32") },
        { AWQ_GEMM, CONFIG(AWQ "\"bits\": 4, \"version\": \"GEMM\", \"zero_point\": true") },
        { AWQ_GEMM, CONFIG(AWQ "\"version\": \"exllama\"") },
        { AWQ_GEMM, CONFIG(AWQ "\"version\": \"ipex\", \"modules_to_not_convert\": null") },
        { AWQ_GEMM, CONFIG(AWQ "\"version\": \"awq_marlin\"") },
        { AWQ_GEMM, CONFIG("\"w_bit\": 4, \"q_group_size\": 32, \"zero_point\": true") },
        { AWQ_GEMV, CONFIG(AWQ "\"version\": \"gemv\"") },
        { AWQ_GEMV_FAST, CONFIG(AWQ "\"version\": \"gemv_fast\"") },
        { AWQ_GPTQ, CONFIG("\"quant_method\": \"gptq\", \"group_size\": 32, \"bits\": 4") },
        { AWQ_GPTQ, CONFIG("\"bits\": 4, \"group_size\": 32, \"desc_act\": false") },
        { AWQ_GPTQ_V2, CONFIG("\"quant_method\": \"gptq\", \"checkpoint_format\": \"gptq_v2\", "
                              "\"group_size\": 32, \"sym\": false") },
        { AWQ_COMPRESSED, CONFIG("\"quant_method\": \"compressed-tensors\", \"format\": "
                                 "\"pack-quantized\", \"config_groups\": {\"g\": {\"weights\": "
                                 "{\"num_bits\": 4, \"group_size\": 32, \"symmetric\": false}}}") }
    };
    size_t i;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tiny_options options = tiny_default();
        hf_model model;
        char *path;
        options.layout = cases[i].layout;
        options.least_zero = 1;
        path = make_model("spelling", &options);
        set_config(path, cases[i].text);
        assert_done(hf_open(&model, path, &why));
        assert_int_equal(model.linears[0].weight.layout, cases[i].layout);
        hf_close(&model);
        free(path);
    }
}

static void legacy_configs_are_read(void **state)
{
    static const char *const names[] = { "quant_config.json", "quantize_config.json" };
    tiny_options options = tiny_default();
    size_t i;
    (void)state;

    for (i = 0; i < 2; i++) {
        char *path = make_model("legacy", &options);
        hf_model model;
        set_config(path, "{\"quantization_config\": null}");
        assert_refused(opens(path, &model), "there is no quantization_config");
        assert_done(tiny_text(path, names[i], "{\"w_bit\": 4, \"q_group_size\": 32, \"version\": "
                              "\"GEMM\", \"zero_point\": true}", &why));
        assert_done(opens(path, &model));
        assert_done(tiny_text(path, names[i], "{\"w_bit\": 4", &why));
        assert_refused(opens(path, &model), names[i]);
        free(path);
    }
}

static void crooked_configs_are_refused(void **state)
{
    static const struct { const char *text, *said; } cases[] = {
        { "", "the file is empty" },
        { "[]", "not a JSON object" },
        { "{\"a\":1,\"a\":2}", "duplicate object key" },
        { "{\"quantization_config\": 4}", "quantization_config is not an object" },
        { CONFIG(""), "quant_method \"unnamed\"" },
        { CONFIG("\"quant_method\": \"fp8\""), "quant_method \"fp8\"; awq, gptq and compressed" },
        { CONFIG("\"quant_method\": 7"), "quant_method is not a string" },
        { CONFIG(AWQ "\"bits\": 3"), "quantized to 3 bits; only 4" },
        { CONFIG(AWQ "\"bits\": 4.0"), "bits is not an integer" },
        { CONFIG(AWQ "\"bits\": 4294967300"), "bits is not an integer" },
        { CONFIG(AWQ "\"zero_point\": 1"), "zero_point is not true or false" },
        { CONFIG(AWQ "\"version\": \"gemm2\""), "unknown version \"gemm2\"" },
        { CONFIG(AWQ "\"modules_to_not_convert\": \"all\""), "not a list of names" },
        { CONFIG(AWQ "\"modules_to_not_convert\": [1]"), "not a list of names" },
        { CONFIG("\"quant_method\": \"awq\", \"group_size\": 0"), "group_size 0" },
        { CONFIG("\"quant_method\": \"awq\", \"group_size\": -2"), "group_size -2" },
        { CONFIG("\"quant_method\": \"awq\", \"group_size\": 48"), "no short last group" },
        { CONFIG("\"quant_method\": \"awq\", \"group_size\": 64"),
          "scales\" is F16 [4, 64]; expected is F16 [2, 64]" },
        { CONFIG(AWQ "\"version\": \"gemv\""), "scales\" is F16 [4, 64]; expected is F16 "
                                            "[128, 32]" },
        { CONFIG("\"quant_method\": \"gptq\", \"checkpoint_format\": \"x\""), "checkpoint_format" },
        { CONFIG("\"quant_method\": \"compressed-tensors\""), "only pack-quantized" },
        { CONFIG("\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\""),
          "config_groups is not" },
        { CONFIG("\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
                 "\"config_groups\": {\"g\": {\"weights\": {\"type\": \"float\"}}}"),
          "type is not \"int\"" },
        { CONFIG("\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
                 "\"config_groups\": {\"g\": {\"weights\": {\"group_size\": 32}}, \"h\": "
                 "{\"weights\": {\"group_size\": 64}}}"), "quantized differently" },
        { CONFIG("\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
                 "\"config_groups\": {\"g\": {\"weights\": {\"group_size\": 32}}}"),
          "no tensor is quantized so" }
    };
    tiny_options options = tiny_default();
    char *path = make_model("crooked", &options);
    hf_model model;
    size_t i;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        set_config(path, cases[i].text);
        assert_refused(opens(path, &model), cases[i].said);
    }
    free(path);
}

#define INTEGERS "\"I32\",\"shape\":[128,8]"
#define ZEROS "\"I32\",\"shape\":[4,8]"
#define SCALES "\"F16\",\"shape\":[4,64]"

/*  Adds a tensor of linear "l" to a header: a name, and dtype and shape as JSON. */
static void add_tensor(char *header, size_t room, const char *name, const char *what, size_t *data)
{
    size_t used = strlen(header), element = strstr(what, "16\"") ? 2 : 4;
    unsigned long rows = 0, columns = 1;

    sscanf(strchr(what, '['), "[%lu,%lu", &rows, &columns);
    snprintf(header + used, room - used,
             "%s\"l.%s\":{\"dtype\":%s,\"data_offsets\":[%zu,%zu]}", used ? "," : "{", name, what,
             *data, *data + rows * columns * element);
    *data += rows * columns * element;
}

/*  Reads a model whose one linear has these tensors, as dtype and shape; NULL: it has none. */
static bool read_parts(const char *const *parts)
{
    static const char *const names[] = { "qweight", "qzeros", "scales", "bias", "g_idx" };
    static const char config[] = CONFIG("\"quant_method\": \"awq\", \"group_size\": 32");
    char header[1000] = "";
    size_t data = 0, size, i;
    unsigned char *bytes;
    hf_model model;
    bool read;

    for (i = 0; i < 5; i++)
        if (parts[i]) add_tensor(header, sizeof header - 1, names[i], parts[i], &data);
    strcat(header, "}");
    bytes = tiny_safetensors(header, data, &size);
    read = hf_read(&model, config, strlen(config), bytes, size, &why);
    if (read) hf_close(&model);
    free(bytes);
    return read;
}

/*  A linear of 64 x 128 in groups of 32, one of its tensors at fault. */
static void crooked_linears_are_refused(void **state)
{
    static const struct { const char *qweight, *qzeros, *scales, *bias, *index, *said; } cases[] = {
        { INTEGERS, ZEROS, SCALES, NULL, NULL, "" },
        { "\"F32\",\"shape\":[128,8]", ZEROS, SCALES, NULL, NULL, "F32 [128, 8]; expected is I32" },
        { "\"I32\",\"shape\":[1024]", ZEROS, SCALES, NULL, NULL, "expected is a matrix" },
        { "\"I32\",\"shape\":[0,8]", ZEROS, SCALES, NULL, NULL, "shapes do not agree" },
        { "\"I32\",\"shape\":[120,8]", ZEROS, SCALES, NULL, NULL, "in_features 120" },
        { "\"I32\",\"shape\":[128,7]", ZEROS, SCALES, NULL, NULL, "out_features is not a mult" },
        { INTEGERS, "\"I32\",\"shape\":[4,9]", SCALES, NULL, NULL, "qzeros\" is I32 [4, 9]; exp" },
        { INTEGERS, "\"I16\",\"shape\":[4,8]", SCALES, NULL, NULL, "qzeros\" is I16 [4, 8]" },
        { INTEGERS, ZEROS, "\"I16\",\"shape\":[4,64]", NULL, NULL, "is F16, BF16 or F32" },
        { INTEGERS, ZEROS, "\"F16\",\"shape\":[64,4]", NULL, NULL, "expected is F16 [4, 64]" },
        { INTEGERS, ZEROS, SCALES, "\"F16\",\"shape\":[63]", NULL, "expected is [out_features]" },
        { INTEGERS, ZEROS, SCALES, NULL, "\"I32\",\"shape\":[127]", "is I32 [in_features]" },
        { INTEGERS, NULL, SCALES, NULL, NULL, "has no qzeros, which layout gemm needs" },
        { INTEGERS, ZEROS, NULL, NULL, NULL, "has no scales" }
    };
    size_t i;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *parts[] = { cases[i].qweight, cases[i].qzeros, cases[i].scales, cases[i].bias,
                                cases[i].index };
        if (i == 0) assert_done(read_parts(parts));
        else assert_refused(read_parts(parts), cases[i].said);
    }
}

static void weight_shape_must_fit(void **state)
{
    static const char config[] = CONFIG(
        "\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
        "\"config_groups\": {\"g\": {\"weights\": {\"group_size\": 32, \"symmetric\": true}}}");
    static const char header[] = "{" ENTRY("l.weight_packed", "I32", "[8,12]", 0, 384) ","
        ENTRY("l.weight_scale", "F16", "[8,3]", 384, 432) ","
        ENTRY("l.weight_shape", "I64", "[2]", 432, 448) "}";
    static const struct { unsigned char rows, columns, high; bool right; } cases[] = {
        { 8, 96, 0, true }, { 7, 96, 0, false }, { 8, 97, 0, false }, { 8, 88, 0, false },
        { 8, 96, 0x80, false }, { 8, 0, 0, false }
    };
    size_t size, i;
    unsigned char *bytes = tiny_safetensors(header, 448, &size);
    hf_model model;
    (void)state;

    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bytes[size - 16] = cases[i].rows;
        bytes[size - 8] = cases[i].columns;
        bytes[size - 1] = cases[i].high;
        if (cases[i].right) {
            assert_done(hf_read(&model, config, strlen(config), bytes, size, &why));
            hf_close(&model);
        } else {
            assert_refused(hf_read(&model, config, strlen(config), bytes, size, &why),
                           "weight_shape is [");
        }
    }
    free(bytes);
}

/* ---- shards ---------------------------------------------------------------------------------- */

static void shards_are_written_and_read(void **state)
{
    tiny_options options = tiny_default();
    char *path, *index;
    hf_model model;
    json_t *json;
    size_t total = 0, i;
    (void)state;

    options.shard_size = 3000;
    path = make_model("shards", &options);
    index = join(path, "/", "model.safetensors.index.json");
    assert_done(hf_open(&model, path, &why));
    assert_true(model.shards_count > 3);
    assert_int_equal(model.linears_count, 3);
    for (i = 0; i < model.tensors_count; i++) total += model.tensors[i]->size;
    json = json_read_file(index, &why);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "metadata"),
                                                        "total_size")), total);
    json_decref(json);
    hf_close(&model);
    free(index);
    free(path);
}

static void crooked_indices_are_refused(void **state)
{
    static const struct { const char *text, *said; } cases[] = {
        { "{", "not valid JSON" },
        { "{}", "no weight_map" },
        { "{\"weight_map\": []}", "no weight_map" },
        { "{\"weight_map\": {}}", "no weight_map" },
        { "{\"weight_map\": {\"odd\": 1}}", "tensor \"odd\" is said to be in \"\"" },
        { "{\"weight_map\": {\"odd\": \"../model.safetensors\"}}", "no name of a .safetensors" },
        { "{\"weight_map\": {\"odd\": \"/model.safetensors\"}}", "no name of a .safetensors" },
        { "{\"weight_map\": {\"odd\": \"..\\\\x.safetensors\"}}", "no name of a .safetensors" },
        { "{\"weight_map\": {\"odd\": \".safetensors\"}}", "no name of a .safetensors" },
        { "{\"weight_map\": {\"odd\": \"config.json\"}}", "no name of a .safetensors" },
        { "{\"weight_map\": {\"odd\": \"absent.safetensors\"}}", "absent.safetensors: cannot op" },
        { "{\"weight_map\": {\"new\": \"model.safetensors\"}}", "is not in model.safetensors, w" },
        { "{\"weight_map\": {\"odd\": \"model.safetensors\", \"l\": \"copy.safetensors\"}}",
          "\"l\" is not in copy.safetensors" },
        { "{\"weight_map\": {\"odd\": \"model.safetensors\", \"model.norm.weight\": "
          "\"copy.safetensors\"}}", "is in two shards" }
    };
    tiny_options options = tiny_default();
    char *path = make_model("indices", &options), *from, *to;
    hf_model model;
    size_t i;
    (void)state;

    from = join(path, "/", "model.safetensors");
    to = join(path, "/", "copy.safetensors");
    assert_int_equal(link(from, to), 0);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_done(tiny_text(path, "model.safetensors.index.json", cases[i].text, &why));
        assert_refused(opens(path, &model), cases[i].said);
    }
    free(from);
    free(to);
    free(path);
}

static void incomplete_directories_are_refused(void **state)
{
    char *path = join(folder, "/", "incomplete");
    hf_model model;
    (void)state;

    assert_refused(opens(path, &model), "config.json: cannot open");
    assert_int_equal(mkdir(path, 0777), 0);
    assert_refused(opens(path, &model), "config.json: cannot open");
    set_config(path, "{}");
    assert_refused(opens(path, &model), "neither model.safetensors nor");
    free(path);
}

/* ---- writing a directory --------------------------------------------------------------------- */

static void a_directory_is_written_whole_or_not_at_all(void **state)
{
    safetensors_tensor tensor = safetensors_describe("a", SAFETENSORS_U8, 1, 3, 0);
    safetensors_tensor same[2];
    char *path = join(folder, "/", "whole");
    hf_writer writer;
    (void)state;

    same[0] = same[1] = tensor;
    assert_refused(hf_write_begin(&writer, path, same, 2, 100, &why), "is there twice");
    assert_int_equal(tiny_count(folder, "whole"), 0);

    assert_done(hf_write_begin(&writer, path, &tensor, 1, 100, &why));
    assert_done(hf_write_bytes(&writer, "config.json", "{}", 2, &why));
    assert_int_not_equal(access(path, F_OK), 0);
    hf_write_abandon(&writer);
    assert_int_equal(tiny_count(folder, "whole"), 0);

    assert_int_equal(mkdir(path, 0777), 0);                 /* an empty one is taken over */
    assert_done(hf_write_begin(&writer, path, &tensor, 1, 100, &why));
    assert_done(hf_write_end(&writer, &why));
    assert_int_equal(tiny_count(folder, "whole"), 1);
    assert_int_equal(tiny_count(path, "model.safetensors"), 1);
    assert_refused(hf_write_begin(&writer, path, &tensor, 1, 100, &why), "is there already");
    assert_int_equal(tiny_count(folder, "whole"), 1);
    free(path);
}

static void numbers_are_written_as_they_were(void **state)
{
    static const char text[] = "{\n  \"a\": 1e-5,\n  \"b\": 0.041666666666666664,\n"
                               "  \"c\": 9223372036854775807\n}";
    safetensors_tensor tensor = safetensors_describe("a", SAFETENSORS_U8, 1, 3, 0);
    json_t *json = json_read(text, strlen(text), "text", &why);
    char *path = join(folder, "/", "numbers"), *file = join(path, "/", "config.json");
    hf_writer writer;
    mapped_file map;
    (void)state;

    assert_non_null(json);
    assert_done(hf_write_begin(&writer, path, &tensor, 1, 100, &why));
    assert_done(hf_write_json(&writer, "config.json", json, &why));
    assert_done(hf_write_end(&writer, &why));
    assert_done(file_map(&map, file, &why));
    assert_non_null(strstr((const char *)map.bytes, "0.041666666666666664"));
    assert_non_null(strstr((const char *)map.bytes, "9223372036854775807"));
    file_unmap(&map);
    json_decref(json);
    free(file);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_are_read),
        cmocka_unit_test(crooked_headers_are_refused),
        cmocka_unit_test(crooked_lengths_are_refused),
        cmocka_unit_test(deep_json_is_refused),
        cmocka_unit_test(truncated_safetensors_are_refused),
        cmocka_unit_test(safetensors_come_back),
        cmocka_unit_test(nothing_is_written_of_a_wrong_list),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(an_abandoned_file_leaves_the_old_one),
        cmocka_unit_test(gguf_tensors_must_not_overlap),
        cmocka_unit_test(directories_are_read),
        cmocka_unit_test(every_spelling_of_a_config_is_read),
        cmocka_unit_test(legacy_configs_are_read),
        cmocka_unit_test(crooked_configs_are_refused),
        cmocka_unit_test(crooked_linears_are_refused),
        cmocka_unit_test(weight_shape_must_fit),
        cmocka_unit_test(shards_are_written_and_read),
        cmocka_unit_test(crooked_indices_are_refused),
        cmocka_unit_test(incomplete_directories_are_refused),
        cmocka_unit_test(a_directory_is_written_whole_or_not_at_all),
        cmocka_unit_test(numbers_are_written_as_they_were)
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
