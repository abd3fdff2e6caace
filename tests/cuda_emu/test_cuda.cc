/*  test_cuda.cc - awq_cuda.cuh under emulation: every kernel against float64, and its manners.

    AWQ_TEST_FULL=1 runs more and larger cases (make test-cuda). */
#include "linear.h"

using namespace emulator;

int failures;
static bool full;

static const char *const KERNELS[] = { "portable", "gemv", "gemm", "wgmma" };
static const int KERNEL_COUNT = int(COUNT(KERNELS));

static bool check_report(const char *what, const linear_case &c)
{
    const std::string found = report();
    CHECK(found.empty(), "%s, %s: %s", what, describe(c).c_str(), found.c_str());
    return found.empty();
}

/* ---- repacking ------------------------------------------------------------------------------- */

static std::vector<unsigned char> host_repacked(const linear &m)
{
    std::vector<unsigned char> memory(m.on_device.size + 16, 0x5a);
    awq_cuda_tensor t = m.on_device;
    const size_t shift = 16 - reinterpret_cast<uintptr_t>(memory.data()) % 16;
    t.data = memory.data() + shift % 16;
    const size_t cut = m.c.rows / 128 * 64;
    CHECK(awq_cuda_repack_host(&m.packed, &t, cut, m.c.rows) == AWQ_OK, "repack_host");
    CHECK(awq_cuda_repack_host(&m.packed, &t, 0, cut) == AWQ_OK, "repack_host");
    const unsigned char *begin = static_cast<unsigned char *>(t.data);
    return std::vector<unsigned char>(begin, begin + t.size);
}

/*  Fills the tensor on the device, and compares with what the host makes of the same bytes.      */
static bool repack(awq_cuda *cuda, linear *m, rng *r)
{
    awq_packed on_device = m->packed;
    on_device.data = to_device(m->bytes, 16 * rng_below(r, 16));
    const awq_status status = awq_cuda_repack(cuda, &on_device, &m->on_device);
    CHECK(status == AWQ_OK, "awq_cuda_repack: %s", awq_status_string(status));
    if (!check_report("repack", m->c)) return false;
    std::vector<unsigned char> got(m->on_device.size);
    device_read(got.data(), m->on_device.data, got.size());
    CHECK(device_written(m->on_device.data, got.size()) == got.size(), "%s: repack left bytes out",
          describe(m->c).c_str());
    CHECK(got == host_repacked(*m), "%s: repacked on device and host", describe(m->c).c_str());
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

static void give_workspace(awq_cuda *cuda, const linear &m)
{
    cuda->workspace_size = awq_cuda_workspace_size(cuda, m.c.tokens);
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

static bool multiply(awq_cuda *cuda, awq_cuda_kernel kernel, const linear &m, awq_matrix y,
                     std::vector<uint16_t> *got)
{
    const awq_status status = awq_cuda_matmul_with(cuda, kernel, &m.on_device, m.x.view, m.bias,
                                                   m.residual.view, y);
    if (status == AWQ_ERR_DEVICE || (kernel == AWQ_CUDA_GEMV && m.c.tokens > 8)) return false;
    if (kernel == AWQ_CUDA_WGMMA) return false;
    CHECK(status == AWQ_OK, "%s, %s: %s", KERNELS[kernel], describe(m.c).c_str(),
          awq_status_string(status));
    if (!check_report(KERNELS[kernel], m.c) || status != AWQ_OK) return false;
    *got = read_matrix(y);
    return true;
}

static void check_outputs(awq_cuda_kernel kernel, const linear &m, const std::vector<uint16_t> &got)
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
static void check_kernel(awq_cuda *cuda, awq_cuda_kernel kernel, linear *m, rng *r)
{
    std::vector<uint16_t> got, again;
    define_outputs(m, kernel >= AWQ_CUDA_GEMM);
    give_workspace(cuda, *m);
    if (!multiply(cuda, kernel, *m, new_output(r, *m), &got)) return;
    check_outputs(kernel, *m, got);
    spoil_partials(*cuda);
    set_seed(rng_next(r));
    config.resident_blocks = 1 + int(rng_below(r, 16));
    if (!multiply(cuda, kernel, *m, new_output(r, *m), &again)) return;
    CHECK(got == again, "%s, %s: another result the second time", KERNELS[kernel],
          describe(m->c).c_str());
}

static void check_case(awq_cuda *cuda, const linear_case &c, rng *r)
{
    linear m = new_linear(r, c);
    if (repack(cuda, &m, r)) {
        check_dequantize(cuda, m, r);
        for (int kernel = 0; kernel < KERNEL_COUNT; kernel++) {
            check_kernel(cuda, awq_cuda_kernel(kernel), &m, r);
        }
    }
    free_linear(&m);
}

static void test_random(rng *r)
{
    awq_cuda cuda = new_device();
    for (int i = 0; i < (full ? 400 : 40) && !failures; i++) {
        set_seed(rng_next(r));
        check_case(&cuda, random_case(r, 200, 400, 20), r);
    }
}

int main()
{
    rng r = { check_seed() };
    const char *text = getenv("AWQ_TEST_FULL");
    full = text && atoi(text) != 0;
    expected_stream = STREAM;
    test_random(&r);
    return failures != 0;
}
