/*  quickstart.c - quantize a linear layer y = W x to 4 bits with AWQ, and run it. A norm makes x,
    and one channel of x is far larger than the others.                   cc quickstart.c -lm     */
#define AWQ_IMPLEMENTATION
#include "awq.h"
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 64, IN = 256, OUT = 64, ROOM = 16384 /* awq_*_size() say what is needed */ };
static float h[TOKENS][IN], gain[IN], x[TOKENS][IN], w[OUT][IN], exact[TOKENS][OUT], y[TOKENS][OUT];
static double stats_room[ROOM], scratch[ROOM], packed[ROOM], prepared[ROOM];

static awq_matrix weight = { w, OUT, IN, IN, AWQ_F32 };     /* data, rows, cols, stride, dtype */
static awq_matrix input = { x, TOKENS, IN, IN, AWQ_F32 }, output = { y, TOKENS, OUT, OUT, AWQ_F32 };
static awq_matrix norm_weight = { gain, 1, IN, IN, AWQ_F32 };
static awq_matrix no_bias = { NULL, 1, IN, IN, AWQ_F32 };

static void check(awq_status status) {
    if (status == AWQ_OK) return;
    fprintf(stderr, "quickstart: %s\n", awq_status_string(status));
    exit(1);
}

static void norm(void) {
    for (int t = 0; t < TOKENS; t++)
        for (int c = 0; c < IN; c++) x[t][c] = h[t][c] * gain[c];
}

static float noise(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 16777216.0f - 0.5f;
}

static void make_model(void) {
    for (int c = 0; c < IN; c++) {
        for (int t = 0; t < TOKENS; t++) h[t][c] = noise();
        for (int r = 0; r < OUT; r++) w[r][c] = noise();
        gain[c] = c == 7 ? 40.0f : 1.0f;
    }
    norm();
    for (int t = 0; t < TOKENS; t++)
        for (int r = 0; r < OUT; r++)
            for (int c = 0; c < IN; c++) exact[t][r] += w[r][c] * x[t][c];
}

/*  Quantizes W s, runs it on x, and returns the error of y in percent.                           */
static double quantize_and_run(const awq_kernels *k, awq_quant quant, const float *s) {
    awq_packed linear;
    awq_prepared ready;
    float error = 0, power = 0;

    check(awq_packed_init(quant, OUT, IN, packed, sizeof packed));
    check(awq_quantize_packed(k, weight, s, NULL, packed, sizeof packed, 0, OUT, NULL));
    /* here the bytes may go to a file, and come back in another program */
    check(awq_packed_open(&linear, packed, sizeof packed));
    check(awq_prepare(k, quant.group_size, AWQ_A16, input, NULL, prepared, sizeof prepared,
                      0, TOKENS, &ready, NULL));
    check(awq_matmul(k, &linear, &ready, NULL, output, 0, OUT));

    for (int t = 0; t < TOKENS; t++)
        for (int r = 0; r < OUT; r++) {
            error += (y[t][r] - exact[t][r]) * (y[t][r] - exact[t][r]);
            power += exact[t][r] * exact[t][r];
        }
    return 100 * (double)error / (double)power;
}

int main(void) {
    awq_kernels k = awq_kernels_best();
    awq_quant quant = { 4, 128, 0, AWQ_F16 };       /* bits, group size, symmetric, scale dtype */
    awq_search_config config = awq_search_preset(AWQ_PRESET_LLM_AWQ, quant);
    awq_stats stats;
    awq_inputs inputs = { AWQ_LOSS_ROWS, &stats, input, NULL, NULL, NULL };
    awq_search_result best;
    float s[IN];

    make_model();
    printf("error of y: %.3f %% rounded to nearest", quantize_and_run(&k, quant, NULL));

    check(awq_stats_init(&stats, IN, 0, 0, 0, stats_room, sizeof stats_room));
    check(awq_stats_add(&k, &stats, input, NULL, NULL, NULL));          /* every batch you have */
    check(awq_search(&k, &config, &inputs, &weight, 1, scratch, sizeof scratch, NULL,
                     s, NULL, &best, NULL));
    check(awq_fold_norm(AWQ_FOLD, s, IN, norm_weight, no_bias, NULL));
    norm();                                                     /* from now on it makes x / s */
    printf(", %.3f %% with AWQ\n", quantize_and_run(&k, quant, s));
    return 0;
}
