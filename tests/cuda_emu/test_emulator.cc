/*  test_emulator.cc - the emulator against the definitions, and its checks both ways: every kernel
    with a mistake is reported, its sound twin is not. */
#include "cuda_emu.h"
#include "emulator.h"
extern "C" {
#include "../check.h"
}

#include <functional>

using namespace emulator;

static int failures;
static const cudaStream_t STREAM = reinterpret_cast<cudaStream_t>(0x5712ea4);

static void expect_nothing(const char *name)
{
    const std::string found = report();
    CHECK(found.empty(), "%s: %s", name, found.c_str());
}

/*  One of two findings, where it depends on the order of threads which comes first.              */
static void expect(const char *name, const char *words, const char *or_words)
{
    const std::string found = report();
    CHECK(found.find(words) != std::string::npos || found.find(or_words) != std::string::npos,
          "%s: expected '%s', got '%s'", name, words, found.c_str());
}

template <class T> static T *device_array(const std::vector<T> &values)
{
    T *data = static_cast<T *>(device_alloc(values.size() * sizeof(T)));
    device_write(data, values.data(), values.size() * sizeof(T));
    return data;
}

template <class T> static std::vector<T> host_copy(const T *data, size_t count)
{
    std::vector<T> values(count);
    device_read(values.data(), data, count * sizeof(T));
    return values;
}

/* ---- mma and ldmatrix, as the PTX ISA defines them ------------------------------------------- */

/*  One warp: d [16][8] = a [16][depth] b [depth][8] + d, fragments by hand from their definition. */
template <int DEPTH, int BF16> static __global__ void mma_kernel(const uint16_t *a, const uint16_t *b,
                                                                 float *d)
{
    const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
    unsigned ra[4], rb[2];
    float rd[4];
    for (int i = 0; i < DEPTH / 4; i++) {
        const uint16_t *from = a + (g + i % 2 * 8) * DEPTH + i / 2 * 8 + t * 2;
        ra[i] = unsigned(from[0]) | unsigned(from[1]) << 16;
    }
    for (int i = 0; i < DEPTH / 8; i++) {
        const uint16_t *from = b + (i * 8 + t * 2) * 8 + g;
        rb[i] = unsigned(from[0]) | unsigned(from[8]) << 16;
    }
    for (int i = 0; i < 4; i++) rd[i] = d[(g + i / 2 * 8) * 8 + t * 2 + i % 2];
    if (DEPTH == 8) awq_cuda__mma_m16n8k8_f16(rd, ra, rb);
    else if (BF16) awq_cuda__mma_m16n8k16_bf16(rd, ra, rb);
    else awq_cuda__mma_m16n8k16_f16(rd, ra, rb);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = rd[i];
}

template <int DEPTH, int BF16> static void test_mma(rng *r)
{
    const awq_dtype dtype = BF16 ? AWQ_BF16 : AWQ_F16;
    std::vector<uint16_t> a(16 * DEPTH), b(DEPTH * 8);
    std::vector<float> d(16 * 8);
    for (uint16_t &x : a) x = uint16_t(narrow(dtype, rng_normal(r)));
    for (uint16_t &x : b) x = uint16_t(narrow(dtype, rng_normal(r)));
    for (float &x : d) x = float(rng_normal(r));
    float *result = device_array(d);
    AWQ_CUDA__LAUNCH(mma_kernel<DEPTH, BF16>, dim3(1), dim3(32), 0, STREAM, device_array(a),
                     device_array(b), result);
    expect_nothing("mma");
    const std::vector<float> got = host_copy(result, d.size());
    for (size_t row = 0; row < 16; row++) {
        for (size_t col = 0; col < 8; col++) {
            double sum = double(d[row * 8 + col]), size = magnitude(sum);
            for (size_t k = 0; k < DEPTH; k++) {
                const double product = widen(dtype, a[row * DEPTH + k]) * widen(dtype, b[k * 8 + col]);
                sum += product;
                size += magnitude(product);
            }
            CHECK(magnitude(double(got[row * 8 + col]) - sum) <= 1e-6 * size, "depth %d (%zu, %zu)",
                  DEPTH, row, col);
        }
    }
    device_free_all();
}

/*  Sums of integers below 2^24 are exact, in any order.                                          */
static void test_mma_is_exact(rng *r)
{
    std::vector<uint16_t> a(16 * 16), b(16 * 8);
    for (uint16_t &x : a) x = uint16_t(narrow(AWQ_F16, double(rng_below(r, 1001)) - 500));
    for (uint16_t &x : b) x = uint16_t(narrow(AWQ_F16, double(rng_below(r, 1001)) - 500));
    float *result = device_array(std::vector<float>(16 * 8, 1.0f));
    AWQ_CUDA__LAUNCH(mma_kernel<16, 0>, dim3(1), dim3(32), 0, STREAM, device_array(a),
                     device_array(b), result);
    expect_nothing("exact mma");
    const std::vector<float> got = host_copy(result, 16 * 8);
    for (size_t i = 0; i < 16 * 8; i++) {
        double sum = 1;
        for (size_t k = 0; k < 16; k++) {
            sum += widen(AWQ_F16, a[i / 8 * 16 + k]) * widen(AWQ_F16, b[k * 8 + i % 8]);
        }
        CHECK(double(got[i]) == sum, "%zu: %g is not %g", i, double(got[i]), sum);
    }
    device_free_all();
}

/*  32 rows of 8 numbers, `pitch` numbers apart, become four matrices.                            */
template <int TRANSPOSED> static __global__ void ldmatrix_kernel(uint16_t *out, int pitch)
{
    AWQ_CUDA__SHARED(memory);
    uint16_t *rows = reinterpret_cast<uint16_t *>(memory);
    const int lane = int(threadIdx.x);
    for (int i = 0; i < 8; i++) rows[lane * pitch + i] = uint16_t(lane * 8 + i);
    __syncwarp();
    unsigned r[4];
    if (TRANSPOSED) awq_cuda__ldmatrix_x4_trans(r, rows + lane * pitch);
    else awq_cuda__ldmatrix_x4(r, rows + lane * pitch);
    for (int m = 0; m < 4; m++) {
        out[(lane * 4 + m) * 2] = uint16_t(r[m]);
        out[(lane * 4 + m) * 2 + 1] = uint16_t(r[m] >> 16);
    }
}

template <int TRANSPOSED> static void test_ldmatrix(int pitch, uint64_t conflicts)
{
    uint16_t *out = device_array(std::vector<uint16_t>(32 * 8));
    counted = { };
    AWQ_CUDA__LAUNCH(ldmatrix_kernel<TRANSPOSED>, dim3(1), dim3(32), size_t(32 * pitch * 2), STREAM,
                     out, pitch);
    expect_nothing("ldmatrix");
    CHECK(counted.ldmatrix_conflicts == conflicts, "%d conflicts", int(counted.ldmatrix_conflicts));
    const std::vector<uint16_t> got = host_copy(out, 32 * 8);
    for (unsigned i = 0; i < 32 * 8; i++) {
        const unsigned lane = i / 8, matrix = i / 2 % 4, along = lane % 4 * 2 + i % 2;
        const unsigned row = TRANSPOSED ? along : lane / 4, col = TRANSPOSED ? lane / 4 : along;
        CHECK(got[i] == (matrix * 8 + row) * 8 + col, "lane %u, matrix %u", lane, matrix);
    }
    device_free_all();
}

/* ---- shuffles and votes ---------------------------------------------------------------------- */

static __global__ void shuffle_kernel(int *out)
{
    const int lane = int(threadIdx.x);
    int *mine = out + lane * 7;
    mine[0] = __shfl_sync(0xffffffffu, lane * 3, 5);
    mine[1] = __shfl_up_sync(0xffffffffu, lane * 3, 2);
    mine[2] = __shfl_down_sync(0xffffffffu, lane * 3, 2, 8);
    mine[3] = __shfl_xor_sync(0xffffffffu, lane * 3, 9);
    mine[4] = int(__ballot_sync(0xffffffffu, lane % 3 == 0));
    mine[5] = lane < 8 ? __shfl_xor_sync(0xffu, lane, 1) : __shfl_xor_sync(0xffffff00u, lane, 2);
    mine[6] = int(__shfl_sync(0xffffffffu, double(lane), 4, 16));
}

static void test_shuffles()
{
    int *out = device_array(std::vector<int>(32 * 7));
    AWQ_CUDA__LAUNCH(shuffle_kernel, dim3(1), dim3(32), 0, STREAM, out);
    expect_nothing("shuffles");
    const std::vector<int> got = host_copy(out, 32 * 7);
    for (int lane = 0; lane < 32; lane++) {
        const int down = lane % 8 < 6 ? lane + 2 : lane;
        const int expected[7] = { 15, 3 * (lane < 2 ? lane : lane - 2), 3 * down, 3 * (lane ^ 9),
                                  int(0x49249249u), lane ^ (lane < 8 ? 1 : 2), lane / 16 * 16 + 4 };
        for (int i = 0; i < 7; i++) CHECK(got[size_t(lane * 7 + i)] == expected[i], "%d: %d", lane, i);
    }
    device_free_all();
}

/* ---- one kernel with many mistakes to choose from -------------------------------------------- */

enum mistake {
    SOUND, NO_BARRIER, LATE_WRITE, NO_WARP_BARRIER, UNINITIALISED_SHARED, BEYOND_SHARED,
    DIVERGENT_BARRIER, EARLY_EXIT, DIVERGENT_SHUFFLE, LANE_LEFT, READ_BEYOND, WRITE_BEYOND,
    MISALIGNED, UNINITIALISED_GLOBAL, HOST_MEMORY, OTHERS_STACK, GLOBAL_RACE, BAD_INDEX, OVERFLOW_INT
};

/*  Every thread passes a number to the next one, through shared memory, its warp, and the block. */
static __global__ void mistaken_kernel(mistake which, const int *in, int *out, int *host, int **leak)
{
    AWQ_CUDA__SHARED(memory);
    int *shared = reinterpret_cast<int *>(memory);
    const int i = int(threadIdx.x), n = int(blockDim.x), next = (i + 1) % n;
    out += int(blockIdx.x) * n;
    if (!(which == UNINITIALISED_SHARED && i == 3)) shared[i] = in[i];
    if (which == EARLY_EXIT && i == 7) return;
    if (which != NO_BARRIER) __syncthreads();
    int value = shared[next];
    if (which != LATE_WRITE) __syncthreads();
    shared[i] = value;
    if (which != NO_WARP_BARRIER) __syncwarp();
    value += shared[i ^ 1];
    if (which == DIVERGENT_BARRIER && i < 32) __syncthreads();
    else __syncthreads();
    if (which == LANE_LEFT && i == 40) return;
    if (which == DIVERGENT_SHUFFLE && i % 32 < 16) value += __shfl_xor_sync(~0u, value, 1);
    else value += __shfl_xor_sync(~0u, value, 1);
    if (which == BEYOND_SHARED) value += shared[next + 1];
    if (which == READ_BEYOND) value += in[i + 1];
    if (which == WRITE_BEYOND && i == 0) out[2 * n] = 0;
    if (which == MISALIGNED) value += reinterpret_cast<const int4 *>(in + i)->x;
    if (which == UNINITIALISED_GLOBAL) value += out[i];
    if (which == HOST_MEMORY) value += *host;
    int local = value;
    if (which == OTHERS_STACK) {
        leak[int(blockIdx.x) * n + i] = &local;
        __syncthreads();
        value += *leak[int(blockIdx.x) * n + next];
    }
    if (which == GLOBAL_RACE) out[0] = value;
    const int table[4] = { 1, 2, 3, 4 };
    if (which == BAD_INDEX) value += table[i];
    if (which == OVERFLOW_INT) value += 0x7ffffff0 + i;
    out[i] = value;
}

static void run_mistake(mistake which, int threads)
{
    const size_t n = size_t(threads);
    int host = 1;
    const int *in = device_array(std::vector<int>(n, 5));
    int *out = static_cast<int *>(device_alloc(2 * n * sizeof(int)));
    int **leak = static_cast<int **>(device_alloc(2 * n * sizeof(int *)));
    AWQ_CUDA__LAUNCH(mistaken_kernel, dim3(2), dim3(unsigned(threads)), n * sizeof(int), STREAM,
                     which, in, out, &host, leak);
}

static void test_mistakes()
{
    static const struct { mistake which; const char *words, *or_words; } table[] = {
        { NO_BARRIER, "race: read of shared byte", "never written" },
        { LATE_WRITE, "race: write of shared byte", "race: read of shared byte" },
        { NO_WARP_BARRIER, "race: read of shared byte", "race: write of shared byte" },
        { UNINITIALISED_SHARED, "never written", "never written" },
        { BEYOND_SHARED, "of shared memory", "of shared memory" },
        { DIVERGENT_BARRIER, "divergent: __syncthreads", "divergent: __syncthreads" },
        { EARLY_EXIT, "leaves while others wait", "after a thread has left" },
        { DIVERGENT_SHUFFLE, "divergent: __shfl_xor_sync", "divergent: __shfl_xor_sync" },
        { LANE_LEFT, "a lane leaves while", "names a lane that has left" },
        { READ_BEYOND, "outside every buffer", "outside every buffer" },
        { WRITE_BEYOND, "outside every buffer", "outside every buffer" },
        { MISALIGNED, "not aligned", "misaligned" },
        { UNINITIALISED_GLOBAL, "never written", "never written" },
        { HOST_MEMORY, "outside every buffer", "outside every buffer" },
        { OTHERS_STACK, "outside every buffer", "outside every buffer" },
        { GLOBAL_RACE, "race: write of global byte", "race: write of global byte" },
        { BAD_INDEX, "index outside its array", "index outside its array" },
        { OVERFLOW_INT, "signed overflow", "signed overflow" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        run_mistake(table[i].which, 64);
        expect(table[i].words, table[i].words, table[i].or_words);
        run_mistake(SOUND, 64);
        expect_nothing("sound kernel");
        device_free_all();
    }
}

/*  Each barrier of the sound kernel is needed: without it the emulator speaks up.                */
static void test_removed_barriers()
{
    forget_sites();
    run_mistake(SOUND, 96);
    expect_nothing("sound kernel");
    const std::vector<site> all = sites();
    CHECK(all.size() == 4, "%zu sites", all.size());
    int caught = 0;
    for (const site &which : all) {
        remove_site(which);
        run_mistake(SOUND, 96);
        caught += !report().empty();
    }
    remove_site({ BARRIER, 0 });
    CHECK(caught == 3, "%d of 4: the third __syncthreads is not needed, the others are", caught);
    device_free_all();
}

/* ---- cp.async -------------------------------------------------------------------------------- */

enum copying { RIGHT, NO_WAIT, WAIT_TOO_LITTLE, NO_BARRIER_AFTER, NO_BARRIER_BEFORE_REUSE };

/*  Two stages: while one is summed, the other is on its way. out[i] = sum over steps of the next
    thread's first number.                                                                        */
static __global__ void copying_kernel(copying how, const int *in, int *out, int steps, unsigned valid)
{
    AWQ_CUDA__SHARED(memory);
    const int i = int(threadIdx.x), n = int(blockDim.x), next = (i + 1) % n;
    int sum = 0;
    awq_cuda__cp_async16(memory + i * 16, in + i * 4, valid);
    awq_cuda__cp_async_commit();
    for (int step = 0; step < steps; step++) {
        unsigned char *now = memory + step % 2 * n * 16, *later = memory + (step + 1) % 2 * n * 16;
        if (step + 1 < steps) {
            awq_cuda__cp_async16(later + i * 16, in + ((step + 1) * n + i) * 4, valid);
        }
        awq_cuda__cp_async_commit();
        if (how == WAIT_TOO_LITTLE) awq_cuda__cp_async_wait<2>();
        else if (how != NO_WAIT) awq_cuda__cp_async_wait<1>();
        if (how != NO_BARRIER_AFTER) __syncthreads();
        const int *numbers = reinterpret_cast<const int *>(now + next * 16);
        sum += numbers[0] + (valid > 8 ? 0 : numbers[3]);
        if (how != NO_BARRIER_BEFORE_REUSE) __syncthreads();
    }
    out[i] = sum;
}

static void run_copies(copying how, unsigned valid)
{
    const int n = 64, steps = 5;
    std::vector<int> in(size_t(n * steps * 4));
    for (size_t i = 0; i < in.size(); i++) in[i] = int(i);
    int *out = static_cast<int *>(device_alloc(n * sizeof(int)));
    AWQ_CUDA__LAUNCH(copying_kernel, dim3(1), dim3(n), size_t(2 * n * 16), STREAM, how,
                     device_array(in), out, steps, valid);
    if (how != RIGHT) return;
    const std::vector<int> got = host_copy(out, size_t(n));
    for (int i = 0; i < n; i++) {
        int sum = 0;
        for (int step = 0; step < steps; step++) sum += (step * n + (i + 1) % n) * 4;
        CHECK(got[size_t(i)] == (valid ? sum : 0), "%d: %d is not %d", i, got[size_t(i)], sum);
    }
    device_free_all();
}

static void test_copies()
{
    for (unsigned valid : { 16u, 12u, 4u, 0u }) {
        run_copies(RIGHT, valid);
        expect_nothing("cp.async");
    }
    run_copies(NO_WAIT, 16);
    expect("no wait", "before its cp.async was waited for", "before its cp.async was waited for");
    run_copies(WAIT_TOO_LITTLE, 16);
    expect("wait<2>", "before its cp.async was waited for", "before its cp.async was waited for");
    run_copies(NO_BARRIER_AFTER, 16);
    expect("no barrier after the wait", "before its cp.async was waited for", "shared byte");
    run_copies(NO_BARRIER_BEFORE_REUSE, 16);
    expect("no barrier before reuse", "race: write of shared byte", "before its cp.async");
    device_free_all();
}

/* ---- wgmma ----------------------------------------------------------------------------------- */

enum warpgroup_mistake {
    WARPGROUP_RIGHT, NO_PROXY_FENCE, LATE_PROXY_FENCE, NO_REGISTER_FENCE, SUMS_TOO_EARLY, A_TOO_EARLY,
    B_TOO_EARLY, NO_COMMIT, NO_WGMMA_WAIT, OTHER_OPERAND, A_WARP_LESS, MIXED_REGISTERS
};

static void wgmma_of(float (&d)[4], const unsigned *a, uint64_t b) { awq_cuda__wgmma_m64n8k16_f16(d, a, b); }
static void wgmma_of(float (&d)[64], const unsigned *a, uint64_t b) { awq_cuda__wgmma_m64n128k16_f16(d, a, b); }

/*  One warpgroup: d [64][COLUMNS] = 2 a [64][16] b, b in shared memory as `image` has it. The
    descriptor is of address 0 of it.                                                             */
template <int COLUMNS> static __global__ void wgmma_kernel(warpgroup_mistake which, const uint16_t *a,
                                                           const uint16_t *image, int numbers,
                                                           uint64_t descriptor, float *d)
{
    AWQ_CUDA__SHARED(memory);
    unsigned char *aligned = memory + 1024 - awq_cuda__address(memory) % 1024;
    uint16_t *b = reinterpret_cast<uint16_t *>(aligned);
    const int i = int(threadIdx.x), warp = i / 32, g = i % 32 / 4, t = i % 4;
    unsigned ra[4], rb[4];
    float rd[size_t(COLUMNS / 2)];
    const unsigned *sums = reinterpret_cast<const unsigned *>(rd);
    for (int j = i; j < numbers; j += 128) b[j] = image[j];
    if (which != NO_PROXY_FENCE && which != LATE_PROXY_FENCE) awq_cuda__fence_proxy();
    __syncthreads();
    if (which == LATE_PROXY_FENCE) awq_cuda__fence_proxy();
    for (int j = 0; j < 4; j++) {
        const uint16_t *from = a + (warp * 16 + g + j % 2 * 8) * 16 + j / 2 * 8 + t * 2;
        ra[j] = rb[j] = unsigned(from[0]) | unsigned(from[1]) << 16;
    }
    for (float &sum : rd) sum = 0;
    descriptor += awq_cuda__address(aligned) / 16;
    if (which != NO_REGISTER_FENCE) awq_cuda__wgmma_fence();
    if (which == OTHER_OPERAND && warp == 2) descriptor += 2;
    wgmma_of(rd, ra, descriptor);
    if (which != A_WARP_LESS || warp) wgmma_of(rd, which == MIXED_REGISTERS ? sums : rb, descriptor);
    if (which != NO_COMMIT) awq_cuda__wgmma_commit();
    if (which == SUMS_TOO_EARLY) d[i] = rd[1];
    if (which == A_TOO_EARLY) rb[2] = 0;
    if (which == B_TOO_EARLY && i == 9) b[32] = 0;
    if (which != NO_WGMMA_WAIT) awq_cuda__wgmma_wait<0>();
    if (which == NO_WGMMA_WAIT) return;
    for (int j = 0; j < COLUMNS / 2; j++) {
        d[(warp * 16 + g + j / 2 % 2 * 8) * COLUMNS + j / 4 * 8 + t * 2 + j % 2] = rd[j];
    }
}

/*  An operand in shared memory: in which of its bytes input k of column n begins, by pictures of the
    PTX ISA: atoms of 8 columns, their 16-byte chunks exchanged, or not.                          */
struct operand { unsigned mode; size_t start, leading, stride; };

static size_t byte_of(const operand &o, size_t n, size_t k)
{
    static const size_t row[] = { 16, 128, 64, 32 }, columns_alike[] = { 8, 1, 2, 4 };
    if (o.mode == 0) return o.start + n / 8 * o.stride + k / 8 * o.leading + n % 8 * 16 + k % 8 * 2;
    const size_t chunk = (o.start / 16 + k / 8) % (row[o.mode] / 16);
    const size_t exchanged = chunk ^ n % 8 / columns_alike[o.mode];
    return o.start / row[o.mode] * row[o.mode] + n / 8 * o.stride + n % 8 * row[o.mode]
         + exchanged * 16 + k % 8 * 2;
}

static uint64_t descriptor_of(const operand &o)
{
    return o.start / 16 | uint64_t(o.leading / 16) << 16 | uint64_t(o.stride / 16) << 32
         | uint64_t(o.mode) << 62;
}

template <int COLUMNS> static void run_wgmma(warpgroup_mistake which, const operand &o, rng *r)
{
    std::vector<uint16_t> a(64 * 16), b(size_t(16 * COLUMNS)), image(16384);
    for (uint16_t &x : a) x = uint16_t(narrow(AWQ_F16, rng_normal(r)));
    for (uint16_t &x : b) x = uint16_t(narrow(AWQ_F16, rng_normal(r)));
    for (uint16_t &x : image) x = 0x7fff;
    for (size_t i = 0; i < b.size(); i++) image[byte_of(o, i / 16, i % 16) / 2] = b[i];
    float *result = static_cast<float *>(device_alloc(64 * COLUMNS * sizeof(float)));
    AWQ_CUDA__LAUNCH(wgmma_kernel<COLUMNS>, dim3(1), dim3(128), size_t(33 * 1024), STREAM, which,
                     device_array(a), device_array(image), int(image.size()), descriptor_of(o), result);
    if (which != WARPGROUP_RIGHT) return;
    expect_nothing("wgmma");
    const std::vector<float> got = host_copy(result, 64 * COLUMNS);
    for (size_t i = 0; i < got.size(); i++) {
        double sum = 0, size = 0;
        for (size_t k = 0; k < 16; k++) {
            const double product = 2 * widen(AWQ_F16, a[i / COLUMNS * 16 + k])
                                     * widen(AWQ_F16, b[i % COLUMNS * 16 + k]);
            sum += product;
            size += magnitude(product);
        }
        CHECK(magnitude(double(got[i]) - sum) <= 1e-6 * size, "mode %u, start %zu: (%zu, %zu)", o.mode,
              o.start, i / COLUMNS, i % COLUMNS);
    }
    device_free_all();
}

static void test_wgmma(rng *r)
{
    static const operand operands[] = {
        { 1, 0, 16, 1024 }, { 1, 1024 + 96, 16, 1024 }, { 1, 32, 16, 2048 }, { 2, 32, 16, 512 },
        { 2, 512, 16, 640 * 2 }, { 3, 256, 16, 256 }, { 0, 0, 128, 256 }, { 0, 48, 2048, 128 },
    };
    for (const operand &o : operands) {
        run_wgmma<8>(WARPGROUP_RIGHT, o, r);
        if (o.stride <= 1024) run_wgmma<128>(WARPGROUP_RIGHT, o, r);
    }
}

static void test_wgmma_mistakes(rng *r)
{
    static const struct { warpgroup_mistake which; const char *words; } table[] = {
        { NO_PROXY_FENCE, "no fence.proxy.async since" }, { LATE_PROXY_FENCE, "no fence.proxy.async since" },
        { NO_REGISTER_FENCE, "with no wgmma.fence since" },
        { SUMS_TOO_EARLY, "read of registers of a wgmma" }, { A_TOO_EARLY, "write of registers of a wgmma" },
        { B_TOO_EARLY, "while a wgmma reads it" }, { NO_COMMIT, "read of registers of a wgmma" },
        { NO_WGMMA_WAIT, "leaves with a wgmma" }, { OTHER_OPERAND, "different wgmmas" },
        { A_WARP_LESS, "of 2 wgmmas of its warpgroup" }, { MIXED_REGISTERS, "for another use" },
    };
    static const struct { operand o; const char *words; } bad[] = {
        { { 1, 256, 16, 1024 }, "not in the first row" }, { { 2, 512 + 64, 16, 512 }, "not in the first row" },
        { { 1, 31 * 1024, 16, 4096 }, "bytes of shared memory" },
        { { 0, 32 * 1024 - 128, 256, 128 }, "shared" },
    };
    for (const auto &entry : table) {
        run_wgmma<8>(entry.which, operand{ 1, 64, 16, 1024 }, r);
        expect(entry.words, entry.words, entry.words);
        device_free_all();
    }
    for (const auto &entry : bad) {
        float *none = static_cast<float *>(device_alloc(64 * 128 * sizeof(float)));
        AWQ_CUDA__LAUNCH(wgmma_kernel<128>, dim3(1), dim3(128), size_t(33 * 1024), STREAM, WARPGROUP_RIGHT,
                         device_array(std::vector<uint16_t>(1024)),
                         device_array(std::vector<uint16_t>(16384)), 16384, descriptor_of(entry.o), none);
        expect(entry.words, entry.words, entry.words);
        device_free_all();
    }
}

/* ---- barriers of some threads ---------------------------------------------------------------- */

enum relay {
    RELAY_RIGHT, NO_FULL_WAIT, NO_EMPTY_WAIT, NO_ARRIVAL, NO_SYNCWARP, NOT_INITIALISED, USED_TOO_SOON,
    NO_CREW_BARRIER, CREW_OF_ALL
};

/*  Warp 2 hands numbers to warps 0 and 1 through one slot per lane; these exchange what they got. */
static __global__ void relay_kernel(relay how, int *out, int steps)
{
    AWQ_CUDA__SHARED(memory);
    uint64_t *full = reinterpret_cast<uint64_t *>(memory), *empty = full + 1;
    int *slot = reinterpret_cast<int *>(memory + 16), *swapped = slot + 32;
    const int i = int(threadIdx.x), lane = i % 32;
    if (i == 0 && how != NOT_INITIALISED) {
        awq_cuda__mbarrier_init(full, 1);
        awq_cuda__mbarrier_init(empty, 2);
    }
    if (how != USED_TOO_SOON) __syncthreads();
    for (int step = 0; step < steps; step++) {
        const unsigned parity = unsigned(step) % 2;
        if (i >= 64) {
            if (how != NO_EMPTY_WAIT) awq_cuda__mbarrier_wait(empty, parity ^ 1u);
            slot[lane] = step * 32 + lane;
            if (how != NO_SYNCWARP) __syncwarp();
            if (lane == 0 && how != NO_ARRIVAL) awq_cuda__mbarrier_arrive(full);
            continue;
        }
        if (how != NO_FULL_WAIT) awq_cuda__mbarrier_wait(full, parity);
        swapped[i] = slot[31 - lane];
        __syncwarp();
        if (lane == 0) awq_cuda__mbarrier_arrive(empty);
        if (how != NO_CREW_BARRIER) awq_cuda__barrier(1, how == CREW_OF_ALL ? 96 : 64);
        out[step * 64 + i] = swapped[63 - i];
        if (how != NO_CREW_BARRIER) awq_cuda__barrier(1, how == CREW_OF_ALL ? 96 : 64);
    }
}

static void run_relay(relay how)
{
    const int steps = 6;
    int *out = static_cast<int *>(device_alloc(steps * 64 * sizeof(int)));
    AWQ_CUDA__LAUNCH(relay_kernel, dim3(1), dim3(96), size_t(16 + 96 * 4), STREAM, how, out, steps);
    if (how != RELAY_RIGHT) return;
    const std::vector<int> got = host_copy(out, steps * 64);
    for (int i = 0; i < steps * 64; i++) {
        CHECK(got[size_t(i)] == i / 64 * 32 + i % 32, "%d: %d", i, got[size_t(i)]);
    }
    device_free_all();
}

static void test_relays()
{
    static const struct { relay how; const char *words, *or_words; } table[] = {
        { NO_FULL_WAIT, "race: read of shared byte", "never written" },
        { NO_EMPTY_WAIT, "race: ", "deadlock" },
        { NO_ARRIVAL, "deadlock", "leaves while" }, { NO_SYNCWARP, "race: ", "never written" },
        { NOT_INITIALISED, "no mbarrier", "no mbarrier" },
        { USED_TOO_SOON, "race: use of an mbarrier", "no mbarrier" },
        { NO_CREW_BARRIER, "race: read of shared byte", "never written" },
        { CREW_OF_ALL, "deadlock", "a thread leaves while others wait" },
    };
    run_relay(RELAY_RIGHT);
    expect_nothing("relay");
    for (const auto &entry : table) {
        run_relay(entry.how);
        expect(entry.words, entry.words, entry.or_words);
        device_free_all();
    }
}

/* ---- between blocks -------------------------------------------------------------------------- */

enum meeting { LAST_BLOCK_SUMS, WITHOUT_FENCE, WITHOUT_FENCE_AFTER, WITHOUT_BARRIER, IN_TURNS, IN_TURNS_BACKWARDS };

/*  Every block writes a part; the last one to come, or each in its turn, adds up.                */
static __global__ void meeting_kernel(meeting how, int *part, unsigned *counter, int *out)
{
    AWQ_CUDA__SHARED(memory);
    unsigned *arrived = reinterpret_cast<unsigned *>(memory);
    const unsigned i = threadIdx.x, n = blockDim.x, blocks = gridDim.x;
    if (how >= IN_TURNS) {
        const unsigned turn = how == IN_TURNS ? blockIdx.x : blocks - 1 - blockIdx.x;
        if (i == 0) while (awq_cuda__load_acquire(counter) != turn) { }
        __syncthreads();
        out[i] = (turn ? out[i] : 0) + int(blockIdx.x + i);
        __syncthreads();
        if (i == 0) awq_cuda__store_release(counter, turn + 1);
        return;
    }
    part[blockIdx.x * n + i] = int(blockIdx.x + i);
    if (how != WITHOUT_FENCE) __threadfence();
    if (how != WITHOUT_BARRIER) __syncthreads();
    if (i == 0) *arrived = atomicAdd(counter, 1u);
    __syncthreads();
    if (*arrived != blocks - 1) return;
    if (how != WITHOUT_FENCE_AFTER) __threadfence();
    int sum = 0;
    for (unsigned b = 0; b < blocks; b++) sum += part[b * n + i];
    out[i] = sum;
}

static void run_meeting(meeting how, int blocks, bool is_right)
{
    const int n = 64;
    int *part = static_cast<int *>(device_alloc(size_t(blocks * n) * sizeof(int)));
    int *out = static_cast<int *>(device_alloc(n * sizeof(int)));
    AWQ_CUDA__LAUNCH(meeting_kernel, dim3(unsigned(blocks)), dim3(n), 4, STREAM, how, part,
                     device_array(std::vector<unsigned>(1, 0)), out);
    const std::vector<int> got = host_copy(out, n);
    for (int i = 0; i < n && is_right; i++) {
        CHECK(got[size_t(i)] == blocks * (blocks - 1) / 2 + blocks * i, "%d: %d", i, got[size_t(i)]);
    }
    device_free_all();
}

static void test_blocks()
{
    run_meeting(LAST_BLOCK_SUMS, 9, true);
    expect_nothing("last block");
    run_meeting(WITHOUT_FENCE, 9, false);
    expect("no fence", "race: read of global byte", "race: read of global byte");
    run_meeting(WITHOUT_FENCE_AFTER, 9, false);
    expect("no fence after", "race: read of global byte", "race: read of global byte");
    run_meeting(WITHOUT_BARRIER, 9, false);
    expect("no barrier before", "race: read of global byte", "race: read of global byte");
    run_meeting(IN_TURNS, 9, true);
    expect_nothing("in turns");
    run_meeting(IN_TURNS_BACKWARDS, config.resident_blocks, true);
    expect_nothing("backwards, all resident");
    run_meeting(IN_TURNS_BACKWARDS, config.resident_blocks + 1, false);
    expect("backwards, one too many", "deadlock", "deadlock");
}

/*  Global sums by atomics: right whatever the order, and no race.                                */
static __global__ void atomic_kernel(int *sum, float *largest)
{
    atomicAdd(sum, int(threadIdx.x));
    atomicMax(largest, float(threadIdx.x * 3 % 64));
}

static void test_atomics()
{
    int *sum = device_array(std::vector<int>(1, 0));
    float *largest = device_array(std::vector<float>(1, 0.0f));
    AWQ_CUDA__LAUNCH(atomic_kernel, dim3(3), dim3(64), 0, STREAM, sum, largest);
    expect_nothing("atomics");
    CHECK(host_copy(sum, 1)[0] == 3 * 64 * 63 / 2, "atomicAdd");
    CHECK(host_copy(largest, 1)[0] == 63.0f, "atomicMax");
    device_free_all();
}

/* ---- the host's side ------------------------------------------------------------------------- */

static __global__ void empty_kernel() { }

static void test_host()
{
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1), dim3(1), 0, nullptr);
    expect("stream", "another stream", "another stream");
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1), dim3(1025), 0, STREAM);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "1025 threads");
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1, 65536), dim3(1), 0, STREAM);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "65536 rows of blocks");
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(0), dim3(1), 0, STREAM);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "no blocks");
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1), dim3(1), 64 * 1024, STREAM);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue, "64 KiB without the attribute");
    CHECK(cudaFuncSetAttribute(empty_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 16)
          == cudaSuccess, "the attribute");
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1), dim3(1), 64 * 1024, STREAM);
    CHECK(cudaGetLastError() == cudaSuccess, "64 KiB with the attribute");
    cudaFuncSetAttribute(empty_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 0);
    fail_launch(2, cudaErrorNoKernelImageForDevice);
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1), dim3(1), 0, STREAM);
    CHECK(cudaGetLastError() == cudaSuccess, "the first launch");
    AWQ_CUDA__LAUNCH(empty_kernel, dim3(1), dim3(1), 0, STREAM);
    CHECK(cudaGetLastError() == cudaErrorNoKernelImageForDevice, "the second launch");
    expect_nothing("launches");
}

/* ---- numbers --------------------------------------------------------------------------------- */

static void test_numbers(rng *r)
{
    for (unsigned i = 0; i < 65536; i++) {
        const double f16 = widen(AWQ_F16, i), bf16 = widen(AWQ_BF16, i);
        if (f16 == f16) CHECK(double(cuda_emu::f16::widen(uint16_t(i))) == f16, "f16 %#x", i);
        if (f16 == f16) CHECK(cuda_emu::f16::narrow(f16) == i, "f16 %#x", i);
        if (bf16 == bf16) CHECK(double(cuda_emu::bf16::widen(uint16_t(i))) == bf16, "bf16 %#x", i);
        if (bf16 == bf16) CHECK(cuda_emu::bf16::narrow(bf16) == i, "bf16 %#x", i);
    }
    for (int i = 0; i < 200000; i++) {
        const double scale = power_of_two(int(rng_below(r, 60)) - 40);
        const double value = double(float(rng_normal(r) * scale));
        CHECK(cuda_emu::f16::narrow(value) == narrow(AWQ_F16, value), "f16 %g", value);
        CHECK(cuda_emu::bf16::narrow(value) == narrow(AWQ_BF16, value), "bf16 %g", value);
        const double on_grid = rounded(AWQ_F16, value), tie = on_grid * (1 + power_of_two(-11));
        CHECK(cuda_emu::f16::narrow(tie) == narrow(AWQ_F16, tie), "f16 tie %g", tie);
    }
    CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7531u) == 0x77553311u, "__byte_perm");
    CHECK(__byte_perm(0x80017f00u, 0u, 0xb98au) == 0xff000000u, "__byte_perm, signs");
    CHECK((awq_cuda__lop3<0xEA>(0xf0u, 0xccu, 0xaau) & 255u) == 0xeau, "lop3");
}

int main()
{
    rng r = { check_seed() };
    expected_stream = STREAM;
    for (int i = 0; i < 5; i++) {
        set_seed(rng_next(&r));
        test_mma<16, 0>(&r);
        test_mma<16, 1>(&r);
        test_mma<8, 0>(&r);
        test_mma_is_exact(&r);
        test_ldmatrix<0>(8, 0);
        test_ldmatrix<1>(16, 4 * 4);
        test_ldmatrix<0>(64, 4 * 7);
        test_shuffles();
        test_mistakes();
        test_removed_barriers();
        test_copies();
        test_wgmma(&r);
        test_wgmma_mistakes(&r);
        test_relays();
        test_blocks();
        test_atomics();
        test_host();
    }
    test_numbers(&r);
    return failures != 0;
}
