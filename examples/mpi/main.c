/*  main.c - a language model quantized, or run, by many processes: mpirun -n 4 mpi ... */
#include "quantize_team.h"
#include "run_team.h"

#include "../common/numbers.h"
#include "../common/progress.h"
#include "../llm/export.h"
#include "tiles.h"

#include <signal.h>

/*  Statistics are summed in this many parts, unless there are more ranks. 12 is shared out evenly
    over 1, 2, 3, 4, 6 and 12 ranks, which then all make the same file. */
#define SHARDS 12

typedef struct settings {
    const char *command, *model, *out, *calibration, *report, *prompt, *text;
    size_t threads, tokens;
    bool row, compare;
    team_options options;
} settings;

/* ---- what both commands need ----------------------------------------------------------------- */

/*  The processors of a machine are shared out over its ranks. */
static size_t threads_per_rank(const team *t)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    size_t all = processors > 0 ? (size_t)processors : 1;
    return all > t->neighbours ? all / t->neighbours : 1;
}

static double megabytes(double bytes)
{
    return bytes * 1e-6;
}

/*  An equal hash is an equal file, as far as a table goes. */
static bool hash_file(const char *path, uint64_t *hash, failure *why)
{
    mapped_file file;
    size_t i;

    if (!file_map(&file, path, why)) return false;
    *hash = 14695981039346656037u;
    for (i = 0; i < file.size; i++) *hash = (*hash ^ file.bytes[i]) * 1099511628211u;
    file_unmap(&file);
    return true;
}

/* ---- quantize -------------------------------------------------------------------------------- */

/*  When a rank dies, mpirun ends the others with SIGTERM: rank 0 says what that means for the file.
    While the file is written the signal has to wait. */
static char stopped[640];

static void say_stopped(int signal_number)
{
    (void)signal_number;
    if (write(STDERR_FILENO, stopped, strlen(stopped)) < 0) _exit(2);
    _exit(1);
}

static void heed_stop(bool heed)
{
    signal(SIGTERM, heed ? say_stopped : SIG_IGN);
    signal(SIGINT, heed ? say_stopped : SIG_IGN);
}

/*  Better to learn now that the file cannot be written than after the work. */
static bool can_write(const char *path, failure *why)
{
    file_writer writer;

    if (!file_write_begin(&writer, path, why)) return false;
    file_write_abandon(&writer);
    return true;
}

static bool write_report(const settings *set, const model *m, const team_report *r, failure *why)
{
    static const char *const names[INPUTS] = { "qkv", "o", "gate_up", "down" };
    size_t i, size = 64 + m->layers_count * INPUTS * 256, used;
    char *text = malloc(size);
    bool written;

    if (!text) return fail(why, "out of memory");
    used = (size_t)snprintf(text, size, "layer\tinput\ttokens\tabs_max\tratio\tloss\tplain_loss\t"
                                        "weight\tabs_sum\tsq_sum\tsketch\n");
    for (i = 0; i < m->layers_count * INPUTS; i++) {
        const group_report *g = &r->groups[i];
        used += (size_t)snprintf(text + used, size - used,
                                 "%zu\t%s\t%llu\t%.9g\t%g\t%.6g\t%.6g\t%.17g\t%.17g\t%.17g"
                                 "\t%.17g\n",
                                 i / INPUTS, names[i % INPUTS], (unsigned long long)g->count,
                                 g->abs_max, g->search.ratio, g->search.loss,
                                 g->search.identity_loss, g->weight, g->abs_sum, g->sq_sum,
                                 g->sketch_power);
    }
    written = file_write_whole(set->report, text, used, why);
    free(text);
    return written;
}

/*  The slowest, largest, most talkative rank. */
static void print_quantized(const settings *set, const team *t, const team_report *r,
                            uint64_t hash, double seconds)
{
    double most[9];
    size_t i;

    most[0] = r->calibrate;
    most[1] = r->search;
    most[2] = r->quantize;
    most[3] = r->exchange + r->gather;
    most[4] = megabytes((double)r->sum_sent);
    most[5] = megabytes((double)r->share_sent);
    most[6] = megabytes((double)r->gather_sent);
    most[7] = megabytes((double)peak_memory());
    most[8] = seconds;
    for (i = 0; i < 9; i++) most[i] = team_most(t, most[i]);
    if (t->rank != 0) return;
    if (!set->row)
        printf("\nprocessor seconds, seconds waited, MB sent and held: the most of any rank\n"
               "| ranks | shards | all s | calibrate | search | quantize |  waited | sums MB "
               "| scales MB | rows MB | peak MB | file             |\n"
               "|------:|-------:|------:|----------:|-------:|---------:|--------:|--------:"
               "|----------:|--------:|--------:|------------------|\n");
    printf("| %5zu | %6zu | %5.0f | %9.1f | %6.1f | %8.1f | %7.1f | %7.1f | %9.2f | %7.1f | %7.0f "
           "| %016llx |\n",
           t->ranks, set->options.shards, most[8], most[0], most[1], most[2], most[3], most[4],
           most[5], most[6], most[7], (unsigned long long)hash);
}

static bool save_quantized(const settings *set, const team *t, const quantized_model *q,
                           const team_report *r, uint64_t *hash, failure *why)
{
    bool saved;

    if (t->rank != 0) return true;
    heed_stop(false);
    saved = save_model(&q->m, set->out, why) && hash_file(set->out, hash, why)
            && (!set->report || write_report(set, &q->m, r, why));
    heed_stop(true);
    return saved;
}

static bool quantize_command(const settings *set, team *t, const model *m, compute *c, failure *why)
{
    double started = seconds_now();
    token_list text = { 0 };
    quantized_model q;
    team_report r;
    uint64_t hash = 0;
    bool done = (t->rank != 0 || can_write(set->out, why))
                && read_tokens(&m->tok, set->calibration, &text, why);

    if (!team_agrees(t, done, why)) return false;
    if (t->rank == 0) {
        heed_stop(true);
        fprintf(stderr, "quantizing with %zu ranks of %zu threads: %zu windows of %d tokens in %zu "
                        "shards\n",
                t->ranks, c->pool.workers, text.count / WINDOW, WINDOW, set->options.shards);
    }
    if (!quantize_together(t, &q, m, c, &text, &set->options, &r, why)
        || !save_quantized(set, t, &q, &r, &hash, why))
        team_abort(t, why);
    print_quantized(set, t, &r, hash, seconds_now() - started);
    token_list_free(&text);
    quantized_model_close(&q);
    free(r.groups);
    return true;
}

static bool check_original(const model *m, failure *why)
{
    return model_is_quantized(m) ? fail(why, "%s: is quantized already", m->name) : true;
}

/* ---- run ------------------------------------------------------------------------------------- */

static void print_answer(const tokenizer *tok, const token_list *answer)
{
    size_t i;

    for (i = 0; i < answer->count; i++)
        fwrite(tok->tokens[answer->ids[i]].bytes, 1, tok->tokens[answer->ids[i]].length, stdout);
    putchar('\n');
}

static size_t cache_size(const session *s)
{
    return 2 * s->m->layers_count * s->row * s->m->kv_heads * s->m->head_dim * sizeof(float);
}

static void print_run(const settings *set, const team_session *ts, const double *rates,
                      double sent_per_token, const difference *d)
{
    const model_part *part = &ts->part;
    double packed = team_most(ts->t, megabytes((double)part->packed_size));
    double cache = team_most(ts->t, megabytes((double)cache_size(&ts->s)));
    double heads = team_most(ts->t, (double)(part->heads.end - part->heads.begin));
    double ffn = team_most(ts->t, (double)(part->ffn.end - part->ffn.begin));
    double sent = team_most(ts->t, sent_per_token);

    if (ts->t->rank != 0) return;
    if (!set->row)
        printf("\n| ranks | heads | FFN channels | weights MB | cache MB | sent KB/token "
               "| prompt tok/s | then tok/s | logits: rms error | most    | same choice |\n"
               "|------:|------:|-------------:|-----------:|---------:|--------------:"
               "|-------------:|-----------:|------------------:|--------:|------------:|\n");
    printf("| %5zu | %5.0f | %12.0f | %10.1f | %8.2f | %13.2f | %12.0f | %10.1f ", ts->t->ranks,
           heads, ffn, packed, cache, sent * 1e-3, rates[0], rates[1]);
    if (!set->compare)
        printf("|                   |         |             |\n");
    else if (d->same_bits)
        printf("|     the same bits |       0 | %5zu of %2zu |\n", d->agree, d->tokens);
    else
        printf("| %17.1e | %7.1e | %5zu of %2zu |\n", d->rms, d->most, d->agree, d->tokens);
}

static bool answer_and_compare(const settings *set, team_session *ts, const model *m, compute *c,
                               const token_list *prompt, const token_list *text, failure *why)
{
    token_list answer = { 0 };
    difference d;
    double rates[2], sent;
    uint64_t before = ts->t->sent;

    memset(&d, 0, sizeof d);
    if (!generate_together(ts, prompt, set->tokens, &answer, rates, why)) return false;
    sent = (double)(ts->t->sent - before) / (double)(prompt->count + answer.count);
    if (set->compare && !compare_with_one(ts, m, c, text, &d, why)) return false;
    print_run(set, ts, rates, sent, &d);
    if (ts->t->rank == 0 && !set->row) {
        printf("\n%s\n", set->prompt);
        print_answer(&m->tok, &answer);
    }
    token_list_free(&answer);
    return true;
}

static bool run_command(const settings *set, team *t, const model *m, compute *c, failure *why)
{
    token_list prompt = { 0 }, text = { 0 };
    size_t context;
    team_session ts;
    bool done = tokenizer_encode_chat(&m->tok, set->prompt, &prompt, why)
                && (!set->compare || read_tokens(&m->tok, set->text, &text, why));

    memset(&ts, 0, sizeof ts);
    context = prompt.count + set->tokens > 64 ? prompt.count + set->tokens : 64;
    if (done && context > m->context)
        done = fail(why, "the prompt and %zu tokens exceed the model's context of %zu", set->tokens,
                    m->context);
    done = done && team_session_open(&ts, t, m, c, context, context, why);
    if (!team_agrees(t, done, why)) return false;
    if (!answer_and_compare(set, &ts, m, c, &prompt, &text, why)) team_abort(t, why);
    team_session_close(&ts);
    token_list_free(&prompt);
    token_list_free(&text);
    return true;
}

/* ---- the command line ------------------------------------------------------------------------ */

static const char usage[] =
    "usage: mpirun -n RANKS mpi quantize MODEL OUT [options]\n"
    "       mpirun -n RANKS mpi run MODEL [options]\n"
    "\n"
    "quantize: a Llama-architecture GGUF file to 4 bits with AWQ, for run and for examples/llm.\n"
    "  --calib FILE    calibrate on this text (examples/data/calibration.txt)\n"
    "  --group N       inputs per scale, -1: whole row (128)\n"
    "  --head BITS     of the output head: 8, 4, or 16: as it is in the file (8)\n"
    "  --shards N      parts whose statistics are summed; the file depends on it, but not on the\n"
    "                  number of ranks (12, or one per rank if there are more)\n"
    "  --batch N       layers dealt out together (one per rank)\n"
    "  --method NAME   awq or best, as in examples/llm (awq)\n"
    "  --report FILE   statistics and ratios of every input, tab-separated\n"
    "run: a quantized model, cut over the ranks.\n"
    "  --prompt TEXT   what to ask the model\n"
    "  --tokens N      length of the answer at most (64)\n"
    "  --compare FILE  its logits of this text's first 64 tokens beside those of one process\n"
    "both:\n"
    "  --threads N     of every rank (the machine's processors shared out over its ranks)\n"
    "  --row           print only the row of the table\n";

/*  Options with a number; false with an empty message if there is none of that name. */
static bool parse_numbers(settings *set, const char *option, const char *value, failure *why)
{
    static const struct {
        char name[12];
        long least, most;
    } options[] = { { "--group", -1, 1 << 20 },  { "--head", 4, 16 },
                    { "--shards", 1, 1 << 20 },  { "--batch", 1, 1 << 20 },
                    { "--tokens", 1, 100000 },   { "--threads", 1, 1024 } };
    size_t i;
    long n;

    why->text[0] = '\0';
    for (i = 0; i < 6 && strcmp(option, options[i].name) != 0;) i++;
    if (i == 6 || !parse_number(option, value, options[i].least, options[i].most, &n, why))
        return false;
    if (i == 0 && n == 0) return fail(why, "--group: 0 is not a group size");
    if (i == 1 && n != 4 && n != 8 && n != 16)
        return fail(why, "--head: the output head has 4, 8 or 16 bits, not %ld", n);
    if (i == 0) set->options.quantize.quant.group_size = (int)n;
    if (i == 1) set->options.quantize.head_bits = (int)n;
    if (i == 2) set->options.shards = (size_t)n;
    if (i == 3) set->options.batch = (size_t)n;
    if (i == 4) set->tokens = (size_t)n;
    if (i == 5) set->threads = (size_t)n;
    return true;
}

/*  Rounding to nearest has no calibration, so there is nothing to share out. */
static bool parse_team_method(settings *set, const char *value, failure *why)
{
    if (!parse_method(value, &set->options.quantize, why)) return false;
    return (set->options.quantize.method != METHOD_NEAREST
            && set->options.quantize.method != METHOD_TUNED)
           || fail(why, "--method: %s is nothing for a team; examples/llm does it", value);
}

static bool parse_option(settings *set, const char *option, const char *value, failure *why)
{
    if (!value) return fail(why, "%s needs a value, or is no option; see --help", option);
    if (strcmp(option, "--calib") == 0)
        set->calibration = value;
    else if (strcmp(option, "--method") == 0)
        return parse_team_method(set, value, why);
    else if (strcmp(option, "--report") == 0)
        set->report = value;
    else if (strcmp(option, "--prompt") == 0)
        set->prompt = value;
    else if (strcmp(option, "--compare") == 0) {
        set->text = value;
        set->compare = true;
    } else if (!parse_numbers(set, option, value, why))
        return why->text[0] ? false : fail(why, "%s is no option; see --help", option);
    return true;
}

static bool parse(int count, char **arguments, settings *set, failure *why)
{
    const char *names[3] = { NULL, NULL, NULL };
    int i, named = 0, expected;

    for (i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--row") == 0)
            set->row = true;
        else if (strncmp(arguments[i], "--", 2) == 0) {
            const char *option = arguments[i++];
            if (!parse_option(set, option, i < count ? arguments[i] : NULL, why)) return false;
        } else if (named < 3)
            names[named++] = arguments[i];
        else
            return fail(why, "what is %s? see --help", arguments[i]);
    }
    set->command = names[0] ? names[0] : "";
    set->model = names[1];
    set->out = names[2];
    expected = strcmp(set->command, "quantize") == 0 ? 3 : strcmp(set->command, "run") == 0 ? 2 : 0;
    if (expected == 0) return fail(why, "quantize or run? see --help");
    return named == expected ? true : fail(why, "%s takes %s; see --help", set->command,
                                           expected == 3 ? "MODEL and OUT" : "MODEL");
}

static void set_defaults(settings *set)
{
    memset(set, 0, sizeof *set);
    set->calibration = "examples/data/calibration.txt";
    set->prompt = "Why is the sky blue? Answer in two sentences.";
    set->tokens = 64;
    set->options.quantize = quantize_defaults();
    set->options.quantize.method = METHOD_AWQ;
}

static bool run_model(settings *set, team *t, failure *why)
{
    bool quantize = strcmp(set->command, "quantize") == 0, done;
    compute c;
    model m;

    if (set->options.shards == 0) set->options.shards = t->ranks > SHARDS ? t->ranks : SHARDS;
    if (set->options.batch == 0) set->options.batch = t->ranks;
    snprintf(stopped, sizeof stopped,
             "error: rank 0 was stopped, perhaps because another rank died: %s was not written\n",
             set->out ? set->out : "");
    memset(&m, 0, sizeof m);
    done = compute_open(&c, set->threads ? set->threads : threads_per_rank(t), AWQ_A16, why)
           && model_open(&m, set->model, why) && (!quantize || check_original(&m, why));
    if (!team_agrees(t, done, why)) return false;
    done = quantize ? quantize_command(set, t, &m, &c, why) : run_command(set, t, &m, &c, why);
    model_close(&m);
    compute_close(&c);
    return done;
}

int main(int count, char **arguments)
{
    settings set;
    failure why;
    team t;
    bool done;

    ask_for_tiles();
    if (count == 2 && strcmp(arguments[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (!team_open(&t, &count, &arguments, &why)) team_abort(&t, &why);
    set_defaults(&set);
    done = team_agrees(&t, parse(count, arguments, &set, &why), &why) && run_model(&set, &t, &why);
    team_close(&t);
    return done ? 0 : 1;
}
