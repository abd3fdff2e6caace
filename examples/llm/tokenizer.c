/*  tokenizer.c - see tokenizer.h. Order of work: specials are split out, the rest is cut into words
    by the pre-tokenizer, each word's bytes are merged pair by pair, lowest rank first. */
#include "tokenizer.h"

#include "../common/utf8.h"
#include "unicode_tables.h"

/* ---- growing lists --------------------------------------------------------------------------- */

/*  Makes room for `more` elements; *items, *capacity change only on success. */
static bool reserve(void **items, size_t *capacity, size_t count, size_t more, size_t size,
                    failure *why)
{
    size_t wanted = count + more, doubled = *capacity * 2;
    void *grown;

    if (wanted <= *capacity) return true;
    if (wanted < doubled) wanted = doubled;
    grown = realloc(*items, wanted * size);
    if (!grown) return fail(why, "out of memory while tokenizing");
    *items = grown;
    *capacity = wanted;
    return true;
}

bool token_list_add(token_list *list, uint32_t id, failure *why)
{
    void *ids = list->ids;
    if (!reserve(&ids, &list->capacity, list->count, 1, sizeof *list->ids, why)) return false;
    list->ids = ids;
    list->ids[list->count++] = id;
    return true;
}

void token_list_free(token_list *list)
{
    free(list->ids);
    memset(list, 0, sizeof *list);
}

/* ---- character classes ----------------------------------------------------------------------- */

static int char_class(uint32_t code_point)
{
    size_t low = 0, high = sizeof unicode_class_changes / sizeof unicode_class_changes[0];

    while (high - low > 1) { /* the last change at or before code_point */
        size_t middle = low + (high - low) / 2;
        if (unicode_class_changes[middle] >> 2 <= code_point)
            low = middle;
        else
            high = middle;
    }
    return (int)(unicode_class_changes[low] & 3);
}

/* ---- pre-tokenizers: where does the word that starts here end? ------------------------------- */

/*  A stretch of text as code points. Positions beyond its end have no class and no code point. */
typedef struct stretch {
    const uint32_t *codes;
    const unsigned char *classes;
    size_t count;
} stretch;

static int class_at(const stretch *text, size_t position)
{
    return position < text->count ? text->classes[position] : -1;
}

static uint32_t code_at(const stretch *text, size_t position)
{
    return position < text->count ? text->codes[position] : UINT32_MAX;
}

static bool is_newline(uint32_t code)
{
    return code == '\r' || code == '\n';
}

static size_t run_end(const stretch *text, size_t position, int class)
{
    while (class_at(text, position) == class) position++;
    return position;
}

/*  The end of 's 't 'm 'd 're 've 'll, or `position` if there is none. */
static size_t contraction_end(const stretch *text, size_t position, uint32_t case_bit)
{
    uint32_t a, b;

    if (code_at(text, position) != '\'') return position;
    a = code_at(text, position + 1);
    b = code_at(text, position + 2);
    if (a < 128) a |= case_bit;
    if (b < 128) b |= case_bit;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return position + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return position + 3;
    return position;
}

/*  \s+(?!\S)|\s+ : a run of blanks leaves its last one to the word that follows. */
static size_t blanks_end(const stretch *text, size_t position)
{
    size_t end = run_end(text, position, UNICODE_SPACE);
    return end - position > 1 && end < text->count ? end - 1 : end;
}

/*  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2_word_end(const stretch *text, size_t position)
{
    size_t end = contraction_end(text, position, 0);
    size_t start = position + (code_at(text, position) == ' ');
    int class = class_at(text, start);

    if (end > position) return end;
    if (class >= 0 && class != UNICODE_SPACE) return run_end(text, start, class);
    return blanks_end(text, position);
}

/*  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
    |\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t llama_word_end(const stretch *text, size_t position)
{
    size_t end = contraction_end(text, position, 0x20), start, i;
    int class = class_at(text, position);

    if (end > position) return end;
    if (class == UNICODE_LETTER) return run_end(text, position, UNICODE_LETTER);
    if (class == UNICODE_NUMBER) {
        end = run_end(text, position, UNICODE_NUMBER);
        return end - position > 3 ? position + 3 : end;
    }
    if (!is_newline(code_at(text, position)) && class_at(text, position + 1) == UNICODE_LETTER)
        return run_end(text, position + 1, UNICODE_LETTER);
    start = position + (code_at(text, position) == ' ');
    if (class_at(text, start) == UNICODE_OTHER) {
        end = run_end(text, start, UNICODE_OTHER);
        while (is_newline(code_at(text, end))) end++;
        return end;
    }
    for (i = run_end(text, position, UNICODE_SPACE); i > position; i--)
        if (is_newline(code_at(text, i - 1))) return i;
    return blanks_end(text, position);
}

/*  smollm cuts every digit out first; the rest is gpt-2 within the pieces. */
static size_t smollm_piece_end(const stretch *text, size_t position)
{
    if (class_at(text, position) == UNICODE_NUMBER) return position + 1;
    while (position < text->count && class_at(text, position) != UNICODE_NUMBER) position++;
    return position;
}

/* ---- byte pair merging ----------------------------------------------------------------------- */

typedef struct symbol {
    uint32_t id, previous, next;
} symbol;

/*  A pair that may be merged; stale if the ids at these places have changed since. */
typedef struct candidate {
    uint32_t rank, left, right, left_id, right_id, result;
} candidate;

/*  Everything encoding needs, so that nothing is allocated per word. */
typedef struct encoder {
    const tokenizer *tok;
    token_list *out;
    failure *why;
    uint32_t *codes;
    unsigned char *classes;
    size_t codes_capacity, classes_capacity;
    unsigned char *word;
    size_t word_capacity;
    symbol *symbols;
    size_t symbols_capacity;
    candidate *heap;
    size_t heap_count, heap_capacity;
} encoder;

static void encoder_free(encoder *enc)
{
    free(enc->codes);
    free(enc->classes);
    free(enc->word);
    free(enc->symbols);
    free(enc->heap);
}

static bool comes_first(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static bool heap_push(encoder *enc, candidate item)
{
    void *heap = enc->heap;
    size_t i;

    if (!reserve(&heap, &enc->heap_capacity, enc->heap_count, 1, sizeof item, enc->why))
        return false;
    enc->heap = heap;
    for (i = enc->heap_count++; i > 0 && comes_first(&item, &enc->heap[(i - 1) / 2]);
         i = (i - 1) / 2)
        enc->heap[i] = enc->heap[(i - 1) / 2];
    enc->heap[i] = item;
    return true;
}

static candidate heap_pop(encoder *enc)
{
    candidate top = enc->heap[0], last = enc->heap[--enc->heap_count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < enc->heap_count) {
        if (child + 1 < enc->heap_count && comes_first(&enc->heap[child + 1], &enc->heap[child]))
            child++;
        if (!comes_first(&enc->heap[child], &last)) break;
        enc->heap[i] = enc->heap[child];
        i = child;
    }
    enc->heap[i] = last;
    return top;
}

static size_t hash_bytes(const unsigned char *bytes, size_t length)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    size_t i;
    for (i = 0; i < length; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    return (size_t)(hash ^ hash >> 32);
}

static size_t hash_pair(uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (size_t)(hash >> 32);
}

/*  The slot of the pair, or the empty one where it belongs. */
static bpe_merge *merge_slot(const tokenizer *tok, uint32_t left, uint32_t right)
{
    size_t i = hash_pair(left, right) & tok->merges_mask;
    while (tok->merges[i].rank != NO_TOKEN
           && (tok->merges[i].left != left || tok->merges[i].right != right))
        i = (i + 1) & tok->merges_mask;
    return &tok->merges[i];
}

/*  The slot of these bytes, or the empty one where they belong. */
static uint32_t *token_slot(const tokenizer *tok, const unsigned char *bytes, size_t length)
{
    size_t i = hash_bytes(bytes, length) & tok->by_bytes_mask;
    while (tok->by_bytes[i] != NO_TOKEN) {
        const vocabulary_token *token = &tok->tokens[tok->by_bytes[i]];
        if (token->length == length && memcmp(token->bytes, bytes, length) == 0) break;
        i = (i + 1) & tok->by_bytes_mask;
    }
    return &tok->by_bytes[i];
}

static bool consider_pair(encoder *enc, uint32_t left, uint32_t right)
{
    const bpe_merge *merge;
    candidate item;

    if (left == NO_TOKEN || right == NO_TOKEN) return true;
    merge = merge_slot(enc->tok, enc->symbols[left].id, enc->symbols[right].id);
    if (merge->rank == NO_TOKEN) return true;
    item.rank = merge->rank;
    item.left = left;
    item.right = right;
    item.left_id = merge->left;
    item.right_id = merge->right;
    item.result = merge->result;
    return heap_push(enc, item);
}

static bool merge_pairs(encoder *enc)
{
    symbol *symbols = enc->symbols;

    while (enc->heap_count) {
        candidate pair = heap_pop(enc);
        symbol *left = &symbols[pair.left], *right = &symbols[pair.right];
        if (left->id != pair.left_id || right->id != pair.right_id || left->next != pair.right)
            continue;
        left->id = pair.result;
        left->next = right->next;
        right->id = NO_TOKEN;
        if (right->next != NO_TOKEN) symbols[right->next].previous = pair.left;
        if (!consider_pair(enc, left->previous, pair.left)) return false;
        if (!consider_pair(enc, pair.left, left->next)) return false;
    }
    return true;
}

static bool encode_word(encoder *enc, const unsigned char *word, size_t length)
{
    void *symbols = enc->symbols;
    uint32_t i, count = (uint32_t)length;

    if (enc->tok->pre == PRE_LLAMA_BPE) { /* a word that is a token needs no merging */
        uint32_t whole = *token_slot(enc->tok, word, length);
        if (whole != NO_TOKEN) return token_list_add(enc->out, whole, enc->why);
    }
    if (!reserve(&symbols, &enc->symbols_capacity, 0, length, sizeof(symbol), enc->why))
        return false;
    enc->symbols = symbols;
    for (i = 0; i < count; i++) {
        enc->symbols[i].id = enc->tok->byte_tokens[word[i]];
        enc->symbols[i].previous = i ? i - 1 : NO_TOKEN;
        enc->symbols[i].next = i + 1 < count ? i + 1 : NO_TOKEN;
    }
    enc->heap_count = 0;
    for (i = 0; i + 1 < count; i++)
        if (!consider_pair(enc, i, i + 1)) return false;
    if (!merge_pairs(enc)) return false;
    for (i = 0; i != NO_TOKEN; i = enc->symbols[i].next) /* bytes the vocabulary lacks vanish */
        if (enc->symbols[i].id != NO_TOKEN
            && !token_list_add(enc->out, enc->symbols[i].id, enc->why))
            return false;
    return true;
}

/* ---- text ------------------------------------------------------------------------------------ */

static bool encode_codes(encoder *enc, const uint32_t *codes, size_t count)
{
    void *word = enc->word;
    size_t i, length = 0;

    if (!reserve(&word, &enc->word_capacity, 0, 4 * count, 1, enc->why)) return false;
    enc->word = word;
    for (i = 0; i < count; i++) length += encode_utf8(codes[i], enc->word + length);
    return encode_word(enc, enc->word, length);
}

static bool encode_piece(encoder *enc, const stretch *piece)
{
    size_t position = 0, end;

    for (; position < piece->count; position = end) {
        end = enc->tok->pre == PRE_LLAMA_BPE ? llama_word_end(piece, position)
                                             : gpt2_word_end(piece, position);
        if (!encode_codes(enc, piece->codes + position, end - position)) return false;
    }
    return true;
}

static bool encode_stretch(encoder *enc, const stretch *text)
{
    size_t position = 0, end;

    if (enc->tok->pre != PRE_SMOLLM) return encode_piece(enc, text);
    for (; position < text->count; position = end) {
        stretch piece;
        end = smollm_piece_end(text, position);
        piece.codes = text->codes + position;
        piece.classes = text->classes + position;
        piece.count = end - position;
        if (!encode_piece(enc, &piece)) return false;
    }
    return true;
}

static bool encode_plain(encoder *enc, const char *text, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)text;
    void *codes = enc->codes, *classes = enc->classes;
    size_t position = 0, count = 0;
    stretch whole;

    if (length >= UINT32_MAX / 4) return fail(enc->why, "the text is too long to tokenize at once");
    if (!reserve(&codes, &enc->codes_capacity, 0, length, sizeof *enc->codes, enc->why))
        return false;
    enc->codes = codes;
    if (!reserve(&classes, &enc->classes_capacity, 0, length, 1, enc->why)) return false;
    enc->classes = classes;
    while (position < length) {
        size_t step = decode_utf8(bytes + position, length - position, &enc->codes[count]);
        if (step == 0) enc->codes[count] = 0xfffd;
        enc->classes[count] = (unsigned char)char_class(enc->codes[count]);
        position += step ? step : 1;
        count++;
    }
    whole.codes = enc->codes;
    whole.classes = enc->classes;
    whole.count = count;
    return encode_stretch(enc, &whole);
}

static const char *find_bytes(const char *text, size_t length, const unsigned char *wanted,
                              size_t wanted_length)
{
    const char *end = text + length;

    while ((size_t)(end - text) >= wanted_length) {
        text = memchr(text, wanted[0], (size_t)(end - text) - wanted_length + 1);
        if (!text) return NULL;
        if (memcmp(text, wanted, wanted_length) == 0) return text;
        text++;
    }
    return NULL;
}

/*  Longer specials win over shorter ones wherever they stand, so the text is split by one special
    after the other, from number `first` on. */
static bool encode_with_specials(encoder *enc, const char *text, size_t length, bool controls,
                                 size_t first)
{
    const tokenizer *tok = enc->tok;

    while (length && first < tok->specials_count) {
        uint32_t id = tok->specials[first];
        const vocabulary_token *token = &tok->tokens[id];
        const char *found = controls || !token->is_control
                                ? find_bytes(text, length, token->bytes, token->length)
                                : NULL;
        if (!found) {
            first++;
            continue;
        }
        if (!encode_with_specials(enc, text, (size_t)(found - text), controls, first + 1))
            return false;
        if (!token_list_add(enc->out, id, enc->why)) return false;
        length -= (size_t)(found - text) + token->length;
        text = found + token->length;
    }
    return encode_plain(enc, text, length);
}

bool tokenizer_encode(const tokenizer *tok, const char *text, size_t length, bool controls,
                      token_list *out, failure *why)
{
    encoder enc;
    bool encoded;

    memset(&enc, 0, sizeof enc);
    enc.tok = tok;
    enc.out = out;
    enc.why = why;
    encoded = encode_with_specials(&enc, text, length, controls, 0);
    encoder_free(&enc);
    return encoded;
}

/* ---- loading --------------------------------------------------------------------------------- */

/*  Byte-level BPE writes every byte as a printable character: itself, or 256, 257, ... in order. */
typedef struct alphabet {
    unsigned char byte_of[512];
    bool known[512];
} alphabet;

static alphabet make_alphabet(void)
{
    alphabet letters;
    uint32_t byte, next = 256;

    memset(&letters, 0, sizeof letters);
    for (byte = 0; byte < 256; byte++) {
        bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        uint32_t code = printable ? byte : next++;
        letters.byte_of[code] = (unsigned char)byte;
        letters.known[code] = true;
    }
    return letters;
}

/*  Writes the bytes that a token's text stands for; never longer than the text. */
static size_t text_to_bytes(const alphabet *letters, gguf_string text, unsigned char *out)
{
    size_t position = 0, length = 0;

    while (position < text.length) {
        const unsigned char *at = (const unsigned char *)text.bytes + position;
        uint32_t code = 0;
        size_t step = decode_utf8(at, text.length - position, &code);
        if (step && code < 512 && letters->known[code]) {
            out[length++] = letters->byte_of[code];
        } else { /* not of the alphabet: stands for itself */
            if (step == 0) step = 1;
            memcpy(out + length, at, step);
            length += step;
        }
        position += step;
    }
    return length;
}

static size_t table_size(size_t entries)
{
    size_t size = 16;
    while (size < 2 * entries) size *= 2;
    return size;
}

static void load_token(tokenizer *tok, const alphabet *letters, uint32_t id,
                       const vocabulary_entry *entry, unsigned char *bytes)
{
    vocabulary_token *token = &tok->tokens[id];

    token->bytes = bytes;
    token->is_special = entry->kind != TOKEN_NORMAL;
    token->is_control = entry->kind == TOKEN_CONTROL;
    if (token->is_special) {
        if (entry->text.length) memcpy(bytes, entry->text.bytes, entry->text.length);
        token->length = (uint32_t)entry->text.length;
    } else {
        token->length = (uint32_t)text_to_bytes(letters, entry->text, bytes);
        *token_slot(tok, bytes, token->length) = id;
    }
}

static size_t total_length(const vocabulary *words)
{
    size_t i, total = 0;
    for (i = 0; i < words->tokens_count; i++) total += words->tokens[i].text.length;
    return total;
}

static bool load_tokens(tokenizer *tok, const alphabet *letters, const vocabulary *words,
                        failure *why)
{
    unsigned char *bytes;
    size_t i, slots = table_size(words->tokens_count);

    tok->tokens_count = words->tokens_count;
    tok->by_bytes_mask = slots - 1;
    tok->tokens = calloc(tok->tokens_count, sizeof *tok->tokens);
    tok->bytes = bytes = malloc(total_length(words) + 1);
    tok->by_bytes = malloc(slots * sizeof *tok->by_bytes);
    if (!tok->tokens || !bytes || !tok->by_bytes) return fail(why, "out of memory");
    for (i = 0; i < slots; i++) tok->by_bytes[i] = NO_TOKEN;
    for (i = 0; i < tok->tokens_count; i++) {
        load_token(tok, letters, (uint32_t)i, &words->tokens[i], bytes);
        bytes += tok->tokens[i].length;
    }
    for (i = 0; i < 256; i++) {
        unsigned char byte = (unsigned char)i;
        tok->byte_tokens[i] = *token_slot(tok, &byte, 1);
    }
    return true;
}

/*  Texts become ids; false if a piece is not in the vocabulary. */
static bool look_up_merge(const tokenizer *tok, const alphabet *letters,
                          const vocabulary_merge *texts, unsigned char *buffer, bpe_merge *merge)
{
    size_t left_length = text_to_bytes(letters, texts->left, buffer);
    size_t right_length = text_to_bytes(letters, texts->right, buffer + left_length);

    merge->left = *token_slot(tok, buffer, left_length);
    merge->right = *token_slot(tok, buffer + left_length, right_length);
    merge->result = *token_slot(tok, buffer, left_length + right_length);
    return merge->left != NO_TOKEN && merge->right != NO_TOKEN && merge->result != NO_TOKEN;
}

static bool fill_merges(tokenizer *tok, const alphabet *letters, const vocabulary *words,
                        unsigned char *buffer, failure *why)
{
    uint32_t rank;

    for (rank = 0; rank < words->merges_count; rank++) {
        bpe_merge merge, *slot;
        if (!look_up_merge(tok, letters, &words->merges[rank], buffer, &merge))
            return fail(why,
                        "the tokenizer's merges: entry %u is not two pieces of the vocabulary "
                        "that make a third",
                        (unsigned)rank);
        slot = merge_slot(tok, merge.left, merge.right);
        if (slot->rank != NO_TOKEN) continue; /* the first of equals has the lower rank */
        merge.rank = rank;
        *slot = merge;
    }
    return true;
}

static size_t longest_merge(const vocabulary *words)
{
    size_t i, longest = 0;

    for (i = 0; i < words->merges_count; i++) {
        size_t length = words->merges[i].left.length + words->merges[i].right.length;
        if (length > longest) longest = length;
    }
    return longest;
}

static bool load_merges(tokenizer *tok, const alphabet *letters, const vocabulary *words,
                        failure *why)
{
    size_t i, slots = table_size(words->merges_count);
    unsigned char *buffer = malloc(longest_merge(words) + 1);
    bool filled;

    tok->merges_mask = slots - 1;
    tok->merges = malloc(slots * sizeof *tok->merges);
    if (!tok->merges || !buffer) {
        free(buffer);
        return fail(why, "out of memory");
    }
    for (i = 0; i < slots; i++) tok->merges[i].rank = NO_TOKEN;
    filled = fill_merges(tok, letters, words, buffer, why);
    free(buffer);
    return filled;
}

/*  A special and its length, so that sorting needs nothing else. */
typedef struct sized_id {
    uint32_t length, id;
} sized_id;

static int compare_longest_first(const void *a, const void *b)
{
    const sized_id *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool load_specials(tokenizer *tok, failure *why)
{
    sized_id *found = malloc(tok->tokens_count * sizeof *found);
    size_t i, count = 0;

    tok->specials = malloc(tok->tokens_count * sizeof *tok->specials);
    if (!found || !tok->specials) {
        free(found);
        return fail(why, "out of memory");
    }
    for (i = 0; i < tok->tokens_count; i++) {
        if (!tok->tokens[i].is_special || tok->tokens[i].length == 0) continue;
        found[count].length = tok->tokens[i].length;
        found[count++].id = (uint32_t)i;
    }
    qsort(found, count, sizeof *found, compare_longest_first);
    for (i = 0; i < count; i++) tok->specials[i] = found[i].id;
    tok->specials_count = count;
    free(found);
    return true;
}

bool tokenizer_open(tokenizer *tok, const vocabulary *words, failure *why)
{
    const alphabet letters = make_alphabet();

    memset(tok, 0, sizeof *tok);
    tok->pre = words->pre;
    if (!load_tokens(tok, &letters, words, why) || !load_merges(tok, &letters, words, why)
        || !load_specials(tok, why)) {
        tokenizer_close(tok);
        return false;
    }
    tok->bos = words->bos;
    tok->eos = words->eos;
    tok->eot = words->eot;
    tok->add_bos = words->add_bos;
    tok->chat_template = words->chat_template;
    return true;
}

void tokenizer_close(tokenizer *tok)
{
    free(tok->tokens);
    free(tok->bytes);
    free(tok->by_bytes);
    free(tok->merges);
    free(tok->specials);
    memset(tok, 0, sizeof *tok);
}

/* ---- chat ------------------------------------------------------------------------------------ */

static bool has_special(const tokenizer *tok, const char *text)
{
    size_t i;
    for (i = 0; i < tok->specials_count; i++) {
        const vocabulary_token *token = &tok->tokens[tok->specials[i]];
        if (token->length == strlen(text) && memcmp(token->bytes, text, token->length) == 0)
            return true;
    }
    return false;
}

static bool encode_text(const tokenizer *tok, const char *text, bool controls, token_list *out,
                        failure *why)
{
    return tokenizer_encode(tok, text, strlen(text), controls, out, why);
}

/*  The system message that the model's own template starts a chat with, if it spells one out. */
static bool encode_default_system(const tokenizer *tok, token_list *out, failure *why)
{
    static const char opening[] = "<|im_start|>system\n", closing[] = "<|im_end|>";
    gguf_string all = tok->chat_template;
    const char *begin, *end;

    if (!all.length) return true;
    begin = find_bytes(all.bytes, all.length, (const unsigned char *)opening, sizeof opening - 1);
    if (!begin) return true;
    end = find_bytes(begin, all.length - (size_t)(begin - all.bytes),
                     (const unsigned char *)closing, sizeof closing - 1);
    if (!end || memchr(begin, '{', (size_t)(end - begin))
        || memchr(begin, '\'', (size_t)(end - begin)))
        return true;
    return tokenizer_encode(tok, begin, (size_t)(end - begin) + sizeof closing - 1, true, out, why)
           && encode_text(tok, "\n", true, out, why);
}

bool tokenizer_encode_chat(const tokenizer *tok, const char *question, token_list *out,
                           failure *why)
{
    bool chatml = has_special(tok, "<|im_start|>") && has_special(tok, "<|im_end|>");
    bool llama = has_special(tok, "<|start_header_id|>") && has_special(tok, "<|eot_id|>");
    const char *before = chatml  ? "<|im_start|>user\n"
                         : llama ? "<|start_header_id|>user<|end_header_id|>\n\n"
                                 : "";
    const char *after = chatml  ? "<|im_end|>\n<|im_start|>assistant\n"
                        : llama ? "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
                                : "";

    if (tok->add_bos && tok->bos != NO_TOKEN && !token_list_add(out, tok->bos, why)) return false;
    if (chatml && !encode_default_system(tok, out, why)) return false;
    return encode_text(tok, before, true, out, why) && encode_text(tok, question, false, out, why)
           && encode_text(tok, after, true, out, why);
}

bool tokenizer_is_end(const tokenizer *tok, uint32_t id)
{
    static const char names[4][20] = { "<|im_end|>", "<|eot_id|>", "<|endoftext|>",
                                       "<|end_of_text|>" };
    const vocabulary_token *token = &tok->tokens[id];
    size_t i;

    if (id == tok->eos || id == tok->eot) return true;
    for (i = 0; token->is_control && i < 4; i++)
        if (token->length == strlen(names[i]) && memcmp(token->bytes, names[i], token->length) == 0)
            return true;
    return false;
}
