/*  packed_model.c - see packed_model.h. */
#include "packed_model.h"

#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 6, FIRST_LINEAR = 4 };

/* ---- the vectors in fp32 --------------------------------------------------------------------- */

/*  Visits every vector in the order in which they are stored. */
typedef void visit(void *context, const float **vector, size_t count);

static void visit_norm(norm *n, size_t dim, visit *see, void *context)
{
    see(context, &n->weight, dim);
    see(context, &n->bias, dim);
}

static void visit_layer(encoder *e, size_t layer, visit *see, void *context)
{
    linear *linears = e->linears + layer * LINEARS;
    size_t group, i;

    visit_norm(&e->attention_norms[layer], e->dim, see, context);
    visit_norm(&e->ffn_norms[layer], e->dim, see, context);
    for (i = 0; i < LINEARS; i++) see(context, &linears[i].bias, linears[i].out_features);
    for (group = 0; group < INPUTS; group++) {
        linear *first = &linears[group_first((input_group)group)];
        see(context, &first->input_scale, first->in_features);
        for (i = 1; i < group_count((input_group)group); i++)
            first[i].input_scale = first->input_scale;
    }
}

static void visit_all(encoder *e, visit *see, void *context)
{
    size_t i;

    see(context, &e->positions, e->room * e->dim);
    visit_norm(&e->embedding_norm, e->dim, see, context);
    for (i = 0; i < e->layers; i++) visit_layer(e, i, see, context);
}

static void count_floats(void *context, const float **vector, size_t count)
{
    (void)vector;
    *(size_t *)context += count;
}

static void set_vector(void *context, const float **vector, size_t count)
{
    float **next = context;
    *vector = *next;
    *next += count;
}

static void store_vector(void *context, const float **vector, size_t count)
{
    unsigned char **next = context;
    float one = 1.0f;
    size_t i;

    for (i = 0; i < count; i++) write_floats(*next + 4 * i, *vector ? *vector + i : &one, 1);
    *next += 4 * count;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_sizes(encoder *e, section numbers, section floats, failure *why)
{
    size_t *const sizes[NUMBERS] = { &e->dim, &e->ffn_dim, &e->heads, &e->layers, &e->vocabulary,
                                     &e->room };
    size_t i;

    if (numbers.size != 8 * NUMBERS || floats.size < 4)
        return fail(why, "not a model of this version; make it again");
    for (i = 0; i < NUMBERS; i++) *sizes[i] = (size_t)read_number(numbers.bytes + 8 * i);
    read_floats(floats.bytes, 1, &e->norm_epsilon);
    return encoder_open(e, why);
}

static bool read_vectors(packed_model *m, section floats, failure *why)
{
    size_t count = 0;
    float *next;

    visit_all(&m->e, count_floats, &count);
    if (floats.size != 4 * (count + 1))
        return fail(why, "%zu bytes of norms and biases instead of %zu", floats.size,
                    4 * (count + 1));
    m->floats = malloc(count * sizeof *m->floats);
    if (!m->floats) return fail(why, "out of memory");
    read_floats(floats.bytes + 4, count, m->floats);
    next = m->floats;
    visit_all(&m->e, set_vector, &next);
    return true;
}

static bool read_linear(linear *l, section s, failure *why)
{
    awq_where where;
    awq_status status = s.size ? awq_packed_open(&l->packed, s.bytes, s.size) : AWQ_ERR_FORMAT;

    if (status == AWQ_OK) status = awq_packed_check(&l->packed, &where);
    if (status != AWQ_OK) return fail(why, "%s: %s", l->name, awq_status_string(status));
    if (l->packed.out_features != l->out_features || l->packed.in_features != l->in_features)
        return fail(why, "%s is %zu x %zu, not %zu x %zu", l->name, l->packed.out_features,
                    l->packed.in_features, l->out_features, l->in_features);
    return true;
}

static bool read_linears(packed_model *m, failure *why)
{
    size_t i;

    if (!read_linear(&m->e.embedding, container_section(&m->file, 3), why)) return false;
    for (i = 0; i < m->e.layers * LINEARS; i++)
        if (!read_linear(&m->e.linears[i], container_section(&m->file, FIRST_LINEAR + i), why))
            return false;
    return true;
}

static bool read_model(packed_model *m, failure *why)
{
    section floats = container_section(&m->file, 1), words = container_section(&m->file, 2);

    return read_sizes(&m->e, container_section(&m->file, 0), floats, why)
           && read_vectors(m, floats, why)
           && wordpiece_open(&m->e.words, (const char *)words.bytes, words.size, why)
           && read_linears(m, why);
}

bool packed_model_open(packed_model *m, const void *bytes, size_t size, failure *why)
{
    memset(m, 0, sizeof *m);
    if (container_open(&m->file, bytes, size, CONTAINER_MODEL, why) && read_model(m, why))
        return true;
    packed_model_close(m);
    return false;
}

void packed_model_close(packed_model *m)
{
    encoder_close(&m->e);
    free(m->floats);
    memset(m, 0, sizeof *m);
}

/* ---- writing --------------------------------------------------------------------------------- */

static section make_floats(const encoder *e)
{
    encoder copy = *e;
    section s = { NULL, 0 };
    unsigned char *bytes, *next;
    size_t count = 1;

    visit_all(&copy, count_floats, &count);
    bytes = malloc(4 * count);
    if (!bytes) return s;
    write_floats(bytes, &e->norm_epsilon, 1);
    next = bytes + 4;
    visit_all(&copy, store_vector, &next);
    s.bytes = bytes;
    s.size = 4 * count;
    return s;
}

static section packed_section(const linear *l)
{
    section s = { l->packed.data, l->packed.size };
    return s;
}

/*  From the first word to the end of the last. */
static section words_section(const wordpiece *words)
{
    const wordpiece_entry *last = &words->pieces[words->count - 1];
    section s = { (const unsigned char *)words->text, last->offset + last->length };
    return s;
}

unsigned char *packed_model_make(const encoder *e, size_t *size, failure *why)
{
    const size_t sizes[NUMBERS] = { e->dim, e->ffn_dim, e->heads, e->layers, e->vocabulary,
                                    e->room };
    size_t linears = e->layers * LINEARS, i;
    section *sections = calloc(FIRST_LINEAR + linears, sizeof *sections);
    section floats = make_floats(e);
    unsigned char numbers[8 * NUMBERS], *bytes = NULL;

    if (sections && floats.bytes) {
        for (i = 0; i < NUMBERS; i++) write_number(numbers + 8 * i, sizes[i]);
        sections[0].bytes = numbers;
        sections[0].size = sizeof numbers;
        sections[1] = floats;
        sections[2] = words_section(&e->words);
        sections[3] = packed_section(&e->embedding);
        for (i = 0; i < linears; i++) sections[FIRST_LINEAR + i] = packed_section(&e->linears[i]);
        bytes = container_make(CONTAINER_MODEL, sections, FIRST_LINEAR + linears, size, why);
    } else {
        fail(why, "out of memory");
    }
    free((void *)(uintptr_t)floats.bytes);
    free(sections);
    return bytes;
}
