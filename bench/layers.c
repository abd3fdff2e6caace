#define _GNU_SOURCE 1 /* madvise */
#include "layers.h"

#include "common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const size_t checked_tokens[CHECKED_TOKENS] = { 0, 3, 15, 63, 511 };

awq_quant quant_4bit(void)
{
    awq_quant quant = { 4, GROUP_SIZE, 0, AWQ_F16 };
    return quant;
}

double weight_count(shape s) { return (double)s.out_features * (double)s.in_features; }

void must(awq_status status, const char *doing)
{
    if (status == AWQ_OK) return;
    fprintf(stderr, "bench: %s: %s\n", doing, awq_status_string(status));
    exit(1);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static void quantize(layer *l, const awq_kernels *k)
{
    shape s = l->shape;
    float *weight = random_normal(s.out_features * s.in_features, 1);
    awq_matrix w = awq_matrix_view(weight, AWQ_F32, s.out_features, s.in_features);
    size_t size = awq_packed_size(quant_4bit(), s.out_features, s.in_features);

    l->bytes = memory(size);
    must(awq_packed_init(quant_4bit(), s.out_features, s.in_features, l->bytes, size),
         "awq_packed_init");
    must(awq_quantize_packed(k, w, NULL, NULL, l->bytes, size, 0, s.out_features, NULL),
         "awq_quantize_packed");
    must(awq_packed_open(&l->packed, l->bytes, size), "awq_packed_open");
    free(weight);
}

static void dequantize(layer *l, const awq_kernels *k)
{
    shape s = l->shape;
    size_t size = awq_tensor_size(quant_4bit(), s.out_features, s.in_features);
    void *room = memory(size);
    awq_tensor tensor;

    l->dequantized = memory(s.out_features * s.in_features * sizeof *l->dequantized);
    must(awq_tensor_init(&tensor, quant_4bit(), s.out_features, s.in_features, room, size),
         "awq_tensor_init");
    must(awq_unpack(k, &l->packed, &tensor, 0, s.out_features), "awq_unpack");
    must(awq_dequantize(&tensor, NULL,
                        awq_matrix_view(l->dequantized, AWQ_F32, s.out_features, s.in_features), 0,
                        s.out_features), "awq_dequantize");
    free(room);
}

static void multiply_exactly(layer *l)
{
    shape s = l->shape;
    size_t t, r, i;
    l->exact = memory(CHECKED_TOKENS * s.out_features * sizeof *l->exact);
    for (r = 0; r < s.out_features; r++)
        for (t = 0; t < CHECKED_TOKENS; t++) {
            const float *x = l->x + checked_tokens[t] * s.in_features;
            const float *w = l->dequantized + r * s.in_features;
            double sum = 0;
            for (i = 0; i < s.in_features; i++) sum += (double)w[i] * (double)x[i];
            l->exact[t * s.out_features + r] = sum;
        }
}

const layer *layer_of(shape s)
{
    static layer layers[32];
    static size_t count;
    const awq_kernels k = awq_kernels_best();
    layer *l = layers;

    for (; l < layers + count; l++)
        if (l->shape.out_features == s.out_features && l->shape.in_features == s.in_features)
            return l;
    if (count++ == COUNT(layers)) {
        fprintf(stderr, "bench: more than %zu shapes: enlarge layers[]\n", COUNT(layers));
        exit(1);
    }
    l->shape = s;
    l->x = random_normal(TOKENS_MAX * s.in_features, 2);
    quantize(l, &k);
    dequantize(l, &k);
    multiply_exactly(l);
    return l;
}

void layer_errors(const layer *l, const float *y, size_t tokens, double *largest, double *rms)
{
    size_t rows = l->shape.out_features, t, r;
    double worst = 0, error = 0, power = 0, count = 0;

    for (t = 0; t < CHECKED_TOKENS && checked_tokens[t] < tokens; t++)
        for (r = 0; r < rows; r++, count++) {
            double exact = l->exact[t * rows + r];
            double d = fabs((double)y[checked_tokens[t] * rows + r] - exact);
            if (!(d <= worst)) worst = d;
            error += d * d;
            power += exact * exact;
        }
    *largest = worst / sqrt(power / count);
    *rms = sqrt(error / power);
}

/* ---- rotation -------------------------------------------------------------------------------- */

static size_t largest_cache(void)
{
    size_t largest = 0, kib;
    char path[80], unit;
    int index;
    for (index = 0; index < 8; index++) {
        FILE *file;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if ((file = fopen(path, "r")) == NULL) break;
        if (fscanf(file, "%zu%c", &kib, &unit) == 2 && unit == 'K' && kib << 10 > largest)
            largest = kib << 10;
        fclose(file);
    }
    return largest;
}

/*  More than twice the largest cache, at least 320 MiB, at most a quarter of the memory.         */
size_t rotation_size(void)
{
    const size_t least = (size_t)320 << 20, page = (size_t)2 << 20;
    size_t size = 2 * largest_cache() + ((size_t)32 << 20);
    size_t most = (size_t)sysconf(_SC_PHYS_PAGES) / 4 * (size_t)sysconf(_SC_PAGESIZE);
    if (size < least) size = least;
    if (size > most) size = most;
    return size / page * page;
}

static int huge_pages(void)
{
    const char *pages = getenv("BENCH_PAGES");
    return pages && strcmp(pages, "2M") == 0;
}

const char *rotation_pages(void) { return huge_pages() ? "2 MiB (asked for)" : "4 KiB"; }

static unsigned char *pages_of(size_t size)
{
    void *pages;
    if (posix_memalign(&pages, (size_t)2 << 20, size) != 0) {
        fprintf(stderr, "bench: out of memory (%zu bytes)\n", size);
        exit(1);
    }
#ifdef MADV_HUGEPAGE
    if (madvise(pages, size, huge_pages() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) != 0 && huge_pages()) {
        fprintf(stderr, "bench: the kernel gives no 2 MiB pages: unset BENCH_PAGES\n");
        exit(1);
    }
#endif
    return pages;
}

static const void *held; /* the master whose copies the buffer has */

void rotation_forget(const void *master)
{
    if (held == master) held = NULL;
}

rotation rotation_of(const void *master, size_t size)
{
    static unsigned char *pages;
    size_t stride = (size + 63) / 64 * 64, room = rotation_size(), i;
    rotation r = { NULL, stride, 1, 0 };

    if (room < stride) {
        fprintf(stderr, "bench: a layer of %zu bytes does not fit a quarter of the memory\n", size);
        exit(1);
    }
    if (!pages) pages = pages_of(room);
    r.bytes = pages;
    r.copies = room / stride;
    for (i = 0; held != master && i < r.copies; i++) memcpy(pages + i * stride, master, size);
    held = master;
    return r;
}

rotation rotation_in_place(const void *bytes, size_t size)
{
    rotation r = { NULL, size, 1, 0 };
    r.bytes = bytes;
    return r;
}

const unsigned char *rotation_next(rotation *r)
{
    const unsigned char *copy = r->bytes + r->next * r->size;
    r->next = (r->next + 1) % r->copies;
    return copy;
}
