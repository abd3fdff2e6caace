/*  embed.h - many texts to vectors on all processors: each thread takes texts of its own through the
    whole encoder, as many at a time as its workspace holds. */
#ifndef SEARCH_EMBED_H
#define SEARCH_EMBED_H

#include "../common/files.h"
#include "../common/parallel.h"
#include "encoder.h"
#include "passages.h"

/*  Tokens that go through a linear together, on each thread. */
#define EMBED_TOKENS 256

/*  vectors [p->count][dim]. label: of the progress bar; NULL: none. *tokens (or NULL): of all
    passages. */
bool embed_passages(const encoder *e, parallel_pool *pool, const passages *p, const char *label,
                    float *vectors, size_t *tokens, failure *why);

/*  The same on this thread, watched: for calibration. */
bool watch_passages(const encoder *e, const passages *p, const char *label, const observer *watch,
                    failure *why);

#endif
