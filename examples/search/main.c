/*  main.c - the commands: quantize a model, index a folder, ask, compare. */
#include "compare.h"
#include "folder.h"
#include "index.h"
#include "model.h"
#include "quantize.h"

#include "../common/progress.h"
#include "../common/tiles.h"

static const char usage[] =
    "usage: search quantize MODEL OUT [--calib TEXT]... [--group N] [--embedding-bits N]\n"
    "                                 [--clip | --plain]\n"
    "       search index MODEL FOLDER INDEX\n"
    "       search query MODEL INDEX [QUESTION]... [--top N]\n"
    "       search compare MODEL FOLDER [QUANTIZED]... [--questions N]\n"
    "                                 [--write-questions FILE]\n"
    "       search vectors MODEL TEXT\n"
    "\n"
    "MODEL is a directory with model.safetensors, vocab.txt and config.json, or the file OUT.\n"
    "  --calib TEXT         text to calibrate on, or a folder of it; may be given again\n"
    "  --group N            inputs to a scale (128)\n"
    "  --embedding-bits N   of the words' vectors: 2, 3, 4 or 8 (8)\n"
    "  --clip               clip ranges instead of fitting grids and rounding by the Hessian\n"
    "  --plain              round to nearest, for comparison\n"
    "  --top N              answers to a question (5)\n"
    "  --questions N        sentences of FOLDER to ask (240)\n"
    "  --write-questions F  keep them in F, one to a line\n"
    "  --a8                 activations in 8 bits instead of 16: faster, less exact\n"
    "  --threads N          0: one per processor\n"
    "Without a QUESTION they are read from standard input, one to a line.\n"
    "vectors prints a line of numbers for each line of TEXT.\n";

typedef struct arguments {
    char *words[256];           /* not options */
    size_t words_count;
    char *calibration[64];
    size_t calibration_count;
    quantize_options quantize;
    const char *questions_file;
    size_t top, questions, threads;
    awq_precision precision;
} arguments;

/* ---- arguments ------------------------------------------------------------------------------- */

static bool read_count(const char *option, const char *text, size_t most, size_t *out, failure *why)
{
    char *end;
    unsigned long value = text ? strtoul(text, &end, 10) : 0;

    if (!text || end == text || *end || text[0] == '-' || value > most)
        return fail(why, "%s needs a number from 0 to %zu", option, most);
    *out = (size_t)value;
    return true;
}

static bool read_value(arguments *a, const char *option, char *value, failure *why)
{
    size_t number = 0;

    if (strcmp(option, "--calib") == 0) {
        if (!value || a->calibration_count == 64)
            return fail(why, "--calib needs a file or folder, at most 64 times");
        a->calibration[a->calibration_count++] = value;
        return true;
    }
    if (strcmp(option, "--write-questions") == 0) {
        a->questions_file = value;
        return value ? true : fail(why, "--write-questions needs a file");
    }
    if (strcmp(option, "--top") == 0) return read_count(option, value, 1000, &a->top, why);
    if (strcmp(option, "--questions") == 0)
        return read_count(option, value, 1000000, &a->questions, why);
    if (strcmp(option, "--threads") == 0) return read_count(option, value, 1024, &a->threads, why);
    if (strcmp(option, "--group") == 0) {
        if (!read_count(option, value, 1 << 20, &number, why)) return false;
        a->quantize.quant.group_size = (int)number;
        return true;
    }
    if (strcmp(option, "--embedding-bits") != 0)
        return fail(why, "no option is called %s; see search --help", option);
    if (!read_count(option, value, 8, &number, why)) return false;
    a->quantize.embedding_bits = (int)number;
    return true;
}

/*  Options that stand alone; false: not one of them. */
static bool read_switch(arguments *a, const char *option)
{
    if (strcmp(option, "--a8") == 0) a->precision = AWQ_A8;
    else if (strcmp(option, "--plain") == 0) a->quantize.plain = true;
    else if (strcmp(option, "--clip") == 0) a->quantize.improve = false;
    else return false;
    return true;
}

static bool read_arguments(arguments *a, int count, char **words, failure *why)
{
    static const arguments defaults = { { NULL }, 0, { NULL }, 0,
                                        { { 4, 128, 0, AWQ_F16 }, 8, false, true, true },
                                        NULL, 5, 240, 0, AWQ_A16 };
    int i;

    *a = defaults;
    for (i = 1; i < count; i++) {
        if (strncmp(words[i], "--", 2) != 0) {
            if (a->words_count == 256) return fail(why, "too many arguments");
            a->words[a->words_count++] = words[i];
        } else if (!read_switch(a, words[i])) {
            if (!read_value(a, words[i], i + 1 < count ? words[i + 1] : NULL, why)) return false;
            i++;
        }
    }
    return true;
}

static bool need_words(const arguments *a, size_t least, size_t most, failure *why)
{
    if (a->words_count >= least && a->words_count <= most) return true;
    return fail(why, "search %s takes other arguments; see search --help", a->words[0]);
}

/* ---- commands -------------------------------------------------------------------------------- */

static bool read_texts(passages *p, const encoder *e, char *const *paths, size_t count,
                       failure *why)
{
    size_t skipped = 0, i;

    for (i = 0; i < count; i++)
        if (!folder_add(p, &e->words, e->room, paths[i], &skipped, why)) return false;
    if (skipped) fprintf(stderr, "passed over %zu files that are not text\n", skipped);
    return p->count ? true : fail(why, "%s: no text in it", count ? paths[0] : "calibration");
}

static bool write_model(const arguments *a, const model *m, parallel_pool *pool,
                        const passages *texts, failure *why)
{
    size_t size;
    unsigned char *bytes = quantize_encoder(m->e, pool, texts, &a->quantize, &size, why);
    bool written = bytes && file_write_whole(a->words[2], bytes, size, why);

    free(bytes);
    if (written) printf("%s: %.1f MB of %.1f MB\n", a->words[2], (double)size / 1e6,
                        (double)m->size / 1e6);
    return written;
}

static bool run_quantize(const arguments *a, parallel_pool *pool, failure *why)
{
    passages texts;
    model m;
    bool done;

    if (!need_words(a, 3, 3, why) || !model_open(&m, a->words[1], why)) return false;
    memset(&texts, 0, sizeof texts);
    if (m.id) done = fail(why, "%s is quantized already", a->words[1]);
    else if (!a->quantize.plain && a->calibration_count == 0)
        done = fail(why, "quantizing needs a text to calibrate on: --calib TEXT");
    else
        done = (a->quantize.plain
                || read_texts(&texts, m.e, a->calibration, a->calibration_count, why))
               && write_model(a, &m, pool, &texts, why);
    passages_close(&texts);
    model_close(&m);
    return done;
}

static bool write_index(const arguments *a, const model *m, const passages *texts,
                        const float *vectors, failure *why)
{
    size_t size;
    unsigned char *bytes = index_make(&m->e->kernels, texts, vectors, m->e->dim, m->id, &size, why);
    bool written = bytes && file_write_whole(a->words[3], bytes, size, why);

    free(bytes);
    if (written)
        printf("%s: %zu passages of %zu files, %.1f MB\n", a->words[3], texts->count, texts->files,
               (double)size / 1e6);
    return written;
}

static bool run_index(const arguments *a, parallel_pool *pool, failure *why)
{
    passages texts;
    model m;
    float *vectors = NULL;
    size_t tokens = 0;
    double started;
    bool done;

    if (!need_words(a, 4, 4, why) || !model_open(&m, a->words[1], why)) return false;
    memset(&texts, 0, sizeof texts);
    m.e->precision = a->precision;
    done = read_texts(&texts, m.e, &a->words[2], 1, why);
    if (done) vectors = malloc(texts.count * m.e->dim * sizeof *vectors);
    if (done && !vectors) done = fail(why, "out of memory for %zu passages", texts.count);
    started = seconds_now();
    done = done && embed_passages(m.e, pool, &texts, "reading", vectors, &tokens, why);
    if (done)
        printf("%.0f passages and %.0f tokens a second, %.1f MB of memory at most\n",
               (double)texts.count / (seconds_now() - started),
               (double)tokens / (seconds_now() - started), (double)peak_memory() / 1e6);
    done = done && write_index(a, &m, &texts, vectors, why);
    free(vectors);
    passages_close(&texts);
    model_close(&m);
    return done;
}

static void print_answer(const search_index *index, const answer *found)
{
    const passage *item = &index->p.items[found->passage];
    const char *text = index->p.text + item->begin;
    size_t length = item->end - item->begin, shown = 0, i;

    printf("  %.3f  %s:%u\n         ", (double)found->likeness,
           passages_name(&index->p, item->file), (unsigned)item->line);
    for (i = 0; i < length && shown < 240; i++, shown++) {
        char c = text[i];
        putchar((unsigned char)c < 32 ? ' ' : c);
    }
    while (i < length && ((unsigned char)text[i] & 0xc0) == 0x80) putchar(text[i++]);
    printf("%s\n", i < length ? " ..." : "");
}

static bool ask(const arguments *a, const model *m, const search_index *index, workspace *w,
                const char *question, failure *why)
{
    float *vector = malloc(m->e->dim * sizeof *vector);
    answer *answers = malloc((a->top + 1) * sizeof *answers);
    double started = seconds_now();
    size_t found = 0, i;

    if (!vector || !answers) fail(why, "out of memory");
    else if (encoder_text(m->e, w, question, strlen(question), vector, why))
        found = index_find(index, &m->e->kernels, vector, answers, a->top, why);
    if (found)
        printf("%s  (%.1f ms)\n", question, 1e3 * (seconds_now() - started));
    for (i = 0; i < found; i++) print_answer(index, &answers[i]);
    free(vector);
    free(answers);
    return found > 0;
}

static bool ask_lines(const arguments *a, const model *m, const search_index *index, workspace *w,
                      failure *why)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    bool asked = true;

    while (asked && (length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n') line[length - 1] = '\0';
        if (line[0]) asked = ask(a, m, index, w, line, why);
    }
    free(line);
    return asked;
}

static bool ask_all(const arguments *a, const model *m, const search_index *index, failure *why)
{
    bool asked = true;
    workspace w;
    size_t i;

    if (a->top == 0) return fail(why, "--top needs at least 1");
    if (index->vectors.in_features != m->e->dim || index->model != m->id)
        return fail(why, "%s was made with another model than %s; make it again", a->words[2],
                    a->words[1]);
    if (!workspace_open(&w, m->e, 0, why)) return false;
    for (i = 3; asked && i < a->words_count; i++) asked = ask(a, m, index, &w, a->words[i], why);
    if (a->words_count == 3) asked = ask_lines(a, m, index, &w, why);
    workspace_close(&w);
    return asked;
}

static bool run_query(const arguments *a, failure *why)
{
    search_index index;
    mapped_file file;
    failure reason;
    model m;
    bool done = false;

    if (!need_words(a, 3, 256, why) || !model_open(&m, a->words[1], why)) return false;
    m.e->precision = a->precision;
    if (file_map(&file, a->words[2], why)) {
        if (index_open(&index, file.bytes, file.size, &reason)) {
            done = ask_all(a, &m, &index, why);
            index_close(&index);
        } else {
            fail(why, "%.120s: %.380s", a->words[2], reason.text);
        }
        file_unmap(&file);
    }
    model_close(&m);
    return done;
}

static bool run_compare(arguments *a, failure *why)
{
    compare_options options;

    if (!need_words(a, 3, 16, why)) return false;
    options.original = a->words[1];
    options.folder = a->words[2];
    options.models = a->words + 3;
    options.models_count = a->words_count - 3;
    options.questions = a->questions;
    options.threads = a->threads;
    options.questions_file = a->questions_file;
    return compare(&options, why);
}

static bool print_vectors(const model *m, parallel_pool *pool, const passages *lines, failure *why)
{
    size_t dim = m->e->dim, i, c;
    float *vectors = malloc((lines->count * dim + 1) * sizeof *vectors);
    bool done = vectors != NULL || fail(why, "out of memory");

    done = done && embed_passages(m->e, pool, lines, NULL, vectors, NULL, why);
    for (i = 0; done && i < lines->count; i++)
        for (c = 0; c < dim; c++)
            printf("%.9g%c", (double)vectors[i * dim + c], c + 1 < dim ? ' ' : '\n');
    free(vectors);
    return done;
}

static bool run_vectors(const arguments *a, parallel_pool *pool, failure *why)
{
    passages lines;
    mapped_file file;
    model m;
    bool done = false;

    if (!need_words(a, 3, 3, why) || !model_open(&m, a->words[1], why)) return false;
    memset(&lines, 0, sizeof lines);
    m.e->precision = a->precision;
    if (file_map(&file, a->words[2], why)) {
        done = passages_add_lines(&lines, a->words[2], (const char *)file.bytes, file.size, why)
               && print_vectors(&m, pool, &lines, why);
        file_unmap(&file);
    }
    passages_close(&lines);
    model_close(&m);
    return done;
}

static bool run_command(arguments *a, failure *why)
{
    const char *command = a->words_count ? a->words[0] : "";
    parallel_pool pool;
    bool done;

    if (strcmp(command, "compare") == 0) return run_compare(a, why);
    if (strcmp(command, "query") == 0) return run_query(a, why);
    parallel_start(&pool, a->threads);
    if (strcmp(command, "quantize") == 0) done = run_quantize(a, &pool, why);
    else if (strcmp(command, "index") == 0) done = run_index(a, &pool, why);
    else if (strcmp(command, "vectors") == 0) done = run_vectors(a, &pool, why);
    else done = fail(why, "\"%s\" is no command; see search --help", command);
    parallel_stop(&pool);
    return done;
}

int main(int count, char **words)
{
    arguments a;
    failure why;
    int i;

    for (i = 1; i < count; i++)
        if (strcmp(words[i], "--help") == 0) return fputs(usage, stdout) < 0;
    ask_for_tiles();
    if (!read_arguments(&a, count, words, &why) || !run_command(&a, &why)) {
        fprintf(stderr, "search: %s\n", why.text);
        return 1;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "search: cannot write to standard output\n");
        return 1;
    }
    return 0;
}
