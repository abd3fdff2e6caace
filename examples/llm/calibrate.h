/*  calibrate.h - moves a calibration text through a model one layer at a time, so that what enters
    the linears of a layer can be watched. */
#ifndef LLM_CALIBRATE_H
#define LLM_CALIBRATE_H

#include "evaluate.h"

typedef struct calibration {
    session s;                  /* runs the model on one window at a time */
    float *hidden;              /* [windows][WINDOW][dim], at the input of the next layer */
    size_t windows;
} calibration;

bool calibration_open(calibration *cal, const model *m, compute *c, const token_list *text,
                      failure *why);
void calibration_close(calibration *cal);

/*  Moves windows [begin, end) through a layer; each window goes through layers 0, 1, ... in turn. */
bool calibration_windows(calibration *cal, size_t index, size_t begin, size_t end,
                         const observer *watch, failure *why);

#endif
