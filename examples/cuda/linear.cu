/*  linear.cu - one quantized linear on a GPU: quantize on the host, repack there, multiply, compare
    with the host's own kernels.

        nvcc -std=c++17 -arch=native -I. examples/cuda/linear.cu -o linear && ./linear           */
#define AWQ_IMPLEMENTATION
#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

static void need(bool good, const char *what, const char *why) {
    if (good) return;
    fprintf(stderr, "linear: %s: %s\n", what, why);
    exit(1);
}
#define AWQ(call)  need((call) == AWQ_OK, #call, "failed; docs/embedding.md lists the statuses")
#define CUDA(call) need((call) == cudaSuccess, #call, cudaGetErrorString(cudaGetLastError()))

/* Device memory with a copy of the host's bytes, or zeros. */
static void *to_device(const void *bytes, size_t size) {
    void *memory = NULL;
    CUDA(cudaMalloc(&memory, size));
    CUDA(bytes ? cudaMemcpy(memory, bytes, size, cudaMemcpyHostToDevice)
               : cudaMemset(memory, 0, size));
    return memory;
}

int main() {
    const size_t out = 1000, in = 1032, most = 200; /* no powers of two: nothing needs them */
    const awq_quant quant = { 4, 128, 0, AWQ_F16 };
    const awq_kernels cpu = awq_kernels_best();
    std::vector<float> w(out * in), x(most * in), y(most * out), expected(most * out);
    std::vector<uint16_t> x16(most * in), y16(most * out);
    for (float &v : w) v = (float)rand() / (float)RAND_MAX - 0.5f;
    for (float &v : x) v = (float)(rand() % 2048 - 1024) / 1024; /* the same in fp16 */
    AWQ(awq_convert(awq_matrix_view(x.data(), AWQ_F32, most, in),
                    awq_matrix_view(x16.data(), AWQ_F16, most, in)));

    /* on the host: quantize into packed bytes, as for the CPU's kernels */
    std::vector<unsigned char> bytes(awq_packed_size(quant, out, in));
    std::vector<float> prepared(awq_prepared_size(&cpu, in, 128, AWQ_A16, most) / 4 + 1);
    awq_packed packed;
    awq_prepared ready;
    AWQ(awq_packed_init(quant, out, in, bytes.data(), bytes.size()));
    AWQ(awq_quantize_packed(&cpu, awq_matrix_view(w.data(), AWQ_F32, out, in), NULL, NULL,
                            bytes.data(), bytes.size(), 0, out, NULL));
    AWQ(awq_packed_open(&packed, bytes.data(), bytes.size()));
    AWQ(awq_prepare(&cpu, 128, AWQ_A16, awq_matrix_view(x.data(), AWQ_F32, most, in), NULL,
                    prepared.data(), prepared.size() * 4, 0, most, &ready, NULL));
    AWQ(awq_matmul(&cpu, &packed, &ready, NULL,
                   awq_matrix_view(expected.data(), AWQ_F32, most, out), 0, out));

    /* on the device, once: the packed bytes become what the kernels read */
    awq_cuda cuda;
    awq_cuda_tensor linear;
    int device = 0;
    CUDA(cudaGetDevice(&device));
    AWQ(awq_cuda_init(&cuda, device, 0));
    const size_t size = awq_cuda_tensor_size(quant, out, in, AWQ_F16);
    AWQ(awq_cuda_tensor_init(&linear, quant, out, in, AWQ_F16, to_device(NULL, size), size));
    packed.data = (const unsigned char *)to_device(bytes.data(), bytes.size());
    AWQ(awq_cuda_repack(&cuda, &packed, &linear));
    cuda.workspace_size = awq_cuda_workspace_size(&cuda, most);
    cuda.workspace = to_device(NULL, cuda.workspace_size + 1);
    void *x_device = to_device(x16.data(), x16.size() * 2);
    void *y_device = to_device(NULL, y16.size() * 2);

    /* every batch: one call on the stream */
    for (size_t tokens : { 1, 8, 16, 64, 200 }) {
        const awq_matrix none = awq_matrix_view(NULL, AWQ_F16, 0, 0);
        AWQ(awq_cuda_matmul(&cuda, &linear, awq_matrix_view(x_device, AWQ_F16, tokens, in), NULL,
                            none, awq_matrix_view(y_device, AWQ_F16, tokens, out)));
        CUDA(cudaMemcpy(y16.data(), y_device, tokens * out * 2, cudaMemcpyDeviceToHost));
        AWQ(awq_convert(awq_matrix_view(y16.data(), AWQ_F16, tokens, out),
                        awq_matrix_view(y.data(), AWQ_F32, tokens, out)));
        double error = 0, norm = 0;
        for (size_t i = 0; i < tokens * out; i++) {
            error += pow((double)y[i] - (double)expected[i], 2);
            norm += pow((double)expected[i], 2);
        }
        printf("%3zu tokens: relative difference from the CPU %.1e\n", tokens, sqrt(error / norm));
        need(error <= 1e-6 * norm, "compare", "the GPU's result is another one");
    }
    return 0;
}
