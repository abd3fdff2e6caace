/*  passages.h - text files cut into what is searched: paragraphs, and of long ones as much as an
    encoder reads at a time. */
#ifndef SEARCH_PASSAGES_H
#define SEARCH_PASSAGES_H

#include "wordpiece.h"

typedef struct passage {
    uint32_t file, line;        /* line counts from 1 */
    size_t begin, end;          /* in the text */
} passage;

typedef struct passages {
    char *text;                 /* of all files */
    size_t text_size, text_room;
    char *names;                /* of the files, each ended by NUL */
    size_t names_size, names_room;
    size_t files;
    passage *items;
    size_t count, room;
} passages;

/*  Adds a file that is at hand. Paragraphs end at blank lines; one of more than `tokens` tokens
    ([CLS] and [SEP] included) becomes several passages. */
bool passages_add(passages *p, const wordpiece *words, size_t tokens, const char *name,
                  const char *text, size_t size, failure *why);
/*  Each line that is not blank is a passage. */
bool passages_add_lines(passages *p, const char *name, const char *text, size_t size,
                        failure *why);
void passages_close(passages *p);

const char *passages_name(const passages *p, size_t file);

#endif
