/*  chart.h - a line chart of loss over ratio, written as SVG.                                    */
#ifndef DEMO_CHART_H
#define DEMO_CHART_H

#include "../common/files.h"

#define CHART_CURVES 5          /* at most, in one chart                                          */

typedef struct chart_curve {
    const char *name;
    const double *y;            /* [points]; a value that is not finite is left out               */
    int best;                   /* the point to mark                                              */
} chart_curve;

typedef struct chart {
    const char *title, *subtitle, *x_label, *y_label;
    double x_step;              /* point i stands at x = i * x_step                               */
    int points;
    const chart_curve *curves;
    int curve_count;
    const char *level_name;     /* the dashed line                                                */
    double level;
} chart;

bool chart_write(const chart *c, const char *path, failure *why);

#endif
