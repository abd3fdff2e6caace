/*  model.c - see model.h. */
#include "model.h"

static bool open_packed(model *m, const char *path, failure *why)
{
    failure reason;

    if (!file_map(&m->file, path, why)) return false;
    if (!packed_model_open(&m->packed, m->file.bytes, m->file.size, &reason)) {
        file_unmap(&m->file);
        return fail(why, "%.120s: %.380s", path, reason.text);
    }
    m->e = &m->packed.e;
    m->id = m->packed.file.checksum;
    m->size = m->file.size;
    return true;
}

bool model_open(model *m, const char *path, failure *why)
{
    struct stat status;

    memset(m, 0, sizeof *m);
    if (stat(path, &status) != 0) return fail(why, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode)) return open_packed(m, path, why);
    if (!bert_open(&m->fp32, path, why)) return false;
    m->e = &m->fp32.e;
    m->size = m->fp32.weights.file.size;
    return true;
}

void model_close(model *m)
{
    packed_model_close(&m->packed);
    bert_close(&m->fp32);
    file_unmap(&m->file);
    memset(m, 0, sizeof *m);
}
