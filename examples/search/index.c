/*  index.c - see index.h. */
#include "index.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD_NUMBERS = 3, PASSAGE_NUMBERS = 4, SECTIONS = 5 };

static awq_quant vector_quant(void)
{
    awq_quant quant = { 8, 128, 1, AWQ_F16 };
    return quant;
}

/* ---- making ---------------------------------------------------------------------------------- */

static bool pack_vectors(const awq_kernels *k, awq_matrix vectors, unsigned char *bytes,
                         size_t size, failure *why)
{
    awq_where where = { 0, 0, 0 };
    awq_status status = awq_packed_init(vector_quant(), vectors.rows, vectors.cols, bytes, size);

    if (status == AWQ_OK)
        status = awq_quantize_packed(k, vectors, NULL, NULL, bytes, size, 0, vectors.rows, &where);
    return status == AWQ_OK ? true
                            : fail(why, "vector of passage %zu: %s", where.row,
                                   awq_status_string(status));
}

static void write_passages(const passages *p, unsigned char *bytes)
{
    size_t i;
    for (i = 0; i < p->count; i++, bytes += 8 * PASSAGE_NUMBERS) {
        write_number(bytes, p->items[i].file);
        write_number(bytes + 8, p->items[i].line);
        write_number(bytes + 16, p->items[i].begin);
        write_number(bytes + 24, p->items[i].end);
    }
}

unsigned char *index_make(const awq_kernels *k, const passages *p, const float *vectors, size_t dim,
                          uint64_t model, size_t *size, failure *why)
{
    section sections[SECTIONS];
    unsigned char head[8 * HEAD_NUMBERS], *packed, *table, *bytes = NULL;
    size_t packed_size = awq_packed_size(vector_quant(), p->count, dim);
    size_t table_size = p->count * 8 * PASSAGE_NUMBERS;

    packed = malloc(packed_size + 1);
    table = malloc(table_size + 1);
    write_number(head, model);
    write_number(head + 8, p->count);
    write_number(head + 16, p->files);
    if (!packed || !table) fail(why, "out of memory for an index of %zu passages", p->count);
    else if (pack_vectors(k, awq_matrix_view(vectors, AWQ_F32, p->count, dim), packed, packed_size,
                          why)) {
        write_passages(p, table);
        sections[0].bytes = head;
        sections[0].size = sizeof head;
        sections[1].bytes = packed;
        sections[1].size = packed_size;
        sections[2].bytes = table;
        sections[2].size = table_size;
        sections[3].bytes = (const unsigned char *)p->names;
        sections[3].size = p->names_size;
        sections[4].bytes = (const unsigned char *)p->text;
        sections[4].size = p->text_size;
        bytes = container_make(CONTAINER_INDEX, sections, SECTIONS, size, why);
    }
    free(packed);
    free(table);
    return bytes;
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool read_passage(const passages *p, const unsigned char *bytes, passage *item)
{
    uint64_t file = read_number(bytes), line = read_number(bytes + 8);
    uint64_t begin = read_number(bytes + 16), end = read_number(bytes + 24);

    item->file = (uint32_t)file;
    item->line = (uint32_t)line;
    item->begin = (size_t)begin;
    item->end = (size_t)end;
    return file < p->files && line <= UINT32_MAX && begin <= end && end <= p->text_size;
}

static size_t count_names(const char *names, size_t size)
{
    size_t count = 0, i;
    for (i = 0; i < size; i++) count += names[i] == '\0';
    return count;
}

static bool read_passages(search_index *index, uint64_t count, failure *why)
{
    section table = container_section(&index->file, 2);
    section names = container_section(&index->file, 3), text = container_section(&index->file, 4);
    passages *p = &index->p;

    p->names = (char *)(uintptr_t)names.bytes;
    p->names_size = names.size;
    p->text = (char *)(uintptr_t)text.bytes;
    p->text_size = text.size;
    if (count_names(p->names, p->names_size) != p->files
        || table.size / (8 * PASSAGE_NUMBERS) != count || table.size % (8 * PASSAGE_NUMBERS))
        return fail(why, "the index contradicts itself; make it again");
    p->items = malloc((size_t)count * sizeof *p->items + 1);
    if (!p->items) return fail(why, "out of memory");
    for (; p->count < count; p->count++)
        if (!read_passage(p, table.bytes + p->count * 8 * PASSAGE_NUMBERS, &p->items[p->count]))
            return fail(why, "passage %zu lies outside the text; make the index again", p->count);
    return true;
}

static bool read_index(search_index *index, failure *why)
{
    section head = container_section(&index->file, 0), packed = container_section(&index->file, 1);
    awq_status status = packed.size ? awq_packed_open(&index->vectors, packed.bytes, packed.size)
                                    : AWQ_ERR_FORMAT;

    if (status == AWQ_OK) status = awq_packed_check(&index->vectors, NULL);
    if (status != AWQ_OK) return fail(why, "vectors: %s", awq_status_string(status));
    if (head.size != 8 * HEAD_NUMBERS
        || read_number(head.bytes + 8) != index->vectors.out_features)
        return fail(why, "not an index of this version; make it again");
    index->model = read_number(head.bytes);
    index->p.files = (size_t)read_number(head.bytes + 16);
    return read_passages(index, index->vectors.out_features, why);
}

bool index_open(search_index *index, const void *bytes, size_t size, failure *why)
{
    memset(index, 0, sizeof *index);
    if (container_open(&index->file, bytes, size, CONTAINER_INDEX, why) && read_index(index, why))
        return true;
    index_close(index);
    return false;
}

void index_close(search_index *index)
{
    free(index->p.items);
    memset(index, 0, sizeof *index);
}

/* ---- asking ---------------------------------------------------------------------------------- */

/*  products [count] = vectors . vector */
static awq_status multiply(const search_index *index, const awq_kernels *k, const float *vector,
                           float *products)
{
    const awq_packed *v = &index->vectors;
    size_t size = awq_prepared_size(k, v->in_features, v->quant.group_size, AWQ_A16, 1);
    void *memory = size ? malloc(size) : NULL;
    awq_status status = AWQ_ERR_MEMORY;
    awq_prepared prepared;

    if (memory)
        status = awq_prepare(k, v->quant.group_size, AWQ_A16,
                             awq_matrix_view(vector, AWQ_F32, 1, v->in_features), NULL, memory,
                             size, 0, 1, &prepared, NULL);
    if (status == AWQ_OK)
        status = awq_matmul(k, v, &prepared, NULL,
                            awq_matrix_view(products, AWQ_F32, 1, v->out_features), 0,
                            v->out_features);
    free(memory);
    return status;
}

/*  Keeps the best `wanted`, sorted, as they come. */
static size_t select_best(const float *products, size_t count, answer *answers, size_t wanted)
{
    size_t found = 0, i, at;

    for (i = 0; i < count; i++) {
        if (found == wanted && !(products[i] > answers[found - 1].likeness)) continue;
        if (found < wanted) found++;
        for (at = found - 1; at > 0 && products[i] > answers[at - 1].likeness; at--)
            answers[at] = answers[at - 1];
        answers[at].passage = i;
        answers[at].likeness = products[i];
    }
    return found;
}

size_t index_find(const search_index *index, const awq_kernels *k, const float *vector,
                  answer *answers, size_t wanted, failure *why)
{
    size_t count = index->vectors.out_features, found = 0;
    float *products = malloc(count * sizeof *products);
    awq_status status = products ? multiply(index, k, vector, products) : AWQ_ERR_MEMORY;

    if (status == AWQ_OK && wanted) found = select_best(products, count, answers, wanted);
    else fail(why, "search: %s", awq_status_string(status));
    free(products);
    return found;
}
