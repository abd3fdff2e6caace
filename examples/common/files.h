/*  files.h - what the examples need from files: a read-only mapping, and a writer that leaves either
    the whole file or no file. POSIX. Include it before any system header. */
#ifndef EXAMPLES_FILES_H
#define EXAMPLES_FILES_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/*  Three texts in one, to be freed; NULL: out of memory. */
static inline char *join(const char *first, const char *second, const char *third)
{
    size_t size = strlen(first) + strlen(second) + strlen(third) + 1;
    char *text = malloc(size);
    if (text) snprintf(text, size, "%s%s%s", first, second, third);
    return text;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct mapped_file {
    const unsigned char *bytes;
    size_t size;
} mapped_file;

static inline bool file_map_descriptor(mapped_file *file, int descriptor, const char *path,
                                       failure *why)
{
    struct stat status;
    void *bytes;

    if (fstat(descriptor, &status) != 0) return fail(why, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode)) return fail(why, "%s: not a regular file", path);
    if (status.st_size == 0) return fail(why, "%s: the file is empty", path);
    if ((uintmax_t)status.st_size > SIZE_MAX) return fail(why, "%s: too large to map", path);
    bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (bytes == MAP_FAILED) return fail(why, "%s: cannot map: %s", path, strerror(errno));
    file->bytes = bytes;
    file->size = (size_t)status.st_size;
    return true;
}

static inline bool file_map(mapped_file *file, const char *path, failure *why)
{
    int descriptor = open(path, O_RDONLY);
    bool mapped;

    memset(file, 0, sizeof *file);
    if (descriptor < 0) return fail(why, "%s: cannot open: %s", path, strerror(errno));
    mapped = file_map_descriptor(file, descriptor, path, why);
    close(descriptor);
    return mapped;
}

static inline void file_unmap(mapped_file *file)
{
    if (file->bytes) munmap((void *)(uintptr_t)file->bytes, file->size);
    memset(file, 0, sizeof *file);
}

/* ---- writing: to a temporary name beside the target, renamed when complete ------------------- */

typedef struct file_writer {
    FILE *stream;
    const char *path;
    char *temporary;
} file_writer;

static inline void file_write_abandon(file_writer *writer)
{
    if (writer->stream) fclose(writer->stream);
    if (writer->temporary) unlink(writer->temporary);
    free(writer->temporary);
    memset(writer, 0, sizeof *writer);
}

static inline bool file_write_fail(file_writer *writer, failure *why)
{
    fail(why, "%s: cannot write: %s", writer->path, strerror(errno));
    file_write_abandon(writer);
    return false;
}

static inline bool file_write_begin(file_writer *writer, const char *path, failure *why)
{
    size_t length = strlen(path) + 32;
    struct stat status;
    int descriptor;

    memset(writer, 0, sizeof *writer);
    writer->path = path;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return fail(why, "%s: is not a regular file, so it is not replaced", path);
    writer->temporary = malloc(length);
    if (!writer->temporary) return fail(why, "%s: out of memory", path);
    snprintf(writer->temporary, length, "%s.tmp.%ld", path, (long)getpid());
    descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (descriptor < 0) {
        fail(why, "%s: cannot create: %s", writer->temporary, strerror(errno));
        free(writer->temporary);
        writer->temporary = NULL;
        return false;
    }
    writer->stream = fdopen(descriptor, "wb");
    if (!writer->stream) {
        close(descriptor);
        return file_write_fail(writer, why);
    }
    return true;
}

static inline bool file_write(file_writer *writer, const void *bytes, size_t size, failure *why)
{
    if (size && fwrite(bytes, 1, size, writer->stream) != size) return file_write_fail(writer, why);
    return true;
}

/*  Only after this returns true does `path` exist, with all its bytes on the disk. */
static inline bool file_write_end(file_writer *writer, failure *why)
{
    if (fflush(writer->stream) != 0 || fsync(fileno(writer->stream)) != 0)
        return file_write_fail(writer, why);
    if (fclose(writer->stream) != 0) {
        writer->stream = NULL;
        return file_write_fail(writer, why);
    }
    writer->stream = NULL;
    if (rename(writer->temporary, writer->path) != 0) return file_write_fail(writer, why);
    free(writer->temporary);
    writer->temporary = NULL;
    return true;
}

static inline bool file_write_whole(const char *path, const void *bytes, size_t size, failure *why)
{
    file_writer writer;
    return file_write_begin(&writer, path, why) && file_write(&writer, bytes, size, why)
        && file_write_end(&writer, why);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/*  The most memory this process has held at once, in bytes; mapped files count while resident. */
static inline size_t peak_memory(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (size_t)usage.ru_maxrss;
#else
    return (size_t)usage.ru_maxrss * 1024;
#endif
}

#endif
