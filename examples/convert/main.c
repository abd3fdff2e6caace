/*  main.c - lists and converts quantized models. */
#include "convert.h"

static const char usage[] =
    "usage: convert INPUT --list\n"
    "       convert INPUT OUTPUT --to LAYOUT [options]\n"
    "INPUT is a Hugging Face directory of 4-bit weights (AWQ, GPTQ, compressed-tensors) or, to\n"
    "list, a GGUF file; OUTPUT is a new directory, or for q4_1 and q4_0 a GGUF file.\n\n"
    "  --list             every linear with its layout, shape and group size, all values checked\n"
    "  --to LAYOUT        gemm, gemv, gemv_fast, marlin, awq_marlin, gptq, gptq_v2 or\n"
    "                     compressed-tensors; q4_1, q4_0: a GGUF file for llama.cpp\n"
    "  --group N          of the output (that of the input); finer is always exact\n"
    "  --allow-rounding   round what the layout cannot hold, instead of refusing\n"
    "  --shard MB         size of the files of the output (5000)\n"
    "  --threads N        0: one per processor (0)\n"
    "  --help             this text\n";

typedef struct settings {
    const char *input, *output;
    bool list;
    convert_options convert;
} settings;

static bool read_number(const char *option, const char *text, long least, long most, long *out,
                        failure *why)
{
    char *end;

    if (!text) return fail(why, "%s needs a value; --help says which", option);
    errno = 0;
    *out = strtol(text, &end, 10);
    if (end == text || *end || errno || *out < least || *out > most)
        return fail(why, "%s %s: must be a whole number from %ld to %ld", option, text, least,
                    most);
    return true;
}

static bool is_gguf(awq_layout layout)
{
    return layout == AWQ_GGML_Q4_0 || layout == AWQ_GGML_Q4_1;
}

static bool read_layout(const char *name, awq_layout *out, failure *why)
{
    int layout;

    if (!name) return fail(why, "--to needs a layout; --help lists them");
    for (layout = AWQ_GEMM; layout < AWQ_LAYOUT_END; layout++)
        if ((layout <= AWQ_COMPRESSED || is_gguf((awq_layout)layout))
            && strcmp(awq_layout_rules_of((awq_layout)layout).name, name) == 0) {
            *out = (awq_layout)layout;
            return true;
        }
    *out = AWQ_COMPRESSED;
    return strcmp(name, "compressed-tensors") == 0
           || fail(why, "--to %s: no such layout; --help lists them", name);
}

/*  *used says whether the option took its value. */
static bool read_option(settings *set, const char *option, const char *value, bool *used,
                        failure *why)
{
    long number;

    *used = true;
    if (strcmp(option, "--to") == 0) return read_layout(value, &set->convert.layout, why);
    if (strcmp(option, "--group") == 0) {
        if (!read_number(option, value, -1, 1 << 20, &number, why)) return false;
        set->convert.group_size = (int)number;
    } else if (strcmp(option, "--shard") == 0) {
        if (!read_number(option, value, 1, 1000000, &number, why)) return false;
        set->convert.shard_size = (size_t)number * 1000000;
    } else if (strcmp(option, "--threads") == 0) {
        if (!read_number(option, value, 0, 256, &number, why)) return false;
        set->convert.threads = (size_t)number;
    } else {
        *used = false;
        if (strcmp(option, "--list") == 0) set->list = true;
        else if (strcmp(option, "--allow-rounding") == 0) set->convert.allow_rounding = true;
        else return fail(why, "there is no option %s; --help lists them", option);
    }
    return true;
}

static bool read_arguments(settings *set, int argc, char **argv, failure *why)
{
    int i;

    memset(set, 0, sizeof *set);
    set->convert.shard_size = (size_t)5000 * 1000000;
    for (i = 1; i < argc; i++) {
        bool used = false;
        if (strncmp(argv[i], "--", 2) == 0) {
            if (!read_option(set, argv[i], argv[i + 1], &used, why)) return false;
            i += used;
        } else if (!set->input) {
            set->input = argv[i];
        } else if (!set->output) {
            set->output = argv[i];
        } else {
            return fail(why, "%s: one INPUT and one OUTPUT are enough", argv[i]);
        }
    }
    if (!set->input) return fail(why, "no INPUT; --help says how to call this");
    if (!set->list && (!set->output || !set->convert.layout))
        return fail(why, "say --list, or name an OUTPUT and a layout --to convert into");
    return true;
}

static bool is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static bool run_on_gguf(const settings *set, failure *why)
{
    gguf_file gguf;
    bool done;

    if (!gguf_open(&gguf, set->input, why)) return false;
    done = set->list ? list_gguf(&gguf, why)
                     : fail(why, "%s: a GGUF file can only be listed; examples/llm makes a "
                            "directory of one (--export-hf)", set->input);
    gguf_close(&gguf);
    return done;
}

static bool run_on_directory(const settings *set, failure *why)
{
    hf_model model;
    bool done;

    if (!hf_open(&model, set->input, why)) return false;
    if (set->list) done = list_directory(&model, set->convert.threads, why);
    else if (is_gguf(set->convert.layout))
        done = convert_gguf(&model, set->output, &set->convert, why);
    else done = convert_directory(&model, set->output, &set->convert, why);
    hf_close(&model);
    return done;
}

static void interrupt(int signal)
{
    (void)signal;
    convert_interrupted = 1;
}

int main(int argc, char **argv)
{
    settings set;
    failure why;
    int i;

    for (i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) return fputs(usage, stdout) < 0;
    signal(SIGINT, interrupt);
    signal(SIGTERM, interrupt);
    if (read_arguments(&set, argc, argv, &why)
        && (is_directory(set.input) ? run_on_directory(&set, &why) : run_on_gguf(&set, &why)))
        return 0;
    fprintf(stderr, "convert: %s\n", why.text);
    return 1;
}
