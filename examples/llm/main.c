/*  main.c - quantizes a language model with AWQ and shows what that costs and brings.

    Every measurement runs in a process of its own, so that its peak memory is its own. */
#include "export.h"
#include "study.h"
#include "tiles.h"

#include "../common/numbers.h"
#include "../common/progress.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

typedef struct settings {
    const char *model, *text, *calibration, *save, *export_hf, *export_gguf, *prompt;
    size_t threads, answer_tokens;
    awq_precision precision;
    bool measure_only, print_ids, print_speed, check_sketch;
    quantize_options quantize;
} settings;

/* ---- results, and the processes that make them ----------------------------------------------- */

typedef struct report {
    text_score score;
    double generation_rate, seconds;
    uint64_t fingerprint, exported_fingerprint;
    size_t peak_memory;
    char answer[4096];
} report;

/*  A stage fills the report or says why not. `path` is the model file to read or to write. */
typedef bool stage(const settings *set, const char *path, report *out, failure *why);

typedef struct parcel {
    bool done;
    failure why;
    report out;
} parcel;

static bool write_all(int descriptor, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size) {
        ssize_t some = write(descriptor, at, size);
        if (some <= 0) return false;
        at += some;
        size -= (size_t)some;
    }
    return true;
}

static bool read_all(int descriptor, void *bytes, size_t size)
{
    char *at = bytes;
    while (size) {
        ssize_t some = read(descriptor, at, size);
        if (some <= 0) return false;
        at += some;
        size -= (size_t)some;
    }
    return true;
}

static void run_in_child(stage *work, const settings *set, const char *path, int descriptor)
{
    static parcel result;
    result.done = work(set, path, &result.out, &result.why);
    result.out.peak_memory = peak_memory();
    _exit(write_all(descriptor, &result, sizeof result) ? 0 : 1);
}

static bool run_stage(stage *work, const settings *set, const char *path, report *out, failure *why)
{
    static parcel result;
    int ends[2], status = 0;
    bool arrived;
    pid_t child;

    fflush(stdout);
    if (pipe(ends) != 0) return fail(why, "cannot make a pipe: %s", strerror(errno));
    child = fork();
    if (child == 0) run_in_child(work, set, path, ends[1]);
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return fail(why, "cannot start a process: %s", strerror(errno));
    }
    arrived = read_all(ends[0], &result, sizeof result);
    close(ends[0]);
    waitpid(child, &status, 0);
    if (!arrived)
        return fail(why, "a measuring process died (%s %d); is there enough memory?",
                    WIFSIGNALED(status) ? "signal" : "exit code",
                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    *out = result.out;
    *why = result.why;
    return result.done;
}

/* ---- stages ---------------------------------------------------------------------------------- */

static bool fits_in_memory(size_t bytes)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_size > 0 && bytes / (size_t)page_size < (size_t)pages / 2;
}

static void copy_text(const tokenizer *tok, const token_list *tokens, char *out, size_t size)
{
    size_t i, used = 0;

    for (i = 0; i < tokens->count; i++) {
        const vocabulary_token *token = &tok->tokens[tokens->ids[i]];
        if (used + token->length >= size) break;
        memcpy(out + used, token->bytes, token->length);
        used += token->length;
    }
    out[used] = '\0';
}

static bool answer(const settings *set, const model *m, compute *c, report *out, failure *why)
{
    token_list prompt = { 0 }, made = { 0 };
    bool done = tokenizer_encode_chat(&m->tok, set->prompt, &prompt, why)
                && generate(m, c, &prompt, set->answer_tokens, &made, &out->generation_rate, why);

    if (done) copy_text(&m->tok, &made, out->answer, sizeof out->answer);
    token_list_free(&prompt);
    token_list_free(&made);
    return done;
}

static bool evaluate_model(const settings *set, model *m, compute *c, report *out, failure *why)
{
    bool quantized = model_is_quantized(m), done;
    const char *label = !quantized ? "perplexity, fp32"
                        : set->quantize.method == METHOD_NEAREST ? "perplexity, rounded"
                                                                 : "perplexity, AWQ";
    token_list text = { 0 };

    if (!quantized && fits_in_memory(model_decoded_size(m)) && !model_decode(m, c, why))
        return false;
    done = read_tokens(&m->tok, set->text, &text, why)
           && score_text(m, c, &text, label, &out->score, why) && answer(set, m, c, out, why)
           && fingerprint(m, c, &text, &out->fingerprint, why);
    token_list_free(&text);
    return done;
}

static bool evaluate_stage(const settings *set, const char *path, report *out, failure *why)
{
    bool done = false;
    compute c;
    model m;

    if (!compute_open(&c, set->threads, set->precision, why)) return false;
    if (model_open(&m, path, why)) {
        done = evaluate_model(set, &m, &c, out, why);
        model_close(&m);
    }
    compute_close(&c);
    return done;
}

/*  Ctrl-C has to wait while files are written, so that none is left half made. */
static void heed_interrupts(bool heed)
{
    signal(SIGINT, heed ? SIG_DFL : SIG_IGN);
    signal(SIGTERM, heed ? SIG_DFL : SIG_IGN);
}

/*  Head and embedding are exported as they were, so the bits are others than the saved file's. */
static bool export_model(const settings *set, const model *m, const model *original, compute *c,
                         const token_list *text, report *out, failure *why)
{
    model exported;
    bool done;

    if (!set->export_hf && !set->export_gguf) return true;
    if (!exported_model(&exported, m, original, why)) return false;
    done = fingerprint(&exported, c, text, &out->exported_fingerprint, why);
    heed_interrupts(false);
    done = done && (!set->export_hf || export_hf(&exported, set->export_hf, why))
           && (!set->export_gguf || export_gguf(&exported, set->export_gguf, why));
    heed_interrupts(true);
    free(exported.rope_frequencies);
    return done;
}

/*  Quantizes set->model into the file `path`. */
static bool quantize_into(const settings *set, const model *m, compute *c, const char *path,
                          report *out, failure *why)
{
    token_list calibration = { 0 }, text = { 0 };
    quantized_model q;
    double started = seconds_now();
    bool done;

    if (!read_tokens(&m->tok, set->calibration, &calibration, why)) return false;
    done = quantize_model(&q, m, c, &calibration, &set->quantize, why);
    token_list_free(&calibration);
    if (!done) return false;
    out->seconds = seconds_now() - started;
    done = save_model(&q.m, path, why) && read_tokens(&m->tok, set->text, &text, why)
           && fingerprint(&q.m, c, &text, &out->fingerprint, why)
           && export_model(set, &q.m, m, c, &text, out, why);
    token_list_free(&text);
    quantized_model_close(&q);
    return done;
}

static bool quantize_stage(const settings *set, const char *path, report *out, failure *why)
{
    bool done = false;
    compute c;
    model m;

    if (!compute_open(&c, set->threads, set->precision, why)) return false;
    if (model_open(&m, set->model, why)) {
        done = quantize_into(set, &m, &c, path, out, why);
        model_close(&m);
    }
    compute_close(&c);
    return done;
}

/* ---- the table ------------------------------------------------------------------------------- */

static double megabytes(size_t bytes)
{
    return (double)bytes * 1e-6;
}

static void print_head(void)
{
    printf("\n| weights             | perplexity |   change | on disk MB | peak MB | prompt tok/s "
           "| generation tok/s | quantized in |\n"
           "|---------------------|-----------:|---------:|-----------:|--------:|-------------:"
           "|-----------------:|-------------:|\n");
}

/*  `made` is NULL for a model not quantized here, `base` for one with nothing to compare. */
static void print_row(const char *name, const report *r, size_t size, const report *base,
                      const report *made)
{
    char change[32] = "", seconds[32] = "";

    if (base)
        snprintf(change, sizeof change, "%+.1f %%",
                 100 * (r->score.perplexity / base->score.perplexity - 1));
    if (made) snprintf(seconds, sizeof seconds, "%.0f s", made->seconds);
    printf("| %-19s | %10.3f | %8s | %10.1f | %7.0f | %12.0f | %16.1f | %12s |\n", name,
           r->score.perplexity, change, megabytes(size), megabytes(r->peak_memory),
           r->score.prompt_rate, r->generation_rate, seconds);
    fflush(stdout);
}

/*  Of a file, or of all files in a directory. */
static size_t size_on_disk(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    struct stat status;
    size_t size = 0;

    if (!directory) return stat(path, &status) == 0 ? (size_t)status.st_size : 0;
    while ((entry = readdir(directory)) != NULL)
        if (fstatat(dirfd(directory), entry->d_name, &status, 0) == 0 && S_ISREG(status.st_mode))
            size += (size_t)status.st_size;
    closedir(directory);
    return size;
}

static void print_answer(const settings *set, const char *name, const report *r)
{
    printf("\n%s answers \"%s\":\n%s\n", name, set->prompt, r->answer);
}

/* ---- the whole job --------------------------------------------------------------------------- */

/*  What the file says about itself, and the size that its weights would have in fp32. */
typedef struct description {
    char name[64];
    size_t weights, layers;
    const char *rounded_type; /* of linears that were rounded before, or NULL */
    bool quantized;
} description;

static void describe(const model *m, description *d)
{
    memset(d, 0, sizeof *d);
    strcpy(d->name, m->name);
    d->layers = m->layers_count;
    d->quantized = model_is_quantized(m);
    d->weights = model_weights(m);
    if (!d->quantized) {
        uint32_t type = m->layers[0].linears[LINEAR_Q].stored->type;
        bool exact = type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16;
        d->rounded_type = exact ? NULL : gguf_type_name(type);
    }
}

static bool check_text(const model *m, const char *path, failure *why)
{
    token_list tokens;
    size_t count;

    if (!read_tokens(&m->tok, path, &tokens, why)) return false;
    count = tokens.count;
    token_list_free(&tokens);
    return count >= WINDOW ? true : fail(why, "%s: has %zu tokens; at least %d are needed", path,
                                         count, WINDOW);
}

static bool can_write_file(const char *path, failure *why)
{
    file_writer writer;

    if (!path) return true;
    if (!file_write_begin(&writer, path, why)) return false;
    file_write_abandon(&writer);
    return true;
}

static bool can_write_directory(const char *path, failure *why)
{
    hf_writer writer;

    if (!path) return true;
    if (!hf_write_begin(&writer, path, NULL, 0, 1, why)) return false;
    hf_write_abandon(&writer);
    return true;
}

/*  What would otherwise go wrong after minutes of work. */
static bool check_early(const settings *set, const model *m, failure *why)
{
    if (!check_text(m, set->text, why)) return false;
    if (model_is_quantized(m) || set->measure_only) {
        if (!set->export_hf && !set->export_gguf) return true;
        return fail(why, "%s: only what is quantized here is exported; name the original model",
                    set->model);
    }
    return check_text(m, set->calibration, why)
           && (!set->export_hf || export_check_hf(m, set->quantize.quant, why))
           && (!set->export_gguf || export_check_gguf(m, set->quantize.quant, why))
           && can_write_file(set->save, why) && can_write_file(set->export_gguf, why)
           && can_write_directory(set->export_hf, why);
}

static bool inspect(const settings *set, description *d, failure *why)
{
    bool checked;
    model m;

    if (!model_open(&m, set->model, why)) return false;
    describe(&m, d);
    checked = check_early(set, &m, why);
    model_close(&m);
    return checked;
}

/*  A row of the table: quantizes into `path`, loads that file in a fresh process and measures it. */
typedef struct trial {
    report made, measured;
    size_t size;
} trial;

static bool try_method(const settings *set, method how, const char *path, trial *t, failure *why)
{
    settings own = *set;

    own.quantize.method = how;
    if (how != set->quantize.method) own.export_hf = own.export_gguf = NULL;
    if (!run_stage(quantize_stage, &own, path, &t->made, why)) return false;
    if (!run_stage(evaluate_stage, &own, path, &t->measured, why)) return false;
    t->size = size_on_disk(path);
    if (t->made.fingerprint != t->measured.fingerprint)
        return fail(why, "%s: the reloaded model does not give the bits of the one saved", path);
    return true;
}

static bool measure(const settings *set, const description *d, failure *why)
{
    report r;

    if (!run_stage(evaluate_stage, set, set->model, &r, why)) return false;
    print_head();
    print_row(d->quantized ? "AWQ, from file" : "fp32", &r, size_on_disk(set->model), NULL, NULL);
    print_answer(set, "The model", &r);
    printf("\nfingerprint %016llx\n", (unsigned long long)r.fingerprint);
    return true;
}

/* ---- other questions about one model ------------------------------------------------------- */

typedef bool question(const settings *set, model *m, compute *c, failure *why);

/*  The token ids of the text, one per line, for comparing with other programs. */
static bool print_ids(const settings *set, model *m, compute *c, failure *why)
{
    token_list tokens = { 0 };
    bool done = read_tokens(&m->tok, set->text, &tokens, why);
    size_t i;

    (void)c;
    for (i = 0; done && i < tokens.count; i++) printf("%u\n", (unsigned)tokens.ids[i]);
    token_list_free(&tokens);
    return done;
}

static bool print_speed(const settings *set, model *m, compute *c, failure *why)
{
    token_list text = { 0 };
    text_speed speed;
    bool done;

    if (!model_is_quantized(m) && fits_in_memory(model_decoded_size(m)) && !model_decode(m, c, why))
        return false;
    done = read_tokens(&m->tok, set->text, &text, why) && measure_speed(m, c, &text, &speed, why);
    if (done)
        printf("prompt of %d: %.1f tokens/s, then %d: %.1f tokens/s (%zu threads, %s)\n", WINDOW,
               speed.prompt_rate, SPEED_TOKENS, speed.generation_rate, c->pool.workers,
               c->kernels.name);
    token_list_free(&text);
    return done;
}

static void print_excess(const char *linears, const excess *e)
{
    printf("| %-16s | %11zu | %8zu | %6.1f %% | %7.3f %% | %7.3f %% | %7.3f %% |\n", linears,
           e->sketch_rows, e->searches, 100 * e->none, 100 * e->median, 100 * e->ninth_decile,
           100 * e->most);
}

static void print_study(const sketch_study *study)
{
    size_t i;

    printf("\nexact loss above the least, of the ratio that a sketch picks (%d seeds)\n"
           "| linears          | sketch rows | searches |     none |    median | ninth dec. |"
           "      most |\n"
           "|------------------|------------:|---------:|---------:|----------:|-----------:|"
           "----------:|\n",
           SKETCH_SEEDS);
    for (i = 0; i < SKETCH_SIZES; i++) print_excess("each alone", &study->alone[i]);
    for (i = 0; i < SKETCH_SIZES; i++) print_excess("sharing an input", &study->together[i]);
}

static bool check_sketch(const settings *set, model *m, compute *c, failure *why)
{
    token_list text = { 0 };
    sketch_study study;
    bool done;

    if (model_is_quantized(m))
        return fail(why, "%s: is quantized already; --check-sketch needs the original", set->model);
    done = read_tokens(&m->tok, set->calibration, &text, why)
           && study_sketches(m, c, &text, &set->quantize, &study, why);
    if (done) print_study(&study);
    token_list_free(&text);
    return done;
}

static bool ask_model(const settings *set, question *ask, failure *why)
{
    bool done = false;
    compute c;
    model m;

    if (!compute_open(&c, set->threads, set->precision, why)) return false;
    if (model_open(&m, set->model, why)) {
        done = ask(set, &m, &c, why);
        model_close(&m);
    }
    compute_close(&c);
    return done;
}

/* ---- the comparison -------------------------------------------------------------------------- */

/*  Loads what was exported in a fresh process, as any other model. */
static bool measure_exports(const settings *set, const report *base, const report *made,
                            failure *why)
{
    report r;

    if (set->export_hf) {
        if (!run_stage(evaluate_stage, set, set->export_hf, &r, why)) return false;
        print_row("AWQ, directory", &r, size_on_disk(set->export_hf), base, NULL);
        if (r.fingerprint != made->exported_fingerprint)
            return fail(why, "%s: the directory does not give the bits of the model exported",
                        set->export_hf);
    }
    if (set->export_gguf) {
        if (!run_stage(evaluate_stage, set, set->export_gguf, &r, why)) return false;
        print_row("AWQ, GGUF blocks", &r, size_on_disk(set->export_gguf), base, NULL);
    }
    return true;
}

static void print_files(const settings *set, const report *made)
{
    if (set->save)
        printf("\nsaved %s, which gives the same bits when loaded again (fingerprint %016llx)\n",
               set->save, (unsigned long long)made->fingerprint);
    if (set->export_hf)
        printf("\nexported %s, which gives the same bits when loaded again (fingerprint %016llx); "
               "its head and embedding are those of the original\n",
               set->export_hf, (unsigned long long)made->exported_fingerprint);
    if (set->export_gguf)
        printf("\nexported %s, for llama.cpp; each block's minimum was rounded to fp16\n",
               set->export_gguf);
}

/*  All methods up to the one asked for, whose model stays in `path`. */
static bool compare(const settings *set, const description *d, const char *path, failure *why)
{
    static const char names[METHODS][24] = { "round-to-nearest", "AWQ + clip", "AWQ + fit + Hessian",
                                             "and tuned" };
    static trial trials[METHODS];
    size_t last = (size_t)set->quantize.method, i;
    const report *made = &trials[last].made;
    report base;

    if (!run_stage(evaluate_stage, set, set->model, &base, why)) return false;
    for (i = 0; i <= last; i++)
        if (!try_method(set, (method)i, path, &trials[i], why)) return false;
    print_head();
    print_row("fp32", &base, d->weights * sizeof(float), NULL, NULL);
    for (i = 0; i <= last; i++)
        print_row(names[i], &trials[i].measured, trials[i].size, &base, &trials[i].made);
    if (!measure_exports(set, &base, made, why)) return false;
    printf("\nperplexity: %zu tokens of %s in windows of %d; quantizing held %.0f MB at its peak\n",
           base.score.scored, set->text, WINDOW, megabytes(made->peak_memory));
    print_answer(set, "The fp32 model", &base);
    print_answer(set, "The quantized model", &trials[last].measured);
    print_files(set, made);
    return true;
}

static bool compare_and_save(const settings *set, const description *d, failure *why)
{
    const char *directory = getenv("TMPDIR");
    char temporary[512];
    bool done;

    if (set->save) return compare(set, d, set->save, why);
    snprintf(temporary, sizeof temporary, "%s/llm-awq-%ld.gguf", directory ? directory : "/tmp",
             (long)getpid());
    done = compare(set, d, temporary, why);
    unlink(temporary);
    return done;
}

static bool run(const settings *set, failure *why)
{
    description d;

    if (set->print_ids) return ask_model(set, print_ids, why);
    if (set->print_speed) return ask_model(set, print_speed, why);
    if (set->check_sketch) return ask_model(set, check_sketch, why);
    if (!inspect(set, &d, why)) return false;
    printf("model: %s, %zu layers, %.1f MB: %s\n", d.name, d.layers,
           megabytes(size_on_disk(set->model)), set->model);
    if (d.rounded_type)
        printf("note: its linears are %s, so these weights were rounded once before; what they are "
               "now counts as fp32 below\n",
               d.rounded_type);
    return d.quantized || set->measure_only ? measure(set, &d, why)
                                            : compare_and_save(set, &d, why);
}

/* ---- the command line ------------------------------------------------------------------------ */

static void print_usage(FILE *to)
{
    fputs("usage: llm MODEL [options]\n"
          "\n"
          "Quantizes a Llama-architecture model (a GGUF file) to 4 bits, by plain rounding, by AWQ and\n"
          "by the best we know, and compares them. A model that is AWQ already, saved before or a Hugging Face\n"
          "directory, is only measured.\n"
          "\n"
          "  --text FILE     perplexity on this text (examples/data/heldout.txt)\n"
          "  --calib FILE    calibrate on this text (examples/data/calibration.txt)\n"
          "  --prompt TEXT   what to ask the model\n"
          "  --tokens N      length of the answer at most (120)\n"
          "  --group N       inputs per scale, -1: whole row (128)\n"
          "  --head BITS     of the output head: 8, 4, or 16: as it is in the file (8)\n"
          "  --save FILE     keep the AWQ model; load it by naming it instead of MODEL\n"
          "  --export-hf DIR   the AWQ model as AutoAWQ writes it, for transformers, vLLM ...\n"
          "  --export-gguf FILE   the AWQ model in Q4_1, for llama.cpp\n"
          "  --threads N     (one per processor)\n"
          "  --measure       only measure MODEL as it is\n"
          "  --ids           only print the token ids of the text\n"
          "  --speed         only time a prompt of 512 tokens and 128 tokens after it\n"
          "  --check-sketch  only compare the scale search's sketch with the exact loss\n"
          "  --bits N        of the weights: 2, 3, 4 or 8 (4)\n"
          "  --method NAME   nearest, awq (AutoAWQ's recipe: scales and clip maxima), or best: scales,\n"
          "                  grids by weighted error, integers by the Hessian; or tuned: then group\n"
          "                  scales and norms by gradients of what the model says, which takes longer;\n"
          "                  what is kept, and the last row of the table (best)\n"
          "  --scale RULE    mean (llm-awq), max (paper), duo (AutoAWQ), for every input the better one\n"
          "                  of mean and duo, or best's own: balanced; awq takes the better one then\n"
          "                  (balanced)\n"
          "  --no-clip       awq: do not search clip maxima\n"
          "  --damping N     best: of the Hessian, in thousandths of its mean diagonal (100)\n"
          "  --passes N      best: of coordinate descent after rounding (2)\n"
          "  --steps N       tuned: of two windows of the calibration text each (128)\n"
          "  --no-sinks      count calibration tokens alike, whatever attention they receive\n"
          "  --a8            run with activations rounded to 8 bits instead of 16\n",
          to);
}

/*  An option with a value; false with an empty message if there is no option of that name. */
static bool parse_option(settings *set, const char *option, const char *value, failure *why)
{
    long number = 0;

    why->text[0] = '\0';
    if (strcmp(option, "--text") == 0)
        set->text = value;
    else if (strcmp(option, "--calib") == 0)
        set->calibration = value;
    else if (strcmp(option, "--prompt") == 0)
        set->prompt = value;
    else if (strcmp(option, "--save") == 0)
        set->save = value;
    else if (strcmp(option, "--export-hf") == 0)
        set->export_hf = value;
    else if (strcmp(option, "--export-gguf") == 0)
        set->export_gguf = value;
    else if (strcmp(option, "--scale") == 0)
        return parse_scale_rule(value, &set->quantize, why);
    else if (strcmp(option, "--method") == 0)
        return parse_method(value, &set->quantize, why);
    else if (strcmp(option, "--tokens") == 0) {
        if (!parse_number(option, value, 1, 100000, &number, why)) return false;
        set->answer_tokens = (size_t)number;
    } else if (strcmp(option, "--threads") == 0) {
        if (!parse_number(option, value, 1, 1024, &number, why)) return false;
        set->threads = (size_t)number;
    } else if (strcmp(option, "--group") == 0) {
        if (!parse_number(option, value, -1, 1 << 20, &number, why)) return false;
        if (number == 0) return fail(why, "--group: 0 is not a group size");
        set->quantize.quant.group_size = (int)number;
    } else if (strcmp(option, "--bits") == 0) {
        if (!parse_number(option, value, 2, 8, &number, why)) return false;
        set->quantize.quant.bits = (int)number;
    } else if (strcmp(option, "--passes") == 0) {
        if (!parse_number(option, value, 0, 100, &number, why)) return false;
        set->quantize.round.passes = (int)number;
    } else if (strcmp(option, "--steps") == 0) {
        if (!parse_number(option, value, 1, 100000, &number, why)) return false;
        set->quantize.tune_steps = (size_t)number;
    } else if (strcmp(option, "--damping") == 0) {
        if (!parse_number(option, value, 1, 1000, &number, why)) return false;
        set->quantize.damping = 0.001 * (double)number;
    } else if (strcmp(option, "--head") == 0) {
        if (!parse_number(option, value, 4, 16, &number, why)) return false;
        if (number != 4 && number != 8 && number != 16)
            return fail(why, "--head: the output head has 4, 8 or 16 bits, not %ld", number);
        set->quantize.head_bits = (int)number;
    } else
        return false;
    return true;
}

static bool parse(int count, char **arguments, settings *set, failure *why)
{
    int i;

    for (i = 1; i < count; i++) {
        const char *word = arguments[i];
        if (strcmp(word, "--a8") == 0)
            set->precision = AWQ_A8;
        else if (strcmp(word, "--measure") == 0)
            set->measure_only = true;
        else if (strcmp(word, "--ids") == 0)
            set->print_ids = true;
        else if (strcmp(word, "--speed") == 0)
            set->print_speed = true;
        else if (strcmp(word, "--check-sketch") == 0)
            set->check_sketch = true;
        else if (strcmp(word, "--no-clip") == 0)
            set->quantize.clip = false;
        else if (strcmp(word, "--no-sinks") == 0)
            set->quantize.weigh_tokens = false;
        else if (strncmp(word, "--", 2) == 0) {
            if (i + 1 == count)
                return fail(why, "%s needs a value, or is no option; see --help", word);
            if (!parse_option(set, word, arguments[++i], why))
                return why->text[0] ? false : fail(why, "%s is no option; see --help", word);
        } else if (set->model)
            return fail(why, "two models named: %s and %s", set->model, word);
        else
            set->model = word;
    }
    return set->model ? true : fail(why, "no model named; see --help");
}

int main(int count, char **arguments)
{
    settings set;
    failure why;

    ask_for_tiles();
    memset(&set, 0, sizeof set);
    set.text = "examples/data/heldout.txt";
    set.calibration = "examples/data/calibration.txt";
    set.prompt = "Why is the sky blue? Answer in two sentences.";
    set.answer_tokens = 120;
    set.quantize = quantize_defaults();
    if (count == 2 && strcmp(arguments[1], "--help") == 0) {
        print_usage(stdout);
        return 0;
    }
    if (!parse(count, arguments, &set, &why) || !run(&set, &why)) {
        fprintf(stderr, "error: %s\n", why.text);
        return 1;
    }
    return 0;
}
