/*  cmocka.h - the part of cmocka that the tests use, for processors for which no package has it. */
#ifndef CMOCKA_H
#define CMOCKA_H

#include <stdio.h>
#include <string.h>

struct CMUnitTest { const char *name; void (*run)(void **state); };
#define cmocka_unit_test(f) { #f, f }

static jmp_buf test_failed;

#define fail_msg(...)                                                                              \
    (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__),                 \
     fputc('\n', stderr), longjmp(test_failed, 1))
#define assert_that(condition, text) ((condition) ? (void)0 : (void)fail_msg("%s", text))

#define assert_true(c)                assert_that(c, #c)
#define assert_non_null(p)            assert_that((p) != NULL, #p)
#define assert_int_equal(a, b)        assert_that((long long)(a) == (long long)(b), #a " == " #b)
#define assert_string_equal(a, b)     assert_that(strcmp(a, b) == 0, #a " equals " #b)
#define assert_string_not_equal(a, b) assert_that(strcmp(a, b) != 0, #a " differs from " #b)
#define assert_memory_equal(a, b, n)  assert_that(memcmp(a, b, n) == 0, #a " equals " #b)

static int run_tests(const char *group, const struct CMUnitTest *tests, size_t count)
{
    static size_t i, failed;        /* static: kept by longjmp */
    for (i = 0, failed = 0; i < count; i++) {
        void *state = NULL;
        if (setjmp(test_failed) == 0) {
            tests[i].run(&state);
            printf("ok     %-12s %s\n", group, tests[i].name);
        } else {
            printf("FAILED %-12s %s\n", group, tests[i].name);
            failed++;
        }
        fflush(stdout);
    }
    return (int)failed;
}
#define cmocka_run_group_tests_name(name, tests, setup, teardown)                                  \
    run_tests(name, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
