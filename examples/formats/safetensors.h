/*  safetensors.h - reads safetensors files without trusting them, and writes them in place.

    safetensors_open() checks the whole header: its length, the JSON, dtypes, shapes, and that the
    tensors fill the file without holes or overlaps. After it succeeds, no tensor's data lies
    outside the file. Little-endian, data unaligned. Needs jansson. */
#ifndef FORMATS_SAFETENSORS_H
#define FORMATS_SAFETENSORS_H

#include "json.h"

#define SAFETENSORS_MAX_RANK 8

/*  name in the file, bits of an element. */
#define SAFETENSORS_DTYPES(X)                                                                      \
    X(BOOL, 8) X(U8, 8) X(I8, 8) X(F8_E5M2, 8) X(F8_E4M3, 8) X(F8_E8M0, 8) X(U16, 16) X(I16, 16)   \
    X(F16, 16) X(BF16, 16) X(U32, 32) X(I32, 32) X(F32, 32) X(U64, 64) X(I64, 64) X(F64, 64)       \
    X(C64, 64) X(F4, 4) X(F6_E2M3, 6) X(F6_E3M2, 6)

typedef enum safetensors_dtype {
#define SAFETENSORS_ENUM(name, bits) SAFETENSORS_##name,
    SAFETENSORS_DTYPES(SAFETENSORS_ENUM)
#undef SAFETENSORS_ENUM
    SAFETENSORS_DTYPE_COUNT
} safetensors_dtype;

typedef struct safetensors_tensor {
    const char *name;                       /* UTF-8, terminated */
    safetensors_dtype dtype;
    size_t rank;                            /* 0: a single number */
    size_t shape[SAFETENSORS_MAX_RANK];     /* outermost first */
    unsigned char *data;                    /* read-only in a file that was opened */
    size_t size;                            /* bytes at data */
} safetensors_tensor;

const char *safetensors_dtype_name(safetensors_dtype dtype);


/*  "F16 [576, 64]", for messages and lists. */
typedef struct safetensors_shown { char text[192]; } safetensors_shown;
safetensors_shown safetensors_show(const safetensors_tensor *tensor);

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct safetensors_file {
    mapped_file file;                       /* nothing if it was read from memory */
    json_t *header;
    safetensors_tensor *tensors;            /* sorted by name */
    size_t count;
} safetensors_file;

bool safetensors_open(safetensors_file *file, const char *path, failure *why);
/*  The same from memory that stays the caller's; `name` is for messages. */
bool safetensors_read(safetensors_file *file, const void *bytes, size_t size, const char *name,
                      failure *why);
void safetensors_close(safetensors_file *file);

/*  NULL if there is none of that name. */
const safetensors_tensor *safetensors_find(const safetensors_file *file, const char *name);

/* ---- writing --------------------------------------------------------------------------------- */

/*  A tensor to write: size is computed, data comes from safetensors_write_begin(). Its rank is 1 or
    2; rank 1 takes only `rows`. */
safetensors_tensor safetensors_describe(const char *name, safetensors_dtype dtype, size_t rank,
                                        size_t rows, size_t columns);

/*  The file under its temporary name, mapped, so that tensors are made where they will lie. */
typedef struct safetensors_writer {
    char *path, *temporary;
    unsigned char *bytes;
    size_t size;
    int descriptor;
} safetensors_writer;

/*  Writes the header ({"__metadata__": {"format": "pt"}}), reserves the disk space and sets data of
    every tensor: zero bytes, aligned for its dtype. */
bool safetensors_write_begin(safetensors_writer *writer, const char *path,
                             safetensors_tensor *tensors, size_t count, failure *why);
/*  Only after this returns true does `path` exist, with all its bytes on the disk. */
bool safetensors_write_end(safetensors_writer *writer, failure *why);
/*  Leaves nothing; also fine after a failed begin or end. */
void safetensors_write_abandon(safetensors_writer *writer);

#endif
