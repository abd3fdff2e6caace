/*  container.h - the one file that a model or an index is: numbered sections behind a checksum, to
    be mapped and used in place.

        bytes 0-7 "AWQSRCH1" | 8-15 size of everything | 16-23 checksum of all that follows
        | 24-31 kind | 32-39 number of sections | for each: 8 bytes offset, 8 bytes size
    Little-endian; sections begin at multiples of 64. */
#ifndef SEARCH_CONTAINER_H
#define SEARCH_CONTAINER_H

#include "../common/failure.h"

#include <stddef.h>
#include <stdint.h>

typedef enum container_kind { CONTAINER_MODEL = 1, CONTAINER_INDEX = 2 } container_kind;

typedef struct section {
    const unsigned char *bytes;
    size_t size;
} section;

typedef struct container {
    const unsigned char *bytes;
    size_t sections;
    uint64_t checksum;          /* also a name for what is in it */
} container;

/*  Checks everything, so that sections lie inside the bytes and are as they were written. */
bool container_open(container *c, const void *bytes, size_t size, container_kind kind,
                    failure *why);
/*  Empty if there is none of that number. */
section container_section(const container *c, size_t number);

/*  All bytes of a container, to be freed; NULL: out of memory. */
unsigned char *container_make(container_kind kind, const section *sections, size_t count,
                              size_t *size, failure *why);

/*  Numbers in sections. */
uint64_t read_number(const unsigned char *bytes);
void write_number(unsigned char *bytes, uint64_t number);
void read_floats(const unsigned char *bytes, size_t count, float *out);
void write_floats(unsigned char *bytes, const float *floats, size_t count);

#endif
