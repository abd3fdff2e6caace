/*  test_cuda.cc - awq_cuda.cuh under emulation: every kernel against float64, and its manners.

    AWQ_TEST_FULL=1 runs more cases (make test-cuda); a word chooses one group of tests. */
#include "linear.h"

#include <cmath>

using namespace emulator;

int failures;

static const char *const KERNELS[] = { "portable", "gemv", "gemm", "wgmma" };
static const int KERNEL_COUNT = int(COUNT(KERNELS));

bool check_report(const char *what, const linear_case &c)
{
    const std::string found = report();
    CHECK(found.empty(), "%s, %s: %s", what, describe(c).c_str(), found.c_str());
    return found.empty();
}

/* ---- repacking ------------------------------------------------------------------------------- */

/*  A tensor like another one in host memory that is aligned to 16 bytes.                         */
static awq_cuda_tensor host_twin(const awq_cuda_tensor &like, std::vector<unsigned char> *memory)
{
    awq_cuda_tensor t = like;
    memory->assign(like.size + 16, 0x5a);
    t.data = memory->data() + (16 - reinterpret_cast<uintptr_t>(memory->data()) % 16) % 16;
    return t;
}

/*  What is on the device is complete, and the same as on the host.                               */
static void compare_repacked(const awq_cuda_tensor &device, const awq_cuda_tensor &host,
                             const linear_case &c)
{
    std::vector<unsigned char> got(device.size);
    CHECK(device_written(device.data, device.size) == device.size, "%s: repack left bytes out",
          describe(c).c_str());
    device_read(got.data(), device.data, device.size);
    CHECK(memcmp(got.data(), host.data, device.size) == 0, "%s: repacked on device and host",
          describe(c).c_str());
}

bool repack(awq_cuda *cuda, linear *m, rng *r)
{
    std::vector<unsigned char> memory;
    awq_cuda_tensor host = host_twin(m->on_device, &memory);
    awq_packed on_device = m->packed;
    const size_t cut = rng_below(r, m->c.rows / 64 + 1) * 64;
    on_device.data = to_device(m->bytes, rng_below(r, 64));
    const awq_status status = awq_cuda_repack(cuda, &on_device, &m->on_device);
    CHECK(status == AWQ_OK, "awq_cuda_repack: %s", awq_status_string(status));
    if (!check_report("repack", m->c)) return false;
    CHECK(awq_cuda_repack_host(&m->packed, &host, cut, m->c.rows) == AWQ_OK, "repack_host");
    CHECK(awq_cuda_repack_host(&m->packed, &host, 0, cut) == AWQ_OK, "repack_host");
    compare_repacked(m->on_device, host, m->c);
    return true;
}

static void check_dequantize(awq_cuda *cuda, const linear &m, rng *r)
{
    const size_t stride = (m.c.cols + 8 * rng_below(r, 3));
    const device_matrix out = new_device_matrix(m.c.dtype, m.c.rows, m.c.cols, stride,
                                                16 * rng_below(r, 8), nullptr);
    CHECK(awq_cuda_dequantize(cuda, &m.on_device, out.view) == AWQ_OK, "dequantize");
    if (!check_report("dequantize", m.c)) return;
    const std::vector<uint16_t> got = read_matrix(out.view);
    for (size_t i = 0; i < got.size(); i++) {
        const double w = weight_of(m, i / m.c.cols, i % m.c.cols);
        if (widen(m.c.dtype, got[i]) == rounded(m.c.dtype, w)) continue;
        CHECK(false, "%s: dequantize (%zu, %zu)", describe(m.c).c_str(), i / m.c.cols, i % m.c.cols);
        return;
    }
}

/* ---- products -------------------------------------------------------------------------------- */

/*  Code for sm_90a differs from that for sm_80 in one kernel: there, only that one is tested.    */
static bool can_run(const awq_cuda &cuda, int kernel, size_t tokens)
{
    if (cuda.has_wgmma || kernel == AWQ_CUDA_WGMMA) return cuda.has_wgmma && kernel == AWQ_CUDA_WGMMA;
    return kernel == AWQ_CUDA_PORTABLE
        || (cuda.sm >= 80 && (kernel != AWQ_CUDA_GEMV || tokens <= 8));
}

static arithmetic arithmetic_of(int kernel, size_t tokens)
{
    return kernel == AWQ_CUDA_PORTABLE ? EXACT_WEIGHTS
         : kernel == AWQ_CUDA_WGMMA ? ROUNDED_WEIGHTS
         : kernel == AWQ_CUDA_GEMV || tokens <= 16 ? OFFSET_WEIGHTS : ROUNDED_WEIGHTS;
}

void give_workspace(awq_cuda *cuda, size_t most_tokens)
{
    cuda->workspace_size = awq_cuda_workspace_size(cuda, most_tokens);
    const std::vector<unsigned char> zeros(cuda->workspace_size, 0);
    cuda->workspace = cuda->workspace_size ? const_cast<unsigned char *>(to_device(zeros)) : nullptr;
}

/*  Sums that the last call left: whatever stands there, the next call must not care.             */
static void spoil_partials(const awq_cuda &cuda)
{
    std::vector<unsigned char> bytes(cuda.workspace_size);
    if (bytes.empty()) return;
    device_read(bytes.data(), cuda.workspace, bytes.size());
    for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
        uint32_t word;
        memcpy(&word, &bytes[i], 4);
        if (word) memset(&bytes[i], 0xff, 4);
    }
    device_write(cuda.workspace, bytes.data(), bytes.size());
}

static bool multiply(awq_cuda *cuda, int kernel, const linear &m, awq_matrix y,
                     std::vector<uint16_t> *got)
{
    const awq_status status = awq_cuda_matmul_with(cuda, awq_cuda_kernel(kernel), &m.on_device,
                                                   m.x.view, m.bias, m.residual.view, y);
    CHECK(status == AWQ_OK, "%s, %s: %s", KERNELS[kernel], describe(m.c).c_str(),
          awq_status_string(status));
    if (!check_report(KERNELS[kernel], m.c) || status != AWQ_OK) return false;
    *got = read_matrix(y);
    return true;
}

static void check_outputs(int kernel, const linear &m, const std::vector<uint16_t> &got)
{
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < got.size(); i++) {
        if (is_right(m, i / m.c.rows, i % m.c.rows, got[i])) continue;
        if (!wrong++) first = i;
    }
    CHECK(wrong == 0, "%s, %s: %zu wrong, first (%zu, %zu): %g is not %g", KERNELS[kernel],
          describe(m.c).c_str(), wrong, first / m.c.rows, first % m.c.rows,
          widen(m.c.dtype, got[first]), m.expected[first]);
}

/*  Twice, in another order of blocks and warps and over spoilt workspace: right, and the same.   */
static void check_kernel(awq_cuda *cuda, int kernel, linear *m, rng *r)
{
    std::vector<uint16_t> got, again;
    define_outputs(m, arithmetic_of(kernel, m->c.tokens));
    give_workspace(cuda, m->c.tokens + rng_below(r, 2) * rng_below(r, 100));
    if (!multiply(cuda, kernel, *m, new_output(r, *m), &got)) return;
    check_outputs(kernel, *m, got);
    spoil_partials(*cuda);
    set_seed(rng_next(r));
    config.resident_blocks = 1 + int(rng_below(r, 16));
    if (!multiply(cuda, kernel, *m, new_output(r, *m), &again)) return;
    CHECK(got == again, "%s, %s: another result the second time", KERNELS[kernel],
          describe(m->c).c_str());
}

static void check_case(const linear_case &c, rng *r)
{
    set_seed(rng_next(r));
    const size_t most = kernels_architecture == 900 ? 24 : 140;   /* tiles are large there */
    awq_cuda cuda = new_device(r, 1 + int(rng_below(r, rng_below(r, 2) ? 8 : most)));
    linear m = new_linear(r, c);
    if (repack(&cuda, &m, r)) {
        check_dequantize(&cuda, m, r);
        for (int kernel = 0; kernel < KERNEL_COUNT; kernel++) {
            if (can_run(cuda, kernel, c.tokens)) check_kernel(&cuda, kernel, &m, r);
        }
    }
    free_linear(&m);
}

/*  Every combination of options, at some shape.                                                  */
static void test_options(rng *r, bool full)
{
    static const int groups[] = { 32, 64, 128, -1 };
    const int step = kernels_architecture == 900 && !full ? 2 : 1, first = int(rng_below(r, 2)) % step;
    for (int i = first; i < 2 * 4 * 2 * 2 * 3 && !failures; i += step) {
        linear_case c = random_case(r, 150, 300, full ? 40 : 12);
        c.dtype = (i + i / 2) % 2 ? AWQ_F16 : AWQ_BF16;
        c.group_size = groups[i / 2 % 4];
        c.symmetric = i / 8 % 2;
        c.with_bias = i / 16 % 2 != 0;
        c.residual = i / 32;
        check_case(c, r);
    }
}

/*  Every remainder of rows, inputs and tokens by the sizes of tiles, the other two at random.    */
static void test_remainders(rng *r, bool full)
{
    const size_t step = full ? 1 : 9, first = 1 + rng_below(r, step);
    for (size_t rows = first; rows <= 130 && !failures; rows += step) {
        linear_case c = random_case(r, 1, 200, 9);
        c.rows = rows;
        check_case(c, r);
    }
    for (size_t cols = first; cols <= 33 && !failures; cols += (step + 1) / 2) {
        linear_case c = random_case(r, 80, 8, 9);
        c.cols = cols * 8;
        check_case(c, r);
    }
    for (size_t tokens = first; tokens <= 140 && !failures; tokens += 2 * step) {
        linear_case c = random_case(r, 70, 150, 1);
        c.tokens = tokens;
        check_case(c, r);
    }
}

/*  Few processors for many tiles, and many for few: every way to cut tiles.                      */
static void test_large(rng *r, bool full)
{
    for (int i = 0; i < (full ? 60 : 4) && !failures; i++) {
        check_case(random_case(r, 700, full ? 2000 : 1000, 20), r);
    }
}

/* ---- what is not a number stays in its token ------------------------------------------------- */

static void check_spread(int kernel, linear *m, size_t bad_token, rng *r)
{
    awq_cuda cuda = new_device(r, 5);
    std::vector<uint16_t> got;
    define_outputs(m, arithmetic_of(kernel, m->c.tokens));
    give_workspace(&cuda, m->c.tokens);
    if (!can_run(cuda, kernel, m->c.tokens)) return;
    if (!multiply(&cuda, kernel, *m, new_output(r, *m), &got)) return;
    for (size_t i = 0; i < got.size(); i++) {
        const size_t token = i / m->c.rows, row = i % m->c.rows;
        if (token == bad_token) {
            CHECK(!std::isfinite(widen(m->c.dtype, got[i])), "%s: a NaN was lost", KERNELS[kernel]);
        } else {
            CHECK(is_right(*m, token, row, got[i]), "%s: NaN came to token %zu", KERNELS[kernel], token);
        }
    }
}

static void test_not_a_number(rng *r, bool)
{
    for (int i = 0; i < 6 && !failures; i++) {
        linear_case c = random_case(r, 100, 200, 20);
        c.kind = NORMAL_NUMBERS;
        awq_cuda cuda = new_device(r, 5);
        linear m = new_linear(r, c);
        const size_t token = rng_below(r, c.tokens);
        m.x.values[token * c.cols + rng_below(r, c.cols)] = uint16_t(narrow(c.dtype, double(NAN)));
        write_matrix(m.x.view, m.x.values);
        if (!repack(&cuda, &m, r)) return;
        for (int kernel = 0; kernel < KERNEL_COUNT; kernel++) check_spread(kernel, &m, token, r);
        free_linear(&m);
    }
}

/* ---- barriers, waits and fences -------------------------------------------------------------- */

/*  A case in which a kernel goes through all of its code: several stages, tiles that are cut among
    six processors, and a processor that has several tiles.                                       */
static linear_case busy_case(int kernel)
{
    linear_case c = { 64, 0, AWQ_F16, AWQ_F16, 200, 1024, 3, NORMAL_NUMBERS, true, 1 };
    if (kernel == AWQ_CUDA_GEMM) c.tokens = 40;
    if (kernel == AWQ_CUDA_WGMMA) {
        c.rows = 300;
        c.cols = 640;
    }
    return c;
}

/*  What is reported, always on the same device: how many stages there are depends on it.         */
static std::string run_busy(int kernel, const linear &m, int processors, rng device, rng *r)
{
    awq_cuda cuda = new_device(&device, processors);
    set_seed(rng_next(r));
    give_workspace(&cuda, m.c.tokens);
    awq_cuda_matmul_with(&cuda, awq_cuda_kernel(kernel), &m.on_device, m.x.view, m.bias,
                         m.residual.view, new_output(r, m));
    return report();
}

/*  Whether a wait is there for tidiness, at the end of a kernel: with nothing left on its way.   */
static bool is_tidy(int kernel, const site &which, const std::vector<site> &all)
{
    int last = 0;
    if (kernel == AWQ_CUDA_WGMMA) return false;
    for (const site &s : all) if (s.kind == COPY_WAIT && s.line > last) last = s.line;
    return which.kind == COPY_WAIT && which.line == last;
}

static void test_removed_sites(rng *r, bool full)
{
    for (int i = 0; i < KERNEL_COUNT * (full ? 8 : 1) && !failures; i++) {
        const int kernel = i % KERNEL_COUNT;
        const rng device = { rng_next(r) };
        awq_cuda cuda = new_device(r, 6);
        if (!can_run(cuda, kernel, 1)) continue;
        linear m = new_linear(r, busy_case(kernel));
        if (!repack(&cuda, &m, r)) return;
        forget_sites();
        const std::string sound = run_busy(kernel, m, 6, device, r) +
                                  run_busy(kernel, m, 1, device, r);
        CHECK(sound.empty(), "%s: %s", KERNELS[kernel], sound.c_str());
        const std::vector<site> all = sites();
        CHECK(!all.empty(), "%s has no barrier", KERNELS[kernel]);
        for (const site &which : all) {
            if (is_tidy(kernel, which, all)) continue;
            remove_site(which);
            const std::string found = run_busy(kernel, m, 6, device, r) +
                                  run_busy(kernel, m, 1, device, r);
            CHECK(!found.empty(), "%s: %s of line %d is not needed, or its absence not noticed",
                  KERNELS[kernel], site_name(which.kind), which.line);
            remove_site({ BARRIER, 0 });
        }
        free_linear(&m);
    }
}

int main(int count, char **words)
{
    static const struct { const char *name; void (*test)(rng *, bool); } tests[] = {
        { "options", test_options }, { "remainders", test_remainders }, { "large", test_large },
        { "nan", test_not_a_number }, { "barriers", test_removed_sites },
        { "layouts", test_foreign_layouts }, { "calibration", test_calibration },
        { "arguments", test_wrong_arguments }, { "far", test_far_apart },
    };
    const bool one_kernel = kernels_architecture == 900;    /* the rest is as for sm_80 */
    rng r = { check_seed() };
    const char *text = getenv("AWQ_TEST_FULL");
    expected_stream = STREAM;
    for (const auto &entry : tests) {
        if (one_kernel && (entry.test == test_foreign_layouts || entry.test == test_calibration)) continue;
        if (count < 2 || !strcmp(words[1], entry.name)) entry.test(&r, text && atoi(text) != 0);
    }
    return failures != 0;
}
