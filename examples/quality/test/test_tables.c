/*  test_tables.c - the study of examples/quality on a small random model: what its tables say must be
    what they ought to say of any model. */
#include "../../search/test/tiny.h"
#include "../ggml.h"
#include "../tables.h"

#include "../../common/asserts.h"

static failure why;
static study s;

/*  Passages of words that the model knows. */
static void write_text(const char *path, unsigned state, size_t count)
{
    static const char *const words[16] = { "the ", "ship ", "harbour ", "tide ", "bread ", "high ",
                                           "low ", "water ", "of ", "and ", "in ", "sun ", "is ",
                                           "baked ", "at ", "leaves " };
    FILE *file = fopen(path, "w");
    size_t i;

    assert_non_null(file);
    for (i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        fputs(words[state >> 28], file);
        if (i % 17 == 16) fputs("\n\n", file);
    }
    assert_int_equal(fclose(file), 0);
}

static int open_all(void **state)
{
    study_options options;

    (void)state;
    if (!tiny_open(&why)) return -1;
    write_text(tiny_path("calibration"), 1, 3000);
    write_text(tiny_path("heldout"), 2, 1000);
    memset(&options, 0, sizeof options);
    options.model = tiny_folder;
    options.calibration = tiny_path("calibration");
    options.text = tiny_path("heldout");
    options.damping = 0.03;
    return study_open(&s, &options, &why) ? 0 : -1;
}

static int close_all(void **state)
{
    static const char *const files[] = { "calibration", "heldout", "table" };

    (void)state;
    study_close(&s);
    return tiny_close(files, sizeof files / sizeof *files) ? 0 : -1;
}

/* ---- measuring ------------------------------------------------------------------------------- */

static result measured(size_t which, int bits, int group_size)
{
    awq_quant quant = { bits, group_size, 0, AWQ_F16 };
    result *r = results_new(&s, 1, &why), copy;

    assert_non_null(r);
    assert_done(study_method(&s, &methods[which], quant, r, &why));
    copy = *r;
    copy.errors = NULL;
    free(r);
    return copy;
}

static void the_best_method_is_better_than_the_nearest(void **state)
{
    result nearest = measured(METHOD_NEAREST, 4, 32), best = measured(METHOD_BEST, 4, 32);

    (void)state;
    assert_true(best.mean > 0 && best.mean < 0.8 * nearest.mean);
    assert_true(best.cosine > 0 && best.cosine < nearest.cosine);
}

static void more_bits_and_smaller_groups_are_better(void **state)
{
    static const int bits[] = { 3, 4, 8 };
    double before = measured(METHOD_BEST, 2, 32).mean;
    size_t i;

    (void)state;
    for (i = 0; i < 3; i++) {
        result r = measured(METHOD_BEST, bits[i], 32);
        assert_true(r.mean < before / 2);
        before = r.mean;
    }
    assert_true(measured(METHOD_BEST, 4, 8).mean < measured(METHOD_BEST, 4, 32).mean);
}

/*  One linear left in fp32 has no error, and the mean tells of the others. */
static bool keep(study *of, void *how, size_t input, const sharing *all, failure *reason)
{
    size_t i;

    (void)of;
    (void)how;
    (void)input;
    (void)reason;
    for (i = 0; i < all->count; i++)
        memcpy(all->approximations[i], all->weights[i].data,
               all->weights[i].rows * all->weights[i].cols * sizeof(float));
    return true;
}

static void weights_that_stay_have_no_error(void **state)
{
    result *r = results_new(&s, 1, &why);

    (void)state;
    assert_non_null(r);
    assert_done(study_measure(&s, keep, NULL, r, &why));
    assert_true(!(r->mean > 0) && !(r->down > 0) && r->cosine < 1e-6 && r->cosine > -1e-6);
    free(r);
}

/* ---- tables ---------------------------------------------------------------------------------- */

/*  Prints a table into a file and returns its text, to be freed. */
static char *printed(table *print, const table_options *options)
{
    mapped_file file;
    int kept;
    char *text;

    fflush(stdout);
    kept = dup(1);
    assert_non_null(freopen(tiny_path("table"), "w", stdout));
    assert_done(print(&s, options, &why));
    fflush(stdout);
    dup2(kept, 1);
    close(kept);
    assert_done(file_map(&file, tiny_path("table"), &why));
    text = calloc(file.size + 1, 1);
    assert_non_null(text);
    memcpy(text, file.bytes, file.size);
    file_unmap(&file);
    return text;
}

static size_t count_of(const char *text, const char *part)
{
    size_t count = 0;

    for (; (text = strstr(text, part)) != NULL; text++) count++;
    return count;
}

static void every_format_has_its_row(void **state)
{
    static const long groups[2] = { 16, -1 };
    table_options options = { 4, groups, 2, NULL, NULL, 0 };
    char *text = printed(print_groups, &options);

    (void)state;
    assert_int_equal(count_of(text, "\n| 4 | "), 5);
    free(text);
    text = printed(print_bits, &options);
    assert_int_equal(count_of(text, " | 128 | "), 4);
    free(text);
    text = printed(print_methods, &options);
    assert_int_equal(count_of(text, "\n| "), 2 * (METHODS + 1));
    free(text);
    text = printed(print_ggml, &options);
    assert_int_equal(count_of(text, "\n| g"), 6);
    assert_int_equal(count_of(text, "\n| ours, sizes "), 2);
    free(text);
    options.ggml = "no/such/library.so";
    assert_refused(print_ggml(&s, &options, &why), "no/such/library.so");
}

static void budgets_are_kept_and_used(void **state)
{
    static const double budgets[3] = { 6, 7, 12 };
    static const double too_small[1] = { 1 };
    table_options options = { 4, NULL, 0, NULL, budgets, 3 };
    char *text = printed(print_budgets, &options), *row = text;
    double before = 1;
    size_t i;

    (void)state;
    for (i = 0; i < 3; i++) {
        double budget, bits, error;
        row = strstr(row + 1, "| budget ");
        assert_non_null(row);
        assert_int_equal(sscanf(row, "| budget %lf | %lf | %lf", &budget, &bits, &error), 3);
        assert_true(bits <= budget + 0.01 && error < before);
        before = error;
    }
    assert_true(before < 0.1);      /* thousandths: 12 bits keep most of it in fp16 or 8 bits */
    free(text);
    options.budgets = too_small;
    options.budgets_count = 1;
    assert_refused(print_budgets(&s, &options, &why), "too small");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_method_is_better_than_the_nearest),
        cmocka_unit_test(more_bits_and_smaller_groups_are_better),
        cmocka_unit_test(weights_that_stay_have_no_error),
        cmocka_unit_test(every_format_has_its_row),
        cmocka_unit_test(budgets_are_kept_and_used),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
