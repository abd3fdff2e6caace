/*  chart.c - see chart.h. Positions are in pixels, y downwards.                                  */
#include "chart.h"

#include <math.h>

#define WIDTH 960
#define HEIGHT 560
#define LEFT 96                 /* the plot's edges                                               */
#define RIGHT 724
#define TOP 92
#define BOTTOM 480
#define LABEL_X (RIGHT + 26)    /* names of the lines, to the right of the plot                   */
#define LABEL_HEIGHT 40
#define RATIO_WIDTH 40

/*  Okabe and Ito's colours, which colour-blind readers can tell apart too; some darkened to read
    well as text on white.                                                                        */
static const char *const colours[CHART_CURVES] = {
    "#c25400", "#008762", "#0072b2", "#b3508a", "#8a6d00"
};
static const char level_colour[] = "#555555";

/*  A named line: where it leaves the plot, and where its name can stand.                         */
typedef struct line_label {
    char name[80], note[80];
    const char *colour;
    double end, at;
} line_label;

typedef struct frame {
    const chart *c;
    FILE *out;
    double low, high, step;     /* of the y axis                                                  */
} frame;

/* ---- scales --------------------------------------------------------------------------------- */

/*  1, 2 or 5 times a power of ten, so that about `count` steps make up `span`.                   */
static double nice_step(double span, int count)
{
    double raw = span / count, unit = pow(10, floor(log10(raw)));
    double digit = raw / unit;
    return unit * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
}

/*  All curves, unless one climbs so far that the others would be pressed flat.                   */
static void choose_y_axis(frame *f)
{
    const chart *c = f->c;
    double low = c->level, high = c->level, span;
    int i, j;

    for (i = 0; i < c->curve_count; i++)
        for (j = 0; j < c->points; j++) {
            if (!isfinite(c->curves[i].y[j])) continue;
            low = fmin(low, c->curves[i].y[j]);
            high = fmax(high, c->curves[i].y[j]);
        }
    high = fmin(high, c->level + 4 * (c->level - low) + 0.5 * c->level);
    span = high > low ? high - low : fabs(low) + 1e-12;
    f->step = nice_step(span, 6);
    f->high = high + 0.05 * span;
    f->low = fmax(low - 0.22 * span, 0);    /* room for the labels of the marks */
}

static double x_at(const frame *f, double x)
{
    return LEFT + (RIGHT - LEFT) * x / (f->c->x_step * (f->c->points - 1));
}

static double y_at(const frame *f, double y)
{
    return BOTTOM - (BOTTOM - TOP) * (y - f->low) / (f->high - f->low);
}

static int decimals(double step)
{
    int digits = (int)ceil(-log10(step) - 1e-9);
    return digits > 0 ? digits : 0;
}

/* ---- drawing -------------------------------------------------------------------------------- */

static void draw_head(const frame *f)
{
    fprintf(f->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\""
            " viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\"\n"
            "     font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue',"
            " 'Liberation Sans', 'DejaVu Sans', Arial, sans-serif\" font-size=\"14\""
            " fill=\"#333333\">\n"
            "<clipPath id=\"plot\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>"
            "</clipPath>\n"
            "<rect width=\"%d\" height=\"%d\" rx=\"10\" fill=\"#ffffff\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT, f->c->title, LEFT, TOP - 8, RIGHT - LEFT + 8,
            BOTTOM - TOP + 8, WIDTH, HEIGHT);
    fprintf(f->out, "<text x=\"%d\" y=\"38\" font-size=\"20\" font-weight=\"600\" fill=\"#111111\">"
            "%s</text>\n<text x=\"%d\" y=\"62\" fill=\"#555555\">%s</text>\n",
            LEFT - 64, f->c->title, LEFT - 64, f->c->subtitle);
}

static void draw_y_axis(const frame *f)
{
    int first = (int)ceil(f->low / f->step - 1e-9), last = (int)floor(f->high / f->step + 1e-9), i;

    for (i = first; i <= last; i++)
        fprintf(f->out, "<path d=\"M%d %.1fH%d\" stroke=\"#e6e6e6\"/><text x=\"%d\" y=\"%.1f\""
                " text-anchor=\"end\">%.*f</text>\n", LEFT, y_at(f, i * f->step), RIGHT, LEFT - 10,
                y_at(f, i * f->step) + 5, decimals(f->step), i * f->step);
    fprintf(f->out, "<text transform=\"translate(%d %d) rotate(-90)\" text-anchor=\"middle\">%s"
            "</text>\n", LEFT - 68, (TOP + BOTTOM) / 2, f->c->y_label);
}

static void draw_x_axis(const frame *f)
{
    double last = f->c->x_step * (f->c->points - 1), step = nice_step(last, 8);
    int ticks = (int)floor(last / step + 1e-9), i;

    fprintf(f->out, "<path d=\"M%d %dH%d\" stroke=\"#888888\"/>\n", LEFT, BOTTOM, RIGHT);
    for (i = 0; i <= ticks; i++)
        fprintf(f->out, "<path d=\"M%.1f %dv6\" stroke=\"#888888\"/><text x=\"%.1f\" y=\"%d\""
                " text-anchor=\"middle\">%.*f</text>\n", x_at(f, i * step), BOTTOM,
                x_at(f, i * step), BOTTOM + 24, decimals(step), i * step);
    fprintf(f->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
            (LEFT + RIGHT) / 2, BOTTOM + 54, f->c->x_label);
}

static void draw_level(const frame *f)
{
    fprintf(f->out, "<path d=\"M%d %.1fH%d\" stroke=\"%s\" stroke-width=\"2\""
            " stroke-dasharray=\"7 5\"/>\n", LEFT, y_at(f, f->c->level), RIGHT, level_colour);
}

static void draw_curve(const frame *f, int curve)
{
    const double *y = f->c->curves[curve].y;
    bool pen_down = false;
    int i;

    fprintf(f->out, "<path clip-path=\"url(#plot)\" fill=\"none\" stroke=\"%s\""
            " stroke-width=\"2.5\" stroke-linejoin=\"round\" d=\"", colours[curve]);
    for (i = 0; i < f->c->points; i++) {
        if (isfinite(y[i]))
            fprintf(f->out, "%c%.1f %.1f", pen_down ? 'L' : 'M', x_at(f, i * f->c->x_step),
                    y_at(f, y[i]));
        pen_down = isfinite(y[i]);
    }
    fprintf(f->out, "\"/>\n");
}

static double best_x(const frame *f, int curve)
{
    return x_at(f, f->c->curves[curve].best * f->c->x_step);
}

/*  The lowest row in which the curve's ratio does not touch those of the curves before it.       */
static int free_row(const frame *f, const int *rows, int curve)
{
    int row = 0, i = 0;

    while (i < curve)
        if (rows[i] == row && fabs(best_x(f, i) - best_x(f, curve)) < RATIO_WIDTH) {
            row++;
            i = 0;
        } else {
            i++;
        }
    return row;
}

/*  The minimum: a dot, and a dotted line down to its ratio.                                      */
static void draw_best(const frame *f, int curve, int row)
{
    const chart_curve *it = &f->c->curves[curve];
    double x = best_x(f, curve), y = y_at(f, it->y[it->best]);

    if (!isfinite(y)) return;
    fprintf(f->out, "<path d=\"M%.1f %.1fV%d\" stroke=\"%s\" stroke-width=\"1.5\""
            " stroke-dasharray=\"2 4\"/>\n", x, y, BOTTOM, colours[curve]);
    fprintf(f->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"6\" fill=\"%s\" stroke=\"#ffffff\""
            " stroke-width=\"2\"/>\n", x, y, colours[curve]);
    fprintf(f->out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" font-size=\"13\""
            " font-weight=\"700\" fill=\"%s\" stroke=\"#ffffff\" stroke-width=\"5\""
            " stroke-linejoin=\"round\" paint-order=\"stroke\">%.2f</text>\n", x,
            BOTTOM - 8 - 16 * row, colours[curve], it->best * f->c->x_step);
}

static void draw_bests(const frame *f)
{
    int rows[CHART_CURVES], i;

    for (i = 0; i < f->c->curve_count; i++) {
        rows[i] = free_row(f, rows, i);
        draw_best(f, i, rows[i]);
    }
}

/* ---- names of the lines --------------------------------------------------------------------- */

static double end_of(const frame *f, const double *y)
{
    int i = f->c->points - 1;
    while (i > 0 && !isfinite(y[i])) i--;
    return fmax(y_at(f, y[i]), TOP);
}

static void sort_by_end(line_label *labels, int count)
{
    int i, j;
    for (i = 1; i < count; i++) {
        line_label moved = labels[i];
        for (j = i; j > 0 && labels[j - 1].end > moved.end; j--) labels[j] = labels[j - 1];
        labels[j] = moved;
    }
}

/*  As near to the lines' ends as they can stand without touching: push down, then back up.       */
static void spread(line_label *labels, int count)
{
    double limit = BOTTOM - 4;
    int i;

    for (i = 0; i < count; i++) {
        labels[i].at = labels[i].end;
        if (i && labels[i].at < labels[i - 1].at + LABEL_HEIGHT)
            labels[i].at = labels[i - 1].at + LABEL_HEIGHT;
    }
    for (i = count; i-- > 0; limit = labels[i].at - LABEL_HEIGHT)
        if (labels[i].at > limit) labels[i].at = limit;
}

static void draw_label(const frame *f, const line_label *label)
{
    fprintf(f->out, "<path d=\"M%d %.1fL%d %.1f\" stroke=\"%s\" stroke-width=\"1\"/>\n", RIGHT + 3,
            label->end, LABEL_X - 5, label->at, label->colour);
    fprintf(f->out, "<text x=\"%d\" y=\"%.1f\" font-weight=\"600\" fill=\"%s\">%s</text>"
            "<text x=\"%d\" y=\"%.1f\" font-size=\"13\" fill=\"#555555\">%s</text>\n", LABEL_X,
            label->at + 5, label->colour, label->name, LABEL_X, label->at + 22, label->note);
}

static void draw_labels(const frame *f)
{
    line_label labels[CHART_CURVES + 1];
    int count = f->c->curve_count, digits = decimals(f->step) + 1, i;

    for (i = 0; i < count; i++) {
        const chart_curve *curve = &f->c->curves[i];
        snprintf(labels[i].name, sizeof labels[i].name, "%s", curve->name);
        snprintf(labels[i].note, sizeof labels[i].note, "lowest %.*f %% at %.2f", digits,
                 curve->y[curve->best], curve->best * f->c->x_step);
        labels[i].colour = colours[i];
        labels[i].end = end_of(f, curve->y);
    }
    snprintf(labels[i].name, sizeof labels[i].name, "%s", f->c->level_name);
    snprintf(labels[i].note, sizeof labels[i].note, "%.*f %%", digits, f->c->level);
    labels[i].colour = level_colour;
    labels[i].end = y_at(f, f->c->level);
    sort_by_end(labels, count + 1);
    spread(labels, count + 1);
    for (i = 0; i <= count; i++) draw_label(f, &labels[i]);
}

bool chart_write(const chart *c, const char *path, failure *why)
{
    frame f;
    file_writer writer;
    int i;

    if (!file_write_begin(&writer, path, why)) return false;
    f.c = c;
    f.out = writer.stream;
    choose_y_axis(&f);
    draw_head(&f);
    draw_y_axis(&f);
    draw_x_axis(&f);
    draw_level(&f);
    for (i = 0; i < c->curve_count; i++) draw_curve(&f, i);
    draw_bests(&f);
    draw_labels(&f);
    fprintf(f.out, "</svg>\n");
    if (ferror(f.out)) return file_write_fail(&writer, why);
    return file_write_end(&writer, why);
}
