/*  calibrate.c - see calibrate.h. */
#include "calibrate.h"

bool calibration_open(calibration *cal, const model *m, compute *c, const token_list *text,
                      failure *why)
{
    size_t i, window = WINDOW * m->dim;

    cal->windows = text->count / WINDOW;
    if (cal->windows == 0)
        return fail(why, "the calibration text has %zu tokens; at least %d are needed", text->count,
                    WINDOW);
    cal->hidden = malloc(cal->windows * window * sizeof *cal->hidden);
    if (!cal->hidden) return fail(why, "out of memory");
    if (!session_open(&cal->s, m, c, WINDOW, WINDOW, why)) return false;
    for (i = 0; i < cal->windows; i++) {
        if (!session_embed(&cal->s, text->ids + i * WINDOW, WINDOW, why)) return false;
        memcpy(cal->hidden + i * window, cal->s.hidden, window * sizeof *cal->hidden);
    }
    return true;
}

void calibration_close(calibration *cal)
{
    free(cal->hidden);
    session_close(&cal->s);
    memset(cal, 0, sizeof *cal);
}

bool calibration_windows(calibration *cal, size_t index, size_t begin, size_t end,
                         const observer *watch, failure *why)
{
    size_t window = WINDOW * cal->s.m->dim;

    for (; begin < end; begin++)
        if (!session_layer(&cal->s, index, cal->hidden + begin * window, WINDOW, watch, why))
            return false;
    return true;
}
