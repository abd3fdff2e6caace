/*  linear.cu - one quantized linear on a GPU: quantize on the host, repack there, multiply, compare.

        nvcc -std=c++17 -arch=native -I. examples/cuda/linear.cu -o linear && ./linear           */
#define AWQ_IMPLEMENTATION
#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

static void need(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "linear: %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}
static void need(awq_status status, const char *what) {
    if (status == AWQ_OK) return;
    fprintf(stderr, "linear: %s: %s\n", what, awq_status_string(status));
    exit(1);
}

/* Device memory with a copy of the host's bytes, or zeros. */
static void *to_device(const void *bytes, size_t size) {
    void *memory = NULL;
    need(cudaMalloc(&memory, size ? size : 1), "cudaMalloc");
    need(bytes ? cudaMemcpy(memory, bytes, size, cudaMemcpyHostToDevice)
               : cudaMemset(memory, 0, size), "filling device memory");
    return memory;
}

int main() {
    const size_t out = 1000, in = 1032, most_tokens = 200; /* no powers of two: nothing needs them */
    const awq_quant quant = { 4, 128, 0, AWQ_F16 };
    awq_kernels cpu = awq_kernels_best();
    std::vector<float> w(out * in), x(most_tokens * in), what(out * in);
    for (float &v : w) v = (float)rand() / (float)RAND_MAX - 0.5f;
    for (float &v : x) v = (float)rand() / (float)RAND_MAX - 0.5f;

    /* on the host: quantize to packed bytes, and what they stand for */
    std::vector<unsigned char> bytes(awq_packed_size(quant, out, in));
    awq_packed packed;
    need(awq_packed_init(quant, out, in, bytes.data(), bytes.size()), "packed_init");
    need(awq_quantize_packed(&cpu, awq_matrix_view(w.data(), AWQ_F32, out, in), NULL, NULL,
                             bytes.data(), bytes.size(), 0, out, NULL), "quantize");
    need(awq_packed_open(&packed, bytes.data(), bytes.size()), "packed_open");
    need(awq_packed_dequantize(&packed, NULL, awq_matrix_view(what.data(), AWQ_F32, out, in), 0,
                               out), "dequantize");
    std::vector<uint16_t> x16(x.size()), y16(most_tokens * out);
    need(awq_convert(awq_matrix_view(x.data(), AWQ_F32, most_tokens, in),
                     awq_matrix_view(x16.data(), AWQ_F16, most_tokens, in)), "convert x");

    /* on the device, once: the packed bytes in the layout of the kernels */
    awq_cuda cuda;
    awq_cuda_tensor linear;
    int device = 0;
    need(cudaGetDevice(&device), "no GPU");
    need(awq_cuda_init(&cuda, device, 0), "awq_cuda_init");
    const size_t size = awq_cuda_tensor_size(quant, out, in, AWQ_F16);
    need(awq_cuda_tensor_init(&linear, quant, out, in, AWQ_F16, to_device(NULL, size), size),
         "awq_cuda_tensor_init");
    packed.data = (const unsigned char *)to_device(bytes.data(), bytes.size());
    need(awq_cuda_repack(&cuda, &packed, &linear), "awq_cuda_repack");
    cuda.workspace_size = awq_cuda_workspace_size(&cuda, most_tokens);
    cuda.workspace = to_device(NULL, cuda.workspace_size);
    void *x_device = to_device(x16.data(), x16.size() * 2), *y_device = to_device(NULL, y16.size() * 2);

    /* every batch: one call, queued on the stream */
    static const char *const names[] = { "portable", "gemv", "gemm", "wgmma" };
    for (size_t tokens : { 1, 8, 16, 64, 200 }) {
        const awq_matrix none = awq_matrix_view(NULL, AWQ_F16, 0, 0);
        need(awq_cuda_matmul(&cuda, &linear, awq_matrix_view(x_device, AWQ_F16, tokens, in), NULL,
                             none, awq_matrix_view(y_device, AWQ_F16, tokens, out)), "matmul");
        need(cudaMemcpy(y16.data(), y_device, tokens * out * 2, cudaMemcpyDeviceToHost), "run");
        std::vector<float> y(tokens * out), rounded_x(tokens * in);
        awq_convert(awq_matrix_view(y16.data(), AWQ_F16, tokens, out),
                    awq_matrix_view(y.data(), AWQ_F32, tokens, out));
        awq_convert(awq_matrix_view(x16.data(), AWQ_F16, tokens, in),
                    awq_matrix_view(rounded_x.data(), AWQ_F32, tokens, in));
        double error = 0, norm = 0;
        for (size_t t = 0; t < tokens; t++)
            for (size_t r = 0; r < out; r++) {
                double sum = 0;
                for (size_t c = 0; c < in; c++)
                    sum += (double)rounded_x[t * in + c] * (double)what[r * in + c];
                error += pow((double)y[t * out + r] - sum, 2);
                norm += sum * sum;
            }
        printf("%3zu tokens, %-8s  relative error %.1e\n", tokens,
               names[awq_cuda_pick(&cuda, &linear, tokens)], sqrt(error / norm));
        if (!(error <= 1e-6 * norm)) return 1;
    }
    return 0;
}
