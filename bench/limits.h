/*  limits.h - what no kernel can exceed: loops that only read, and loops that only multiply.     */
#ifndef BENCH_LIMITS_H
#define BENCH_LIMITS_H

#include <stddef.h>
#include <stdint.h>

/*  Reads every byte once, in some number of streams, with or without software prefetch.          */
typedef struct reader {
    const char *name;
    uint64_t (*read)(const unsigned char *bytes, size_t size);
} reader;

/*  Independent multiply-adds in registers: ops_per_step operations (a multiplication and an
    addition count as two) in each of the steps.                                                  */
typedef enum peak_kind { PEAK_INT8, PEAK_FP32 } peak_kind;
typedef struct peak {
    const char *name;
    peak_kind kind;
    double ops_per_step;
    uint64_t (*run)(size_t steps);
} peak;

#define READERS_MAX 32
#define PEAKS_MAX   8

/*  Those that this processor runs.                                                               */
size_t limit_readers(reader *out);
size_t limit_peaks(peak_kind kind, peak *out);

#endif
