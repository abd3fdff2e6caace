/*  assert.h - cmocka, and two checks of functions that fail with a message. */
#ifndef CONVERT_ASSERT_H
#define CONVERT_ASSERT_H

#include "tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static failure why;

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
        if (!strstr(why.text, part) || strchr(why.text, '\n'))                                     \
            fail_msg("not said: %s; but: %s", part, why.text);                                     \
    } while (0)

/*  A fresh folder of its own for every test program. */
static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/awq-convert-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    tiny_remove(folder);
    return 0;
}

#endif
