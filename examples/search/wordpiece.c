/*  wordpiece.c - see wordpiece.h. The rules are those of BERT's BasicTokenizer and WordPiece with
    do_lower_case, as in Hugging Face's BertNormalizer, BertPreTokenizer and WordPiece. */
#include "wordpiece.h"

#include "../common/utf8.h"
#include "unicode_tables.h"

#include <stdlib.h>
#include <string.h>

/*  A longer word is unknown. */
#define WORD_CHARACTERS 100

/* ---- characters ------------------------------------------------------------------------------ */

static int char_class(uint32_t c)
{
    size_t low = 0, high = sizeof char_class_changes / sizeof char_class_changes[0];

    while (high - low > 1) {        /* the last change at or before c */
        size_t middle = low + (high - low) / 2;
        if (char_class_changes[middle] >> 2 <= c) low = middle;
        else high = middle;
    }
    return (int)(char_class_changes[low] & 3);
}

/*  What a table of runs makes of c; 0 if nothing. */
static uint32_t find_run(const uint32_t (*runs)[5], size_t count, uint32_t c)
{
    size_t low = 0, high = count;
    uint32_t place, step;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (runs[middle][0] <= c) low = middle;
        else high = middle;
    }
    if (c < runs[low][0]) return 0;
    step = runs[low][2] ? runs[low][2] : 1;
    place = (c - runs[low][0]) / step;
    if ((c - runs[low][0]) % step || place >= runs[low][1]) return 0;
    return runs[low][3] + place * runs[low][4];
}

/*  Korean syllables are made of two or three letters, by arithmetic (Unicode 3.12). */
static size_t split_hangul(uint32_t syllable, uint32_t out[3])
{
    out[0] = 0x1100 + syllable / 588;
    out[1] = 0x1161 + syllable % 588 / 28;
    out[2] = 0x11a7 + syllable % 28;
    return syllable % 28 ? 3 : 2;
}

/*  Lower case without accents; returns how many characters that is. */
static size_t fold(uint32_t c, uint32_t out[3])
{
    uint32_t to;

    out[0] = c;
    if (c < 0x80) {
        if (c >= 'A' && c <= 'Z') out[0] = c + 32;
        return 1;
    }
    if (c >= 0xac00 && c < 0xac00 + 11172) return split_hangul(c - 0xac00, out);
    to = find_run(char_folds, sizeof char_folds / sizeof char_folds[0], c);
    if (to) out[0] = to;
    out[1] = find_run(char_fold_seconds, sizeof char_fold_seconds / sizeof char_fold_seconds[0], c);
    return out[1] ? 2 : 1;
}

/* ---- vocabulary ------------------------------------------------------------------------------ */

static size_t hash(const char *bytes, size_t length, bool continues)
{
    uint32_t h = continues ? 0x9747b28cu : 0x811c9dc5u;
    size_t i;

    for (i = 0; i < length; i++) h = (h ^ (unsigned char)bytes[i]) * 0x01000193u;
    return h ^ h >> 15;
}

/*  "##" stands directly before the pieces that continue a word. */
static bool piece_continues(const wordpiece *words, const wordpiece_entry *piece)
{
    return piece->offset >= 2 && memcmp(words->text + piece->offset - 2, "##", 2) == 0;
}

/*  The place of a piece in the table, or the empty one where it would be. */
static size_t find_place(const wordpiece *words, const char *bytes, size_t length, bool continues)
{
    size_t place = hash(bytes, length, continues) & words->table_mask;

    for (; words->table[place]; place = (place + 1) & words->table_mask) {
        const wordpiece_entry *piece = &words->pieces[words->table[place] - 1];
        if (piece->length == length && piece_continues(words, piece) == continues
            && memcmp(words->text + piece->offset, bytes, length) == 0)
            break;
    }
    return place;
}

static size_t count_lines(const char *text, size_t size)
{
    size_t lines = 0, i;
    for (i = 0; i < size; i++) lines += text[i] == '\n';
    return lines + (size && text[size - 1] != '\n');
}

static void add_piece(wordpiece *words, const char *line, size_t length)
{
    wordpiece_entry *piece = &words->pieces[words->count];
    bool continues = length > 2 && memcmp(line, "##", 2) == 0;
    size_t place;

    piece->offset = (uint32_t)(line - words->text) + (continues ? 2 : 0);
    piece->length = (uint32_t)length - (continues ? 2 : 0);
    if (piece->length > words->longest) words->longest = piece->length;
    place = find_place(words, words->text + piece->offset, piece->length, continues);
    words->table[place] = (uint32_t)++words->count;
}

static void add_lines(wordpiece *words, size_t size)
{
    const char *line = words->text, *end = line + size;

    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t length;
        if (!stop) stop = end;
        length = (size_t)(stop - line);
        if (length && line[length - 1] == '\r') length--;
        add_piece(words, line, length);
        line = stop + 1;
    }
}

static bool find_special(const wordpiece *words, const char *name, uint32_t *id, failure *why)
{
    size_t place = find_place(words, name, strlen(name), false);

    if (!words->table[place]) return fail(why, "the vocabulary has no %s", name);
    *id = words->table[place] - 1;
    return true;
}

bool wordpiece_open(wordpiece *words, const char *text, size_t size, failure *why)
{
    size_t lines = count_lines(text, size), slots = 16;

    memset(words, 0, sizeof *words);
    if (size > UINT32_MAX) return fail(why, "a vocabulary of %zu bytes is too large", size);
    while (slots < 2 * lines) slots *= 2;
    words->text = text;
    words->pieces = malloc((lines + 1) * sizeof *words->pieces);
    words->table = calloc(slots, sizeof *words->table);
    words->table_mask = slots - 1;
    if (!words->pieces || !words->table) {
        wordpiece_close(words);
        return fail(why, "out of memory for a vocabulary of %zu pieces", lines);
    }
    add_lines(words, size);
    if (find_special(words, "[UNK]", &words->unknown, why)
        && find_special(words, "[CLS]", &words->first, why)
        && find_special(words, "[SEP]", &words->last, why))
        return true;
    wordpiece_close(words);
    return false;
}

void wordpiece_close(wordpiece *words)
{
    free(words->pieces);
    free(words->table);
    memset(words, 0, sizeof *words);
}

/* ---- words to pieces ------------------------------------------------------------------------- */

typedef struct writer {
    const wordpiece *words;
    uint32_t *ids;
    size_t count, room;
    char word[4 * WORD_CHARACTERS];     /* UTF-8 */
    size_t length, characters;          /* of the word; more than WORD_CHARACTERS are only counted */
} writer;

/*  The longest piece that begins the bytes; 0 if none does. */
static size_t longest_piece(const wordpiece *words, const char *bytes, size_t left, bool continues,
                            uint32_t *id)
{
    size_t length = left < words->longest ? left : words->longest;

    for (; length; length--) {
        size_t place;
        if (length < left && ((unsigned char)bytes[length] & 0xc0) == 0x80) continue;
        place = find_place(words, bytes, length, continues);
        if (words->table[place]) {
            *id = words->table[place] - 1;
            return length;
        }
    }
    return 0;
}

/*  Splits the word into ids [WORD_CHARACTERS] and returns how many; an unknown word is one. */
static size_t split_word(const writer *w, uint32_t *ids)
{
    size_t at = 0, count = 0, length;

    ids[0] = w->words->unknown;
    if (w->characters > WORD_CHARACTERS) return 1;
    for (; at < w->length; at += length) {
        length = longest_piece(w->words, w->word + at, w->length - at, at > 0, &ids[count]);
        if (length == 0) {
            ids[0] = w->words->unknown;
            return 1;
        }
        count++;
    }
    return count;
}

/*  Writes the word that has been gathered; false if not all of it fitted. */
static bool end_word(writer *w)
{
    uint32_t ids[WORD_CHARACTERS];
    size_t count, fitting;

    if (w->characters == 0) return true;
    count = split_word(w, ids);
    fitting = count < w->room - w->count ? count : w->room - w->count;
    memcpy(w->ids + w->count, ids, fitting * sizeof *ids);
    w->count += fitting;
    w->length = w->characters = 0;
    return fitting == count;
}

static void add_character(writer *w, uint32_t c)
{
    if (w->characters++ < WORD_CHARACTERS)
        w->length += encode_utf8(c, (unsigned char *)w->word + w->length);
}

/*  Takes in one character of the text; false when there is no more room. */
static bool take(writer *w, uint32_t raw)
{
    uint32_t folded[3];
    size_t count = fold(raw, folded), i;

    for (i = 0; i < count; i++) {
        int kind = char_class(folded[i]);
        if (kind == CHAR_PART) add_character(w, folded[i]);
        if (kind != CHAR_SPACE && kind != CHAR_ALONE) continue;
        if (!end_word(w)) return false;
        if (kind != CHAR_ALONE) continue;
        add_character(w, folded[i]);
        if (!end_word(w)) return false;
    }
    return true;
}

size_t wordpiece_encode(const wordpiece *words, const char *text, size_t size, uint32_t *ids,
                        size_t room, size_t *used)
{
    writer w;
    size_t at = 0, done = 0;
    bool more = true;

    memset(&w, 0, sizeof w);
    w.words = words;
    w.ids = ids;
    w.room = room - 1;                  /* [SEP] needs a place */
    w.ids[w.count++] = words->first;
    while (more && at < size) {
        uint32_t c;
        size_t length = decode_utf8((const unsigned char *)text + at, size - at, &c);
        if (length) more = take(&w, c);
        at += length ? length : 1;
        if (more && w.characters == 0) done = at;
    }
    if (more && end_word(&w)) done = size;
    w.ids[w.count++] = words->last;
    if (used) *used = done;
    return w.count;
}

