/*  nccl.cu - examples/mpi on GPUs: all GPUs of this machine calibrate together, then run one pair of
    linears cut over them, as tensor parallelism does. The ways of the numbers are those of
    docs/scaling.md; NCCL takes the place of MPI.

        nvcc -std=c++17 -arch=native -I. examples/cuda/nccl.cu -lnccl -o nccl && ./nccl

    Over several machines every GPU gets a process: rank 0 calls ncclGetUniqueId(), MPI_Bcast() takes
    the id to the others, and ncclCommInitRank() stands where ncclCommInitAll() stands here.      */
#define AWQ_IMPLEMENTATION
#define AWQ_CUDA_IMPLEMENTATION
#include "awq_cuda.cuh"

#include <nccl.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

enum { IN = 1024, HIDDEN = 2048, TOKENS = 64, GROUP = 128, SKETCH_ROWS = 128 };
static const awq_quant quant = { 4, GROUP, 0, AWQ_F16 };

static void need(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "nccl: %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}
static void need(ncclResult_t result, const char *what) {
    if (result == ncclSuccess) return;
    fprintf(stderr, "nccl: %s: %s\n", what, ncclGetErrorString(result));
    exit(1);
}
static void need(awq_status status, const char *what) {
    if (status == AWQ_OK) return;
    fprintf(stderr, "nccl: %s: %s\n", what, awq_status_string(status));
    exit(1);
}
static void need(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "nccl: %s\n", what);
    exit(1);
}

/* One GPU and its rank among all. */
struct rank {
    int number;
    awq_cuda cuda;
    ncclComm_t comm;
    awq_cuda_stats stats;
    awq_cuda_tensor up, down;
    void *hidden, *y;
};

static void *to_device(const void *bytes, size_t size) {
    void *memory = NULL;
    need(cudaMalloc(&memory, size), "cudaMalloc");
    need(bytes ? cudaMemcpy(memory, bytes, size, cudaMemcpyHostToDevice)
               : cudaMemset(memory, 0, size), "filling device memory");
    return memory;
}

static std::vector<uint16_t> random_halves(size_t count) {
    std::vector<float> wide(count);
    std::vector<uint16_t> narrow(count);
    for (float &v : wide) v = (float)rand() / (float)RAND_MAX - 0.5f;
    need(awq_convert(awq_matrix_view(wide.data(), AWQ_F32, 1, count),
                     awq_matrix_view(narrow.data(), AWQ_F16, 1, count)), "convert");
    return narrow;
}

static std::vector<rank> open_ranks() {
    int count = 0;
    need(cudaGetDeviceCount(&count), "no GPU");
    std::vector<ncclComm_t> comms(count);
    std::vector<rank> ranks(count);
    need(ncclCommInitAll(comms.data(), count, NULL), "ncclCommInitAll");
    for (int r = 0; r < count; r++) {
        cudaStream_t stream;
        need(cudaSetDevice(r), "cudaSetDevice");
        need(cudaStreamCreate(&stream), "cudaStreamCreate");
        need(awq_cuda_init(&ranks[r].cuda, r, stream), "awq_cuda_init");
        ranks[r].cuda.workspace_size = awq_cuda_workspace_size(&ranks[r].cuda, TOKENS);
        ranks[r].cuda.workspace = to_device(NULL, ranks[r].cuda.workspace_size + 1);
        ranks[r].number = r;
        ranks[r].comm = comms[r];
    }
    return ranks;
}

static void wait_for_all(std::vector<rank> &ranks) {
    for (rank &r : ranks) {
        need(cudaSetDevice(r.number), "cudaSetDevice");
        need(cudaStreamSynchronize(r.cuda.stream), "running");
    }
}

/* ---- calibration: sums and maxima of every GPU's shard ---------------------------------------- */

/* In place, on every rank's stream; a group, so that one thread can start it on all of them. */
static void reduce_stats(std::vector<rank> &ranks) {
    need(ncclGroupStart(), "group");
    for (rank &r : ranks) {
        awq_cuda_stats &s = r.stats;
        cudaStream_t stream = r.cuda.stream;
        need(ncclAllReduce(s.count, s.count, 1, ncclUint64, ncclSum, r.comm, stream), "count");
        need(ncclAllReduce(s.weight, s.weight, 1, ncclDouble, ncclSum, r.comm, stream), "weight");
        need(ncclAllReduce(s.sum, s.sum, IN, ncclDouble, ncclSum, r.comm, stream), "means");
        need(ncclAllReduce(s.abs_sum, s.abs_sum, IN, ncclDouble, ncclSum, r.comm, stream), "sums");
        need(ncclAllReduce(s.sq_sum, s.sq_sum, IN, ncclDouble, ncclSum, r.comm, stream), "squares");
        need(ncclAllReduce(s.abs_max, s.abs_max, IN, ncclFloat, ncclMax, r.comm, stream), "maxima");
        need(ncclAllReduce(s.sketch, s.sketch, (size_t)SKETCH_ROWS * IN, ncclFloat, ncclSum, r.comm,
                           stream), "sketch");
    }
    need(ncclGroupEnd(), "reducing statistics");
}

static void calibrate(std::vector<rank> &ranks, const std::vector<uint16_t> &x) {
    const size_t size = awq_cuda_stats_size(IN, SKETCH_ROWS), tokens = x.size() / IN;
    for (rank &r : ranks) {
        size_t begin = tokens * r.number / ranks.size(), end = tokens * (r.number + 1) / ranks.size();
        need(cudaSetDevice(r.number), "cudaSetDevice");
        need(awq_cuda_stats_init(&r.cuda, &r.stats, IN, SKETCH_ROWS, (uint64_t)r.number + 1,
                                 to_device(NULL, size), size), "stats_init");
        void *shard = to_device(x.data() + begin * IN, (end - begin) * IN * 2);
        need(awq_cuda_stats_add(&r.cuda, &r.stats,
                                awq_matrix_view(shard, AWQ_F16, end - begin, IN), NULL), "stats_add");
    }
    reduce_stats(ranks);
    wait_for_all(ranks);
}

/* Tokens and maxima of the last GPU are those of one host that has seen everything. */
static void check_stats(std::vector<rank> &ranks, const std::vector<uint16_t> &x) {
    awq_kernels cpu = awq_kernels_best();
    awq_stats one, all;
    std::vector<double> memory[2];
    for (int i = 0; i < 2; i++) {
        memory[i].resize(awq_stats_size(IN, SKETCH_ROWS, 0) / sizeof(double) + 1);
        need(awq_stats_init(i ? &all : &one, IN, SKETCH_ROWS, 0, ranks.size(), memory[i].data(),
                            memory[i].size() * sizeof(double)), "stats_init");
    }
    need(awq_stats_add(&cpu, &one, awq_matrix_view(x.data(), AWQ_F16, x.size() / IN, IN), NULL, NULL,
                       NULL), "stats_add");
    need(awq_cuda_stats_copy(&ranks.back().cuda, &ranks.back().stats, &all), "stats_copy");
    wait_for_all(ranks);
    need(all.count == one.count, "tokens were lost");
    double furthest = 0;
    for (size_t c = 0; c < IN; c++) {
        need(all.abs_max[c] == one.abs_max[c], "a maximum differs");
        furthest = fmax(furthest, fabs(all.abs_sum[c] - one.abs_sum[c]) / one.abs_sum[c]);
    }
    need(furthest < 1e-12, "sums differ");
    printf("%zu GPUs: statistics of %zu tokens, sums within %.1e\n", ranks.size(), x.size() / IN,
           furthest);
}

/* ---- inference: rows of up, inputs of down; the halves of y are added up ---------------------- */

/* Rows [row, row + rows) and inputs [input, input + inputs) of w (any, stride), quantized on the host
   and laid out for the device. Cuts fall on multiples of GROUP, so each part has whole groups.   */
static awq_cuda_tensor cut_linear(rank &r, const std::vector<uint16_t> &w, size_t stride, size_t row,
                                  size_t rows, size_t input, size_t inputs) {
    awq_kernels cpu = awq_kernels_best();
    awq_matrix part = { (void *)(w.data() + row * stride + input), rows, inputs, stride, AWQ_F16 };
    std::vector<unsigned char> bytes(awq_packed_size(quant, rows, inputs));
    const size_t size = awq_cuda_tensor_size(quant, rows, inputs, AWQ_F16);
    awq_packed packed;
    awq_cuda_tensor tensor;
    need(awq_packed_init(quant, rows, inputs, bytes.data(), bytes.size()), "packed_init");
    need(awq_quantize_packed(&cpu, part, NULL, NULL, bytes.data(), bytes.size(), 0, rows, NULL),
         "quantize");
    need(awq_packed_open(&packed, bytes.data(), bytes.size()), "packed_open");
    need(cudaSetDevice(r.number), "cudaSetDevice");
    need(awq_cuda_tensor_init(&tensor, quant, rows, inputs, AWQ_F16, to_device(NULL, size), size),
         "tensor_init");
    packed.data = (const unsigned char *)to_device(bytes.data(), bytes.size());
    need(awq_cuda_repack(&r.cuda, &packed, &tensor), "repack");
    need(cudaStreamSynchronize(r.cuda.stream), "repack");
    cudaFree((void *)packed.data);
    return tensor;
}

static void load(std::vector<rank> &ranks, const std::vector<uint16_t> &up,
                 const std::vector<uint16_t> &down) {
    const size_t groups = HIDDEN / GROUP;
    for (rank &r : ranks) {
        size_t begin = groups * r.number / ranks.size() * GROUP;
        size_t mine = groups * (r.number + 1) / ranks.size() * GROUP - begin;
        r.up = cut_linear(r, up, IN, begin, mine, 0, IN);
        r.down = cut_linear(r, down, HIDDEN, 0, IN, begin, mine);
        r.hidden = to_device(NULL, TOKENS * mine * 2);
        r.y = to_device(NULL, (size_t)TOKENS * IN * 2);
    }
}

/* y = down(up(x)) on every GPU. Queued: the sum waits for its addends on each stream by itself. */
static void run(std::vector<rank> &ranks, const std::vector<uint16_t> &x) {
    const awq_matrix none = awq_matrix_view(NULL, AWQ_F16, 0, 0);
    for (rank &r : ranks) {
        need(cudaSetDevice(r.number), "cudaSetDevice");
        void *input = to_device(x.data(), (size_t)TOKENS * IN * 2);
        awq_matrix hidden = awq_matrix_view(r.hidden, AWQ_F16, TOKENS, r.up.out_features);
        need(awq_cuda_matmul(&r.cuda, &r.up, awq_matrix_view(input, AWQ_F16, TOKENS, IN), NULL, none,
                             hidden), "up");
        need(awq_cuda_matmul(&r.cuda, &r.down, hidden, NULL, none,
                             awq_matrix_view(r.y, AWQ_F16, TOKENS, IN)), "down");
    }
    need(ncclGroupStart(), "group");
    for (rank &r : ranks)
        need(ncclAllReduce(r.y, r.y, (size_t)TOKENS * IN, ncclHalf, ncclSum, r.comm, r.cuda.stream),
             "adding y up");
    need(ncclGroupEnd(), "adding y up");
    wait_for_all(ranks);
}

static std::vector<float> result(const rank &r) {
    std::vector<uint16_t> y16((size_t)TOKENS * IN);
    std::vector<float> y(y16.size());
    need(cudaMemcpy(y16.data(), r.y, y16.size() * 2, cudaMemcpyDeviceToHost), "reading y");
    need(awq_convert(awq_matrix_view(y16.data(), AWQ_F16, TOKENS, IN),
                     awq_matrix_view(y.data(), AWQ_F32, TOKENS, IN)), "convert");
    return y;
}

/* All GPUs beside the first one alone, which has both linears whole. */
static void check_run(std::vector<rank> &ranks, const std::vector<float> &y,
                      const std::vector<uint16_t> &x, const std::vector<uint16_t> &up,
                      const std::vector<uint16_t> &down) {
    std::vector<rank> one(1, ranks[0]);
    double error = 0, power = 0;
    need(cudaSetDevice(0), "cudaSetDevice");
    need(ncclCommInitAll(&one[0].comm, 1, NULL), "ncclCommInitAll");
    load(one, up, down);
    run(one, x);
    std::vector<float> alone = result(one[0]);
    for (size_t i = 0; i < y.size(); i++) {
        error += pow((double)y[i] - (double)alone[i], 2);
        power += pow((double)alone[i], 2);
    }
    printf("%zu GPUs: y within %.1e of one GPU's\n", ranks.size(), sqrt(error / power));
    need(error <= 1e-5 * power, "the parts do not add up to the whole");
}

int main() {
    std::vector<rank> ranks = open_ranks();
    const std::vector<uint16_t> tokens = random_halves((size_t)1000 * IN);
    const std::vector<uint16_t> up = random_halves((size_t)HIDDEN * IN);
    const std::vector<uint16_t> down = random_halves((size_t)IN * HIDDEN);
    need(ranks.size() <= HIDDEN / GROUP, "more GPUs than groups");
    calibrate(ranks, tokens);
    check_stats(ranks, tokens);
    load(ranks, up, down);
    run(ranks, tokens);
    check_run(ranks, result(ranks.back()), tokens, up, down);
    return 0;
}
