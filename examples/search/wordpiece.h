/*  wordpiece.h - BERT's tokenizer: text in lower case without accents, cut at blanks and
    punctuation, each word covered from the left by the longest pieces of a vocabulary. */
#ifndef SEARCH_WORDPIECE_H
#define SEARCH_WORDPIECE_H

#include "../common/failure.h"

#include <stddef.h>
#include <stdint.h>

typedef struct wordpiece_entry { uint32_t offset, length; } wordpiece_entry;

/*  A vocabulary as vocab.txt has it: a piece per line, "##" before those that continue a word. */
typedef struct wordpiece {
    const char *text;               /* the caller's, kept */
    wordpiece_entry *pieces;        /* by id, without "##" */
    size_t count;
    size_t longest;                 /* piece, in bytes */
    uint32_t *table;                /* hashed: id + 1, or 0 */
    size_t table_mask;
    uint32_t unknown, first, last;  /* [UNK], [CLS], [SEP] */
} wordpiece;

bool wordpiece_open(wordpiece *words, const char *text, size_t size, failure *why);
void wordpiece_close(wordpiece *words);

/*  Writes [CLS], the pieces of the text, [SEP]: at most `room` >= 2 ids, as many of the text as go
    in. Bytes that are not UTF-8 are skipped. Returns how many ids were written; *used (or NULL) is
    how many bytes of the text they stand for, up to the end of a word. */
size_t wordpiece_encode(const wordpiece *words, const char *text, size_t size, uint32_t *ids,
                        size_t room, size_t *used);

#endif
