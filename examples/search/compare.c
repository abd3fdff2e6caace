/*  compare.c - see compare.h. */
#include "compare.h"

#include "../common/progress.h"
#include "folder.h"
#include "index.h"
#include "model.h"

#include <sys/wait.h>
#ifdef SEARCH_OPENBLAS
#include <cblas.h>
#endif

enum { BEST = 10, ROUNDS = 5, MEMORY_TEXTS = 64, SPEED_TEXTS = 64 };

typedef struct comparison {
    const compare_options *options;
    parallel_pool pool;
    model original;
    passages texts, questions;
    float *text_vectors, *question_vectors;     /* in fp32 */
    size_t *best;               /* [questions][BEST], by fp32 model and vectors */
} comparison;

/* ---- questions ------------------------------------------------------------------------------- */

/*  The end of the first sentence in [begin, end). */
static size_t sentence_end(const char *text, size_t begin, size_t end)
{
    size_t i;
    for (i = begin; i + 1 < end; i++)
        if (strchr(".?!", text[i]) && (text[i + 1] == ' ' || text[i + 1] == '\n')) return i + 1;
    return end;
}

/*  Sentences of at least four words, evenly over the texts. */
static bool choose_questions(comparison *c, failure *why)
{
    size_t *begins = malloc((c->texts.count + 1) * sizeof *begins), found = 0, i, k, wanted;
    uint32_t ids[64];
    bool added = true;

    if (!begins) return fail(why, "out of memory");
    for (i = 0; i < c->texts.count; i++) {
        const passage *item = &c->texts.items[i];
        size_t end = sentence_end(c->texts.text, item->begin, item->end);
        size_t length = end - item->begin;
        if (wordpiece_encode(&c->original.e->words, c->texts.text + item->begin, length, ids, 64,
                             NULL) >= 6)
            begins[found++] = i;
    }
    wanted = c->options->questions < found ? c->options->questions : found;
    for (k = 0; k < wanted && added; k++) {
        const passage *item = &c->texts.items[begins[k * found / wanted]];
        size_t end = sentence_end(c->texts.text, item->begin, item->end), at;
        char *line = malloc(end - item->begin);
        if (!line) added = fail(why, "out of memory");
        for (at = item->begin; line && at < end; at++)
            line[at - item->begin] = c->texts.text[at] == '\n' ? ' ' : c->texts.text[at];
        if (line) added = passages_add_lines(&c->questions, "", line, end - item->begin, why);
        free(line);
    }
    free(begins);
    return added;
}

static bool write_questions(const comparison *c, failure *why)
{
    file_writer writer;
    size_t i;

    if (!c->options->questions_file) return true;
    if (!file_write_begin(&writer, c->options->questions_file, why)) return false;
    for (i = 0; i < c->questions.count; i++) {
        const passage *item = &c->questions.items[i];
        if (!file_write(&writer, c->questions.text + item->begin, item->end - item->begin, why)
            || !file_write(&writer, "\n", 1, why))
            return false;
    }
    return file_write_end(&writer, why);
}

/* ---- agreement ------------------------------------------------------------------------------- */

static double product(const float *a, const float *b, size_t n)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/*  The BEST texts for a question by fp32 vectors: the truth. */
static void find_best(const comparison *c, const float *question, size_t *best)
{
    size_t dim = c->original.e->dim, found = 0, i, at;
    double likeness[BEST + 1], here;

    for (i = 0; i < c->texts.count; i++) {
        here = product(c->text_vectors + i * dim, question, dim);
        for (at = found; at > 0 && here > likeness[at - 1]; at--) {
            if (at == BEST) continue;
            likeness[at] = likeness[at - 1];
            best[at] = best[at - 1];
        }
        if (at == BEST) continue;
        likeness[at] = here;
        best[at] = i;
        if (found < BEST) found++;
    }
}

/*  How many of the true best texts are among the best of an index. */
static size_t overlap(const search_index *index, const float *question, const size_t *best,
                      failure *why)
{
    awq_kernels kernels = awq_kernels_best();
    answer answers[BEST];
    size_t found = index_find(index, &kernels, question, answers, BEST, why), i, k, same = 0;

    for (i = 0; i < found; i++)
        for (k = 0; k < BEST; k++) same += answers[i].passage == best[k];
    return same;
}

typedef struct agreement {
    double mean_cosine, least_cosine, overlap, first;   /* first: the same best answer */
} agreement;

static bool measure_overlap(const comparison *c, const float *texts, const float *questions,
                            agreement *out, failure *why)
{
    awq_kernels kernels = awq_kernels_best();
    size_t dim = c->original.e->dim, size, i;
    unsigned char *bytes = index_make(&kernels, &c->texts, texts, dim, 0, &size, why);
    search_index index;
    bool opened = bytes && index_open(&index, bytes, size, why);
    answer first;

    for (i = 0; opened && i < c->questions.count; i++) {
        const size_t *best = c->best + i * BEST;
        out->overlap += (double)overlap(&index, questions + i * dim, best, why) / (double)BEST;
        if (index_find(&index, &kernels, questions + i * dim, &first, 1, why))
            out->first += first.passage == best[0];
    }
    out->overlap /= (double)c->questions.count;
    out->first /= (double)c->questions.count;
    if (opened) index_close(&index);
    free(bytes);
    return opened;
}

static bool measure_vectors(const comparison *c, const float *texts, const float *questions,
                            agreement *out, failure *why)
{
    size_t dim = c->original.e->dim, i;

    memset(out, 0, sizeof *out);
    out->least_cosine = 1;
    for (i = 0; i < c->texts.count; i++) {
        double cosine = product(texts + i * dim, c->text_vectors + i * dim, dim);
        out->mean_cosine += cosine / (double)c->texts.count;
        if (cosine < out->least_cosine) out->least_cosine = cosine;
    }
    return measure_overlap(c, texts, questions, out, why);
}

static bool measure_agreement(comparison *c, const encoder *e, agreement *out, failure *why)
{
    float *texts = malloc(c->texts.count * e->dim * sizeof *texts);
    float *questions = malloc(c->questions.count * e->dim * sizeof *questions);
    bool measured = (texts && questions) || fail(why, "out of memory");

    measured = measured && embed_passages(e, &c->pool, &c->texts, NULL, texts, NULL, why)
               && embed_passages(e, &c->pool, &c->questions, NULL, questions, NULL, why)
               && measure_vectors(c, texts, questions, out, why);
    free(texts);
    free(questions);
    return measured;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/*  Opens the model and embeds the beginning of the folder: more passages need no more memory than
    their vectors. */
static bool embed_folder(const char *path, const compare_options *o, failure *why)
{
    passages texts;
    parallel_pool pool;
    model m;
    size_t skipped = 0;
    float *vectors;
    bool done;

    memset(&texts, 0, sizeof texts);
    if (!model_open(&m, path, why)
        || !folder_add(&texts, &m.e->words, m.e->room, o->folder, &skipped, why))
        return false;
    if (texts.count > MEMORY_TEXTS) texts.count = MEMORY_TEXTS;
    vectors = malloc((texts.count * m.e->dim + 1) * sizeof *vectors);
    parallel_start(&pool, o->threads);
    done = vectors && embed_passages(m.e, &pool, &texts, NULL, vectors, NULL, why);
    parallel_stop(&pool);
    free(vectors);
    passages_close(&texts);
    model_close(&m);
    return done;
}

/*  The most memory that a process of its own needs for that, in bytes; 0: it failed. */
static size_t measure_memory(const char *path, const compare_options *o)
{
    size_t most = 0;
    int ends[2];
    pid_t child;
    failure why;

    if (pipe(ends) != 0) return 0;
    child = fork();
    if (child == 0) {
        if (embed_folder(path, o, &why)) most = peak_memory();
        _exit(write(ends[1], &most, sizeof most) != (ssize_t)sizeof most);
    }
    close(ends[1]);
    if (child > 0) {
        if (read(ends[0], &most, sizeof most) != (ssize_t)sizeof most) most = 0;
        waitpid(child, NULL, 0);
    }
    close(ends[0]);
    return most;
}

/* ---- speed ----------------------------------------------------------------------------------- */

typedef struct contender {
    char name[160];
    encoder e;                  /* shallow copy, so that it has its own matmul and precision */
    double rate[ROUNDS];        /* questions per second of processor time of every thread */
} contender;

#ifdef SEARCH_OPENBLAS
static void openblas_matmul(const float *w, size_t w_stride, size_t rows, const float *x,
                            size_t x_stride, size_t tokens, size_t n, float *y, size_t y_stride)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tokens, (int)rows, (int)n, 1.0f, x,
                (int)x_stride, w, (int)w_stride, 0.0f, y, (int)y_stride);
}
#endif

/*  Embeds some questions. Processor time is what counts, so that other programs do not. */
static bool race(comparison *c, contender *one, size_t round, float *vectors, failure *why)
{
    passages some = c->questions;
    clock_t started = clock();
    size_t texts = 0;
    double seconds = 0;

    if (some.count > SPEED_TEXTS) some.count = SPEED_TEXTS;
    while (seconds < 0.1) {
        if (!embed_passages(&one->e, &c->pool, &some, NULL, vectors, NULL, why)) return false;
        texts += some.count;
        seconds = (double)(clock() - started) / CLOCKS_PER_SEC / (double)c->pool.workers;
    }
    one->rate[round] = (double)texts / seconds;
    return true;
}

static int compare_rates(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static size_t count_tokens(const comparison *c, size_t questions)
{
    size_t tokens = 0, i;
    uint32_t *ids = malloc(c->original.e->room * sizeof *ids);

    for (i = 0; ids && i < questions; i++) {
        const passage *item = &c->questions.items[i];
        tokens += wordpiece_encode(&c->original.e->words, c->questions.text + item->begin,
                                   item->end - item->begin, ids, c->original.e->room, NULL);
    }
    free(ids);
    return tokens;
}

static bool run_races(comparison *c, contender *all, size_t count, failure *why)
{
    float *vectors = malloc(c->questions.count * c->original.e->dim * sizeof *vectors);
    progress bar = progress_begin("measuring speed", ROUNDS * count);
    bool ran = vectors != NULL || fail(why, "out of memory");
    size_t round, i;

    for (round = 0; ran && round < ROUNDS; round++)
        for (i = 0; ran && i < count; i++) {
            ran = race(c, &all[i], round, vectors, why);
            progress_step(&bar, round * count + i + 1);
        }
    progress_end(&bar);
    free(vectors);
    return ran;
}

static void print_races(const comparison *c, contender *all, size_t count)
{
    size_t texts = c->questions.count < SPEED_TEXTS ? c->questions.count : SPEED_TEXTS, i;

    printf("\n%-44s %12s %9s\n", "speed", "sentences/s", "");
    for (i = 0; i < count; i++) {
        qsort(all[i].rate, ROUNDS, sizeof all[i].rate[0], compare_rates);
        printf("%-44.44s %12.0f %8.2fx\n", all[i].name, all[i].rate[ROUNDS / 2],
               all[i].rate[ROUNDS / 2] / all[0].rate[ROUNDS / 2]);
    }
    printf("%zu sentences, %.1f tokens each on average, %zu thread%s, processor time, median of %d\n",
           texts, (double)count_tokens(c, texts) / (double)texts,
           c->pool.workers, c->pool.workers > 1 ? "s" : "", (int)ROUNDS);
}

static size_t add_contender(contender *all, size_t count, const char *name, const char *kind,
                            const encoder *e)
{
    snprintf(all[count].name, sizeof all[count].name, "%s%s", name, kind);
    all[count].e = *e;
    return count + 1;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static bool compare_speed(comparison *c, const model *models, failure *why)
{
    size_t count = 0, i;
    contender *all = calloc(2 + 2 * c->options->models_count, sizeof *all);
    bool ran;

    if (!all) return fail(why, "out of memory");
#ifdef SEARCH_OPENBLAS
    count = add_contender(all, count, "fp32, OpenBLAS", "", c->original.e);
    all[0].e.matmul = openblas_matmul;
    openblas_set_num_threads(1);        /* every thread of ours calls it */
#endif
    count = add_contender(all, count, "fp32, this program", "", c->original.e);
    for (i = 0; i < c->options->models_count; i++) {
        const char *name = base_name(c->options->models[i]);
        count = add_contender(all, count, name, ", A16", models[i].e);
        count = add_contender(all, count, name, ", A8", models[i].e);
        all[count - 1].e.precision = AWQ_A8;
    }
    ran = run_races(c, all, count, why);
    if (ran) print_races(c, all, count);
    free(all);
    return ran;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bool prepare_truth(comparison *c, failure *why)
{
    const encoder *e = c->original.e;
    size_t skipped = 0, i;

    if (!folder_add(&c->texts, &e->words, e->room, c->options->folder, &skipped, why)
        || !choose_questions(c, why) || !write_questions(c, why))
        return false;
    if (c->texts.count < 2 * BEST || c->questions.count == 0)
        return fail(why, "%s: %zu passages are too few to compare searches", c->options->folder,
                    c->texts.count);
    c->text_vectors = malloc(c->texts.count * e->dim * sizeof(float));
    c->question_vectors = malloc(c->questions.count * e->dim * sizeof(float));
    c->best = malloc(c->questions.count * BEST * sizeof *c->best);
    if (!c->text_vectors || !c->question_vectors || !c->best) return fail(why, "out of memory");
    if (!embed_passages(e, &c->pool, &c->texts, "reading in fp32", c->text_vectors, NULL, why)
        || !embed_passages(e, &c->pool, &c->questions, NULL, c->question_vectors, NULL, why))
        return false;
    for (i = 0; i < c->questions.count; i++)
        find_best(c, c->question_vectors + i * e->dim, c->best + i * BEST);
    return true;
}

static void print_agreement(const char *name, const agreement *a, const model *m, size_t memory)
{
    printf("%-44.44s %8.5f %8.5f %8.1f %% %8.1f %% %8.1f %8.1f\n", name, a->mean_cosine,
           a->least_cosine, 100 * a->overlap, 100 * a->first, (double)m->size / 1e6,
           (double)memory / 1e6);
}

static bool compare_model(comparison *c, const char *path, model *m, size_t memory, failure *why)
{
    static const char *const kinds[2] = { "A16", "A8" };
    char name[160];
    agreement a;
    int i;

    if (!model_open(m, path, why)) return false;
    if (m->e->dim != c->original.e->dim) return fail(why, "%s: not made from that model", path);
    for (i = 0; i < 2; i++) {
        encoder e = *m->e;
        e.precision = i == 0 ? AWQ_A16 : AWQ_A8;
        if (!measure_agreement(c, &e, &a, why)) return false;
        snprintf(name, sizeof name, "%s, %s", base_name(path), kinds[i]);
        print_agreement(name, &a, m, memory);
    }
    return true;
}

static bool compare_models(comparison *c, model *models, const size_t *memory, failure *why)
{
    agreement a;
    size_t i;

    printf("%-44s %8s %8s %10s %10s %8s %8s\n", "agreement with fp32", "cosine", "least",
           "ten best", "the best", "file MB", "peak MB");
    if (!measure_vectors(c, c->text_vectors, c->question_vectors, &a, why)) return false;
    print_agreement("fp32, index of 8 bits", &a, &c->original, memory[0]);
    for (i = 0; i < c->options->models_count; i++)
        if (!compare_model(c, c->options->models[i], &models[i], memory[1 + i], why)) return false;
    printf("%zu passages, %zu questions\n", c->texts.count, c->questions.count);
    fflush(stdout);
    return compare_speed(c, models, why);
}

static void close_comparison(comparison *c, model *models)
{
    size_t i;

    for (i = 0; models && i < c->options->models_count; i++) model_close(&models[i]);
    free(models);
    free(c->text_vectors);
    free(c->question_vectors);
    free(c->best);
    passages_close(&c->texts);
    passages_close(&c->questions);
    model_close(&c->original);
}

bool compare(const compare_options *options, failure *why)
{
    size_t models_count = options->models_count, i;
    model *models = calloc(models_count + 1, sizeof *models);
    size_t *memory = calloc(models_count + 1, sizeof *memory);
    comparison c;
    bool done;

    memset(&c, 0, sizeof c);
    c.options = options;
    if (!models || !memory) {
        free(models);
        free(memory);
        return fail(why, "out of memory");
    }
    /* first, while this process is small: a child begins with its parent's memory */
    memory[0] = measure_memory(options->original, options);
    for (i = 0; i < models_count; i++)
        memory[1 + i] = measure_memory(options->models[i], options);
    parallel_start(&c.pool, options->threads);
    done = model_open(&c.original, options->original, why) && prepare_truth(&c, why)
           && compare_models(&c, models, memory, why);
    parallel_stop(&c.pool);
    close_comparison(&c, models);
    free(memory);
    return done;
}
