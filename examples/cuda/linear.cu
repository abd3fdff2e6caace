/*  linear.cu - one quantized linear on a GPU: quantize on the host, repack, multiply, compare.
        nvcc -std=c++17 -arch=native -I. examples/cuda/linear.cu -o linear && ./linear           */
#define AWQ_IMPLEMENTATION
#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"
#include <cstdio>
#include <vector>
#define NEED(good) if (!(good)) return fprintf(stderr, "linear: failed: %s\n", #good), 1
#define F16(data, rows, cols) awq_matrix_view(data, AWQ_F16, rows, cols)
#define F32(data, rows, cols) awq_matrix_view(data, AWQ_F32, rows, cols)
template <class T> static T *to_device(const std::vector<T> &values) {
    void *memory = NULL;
    if (cudaMalloc(&memory, values.size() * sizeof(T)) != cudaSuccess) return NULL;
    cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
    return static_cast<T *>(memory);
}

int main() {
    const size_t out = 200, in = 264, most = 100; /* no powers of two: nothing needs them */
    const awq_quant quant = { 4, 128, 0, AWQ_F16 };
    std::vector<float> w(out * in), x(most * in), y(most * out);
    std::vector<uint16_t> x16(x.size()), y16(y.size());
    for (size_t i = 0; i < w.size(); i++) w[i] = (float)(i * 7919 % 2003) / 1000 - 1;
    for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i * 7907 % 1999) / 1024 - 1;
    NEED(!awq_convert(F32(x.data(), most, in), F16(x16.data(), most, in))); /* exact */

    const awq_kernels cpu = awq_kernels_best(); /* on the host: packed bytes, as for its kernels */
    std::vector<unsigned char> bytes(awq_packed_size(quant, out, in));
    awq_packed packed;
    NEED(!awq_packed_init(quant, out, in, bytes.data(), bytes.size()));
    NEED(!awq_quantize_packed(&cpu, F32(w.data(), out, in), NULL, NULL, bytes.data(), bytes.size(),
                              0, out, NULL));
    NEED(!awq_packed_open(&packed, bytes.data(), bytes.size()));
    NEED(!awq_packed_dequantize(&packed, NULL, F32(w.data(), out, in), 0, out));

    awq_cuda cuda; /* on the device, once: they become what its kernels read */
    awq_cuda_tensor linear;
    NEED(!awq_cuda_init(&cuda, 0, NULL));
    std::vector<unsigned char> room(awq_cuda_tensor_size(quant, out, in, AWQ_F16));
    NEED(!awq_cuda_tensor_init(&linear, quant, out, in, AWQ_F16, to_device(room), room.size()));
    packed.data = to_device(bytes);
    NEED(!awq_cuda_repack(&cuda, &packed, &linear));
    room.assign(cuda.workspace_size = awq_cuda_workspace_size(&cuda, most), 0);
    cuda.workspace = to_device(room);
    uint16_t *x_there = to_device(x16), *y_there = to_device(y16);
    for (size_t tokens = 1; tokens <= most; tokens *= 10) { /* each time: one call on the stream */
        NEED(!awq_cuda_matmul(&cuda, &linear, F16(x_there, tokens, in), NULL, F16(NULL, 0, 0),
                              F16(y_there, tokens, out)));
        NEED(!cudaMemcpy(y16.data(), y_there, tokens * out * 2, cudaMemcpyDeviceToHost));
        NEED(!awq_convert(F16(y16.data(), tokens, out), F32(y.data(), tokens, out)));
        double error = 0, norm = 0;
        for (size_t i = 0; i < tokens * out; i++) {
            double sum = 0;
            for (size_t c = 0; c < in; c++) sum += 1.0 * x[i / out * in + c] * w[i % out * in + c];
            error += (y[i] - sum) * (y[i] - sum), norm += sum * sum;
        }
        printf("%3zu tokens: relative squared error %.1e\n", tokens, error / norm);
        NEED(error <= 1e-6 * norm);
    }
}
