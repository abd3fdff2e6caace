/*  passages.c - see passages.h. */
#include "passages.h"

#include <stdlib.h>
#include <string.h>

/* ---- growing arrays -------------------------------------------------------------------------- */

/*  Room for `more` elements behind count; *items and *room change only on success. */
static bool grow(void **items, size_t *room, size_t count, size_t more, size_t size, failure *why)
{
    size_t wanted = count + more;
    void *grown;

    if (wanted <= *room) return true;
    if (wanted < *room * 2) wanted = *room * 2;
    grown = realloc(*items, wanted * size);
    if (!grown) return fail(why, "out of memory for %zu bytes of text", wanted * size);
    *items = grown;
    *room = wanted;
    return true;
}

static bool add_bytes(char **to, size_t *size, size_t *room, const char *bytes, size_t count,
                      failure *why)
{
    void *items = *to;

    if (!grow(&items, room, *size, count, 1, why)) return false;
    *to = items;
    if (count) memcpy(*to + *size, bytes, count);
    *size += count;
    return true;
}

static bool add_passage(passages *p, passage item, failure *why)
{
    void *items = p->items;

    if (!grow(&items, &p->room, p->count, 1, sizeof *p->items, why)) return false;
    p->items = items;
    p->items[p->count++] = item;
    return true;
}

static bool add_file(passages *p, const char *name, const char *text, size_t size, failure *why)
{
    if (p->files >= UINT32_MAX) return fail(why, "too many files");
    if (!add_bytes(&p->text, &p->text_size, &p->text_room, text, size, why)
        || !add_bytes(&p->names, &p->names_size, &p->names_room, name, strlen(name) + 1, why))
        return false;
    p->files++;
    return true;
}

/* ---- cutting --------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f' || c == '\v';
}

/*  One past the end of the line. */
static size_t line_end(const passages *p, size_t at)
{
    const char *stop = memchr(p->text + at, '\n', p->text_size - at);
    return stop ? (size_t)(stop - p->text) + 1 : p->text_size;
}

static bool all_blank(const passages *p, size_t at, size_t end)
{
    while (at < end && is_blank(p->text[at])) at++;
    return at == end;
}

/*  Adds [begin, end) without the blanks around it, line being that of begin, in as many pieces as
    it takes. */
static bool add_paragraph(passages *p, const wordpiece *words, uint32_t *ids, size_t tokens,
                          passage item, failure *why)
{
    size_t end = item.end, used;

    for (;;) {
        for (; item.begin < end && is_blank(p->text[item.begin]); item.begin++)
            item.line += p->text[item.begin] == '\n';
        while (end > item.begin && is_blank(p->text[end - 1])) end--;
        if (item.begin == end) return true;
        wordpiece_encode(words, p->text + item.begin, end - item.begin, ids, tokens, &used);
        item.end = used ? item.begin + used : end;
        if (!add_passage(p, item, why)) return false;
        for (; item.begin < item.end; item.begin++) item.line += p->text[item.begin] == '\n';
    }
}

static bool add_paragraphs(passages *p, const wordpiece *words, uint32_t *ids, size_t tokens,
                           size_t at, failure *why)
{
    uint32_t line = 1;
    passage item;

    memset(&item, 0, sizeof item);
    item.file = (uint32_t)p->files - 1;
    for (; at < p->text_size; at = item.end) {
        item.begin = at;
        item.line = line;
        do {
            item.end = line_end(p, at);
            line++;
            if (all_blank(p, at, item.end)) break;
            at = item.end;
        } while (at < p->text_size);
        if (!add_paragraph(p, words, ids, tokens, item, why)) return false;
    }
    return true;
}

bool passages_add(passages *p, const wordpiece *words, size_t tokens, const char *name,
                  const char *text, size_t size, failure *why)
{
    size_t at = p->text_size;
    uint32_t *ids = malloc(tokens * sizeof *ids);
    bool added = ids ? add_file(p, name, text, size, why)
                           && add_paragraphs(p, words, ids, tokens, at, why)
                     : fail(why, "out of memory");
    free(ids);
    return added;
}

bool passages_add_lines(passages *p, const char *name, const char *text, size_t size, failure *why)
{
    size_t at = p->text_size;
    passage item;

    memset(&item, 0, sizeof item);
    if (!add_file(p, name, text, size, why)) return false;
    item.file = (uint32_t)p->files - 1;
    for (; at < p->text_size; at = item.end) {
        item.begin = at;
        item.end = line_end(p, at);
        item.line++;
        if (!all_blank(p, item.begin, item.end) && !add_passage(p, item, why)) return false;
    }
    return true;
}

void passages_close(passages *p)
{
    free(p->text);
    free(p->names);
    free(p->items);
    memset(p, 0, sizeof *p);
}

const char *passages_name(const passages *p, size_t file)
{
    const char *name = p->names;
    while (file--) name += strlen(name) + 1;
    return name;
}
