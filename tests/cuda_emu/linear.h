/*  linear.h - one quantized linear and a batch, in emulated device memory, and what must come out.

    Everything is defined in float64 from the unpacked tensor; the tests only compare. */
#ifndef LINEAR_H
#define LINEAR_H

#include "cuda_emu.h"
#include "emulator.h"

extern "C" {
#include "../foreign.h"
}
#include "awq_cuda.cuh"

#include <string>
#include <vector>

extern int failures;
extern const int kernels_architecture;
static const cudaStream_t STREAM = reinterpret_cast<cudaStream_t>(0x5712ea4);

/*  What the numbers are like. The EXACT ones have one right answer: no sum rounds.               */
enum numbers { NORMAL_NUMBERS, OUTLIERS, CANCELLING, LARGE, INTEGERS, UNIT_VECTORS, NUMBERS };

struct linear_case {
    int group_size, symmetric;
    awq_dtype dtype, scale_dtype;       /* of the kernels; of the packed tensor */
    size_t rows, cols, tokens;
    numbers kind;
    bool with_bias;
    int residual;                       /* 0: none, 1: its own memory, 2: y itself */
};

std::string describe(const linear_case &c);
linear_case random_case(rng *r, size_t most_rows, size_t most_cols, size_t most_tokens);

/*  A 16-bit matrix on the device, rows `stride` numbers apart; what lies between is poison.      */
struct device_matrix {
    awq_matrix view;
    std::vector<uint16_t> values;       /* [rows][cols] */
};
device_matrix new_device_matrix(awq_dtype dtype, size_t rows, size_t cols, size_t stride,
                                size_t offset, const std::vector<uint16_t> *values);
void write_matrix(const awq_matrix &m, const std::vector<uint16_t> &values);
/*  The numbers; reports any write between the rows.                                              */
std::vector<uint16_t> read_matrix(const awq_matrix &m);

struct linear {
    linear_case c;
    pool memory;
    awq_tensor tensor;
    std::vector<unsigned char> bytes;   /* packed */
    awq_packed packed;                  /* a view of them on the host */
    awq_cuda_tensor on_device;          /* laid out, not filled */
    device_matrix x, residual;
    const void *bias;
    std::vector<uint16_t> bias_values;
    std::vector<double> expected, slack;    /* [tokens][rows] outputs, and how far off fp32 is */
};

linear new_linear(rng *r, const linear_case &c);
/*  What = (q - zero) * scale, the scale in the kernels' dtype.                                   */
double weight_of(const linear &m, size_t row, size_t col);
/*  How a kernel comes to q - zero: exactly; from sums of q - zero + offset, which takes more of
    fp32; or What is rounded to the dtype first.                                                  */
enum arithmetic { EXACT_WEIGHTS, OFFSET_WEIGHTS, ROUNDED_WEIGHTS };
void define_outputs(linear *m, arithmetic how);
/*  Whether one output is right: exactly, or within the slack and the rounding of y.              */
bool is_right(const linear &m, size_t token, size_t row, uint16_t got);
void free_linear(linear *m);

/*  A fresh y for it: on the device, with gaps between the rows, or the residual itself.          */
awq_matrix new_output(rng *r, const linear &m);

template <class T> const T *to_device(const std::vector<T> &values, size_t offset = 0)
{
    void *data = emulator::device_alloc(values.size() * sizeof(T), offset);
    emulator::device_write(data, values.data(), values.size() * sizeof(T));
    return static_cast<const T *>(data);
}

/*  One of the devices that the kernels were compiled for, or the first, with so many processors. */
awq_cuda new_device(rng *r, int processors);

/*  Nothing was reported; else prints it.                                                         */
bool check_report(const char *what, const linear_case &c);
/*  Fills the tensor on the device; compared with what the host makes of the same bytes.          */
bool repack(awq_cuda *cuda, linear *m, rng *r);
/*  Zeroed workspace of exactly the size asked for.                                               */
void give_workspace(awq_cuda *cuda, size_t most_tokens);

/*  The groups of tests: the name chooses one on the command line.                                */
void test_calibration(rng *r, bool full);
void test_foreign_layouts(rng *r, bool full);
void test_wrong_arguments(rng *r, bool full);
void test_far_apart(rng *r, bool full);

#endif
