/*  layouts.c - other people's layouts to packed tensors and back, beside a copy of as much.     */
#include "measure.h"
#include "rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const shape square = { 4096, 4096 };

#define PACKED_HEADER 64

typedef struct layout_case {
    awq_kernels kernels;
    awq_layout layout;
    int exports;
} layout_case;

/*  Copies of both sides rotate together: the foreign planes, then the packed tensor.             */
typedef struct exchange {
    const layout_case *c;
    awq_quant quant;
    awq_foreign foreign;
    size_t scales_at, zeros_at, packed_at, packed_size, size;
    unsigned char *master;
} exchange;

static size_t on_a_page(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

static awq_foreign foreign_at(const exchange *e, unsigned char *bytes)
{
    awq_foreign f = e->foreign;
    f.weights.data = bytes;
    f.scales.data = bytes + e->scales_at;
    f.zeros.data = bytes + e->zeros_at;
    return f;
}

/*  Quantized weights, and the same in the foreign layout.                                        */
static void open_exchange(exchange *e, const layout_case *c)
{
    float *weight = random_normal(square.out_features * square.in_features, 1);
    awq_packed packed;
    awq_foreign f;

    memset(e, 0, sizeof *e);
    e->c = c;
    e->quant = quant_4bit();
    e->quant.scale_dtype = AWQ_F16;
    e->quant.symmetric = awq_layout_rules_of(c->layout).symmetric == 1;
    must(awq_foreign_init(&e->foreign, c->layout, e->quant, square.out_features,
                          square.in_features), "awq_foreign_init");
    e->scales_at = on_a_page(awq_plane_size(&e->foreign.weights));
    e->zeros_at = on_a_page(e->scales_at + awq_plane_size(&e->foreign.scales));
    e->packed_at = on_a_page(e->zeros_at + awq_plane_size(&e->foreign.zeros));
    e->packed_size = awq_packed_size(e->quant, square.out_features, square.in_features);
    e->size = e->packed_at + on_a_page(e->packed_size);
    e->master = memory(e->size);
    must(awq_packed_init(e->quant, square.out_features, square.in_features,
                         e->master + e->packed_at, e->packed_size), "awq_packed_init");
    must(awq_quantize_packed(&c->kernels, awq_matrix_view(weight, AWQ_F32, square.out_features,
                                                          square.in_features), NULL, NULL,
                             e->master + e->packed_at, e->packed_size, 0, square.out_features,
                             NULL), "awq_quantize_packed");
    must(awq_packed_open(&packed, e->master + e->packed_at, e->packed_size), "awq_packed_open");
    f = foreign_at(e, e->master);
    must(awq_export(&c->kernels, &packed, &f, 0, 0, square.out_features, NULL), "awq_export");
    free(weight);
}

/*  The rotated pages are the benchmark's own, and both sides of each copy already agree.         */
static void convert(void *arg, const unsigned char *copy, pool *p)
{
    const exchange *e = arg;
    unsigned char *bytes = (unsigned char *)(uintptr_t)copy;
    awq_foreign f = foreign_at(e, bytes);
    awq_packed packed;
    (void)p;
    if (e->c->exports) {
        must(awq_packed_open(&packed, bytes + e->packed_at, e->packed_size), "awq_packed_open");
        must(awq_export(&e->c->kernels, &packed, &f, 0, 0, square.out_features, NULL),
             "awq_export");
    } else
        must(awq_import(&e->c->kernels, &f, bytes + e->packed_at, e->packed_size, 0,
                        square.out_features, NULL), "awq_import");
}

/*  What is overwritten is converted again before it is read; only the header must stay.          */
static void copy_bytes(void *arg, const unsigned char *copy, pool *p)
{
    const exchange *e = arg;
    unsigned char *bytes = (unsigned char *)(uintptr_t)copy;
    unsigned char *payload = bytes + e->packed_at + PACKED_HEADER;
    size_t size = e->packed_size - PACKED_HEADER;
    if (size > e->packed_at) size = e->packed_at;
    (void)p;
    if (e->c->exports) memcpy(bytes, payload, size);
    else memcpy(payload, bytes, size);
}

static work work_of(exchange *e, void (*run)(void *arg, const unsigned char *copy, pool *p))
{
    work w;
    memset(&w, 0, sizeof w);
    w.run = run;
    w.arg = e;
    w.weights = rotation_of(e->master, e->size);
    w.weight_count = weight_count(square);
    w.tokens = 1;
    return w;
}

static void bench_layout(bench_state *state, const void *argument)
{
    pool *p = pool_open(1);
    exchange e;
    work converting, copying;
    measurement m;

    open_exchange(&e, argument);
    converting = work_of(&e, convert);
    copying = work_of(&e, copy_bytes);
    copying.weights.next = copying.weights.copies / 2; /* what the other has not just touched */
    m = measure_beside(p, &converting, &copying);
    bench_time(state, m.seconds);
    bench_value(state, "ms", 1e3 * m.seconds);
    bench_value(state, "GB/s", 1e-9 * (double)e.packed_size / m.seconds);
    bench_value(state, "of_copy", m.of_other);
    rotation_forget(e.master);
    free(e.master);
    pool_close(p);
}

void add_layouts(const awq_kernels *k)
{
    static const awq_layout layouts[] = { AWQ_GEMM, AWQ_GPTQ_V2, AWQ_MARLIN };
    char name[NAME_LENGTH];
    size_t i;
    for (i = 0; i < 2 * COUNT(layouts); i++) {
        layout_case c = { *k, layouts[i / 2], (int)(i % 2) };
        const char *theirs = awq_layout_rules_of(c.layout).name;
        snprintf(name, sizeof name, "convert/awq.h/%s->%s/4096x4096/g128/threads:1",
                 c.exports ? "rows16" : theirs, c.exports ? theirs : "rows16");
        bench_add(name, bench_layout, &c, sizeof c);
    }
}
