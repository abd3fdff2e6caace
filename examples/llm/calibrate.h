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

/*  Moves all windows through a layer; to be called with index 0, 1, ... in turn. */
bool calibration_layer(calibration *cal, size_t index, const observer *watch, failure *why);

#endif
