/*  main.c - every way to quantize, on a sentence encoder whose weights are the true fp32 ones: the
    error of each linear's output and of the embeddings, on text of another kind than the
    calibration text. Prints the tables of docs/quality.md. */
#include "study.h"
#include "tables.h"

#include "../common/numbers.h"

#include <string.h>

static const struct known_table {
    const char *name;
    table *print;
} known_tables[] = {
    { "methods", print_methods }, { "groups", print_groups }, { "bits", print_bits },
    { "ggml", print_ggml },       { "budget", print_budgets },
};

enum { KNOWN_TABLES = sizeof known_tables / sizeof *known_tables, MOST = 8 };

typedef struct settings {
    study_options study;
    table_options options;
    table *tables[MOST];
    size_t tables_count;
    long groups[MOST];
    double budgets[MOST];
} settings;

static const char usage[] =
    "usage: quality MODEL CALIBRATION HELDOUT [--table NAME]... [OPTION]...\n"
    "\n"
    "MODEL: a directory of a BERT sentence encoder; the other two are texts of different kinds.\n"
    "  --table NAME    methods: all of them, for each --group\n"
    "                  groups, bits: nearest, AutoAWQ's recipe and the best method over all of them\n"
    "                  ggml: the best method beside llama.cpp's types\n"
    "                  budget: group sizes mixed by sensitivity, for each --budget\n"
    "  --group N       groups of so many inputs, -1: whole rows (128)\n"
    "  --budget BITS   of the average weight, and that table (4.25, 4.5, 5)\n"
    "  --bits N        2, 3, 4 or 8 (4)\n"
    "  --ggml FILE     llama.cpp's libggml-base.so\n"
    "  --layers N      only the first N layers: quicker\n"
    "  --damping N     of the Hessian, in thousandths of its mean diagonal (30)\n";

static bool add_table(settings *set, const char *name, failure *why)
{
    size_t i;

    if (set->tables_count == MOST) return fail(why, "no more than %d tables, please", MOST);
    for (i = 0; i < KNOWN_TABLES; i++)
        if (strcmp(name, known_tables[i].name) == 0) {
            set->tables[set->tables_count++] = known_tables[i].print;
            return true;
        }
    return fail(why, "there is no table \"%s\"; see --help", name);
}

static bool add_group(settings *set, const char *value, failure *why)
{
    long n;

    if (set->options.groups_count == MOST) return fail(why, "no more than %d groups, please", MOST);
    if (!parse_number("--group", value, -1, 1 << 20, &n, why)) return false;
    if (n == 0) return fail(why, "--group: 0 is not a group size");
    set->groups[set->options.groups_count++] = n;
    return true;
}

static bool add_budget(settings *set, const char *value, failure *why)
{
    if (set->options.budgets_count == MOST) return fail(why, "no more than %d budgets, please", MOST);
    return parse_real("--budget", value, 1, 16,
                      &set->budgets[set->options.budgets_count++], why);
}

static bool parse_option(settings *set, const char *option, const char *value, failure *why)
{
    long n = 0;

    if (!value) return fail(why, "%s needs a value, or is no option; see --help", option);
    if (strcmp(option, "--table") == 0) return add_table(set, value, why);
    if (strcmp(option, "--group") == 0) return add_group(set, value, why);
    if (strcmp(option, "--budget") == 0) return add_budget(set, value, why);
    if (strcmp(option, "--ggml") == 0) {
        set->options.ggml = value;
    } else if (strcmp(option, "--bits") == 0) {
        if (!parse_number(option, value, 2, 8, &n, why)) return false;
        set->options.bits = (int)n;
    } else if (strcmp(option, "--layers") == 0) {
        if (!parse_number(option, value, 1, 1000, &n, why)) return false;
        set->study.layers = (size_t)n;
    } else if (strcmp(option, "--damping") == 0) {
        if (!parse_number(option, value, 1, 1000, &n, why)) return false;
        set->study.damping = 0.001 * (double)n;
    } else
        return fail(why, "what is %s? see --help", option);
    return true;
}

/*  What was not asked for: a table, and what it is about. */
static void fill_in(settings *set)
{
    static const double budgets[3] = { 4.25, 4.5, 5 };

    if (set->tables_count == 0)
        set->tables[set->tables_count++] = set->options.budgets_count ? print_budgets : print_methods;
    if (set->options.groups_count == 0) set->groups[set->options.groups_count++] = 128;
    if (set->options.budgets_count > 0) return;
    memcpy(set->budgets, budgets, sizeof budgets);
    set->options.budgets_count = 3;
}

static bool parse(int count, char **arguments, settings *set, failure *why)
{
    const char **files[3] = { &set->study.model, &set->study.calibration, &set->study.text };
    int i, named = 0;

    memset(set, 0, sizeof *set);
    set->study.damping = 0.03;
    set->options.bits = 4;
    set->options.groups = set->groups;
    set->options.budgets = set->budgets;
    for (i = 1; i < count; i++) {
        if (strncmp(arguments[i], "--", 2) != 0) {
            if (named == 3) return fail(why, "what is %s? see --help", arguments[i]);
            *files[named++] = arguments[i];
        } else {
            const char *option = arguments[i++];
            if (!parse_option(set, option, i < count ? arguments[i] : NULL, why)) return false;
        }
    }
    fill_in(set);
    return named == 3 ? true : fail(why, "a model and two texts, please; see --help");
}

static bool run(const settings *set, failure *why)
{
    static study s;
    bool done = study_open(&s, &set->study, why);
    size_t i;

    if (done)
        printf("%zu tokens of calibration, %zu held-out tokens in %zu passages; %zu linears; damping "
               "%g; %s, %zu threads\n",
               s.calibration.tokens, s.heldout.tokens, s.heldout.texts.count, s.linears,
               set->study.damping, s.kernels.name, s.pool.workers);
    for (i = 0; done && i < set->tables_count; i++) done = set->tables[i](&s, &set->options, why);
    study_close(&s);
    return done;
}

int main(int count, char **arguments)
{
    static settings set;
    failure why;

    if (count == 2 && strcmp(arguments[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (!parse(count, arguments, &set, &why) || !run(&set, &why)) {
        fprintf(stderr, "error: %s\n", why.text);
        return 1;
    }
    return 0;
}
