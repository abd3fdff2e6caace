/*  progress.h - a clock and a progress bar on stderr: a bar on a terminal, else a line now and
    then. Include it before any system header. */
#ifndef EXAMPLES_PROGRESS_H
#define EXAMPLES_PROGRESS_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_WIDTH 32

static inline double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef struct progress {
    const char *label;
    size_t total;
    double started, shown;
    bool terminal;
} progress;

static inline progress progress_begin(const char *label, size_t total)
{
    progress bar = { label, total ? total : 1, 0, 0, false };
    bar.started = bar.shown = seconds_now();
    bar.terminal = isatty(STDERR_FILENO) != 0;
    return bar;
}

static inline void progress_draw(const progress *bar, size_t done)
{
    char cells[PROGRESS_WIDTH + 1];
    size_t filled = done * PROGRESS_WIDTH / bar->total, i;

    for (i = 0; i < PROGRESS_WIDTH; i++) cells[i] = i < filled ? '#' : '.';
    cells[PROGRESS_WIDTH] = '\0';
    fprintf(stderr, "\r%-28s [%s] %3zu%%", bar->label, cells, done * 100 / bar->total);
    fflush(stderr);
}

/*  Says how much of `total` is done; cheap enough to call for every item. */
static inline void progress_step(progress *bar, size_t done)
{
    double now = seconds_now();
    if (now - bar->shown < (bar->terminal ? 0.1 : 5.0)) return;
    bar->shown = now;
    if (done > bar->total) done = bar->total;
    if (bar->terminal) progress_draw(bar, done);
    else fprintf(stderr, "%s: %zu%%\n", bar->label, done * 100 / bar->total);
}

/*  Leaves one line with the time taken and returns that time in seconds. */
static inline double progress_end(progress *bar)
{
    double seconds = seconds_now() - bar->started;
    if (bar->terminal) fprintf(stderr, "\r\033[K");
    fprintf(stderr, "%s: %.1f s\n", bar->label, seconds);
    return seconds;
}

#endif
