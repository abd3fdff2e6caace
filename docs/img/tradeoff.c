/*  tradeoff.c - draws tradeoff.svg: what scaling the salient channels does to the output error.

        cc -O3 -I. docs/img/tradeoff.c -o /tmp/tradeoff -lm
        /tmp/tradeoff examples/data/layer.bin > docs/img/tradeoff.svg                             */
#define AWQ_IMPLEMENTATION
#include "awq.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POINTS 13               /* factors 2^(i/8): 1 to 2.83                                     */
#define LEFT 70.0               /* the plot, in pixels                                            */
#define RIGHT 590.0
#define TOP 78.0
#define BOTTOM 330.0
#define Y_MAX 0.020

typedef struct layer { awq_matrix weight, x; } layer;       /* fp16, calibration rows             */
typedef struct errors { double salient, others, total; } errors;

static int layer_load(layer *l, const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t shape[4];          /* see examples/data/README.md */
    char magic[8];
    uint16_t *data = NULL;
    size_t halves = 0;
    if (file && fread(magic, 1, 8, file) == 8 && memcmp(magic, "AWQLAYR1", 8) == 0 &&
        fread(shape, 4, 4, file) == 4) {
        halves = ((size_t)shape[0] + shape[2]) * shape[1] + shape[0];
        data = malloc(halves * 2);
    }
    if (!data || fread(data, 2, halves, file) != halves) {
        fprintf(stderr, "%s: not a layer, or truncated\n", path);
        return 0;
    }
    fclose(file);
    l->weight = awq_matrix_view(data, AWQ_F16, shape[0], shape[1]);
    l->x = awq_matrix_view(data + (size_t)shape[0] * shape[1] + shape[0], AWQ_F16, shape[2],
                           shape[1]);
    return 1;
}

/*  Marks the tenth of the channels that are largest on average. */
static void find_salient(const float *mean, size_t n, unsigned char *salient) {
    size_t c, count, best;
    for (count = 0; count < n / 10; count++) {
        for (best = n, c = 0; c < n; c++)
            if (!salient[c] && (best == n || mean[c] > mean[best])) best = c;
        salient[best] = 1;
    }
}

/*  to = from in the columns whose mark is `mark`. */
static void copy_columns(const float *from, float *to, size_t rows, size_t cols,
                         const unsigned char *salient, int mark) {
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < cols; c++)
            if (salient[c] == mark) to[r * cols + c] = from[r * cols + c];
}

static double measure(const layer *l, const float *approximation, void *scratch, size_t size) {
    awq_kernels k = awq_kernels_best();
    awq_matrix what =
        awq_matrix_view(approximation, AWQ_F32, l->weight.rows, l->weight.cols);
    awq_inputs inputs;
    double error = HUGE_VAL;
    memset(&inputs, 0, sizeof inputs);
    inputs.loss = AWQ_LOSS_ROWS;
    inputs.rows = l->x;
    awq_output_error(&k, &inputs, l->weight, what, scratch, size, NULL, &error, NULL);
    return error;
}

/*  Errors relative to the mean square output, for each factor. */
static int measure_all(const layer *l, errors *out) {
    awq_kernels k = awq_kernels_best();
    awq_quant quant = { 4, 128, 0, AWQ_F16 };
    size_t rows = l->weight.rows, in = l->weight.cols, c, size, stats_size;
    awq_inputs inputs;
    awq_stats stats;
    int i;

    memset(&inputs, 0, sizeof inputs);
    inputs.rows = l->x;
    size = awq_search_scratch_size(&inputs, &l->weight, 1, NULL);
    stats_size = awq_stats_size(in, 0, 0);
    float *exact = malloc(rows * in * 4), *rounded = malloc(rows * in * 4),
          *part = malloc(rows * in * 4), *scale = malloc(in * 4), *mean = malloc(in * 4);
    unsigned char *salient = calloc(in, 1);
    void *scratch = malloc(size), *memory = malloc(stats_size);
    if (!exact || !rounded || !part || !scale || !mean || !salient || !scratch || !memory) return 0;

    awq_stats_init(&stats, in, 0, 0, 0, memory, stats_size);
    awq_stats_add(&k, &stats, l->x, NULL, NULL, NULL);
    awq_stats_get(&stats, AWQ_ABS_MEAN, mean);
    find_salient(mean, in, salient);
    for (c = 0; c < in; c++) scale[c] = 1;
    awq_convert(l->weight, awq_matrix_view(exact, AWQ_F32, rows, in));

    double power = measure(l, NULL, scratch, size);
    for (i = 0; i < POINTS; i++) {
        for (c = 0; c < in; c++) scale[c] = salient[c] ? (float)pow(2, i / 8.0) : 1;
        awq_fake_quantize(&k, quant, l->weight, scale, NULL,
                          awq_matrix_view(rounded, AWQ_F32, rows, in), 0, rows, NULL);
        out[i].total = measure(l, rounded, scratch, size) / power;
        memcpy(part, exact, rows * in * 4);
        copy_columns(rounded, part, rows, in, salient, 1);
        out[i].salient = measure(l, part, scratch, size) / power;
        memcpy(part, exact, rows * in * 4);
        copy_columns(rounded, part, rows, in, salient, 0);
        out[i].others = measure(l, part, scratch, size) / power;
        fprintf(stderr, "s = %.3f   salient %.3e   others %.3e   together %.3e\n", pow(2, i / 8.0),
                out[i].salient, out[i].others, out[i].total);
    }
    return 1;
}

static double x_at(int i) { return LEFT + (RIGHT - LEFT) * i / (POINTS - 1); }
static double y_at(double v) { return BOTTOM - (BOTTOM - TOP) * v / Y_MAX; }

static void draw_curve(const char *name, const char *kind, const double *values, double label_y) {
    int i;
    printf("<polyline class=\"line %s\" points=\"", kind);
    for (i = 0; i < POINTS; i++) printf("%.1f,%.1f ", x_at(i), y_at(values[i]));
    printf("\"/>\n<text class=\"name %s\" x=\"%.0f\" y=\"%.1f\">%s</text>\n", kind, RIGHT + 12,
           label_y, name);
}

static void draw_axes(void) {
    int i;
    for (i = 0; i <= 4; i++)
        printf("<line class=\"grid\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>"
               "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%g %%</text>\n",
               LEFT, RIGHT, y_at(i * 0.005), y_at(i * 0.005), LEFT - 10, y_at(i * 0.005) + 4,
               i * 0.5);
    for (i = 0; i < POINTS; i += 4)
        printf("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"/>"
               "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.3g</text>\n",
               x_at(i), x_at(i), BOTTOM, BOTTOM + 5, x_at(i), BOTTOM + 22, pow(2, i / 8.0));
    printf("<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">s of the salient channels "
           "(the others keep s = 1)</text>\n", (LEFT + RIGHT) / 2, BOTTOM + 46);
}

static void draw(const errors *e) {
    double salient[POINTS], others[POINTS], total[POINTS];
    int i, best = 0;
    for (i = 0; i < POINTS; i++) {
        salient[i] = e[i].salient;
        others[i] = e[i].others;
        total[i] = e[i].total;
        if (total[i] < total[best]) best = i;
    }
    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 400\" width=\"760\" "
           "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"13\">\n"
           "<style>\n"
           ".panel { fill: #ffffff; } text { fill: #4b5563; } .title { fill: #111827; }\n"
           ".grid { stroke: #e5e7eb; } .line { fill: none; stroke-width: 2.5; }\n"
           ".line.salient { stroke: #0072b2; } .name.salient { fill: #0072b2; }\n"
           ".line.others { stroke: #b8590b; } .name.others { fill: #b8590b; }\n"
           ".line.total { stroke: #111827; } .name.total, .mark { fill: #111827; }\n"
           "@media (prefers-color-scheme: dark) {\n"
           ".panel { fill: #161b22; } text { fill: #9ca3af; } .title { fill: #f0f6fc; }\n"
           ".grid { stroke: #30363d; }\n"
           ".line.salient { stroke: #56b4e9; } .name.salient { fill: #56b4e9; }\n"
           ".line.others { stroke: #f0a35e; } .name.others { fill: #f0a35e; }\n"
           ".line.total { stroke: #f0f6fc; } .name.total, .mark { fill: #f0f6fc; }\n"
           "}\n</style>\n<rect class=\"panel\" width=\"760\" height=\"400\" rx=\"10\"/>\n");
    printf("<text class=\"title\" x=\"24\" y=\"34\" font-size=\"17\" font-weight=\"bold\">"
           "Scaling the salient channels: what one gains, the others lose</text>\n"
           "<text x=\"24\" y=\"56\">squared output error, share of the output; "
           "salient: the 10 %% of inputs with the largest mean |x|</text>\n");
    draw_axes();
    draw_curve("from the salient", "salient", salient, y_at(salient[POINTS - 1]) + 4);
    draw_curve("from the others", "others", others, y_at(others[POINTS - 1]) + 15);
    draw_curve("together", "total", total, y_at(total[POINTS - 1]) - 3);
    printf("<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>\n"
           "<text class=\"name total\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">least: "
           "%.2f %% at s = %.2f (plain rounding %.2f %%)</text>\n</svg>\n",
           x_at(best), y_at(total[best]), x_at(best) + 60, y_at(total[best]) - 34,
           100 * total[best], pow(2, best / 8.0), 100 * total[0]);
}

int main(int argc, char **argv) {
    errors e[POINTS];
    layer l;
    if (argc != 2) {
        fprintf(stderr, "usage: %s examples/data/layer.bin > docs/img/tradeoff.svg\n", argv[0]);
        return 2;
    }
    if (!layer_load(&l, argv[1]) || !measure_all(&l, e)) return 1;
    draw(e);
    return 0;
}
