/*  asserts.h - cmocka, and two checks of functions that fail with a message in `why`, a failure. After
    headers that ask for POSIX. */
#ifndef EXAMPLES_ASSERTS_H
#define EXAMPLES_ASSERTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define assert_done(condition)                                                                     \
    do {                                                                                           \
        why.text[0] = '\0';                                                                        \
        if (!(condition)) fail_msg("%s: %s", #condition, why.text);                                \
    } while (0)

/*  The call must fail, and say so in one line that contains `part`. */
#define assert_refused(condition, part)                                                            \
    do {                                                                                           \
        why.text[0] = '\0';                                                                        \
        assert_false(condition);                                                                   \
        if (!why.text[0] || !strstr(why.text, part) || strchr(why.text, '\n'))                     \
            fail_msg("not said: %s; but: %s", part, why.text);                                     \
    } while (0)

#endif
