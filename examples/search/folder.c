/*  folder.c - see folder.h. */
#include "folder.h"

#include "../common/utf8.h"

#include <dirent.h>

/*  How much of a file is looked at to see whether it is text. */
#define LOOK 4096
#define DEEPEST 64

static bool is_text(const mapped_file *file)
{
    size_t look = file->size < LOOK ? file->size : LOOK, at = 0, length;
    uint32_t c;

    if (memchr(file->bytes, 0, look)) return false;
    for (; at + 4 < look; at += length) {
        length = decode_utf8(file->bytes + at, file->size - at, &c);
        if (length == 0) return false;
    }
    return true;
}

static bool add_file(passages *p, const wordpiece *words, size_t tokens, const char *path,
                     size_t *skipped, failure *why)
{
    mapped_file file;
    struct stat status;
    bool added = true;

    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
        ++*skipped;
        return true;
    }
    if (!file_map(&file, path, why)) return false;
    if (is_text(&file))
        added = passages_add(p, words, tokens, path, (const char *)file.bytes, file.size, why);
    else ++*skipped;
    file_unmap(&file);
    return added;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static bool add_any(passages *p, const wordpiece *words, size_t tokens, const char *path, int depth,
                    size_t *skipped, failure *why)
{
    struct dirent **entries = NULL;
    struct stat status;
    bool added = true;
    int count, i;

    /* links to folders could lead round in circles */
    if (lstat(path, &status) != 0) return fail(why, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode)) return add_file(p, words, tokens, path, skipped, why);
    if (depth == DEEPEST) return fail(why, "%s: folders within folders, too deep", path);
    count = scandir(path, &entries, visible, alphasort);
    if (count < 0) return fail(why, "%s: cannot read the folder: %s", path, strerror(errno));
    for (i = 0; i < count; i++) {
        char *inside = added ? join(path, "/", entries[i]->d_name) : NULL;
        if (added && !inside) added = fail(why, "out of memory");
        added = added && add_any(p, words, tokens, inside, depth + 1, skipped, why);
        free(inside);
        free(entries[i]);
    }
    free(entries);
    return added;
}

bool folder_add(passages *p, const wordpiece *words, size_t tokens, const char *path,
                size_t *skipped, failure *why)
{
    return add_any(p, words, tokens, path, 0, skipped, why);
}
