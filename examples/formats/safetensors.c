/*  safetensors.c - see safetensors.h. Every number that comes from the file is checked before it is
    used. */
#include "safetensors.h"

/*  The format's own limit. */
#define HEADER_LIMIT 100000000u

/* ---- dtypes ---------------------------------------------------------------------------------- */

static const struct { const char *name; size_t bits; } dtypes[] = {
#define DTYPE_ROW(name, bits) { #name, bits },
    SAFETENSORS_DTYPES(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *safetensors_dtype_name(safetensors_dtype dtype)
{
    return dtypes[dtype].name;
}

static bool find_dtype(const char *name, safetensors_dtype *out)
{
    int i;
    for (i = 0; i < SAFETENSORS_DTYPE_COUNT; i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            *out = (safetensors_dtype)i;
            return true;
        }
    return false;
}

safetensors_shown safetensors_show(const safetensors_tensor *tensor)
{
    safetensors_shown shown;
    size_t i, used;

    used = (size_t)snprintf(shown.text, sizeof shown.text, "%s [", dtypes[tensor->dtype].name);
    for (i = 0; i < tensor->rank; i++)
        used += (size_t)snprintf(shown.text + used, sizeof shown.text - used, "%s%zu",
                                 i ? ", " : "", tensor->shape[i]);
    snprintf(shown.text + used, sizeof shown.text - used, "]");
    return shown;
}

/*  Sets size from dtype and shape; false if that overflows or ends inside a byte. */
static bool measure(safetensors_tensor *tensor)
{
    size_t bits = dtypes[tensor->dtype].bits, i;

    tensor->size = 1;
    for (i = 0; i < tensor->rank; i++) {
        size_t dim = tensor->shape[i];
        if (dim && tensor->size > SIZE_MAX / 64 / dim) return false;
        tensor->size *= dim ? dim : 1;
    }
    for (i = 0; i < tensor->rank; i++)
        if (tensor->shape[i] == 0) tensor->size = 0;
    if (tensor->size * bits % 8 != 0) return false;
    tensor->size = tensor->size * bits / 8;
    return true;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct reader {
    const unsigned char *data;  /* where the tensors begin */
    size_t data_size;
    const char *name;           /* of the file */
    failure *why;
} reader;

static bool refuse(const reader *in, const char *tensor, const char *what)
{
    return fail(in->why, "%s: tensor \"%s\" %s", in->name, json_show(tensor).text, what);
}

static bool read_shape(const reader *in, const json_t *shape, safetensors_tensor *tensor)
{
    size_t i;

    if (!json_is_array(shape)) return refuse(in, tensor->name, "has no shape");
    tensor->rank = json_array_size(shape);
    if (tensor->rank > SAFETENSORS_MAX_RANK)
        return refuse(in, tensor->name, "has more than 8 dimensions");
    for (i = 0; i < tensor->rank; i++)
        if (!json_get_size(json_array_get(shape, i), &tensor->shape[i]))
            return refuse(in, tensor->name, "has a dimension that is no size");
    return measure(tensor) || refuse(in, tensor->name, "has an impossible shape");
}

static bool read_offsets(const reader *in, const json_t *offsets, safetensors_tensor *tensor)
{
    size_t begin, end;

    if (json_array_size(offsets) != 2 || !json_get_size(json_array_get(offsets, 0), &begin)
        || !json_get_size(json_array_get(offsets, 1), &end))
        return refuse(in, tensor->name, "has no data_offsets of two sizes");
    if (begin > end || end > in->data_size)
        return refuse(in, tensor->name, "reaches beyond the end of the file: truncated or corrupt");
    if (end - begin != tensor->size)
        return fail(in->why, "%s: tensor \"%s\" is %s of %zu bytes, but the file gives it %zu",
                    in->name, json_show(tensor->name).text, safetensors_show(tensor).text,
                    tensor->size, end - begin);
    tensor->data = (unsigned char *)(uintptr_t)in->data + begin;
    return true;
}

static bool read_tensor(const reader *in, const json_t *entry, safetensors_tensor *tensor)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));

    if (!json_is_object(entry)) return refuse(in, tensor->name, "is not described by an object");
    if (!dtype) return refuse(in, tensor->name, "has no dtype");
    if (!find_dtype(dtype, &tensor->dtype))
        return fail(in->why, "%s: tensor \"%s\" has dtype \"%s\", which this program does not know",
                    in->name, json_show(tensor->name).text, json_show(dtype).text);
    return read_shape(in, json_object_get(entry, "shape"), tensor)
           && read_offsets(in, json_object_get(entry, "data_offsets"), tensor);
}

static bool check_metadata(const reader *in, json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        return fail(in->why, "%s: __metadata__ is not an object", in->name);
    json_object_foreach(metadata, key, value)
        if (!json_is_string(value))
            return fail(in->why, "%s: __metadata__ \"%s\" is not a string", in->name,
                        json_show(key).text);
    return true;
}

static bool read_tensors(const reader *in, safetensors_file *file)
{
    const char *key;
    json_t *value;

    file->tensors = calloc(json_object_size(file->header) + 1, sizeof *file->tensors);
    if (!file->tensors) return fail(in->why, "%s: out of memory", in->name);
    json_object_foreach(file->header, key, value) {
        if (strcmp(key, "__metadata__") == 0) {
            if (!check_metadata(in, value)) return false;
        } else {
            file->tensors[file->count].name = key;
            if (!read_tensor(in, value, &file->tensors[file->count++])) return false;
        }
    }
    return true;
}

static int compare_places(const void *a, const void *b)
{
    const safetensors_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const safetensors_tensor *)a)->name, ((const safetensors_tensor *)b)->name);
}

/*  The format allows neither overlaps nor holes, so the tensors follow one another to the end. */
static bool check_places(const reader *in, safetensors_file *file)
{
    const unsigned char *at = in->data;
    size_t i;

    qsort(file->tensors, file->count, sizeof *file->tensors, compare_places);
    for (i = 0; i < file->count; i++) {
        const safetensors_tensor *tensor = &file->tensors[i];
        if (tensor->data < at) return refuse(in, tensor->name, "overlaps another one");
        if (tensor->data > at) return refuse(in, tensor->name, "begins after bytes of no tensor");
        at += tensor->size;
    }
    if ((size_t)(at - in->data) != in->data_size)
        return fail(in->why, "%s: %zu bytes after the last tensor belong to none: corrupt",
                    in->name, in->data_size - (size_t)(at - in->data));
    qsort(file->tensors, file->count, sizeof *file->tensors, compare_names);
    return true;
}

static bool read_header(safetensors_file *file, const unsigned char *bytes, size_t size,
                        const char *name, failure *why)
{
    reader in = { NULL, 0, NULL, NULL };
    uint64_t length = 0;
    size_t i;

    if (size < 8) return fail(why, "%s: truncated safetensors: %zu bytes", name, size);
    for (i = 0; i < 8; i++) length |= (uint64_t)bytes[i] << (8 * i);
    if (length > size - 8 || length > HEADER_LIMIT)
        return fail(why, "%s: not safetensors, or truncated: a header of %llu bytes in a file of "
                    "%zu", name, (unsigned long long)length, size);
    if (length == 0 || bytes[8] != '{')
        return fail(why, "%s: not safetensors: its header does not begin with {", name);
    file->header = json_read(bytes + 8, (size_t)length, name, why);
    if (!file->header) return false;
    in.data = bytes + 8 + length;
    in.data_size = size - 8 - (size_t)length;
    in.name = name;
    in.why = why;
    return read_tensors(&in, file) && check_places(&in, file);
}

bool safetensors_read(safetensors_file *file, const void *bytes, size_t size, const char *name,
                      failure *why)
{
    memset(file, 0, sizeof *file);
    if (read_header(file, bytes, size, name, why)) return true;
    safetensors_close(file);
    return false;
}

bool safetensors_open(safetensors_file *file, const char *path, failure *why)
{
    mapped_file map;

    memset(file, 0, sizeof *file);
    if (!file_map(&map, path, why)) return false;
    if (!safetensors_read(file, map.bytes, map.size, path, why)) {
        file_unmap(&map);
        return false;
    }
    file->file = map;
    return true;
}

void safetensors_close(safetensors_file *file)
{
    free(file->tensors);
    json_decref(file->header);
    file_unmap(&file->file);
    memset(file, 0, sizeof *file);
}

const safetensors_tensor *safetensors_find(const safetensors_file *file, const char *name)
{
    safetensors_tensor wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.name = name;
    return bsearch(&wanted, file->tensors, file->count, sizeof wanted, compare_names);
}

/* ---- writing --------------------------------------------------------------------------------- */

safetensors_tensor safetensors_describe(const char *name, safetensors_dtype dtype, size_t rank,
                                        size_t rows, size_t columns)
{
    safetensors_tensor tensor;

    memset(&tensor, 0, sizeof tensor);
    tensor.name = name;
    tensor.dtype = dtype;
    tensor.rank = rank;
    tensor.shape[0] = rows;
    if (rank > 1) tensor.shape[1] = columns;
    if (!measure(&tensor)) tensor.size = SIZE_MAX;      /* which no writer takes */
    return tensor;
}

/*  The order in the file: wide elements first, so that every tensor is aligned for its own. */
static safetensors_tensor **order_of(safetensors_tensor *tensors, size_t count)
{
    safetensors_tensor **order = malloc((count + 1) * sizeof *order);
    size_t used = 0, bits, i;

    if (!order) return NULL;
    for (bits = 64; bits; bits--)
        for (i = 0; i < count; i++)
            if (dtypes[tensors[i].dtype].bits == bits) order[used++] = &tensors[i];
    return order;
}

static bool add_entry(json_t *header, const safetensors_tensor *tensor, size_t offset)
{
    json_t *shape = json_array(), *entry;
    size_t i;

    for (i = 0; i < tensor->rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtypes[tensor->dtype].name, "shape", shape,
                      "data_offsets", (json_int_t)offset, (json_int_t)(offset + tensor->size));
    return json_object_set_new(header, tensor->name, entry) == 0;
}

static bool add_entries(json_t *header, safetensors_tensor **order, size_t count,
                        size_t *data_size, const char *path, failure *why)
{
    size_t i;

    *data_size = 0;
    for (i = 0; i < count; i++) {
        const char *name = order[i]->name;
        if (!measure(order[i]) || order[i]->size > SIZE_MAX / 4 - *data_size)
            return fail(why, "%s: tensor \"%s\" has an impossible shape", path, name);
        if (json_object_get(header, name))
            return fail(why, "%s: tensor \"%s\" is there twice", path, json_show(name).text);
        if (!add_entry(header, order[i], *data_size))
            return fail(why, "%s: \"%s\" is no name of a tensor, or out of memory", path,
                        json_show(name).text);
        *data_size += order[i]->size;
    }
    return true;
}

/*  The JSON text, filled up with blanks to a multiple of 8; the caller frees it. */
static char *make_header(safetensors_tensor **order, size_t count, size_t *data_size,
                         const char *path, failure *why)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    char *text = NULL, *padded = NULL;
    size_t length;

    if (header && add_entries(header, order, count, data_size, path, why)) {
        text = json_dumps(header, JSON_COMPACT);
        length = text ? strlen(text) : 0;
        padded = text ? realloc(text, length + 8) : NULL;
        if (padded) {
            memset(padded + length, ' ', 7);
            padded[(length + 7) / 8 * 8] = '\0';
        } else {
            free(text);
            fail(why, "%s: out of memory", path);
        }
    }
    json_decref(header);
    return padded;
}

static bool write_failed(const safetensors_writer *writer, int error, failure *why)
{
    return fail(why, "%s: cannot write: %s", writer->path, strerror(error));
}

/*  A full disk is to be an error now, not a signal when a page of the map is first written. */
static int reserve(int descriptor, size_t size)
{
#ifdef __APPLE__
    return ftruncate(descriptor, (off_t)size) == 0 ? 0 : errno;
#else
    return posix_fallocate(descriptor, 0, (off_t)size);
#endif
}

static bool create(safetensors_writer *writer, const char *path, failure *why)
{
    size_t length = strlen(path) + 32;
    struct stat status;

    memset(writer, 0, sizeof *writer);
    writer->descriptor = -1;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return fail(why, "%s: is not a regular file, so it is not replaced", path);
    writer->path = strdup(path);
    writer->temporary = malloc(length);
    if (!writer->path || !writer->temporary) return fail(why, "%s: out of memory", path);
    snprintf(writer->temporary, length, "%s.tmp.%ld", path, (long)getpid());
    writer->descriptor = open(writer->temporary, O_RDWR | O_CREAT | O_TRUNC, 0666);
    return writer->descriptor >= 0 || write_failed(writer, errno, why);
}

static bool map(safetensors_writer *writer, size_t size, failure *why)
{
    void *bytes;
    int error = reserve(writer->descriptor, size);

    if (error) return write_failed(writer, error, why);
    bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, writer->descriptor, 0);
    if (bytes == MAP_FAILED) return write_failed(writer, errno, why);
    writer->bytes = bytes;
    writer->size = size;
    return true;
}

static bool begin(safetensors_writer *writer, safetensors_tensor **order, size_t count,
                  failure *why)
{
    size_t data_size, length, i;
    char *header = make_header(order, count, &data_size, writer->path, why);
    unsigned char *at;

    if (!header) return false;
    length = strlen(header);
    if (!map(writer, 8 + length + data_size, why)) {
        free(header);
        return false;
    }
    for (i = 0; i < 8; i++) writer->bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(writer->bytes + 8, header, length);
    free(header);
    at = writer->bytes + 8 + length;
    for (i = 0; i < count; i++) {
        order[i]->data = at;
        at += order[i]->size;
    }
    return true;
}

bool safetensors_write_begin(safetensors_writer *writer, const char *path,
                             safetensors_tensor *tensors, size_t count, failure *why)
{
    safetensors_tensor **order = NULL;
    bool begun = false;

    if (create(writer, path, why)) {
        order = order_of(tensors, count);
        begun = order ? begin(writer, order, count, why) : fail(why, "%s: out of memory", path);
    }
    free(order);
    if (!begun) safetensors_write_abandon(writer);
    return begun;
}

static bool finish(safetensors_writer *writer)
{
    return msync(writer->bytes, writer->size, MS_SYNC) == 0 && fsync(writer->descriptor) == 0
           && rename(writer->temporary, writer->path) == 0;
}

bool safetensors_write_end(safetensors_writer *writer, failure *why)
{
    bool finished = finish(writer) || write_failed(writer, errno, why);

    if (finished) {
        free(writer->temporary);
        writer->temporary = NULL;
    }
    safetensors_write_abandon(writer);
    return finished;
}

void safetensors_write_abandon(safetensors_writer *writer)
{
    if (writer->bytes) munmap(writer->bytes, writer->size);
    if (writer->path && writer->descriptor >= 0) close(writer->descriptor);
    if (writer->temporary) unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    memset(writer, 0, sizeof *writer);
}
