/*  container.c - see container.h. */
#include "container.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD = 40, ENTRY = 16, ALIGNMENT = 64, CHECKED_FROM = 24 };

static const char magic[8] = { 'A', 'W', 'Q', 'S', 'R', 'C', 'H', '1' };

/* ---- numbers --------------------------------------------------------------------------------- */

uint64_t read_number(const unsigned char *bytes)
{
    uint64_t number = 0;
    int i;
    for (i = 7; i >= 0; i--) number = number << 8 | bytes[i];
    return number;
}

void write_number(unsigned char *bytes, uint64_t number)
{
    int i;
    for (i = 0; i < 8; i++) bytes[i] = (unsigned char)(number >> 8 * i);
}

void read_floats(const unsigned char *bytes, size_t count, float *out)
{
    size_t i;
    for (i = 0; i < count; i++, bytes += 4) {
        uint32_t bits = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16
                        | (uint32_t)bytes[3] << 24;
        memcpy(&out[i], &bits, 4);
    }
}

void write_floats(unsigned char *bytes, const float *floats, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++, bytes += 4) {
        uint32_t bits;
        memcpy(&bits, &floats[i], 4);
        bytes[0] = (unsigned char)bits;
        bytes[1] = (unsigned char)(bits >> 8);
        bytes[2] = (unsigned char)(bits >> 16);
        bytes[3] = (unsigned char)(bits >> 24);
    }
}

/*  Each step is one to one, so that no change within one word goes unseen. */
static uint64_t checksum(const unsigned char *bytes, size_t size)
{
    uint64_t sum = size;
    size_t i;

    for (i = 0; i + 8 <= size; i += 8) {
        sum = (sum ^ read_number(bytes + i)) * 0x9e3779b97f4a7c15u;
        sum ^= sum >> 32;
    }
    for (; i < size; i++) sum = (sum ^ bytes[i]) * 0x9e3779b97f4a7c15u;
    return sum ^ sum >> 32;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool check_sections(const unsigned char *bytes, uint64_t size, uint64_t sections)
{
    uint64_t i, offset, length;

    if (sections > (size - HEAD) / ENTRY) return false;
    for (i = 0; i < sections; i++) {
        offset = read_number(bytes + HEAD + i * ENTRY);
        length = read_number(bytes + HEAD + i * ENTRY + 8);
        if (offset % ALIGNMENT || offset > size || length > size - offset) return false;
    }
    return true;
}

bool container_open(container *c, const void *bytes, size_t size, container_kind kind, failure *why)
{
    const char *wanted = kind == CONTAINER_MODEL ? "a quantized model" : "an index";

    c->bytes = bytes;
    c->sections = 0;
    if (size < HEAD || memcmp(bytes, magic, sizeof magic) != 0
        || read_number(c->bytes + 24) != (uint64_t)kind)
        return fail(why, "not %s written by this program", wanted);
    if (read_number(c->bytes + 8) != size)
        return fail(why, "truncated: %zu of %llu bytes; make it again", size,
                    (unsigned long long)read_number(c->bytes + 8));
    c->checksum = read_number(c->bytes + 16);
    if (checksum(c->bytes + CHECKED_FROM, size - CHECKED_FROM) != c->checksum
        || !check_sections(c->bytes, size, read_number(c->bytes + 32)))
        return fail(why, "corrupt: its checksum is wrong; make it again");
    c->sections = (size_t)read_number(c->bytes + 32);
    return true;
}

section container_section(const container *c, size_t number)
{
    section s = { NULL, 0 };

    if (number >= c->sections) return s;
    s.bytes = c->bytes + read_number(c->bytes + HEAD + number * ENTRY);
    s.size = (size_t)read_number(c->bytes + HEAD + number * ENTRY + 8);
    return s;
}

/* ---- writing --------------------------------------------------------------------------------- */

static size_t aligned(size_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

unsigned char *container_make(container_kind kind, const section *sections, size_t count,
                              size_t *size, failure *why)
{
    size_t at = aligned(HEAD + count * ENTRY), i;
    unsigned char *bytes;

    *size = at;
    for (i = 0; i < count; i++) *size += aligned(sections[i].size);
    bytes = calloc(1, *size);
    if (!bytes) {
        fail(why, "out of memory for a file of %zu bytes", *size);
        return NULL;
    }
    memcpy(bytes, magic, sizeof magic);
    write_number(bytes + 8, *size);
    write_number(bytes + 24, (uint64_t)kind);
    write_number(bytes + 32, count);
    for (i = 0; i < count; i++) {
        write_number(bytes + HEAD + i * ENTRY, at);
        write_number(bytes + HEAD + i * ENTRY + 8, sections[i].size);
        if (sections[i].size) memcpy(bytes + at, sections[i].bytes, sections[i].size);
        at += aligned(sections[i].size);
    }
    write_number(bytes + 16, checksum(bytes + CHECKED_FROM, *size - CHECKED_FROM));
    return bytes;
}
