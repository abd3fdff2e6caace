/*  report.c - what the demo found, as a table and as a picture.                                  */
#include "demo.h"

#include "chart.h"

#include <math.h>

static const char *describe_groups(const demo *d, char text[32])
{
    if (d->quant.group_size < 0) snprintf(text, 32, "one group per row");
    else snprintf(text, 32, "groups of %d", d->quant.group_size);
    return text;
}

void print_head(const demo *d, const char *path)
{
    const layer *l = &d->layer;
    char groups[32];

    printf("\nawq.h %d.%d.%d on a real layer, y = W x + b\n\n", AWQ_VERSION_MAJOR,
           AWQ_VERSION_MINOR, AWQ_VERSION_PATCH);
    printf("  layer    %s: W is %zu x %zu, x comes out of a GELU\n", path, l->out_features,
           l->in_features);
    printf("  tokens   %zu to calibrate on, %zu of another text to judge by\n",
           l->calibration.rows, l->heldout.rows);
    printf("  weights  %d bits, %s, %s, fp16 scales\n", d->quant.bits, describe_groups(d, groups),
           d->quant.symmetric ? "symmetric" : "zero points");
    printf("  machine  %s kernels, %zu thread%s\n\n", d->kernels.name, d->pool.workers,
           d->pool.workers == 1 ? "" : "s");
}

/*  Four digits of the largest error; the others under it, point below point.                     */
static int decimals_for(const version *largest)
{
    int digits = 3 - (int)floor(log10(100 * largest->heldout_error + 1e-9));
    return digits > 0 ? digits : 0;
}

static void print_version(const demo *d, const char *name, const char *ratio, const version *v,
                          const version *nearest)
{
    int digits = decimals_for(nearest);
    double weights = (double)d->layer.out_features * (double)d->layer.in_features;
    char change[16] = "";

    if (v != nearest)
        snprintf(change, sizeof change, "%+.0f %%",
                 100 * (v->heldout_error / nearest->heldout_error - 1));
    printf("  %-20s %6s %12.*f %% %9.*f %% %9s %10.3f %10.2f s\n", name, ratio, digits,
           100 * v->calibration_loss, digits, 100 * v->heldout_error, change,
           8 * (double)v->packed.size / weights, v->seconds);
}

void print_table(const demo *d, const method *methods)
{
    const version *nearest = &methods[0].plain;
    size_t i;

    printf("  %-20s %6s %14s %11s %9s %10s %12s\n", "", "", "calibration", "held-out", "against",
           "bits per", "time to");
    printf("  %-20s %6s %14s %11s %9s %10s %12s\n", "method", "ratio", "error", "error", "nearest",
           "weight", "quantize");
    for (i = 0; i < METHODS; i++) {
        char ratio[16] = "";
        if (methods[i].searches) snprintf(ratio, sizeof ratio, "%.2f", methods[i].found.ratio);
        if (methods[i].found.is_identity) snprintf(ratio, sizeof ratio, "none");
        print_version(d, methods[i].name, ratio, &methods[i].plain, nearest);
        print_version(d, "  + clip", "", &methods[i].clipped, nearest);
    }
    printf("\n  Errors are |error of y|^2 / |W x|^2; held out, y is the fused matmul's (A16).\n"
           "  A GELU cannot absorb s, so s is stored, too: %.2f bits per weight more.\n",
           32 / (double)d->layer.out_features);
}

/*  How good the ratios are that they chose, judged by the rows of X.                             */
void print_opinions(const demo *d, const method *m, const second_opinion *opinions)
{
    double rows_size = 4e-6 * (double)d->layer.calibration.rows * (double)d->layer.in_features;
    size_t i;

    printf("\n  Without keeping the rows of X (%.1f MB, and more with every token), %s chooses\n",
           rows_size, m->name);
    for (i = 0; i < OPINIONS; i++) {
        const second_opinion *o = &opinions[i];
        printf("    from the %-11s (%4.1f MB)  ratio %.2f, %.1f %% above the least error, %.2f s\n",
               o->name, 1e-6 * (double)o->bytes, o->found.ratio,
               100 * (m->loss_curve[o->found.index] / m->loss_curve[m->found.index] - 1),
               o->seconds);
    }
}

void print_lesson(const version *nearest, const method *best, double int8_error)
{
    printf("  With activations rounded to 8 bits (A8), %s + clip has %.*f %%.\n\n",
           best->name, decimals_for(nearest), 100 * int8_error);
    printf("=> %s + clip leaves %.0f %% of the error of rounding to nearest,\n"
           "   in the same number of bits and with the same matmul.\n\n", best->name,
           100 * best->clipped.heldout_error / nearest->heldout_error);
}

/*  Loss over ratio of the methods that search, in percent.                                       */
void write_chart(const demo *d, const method *methods, const char *path)
{
    double percent[METHODS][GRID_POINTS];
    char title[80], subtitle[120], groups[32];
    chart_curve curves[METHODS];
    chart c = { .title = title, .subtitle = subtitle, .curves = curves, .points = GRID_POINTS };
    failure why;
    size_t i, j;

    for (i = 0; i < METHODS; i++) {
        if (!methods[i].searches) continue;
        for (j = 0; j < GRID_POINTS; j++)
            percent[i][j] = 100 * methods[i].loss_curve[j] / d->calibration_power;
        curves[c.curve_count].name = methods[i].name;
        curves[c.curve_count].y = percent[i];
        curves[c.curve_count++].best = methods[i].found.index;
    }
    snprintf(title, sizeof title, "A %d-bit layer: output error over the AWQ ratio", d->quant.bits);
    snprintf(subtitle, sizeof subtitle, "%zu &#215; %zu weights in %s; %zu calibration tokens",
             d->layer.out_features, d->layer.in_features, describe_groups(d, groups),
             d->layer.calibration.rows);
    c.x_label = "ratio: how far the scale of an input follows its size";
    c.y_label = "output error, % of the output's mean square";
    c.x_step = 1.0 / GRID_POINTS;
    c.level_name = methods[0].name;
    c.level = 100 * methods[0].plain.calibration_loss;
    if (!chart_write(&c, path, &why)) die("%s", why.text);
    printf("wrote %s\n", path);
}
