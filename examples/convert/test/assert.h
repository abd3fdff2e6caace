/*  assert.h - what the tests of examples/convert share. */
#ifndef CONVERT_ASSERT_H
#define CONVERT_ASSERT_H

#include "tiny.h"

#include "../../common/asserts.h"

static failure why;

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
