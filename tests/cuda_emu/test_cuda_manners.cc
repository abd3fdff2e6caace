/*  test_cuda_manners.cc - other layouts, wrong arguments, failing launches, rows gigabytes apart.   */
#include "linear.h"

#include <functional>

using namespace emulator;

/* ---- AutoAWQ's layouts ----------------------------------------------------------------------- */

static awq_plane plane_on_device(const awq_plane &plane)
{
    awq_plane copy = plane;
    if (plane.rows == 0) return copy;
    copy.data = device_alloc((plane.rows - 1) * plane.stride + plane.cols * plane.element_size);
    for (size_t row = 0; row < plane.rows; row++) {
        device_write(static_cast<unsigned char *>(copy.data) + row * plane.stride,
                     static_cast<const unsigned char *>(plane.data) + row * plane.stride,
                     plane.cols * plane.element_size);
    }
    return copy;
}

/*  What repacking from a packed tensor makes of it, on the host.                                 */
static std::vector<unsigned char> repacked(const awq_tensor &t, awq_cuda_tensor like, pool *p, rng *r)
{
    const awq_kernels kernels = awq_kernels_best();
    size_t size;
    awq_packed packed;
    std::vector<unsigned char> memory(like.size + 16);
    like.data = memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
    const void *bytes = pack_all(&kernels, p, r, &t, &size);
    CHECK(awq_packed_open(&packed, bytes, size) == AWQ_OK, "awq_packed_open");
    CHECK(awq_cuda_repack_host(&packed, &like, 0, t.out_features) == AWQ_OK, "awq_cuda_repack_host");
    const unsigned char *begin = static_cast<unsigned char *>(like.data);
    return std::vector<unsigned char>(begin, begin + like.size);
}

static bool is_supported(int group_size)
{
    return group_size == -1 || group_size == 32 || group_size == 64 || group_size == 128;
}

static void check_layout(awq_layout layout, rng *r)
{
    foreign_case c = random_foreign_case(r, layout);
    while (!is_supported(c.quant.group_size)) c = random_foreign_case(r, layout);
    c.quant.scale_dtype = AWQ_F16;
    pool p = { };
    awq_cuda cuda = new_device(r, 8);
    awq_foreign host = new_foreign(&p, r, &c);
    while (host.scales.stride % 2 || host.zeros.stride % 2) {
        pool_release(&p);
        host = new_foreign(&p, r, &c);
    }
    awq_quant quant = host.quant;
    const awq_tensor t = random_tensor(&p, r, quant, c.rows, c.cols);
    if (layout == AWQ_GEMV_FAST) {      /* scaled zeros are rounded: powers of two keep them exact */
        const size_t groups = c.rows * awq_group_count(c.cols, quant.group_size);
        for (size_t i = 0; i < groups; i++) set_element(AWQ_F16, t.scales, i, power_of_two(-int(i % 9)));
    }
    define_foreign(&host, &t);
    awq_foreign there = host;
    there.weights = plane_on_device(host.weights);
    there.scales = plane_on_device(host.scales);
    there.zeros = plane_on_device(host.zeros);
    const size_t size = awq_cuda_tensor_size(quant, c.rows, c.cols, AWQ_F16);
    awq_cuda_tensor got;
    CHECK(awq_cuda_tensor_init(&got, quant, c.rows, c.cols, AWQ_F16, device_alloc(size), size) == AWQ_OK,
          "awq_cuda_tensor_init");
    const awq_status status = awq_cuda_repack_foreign(&cuda, &there, &got);
    const std::string found = report();
    CHECK(status == AWQ_OK && found.empty(), "layout %d, %zu x %zu, group %d: %s, %s", int(layout),
          c.rows, c.cols, quant.group_size, awq_status_string(status), found.c_str());
    const std::vector<unsigned char> expected = repacked(t, got, &p, r);
    std::vector<unsigned char> bytes(size), memory(size + 16);
    device_read(bytes.data(), got.data, size);
    CHECK(bytes == expected, "layout %d, %zu x %zu, group %d: on the device", int(layout), c.rows,
          c.cols, quant.group_size);
    got.data = memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
    CHECK(awq_cuda_repack_foreign_host(&host, &got, 0, c.rows) == AWQ_OK, "repack_foreign_host");
    CHECK(memcmp(got.data, expected.data(), size) == 0, "layout %d: on the host", int(layout));
    CHECK(pool_release(&p) == 0, "the host wrote outside its memory");
    device_free_all();
}

void test_foreign_layouts(rng *r, bool full)
{
    static const awq_layout layouts[] = { AWQ_GEMM, AWQ_GEMV, AWQ_GEMV_FAST };
    for (int i = 0; i < (full ? 60 : 12) && !failures; i++) {
        set_seed(rng_next(r));
        check_layout(layouts[i % 3], r);
    }
}

/* ---- wrong arguments ------------------------------------------------------------------------- */

/*  The arguments of a product; every test spoils one.                                            */
struct call {
    awq_cuda cuda;
    awq_cuda *cuda_given;
    awq_cuda_kernel kernel;
    awq_cuda_tensor tensor;
    awq_matrix x, residual, y;
};

static awq_status run(call *c)
{
    return awq_cuda_matmul_with(c->cuda_given, c->kernel, &c->tensor, c->x, nullptr, c->residual, c->y);
}

static void expect_refusal(const call &good, awq_status expected, const char *what,
                           const std::function<void(call *)> &spoil)
{
    call c = good;
    c.cuda_given = &c.cuda;
    spoil(&c);
    counted.launches = 0;
    const awq_status status = run(&c);
    CHECK(status == expected, "%s: %s", what, awq_status_string(status));
    CHECK(counted.launches == 0, "%s: something was launched", what);
    const std::string found = report();
    CHECK(found.empty(), "%s: %s", what, found.c_str());
}

static unsigned char *beyond(void *data, size_t bytes)
{
    return static_cast<unsigned char *>(data) + bytes;
}

static void test_product_arguments(const call &good)
{
    expect_refusal(good, AWQ_ERR_NULL, "no device", [](call *c) { c->cuda_given = nullptr; });
    expect_refusal(good, AWQ_ERR_NULL, "no x", [](call *c) { c->x.data = nullptr; });
    expect_refusal(good, AWQ_ERR_NULL, "no y", [](call *c) { c->y.data = nullptr; });
    expect_refusal(good, AWQ_ERR_NULL, "no tensor", [](call *c) { c->tensor.data = nullptr; });
    expect_refusal(good, AWQ_ERR_SHAPE, "x.cols", [](call *c) { c->x.cols -= 8; });
    expect_refusal(good, AWQ_ERR_SHAPE, "y.rows", [](call *c) { c->y.rows++; });
    expect_refusal(good, AWQ_ERR_SHAPE, "y.cols", [](call *c) { c->y.cols--; });
    expect_refusal(good, AWQ_ERR_SHAPE, "y.stride", [](call *c) { c->y.stride = c->y.cols - 1; });
    expect_refusal(good, AWQ_ERR_SHAPE, "residual.rows", [](call *c) { c->residual.rows--; });
    expect_refusal(good, AWQ_ERR_SHAPE, "tensor.size", [](call *c) { c->tensor.size -= 16; });
    expect_refusal(good, AWQ_ERR_DTYPE, "x.dtype", [](call *c) { c->x.dtype = AWQ_BF16; });
    expect_refusal(good, AWQ_ERR_DTYPE, "y.dtype", [](call *c) { c->y.dtype = AWQ_F32; });
    expect_refusal(good, AWQ_ERR_DTYPE, "residual.dtype", [](call *c) { c->residual.dtype = AWQ_BF16; });
    expect_refusal(good, AWQ_ERR_MEMORY, "x misaligned", [](call *c) { c->x.data = beyond(c->x.data, 8); });
    expect_refusal(good, AWQ_ERR_MEMORY, "x.stride % 8", [](call *c) { c->x.stride += 4; });
    expect_refusal(good, AWQ_ERR_MEMORY, "tensor misaligned",
                   [](call *c) { c->tensor.data = beyond(c->tensor.data, 8); });
    expect_refusal(good, AWQ_ERR_MEMORY, "y odd", [](call *c) { c->y.data = beyond(c->y.data, 1); });
    expect_refusal(good, AWQ_ERR_MEMORY, "residual odd",
                   [](call *c) { c->residual.data = beyond(c->residual.data, 1); });
    expect_refusal(good, AWQ_ERR_RANGE, "2^32 tokens", [](call *c) {
        c->x.rows = c->y.rows = c->residual.rows = size_t(1) << 32;
    });
    expect_refusal(good, AWQ_ERR_CONFIG, "no such kernel", [](call *c) {
        const int none = 17;
        memcpy(&c->kernel, &none, sizeof c->kernel);
    });
    expect_refusal(good, AWQ_ERR_DEVICE, "no wgmma here", [](call *c) {
        c->kernel = AWQ_CUDA_WGMMA;
        c->cuda.has_wgmma = 0;
    });
    expect_refusal(good, AWQ_OK, "no tokens",
                   [](call *c) { c->x.rows = c->y.rows = c->residual.rows = 0; });
}

static void test_limits(const call &good)
{
    if (good.cuda.sm < 80) {
        call c = good;
        c.cuda_given = &c.cuda;
        c.kernel = AWQ_CUDA_GEMM;
        CHECK(run(&c) == AWQ_ERR_DEVICE && c.cuda.needs == 80, "tensor cores on sm_75");
        return;
    }
    expect_refusal(good, AWQ_ERR_RANGE, "GEMV of 9 tokens", [](call *c) {
        c->kernel = AWQ_CUDA_GEMV;
        c->x.rows = c->y.rows = c->residual.rows = 9;
    });
    for (awq_cuda_kernel kernel : { AWQ_CUDA_GEMV, AWQ_CUDA_GEMM, AWQ_CUDA_WGMMA }) {
        if (kernel == AWQ_CUDA_WGMMA && !good.cuda.has_wgmma) continue;
        expect_refusal(good, AWQ_ERR_MEMORY, "no workspace", [=](call *c) {
            c->kernel = kernel;
            c->cuda.workspace = nullptr;
        });
        expect_refusal(good, AWQ_ERR_MEMORY, "little workspace", [=](call *c) {
            c->kernel = kernel;
            c->cuda.workspace_size = 512;
        });
        expect_refusal(good, AWQ_ERR_MEMORY, "workspace misaligned", [=](call *c) {
            c->kernel = kernel;
            c->cuda.workspace = beyond(c->cuda.workspace, 8);
        });
    }
}

static void expect_size(awq_quant quant, size_t rows, size_t cols, awq_dtype dtype, awq_status expected)
{
    awq_cuda_tensor t;
    unsigned char *memory = static_cast<unsigned char *>(device_alloc(1 << 16));
    const awq_status status = awq_cuda_tensor_init(&t, quant, rows, cols, dtype, memory, 1 << 16);
    CHECK(status == expected, "%zu x %zu: %s", rows, cols, awq_status_string(status));
    const bool fits = expected == AWQ_OK || expected == AWQ_ERR_MEMORY;
    CHECK((awq_cuda_tensor_size(quant, rows, cols, dtype) != 0) == fits, "%zu x %zu: size", rows, cols);
}

static void test_tensor_arguments()
{
    const awq_quant good = { 4, 64, 0, AWQ_F16 };
    awq_quant quant = good;
    expect_size(good, 64, 128, AWQ_F16, AWQ_OK);
    expect_size(good, 6400, 1280, AWQ_F16, AWQ_ERR_MEMORY);
    expect_size(good, 0, 128, AWQ_F16, AWQ_ERR_SHAPE);
    expect_size(good, 64, 0, AWQ_F16, AWQ_ERR_SHAPE);
    expect_size(good, SIZE_MAX / 2, SIZE_MAX / 8 * 8, AWQ_F16, AWQ_ERR_SHAPE);
    expect_size(good, size_t(1) << 32, 8, AWQ_F16, AWQ_ERR_SHAPE);
    expect_size(good, 64, size_t(1) << 32, AWQ_F16, AWQ_ERR_SHAPE);
    expect_size(good, 64, 132, AWQ_F16, AWQ_ERR_IN_FEATURES);
    expect_size(good, 64, 128, AWQ_F32, AWQ_ERR_DTYPE);
    quant.bits = 3;
    expect_size(quant, 64, 128, AWQ_F16, AWQ_ERR_CONFIG);
    quant = good;
    quant.group_size = 48;
    expect_size(quant, 64, 128, AWQ_F16, AWQ_ERR_GROUP_SIZE);
    device_free_all();
}

static void test_repack_arguments(awq_cuda *cuda, const linear &m)
{
    awq_packed packed = m.packed;
    awq_cuda_tensor t = m.on_device;
    std::vector<unsigned char> memory(t.size + 16);
    counted.launches = 0;
    packed.out_features++;
    CHECK(awq_cuda_repack(cuda, &packed, &t) == AWQ_ERR_SHAPE, "out_features");
    packed = m.packed;
    packed.quant.group_size = 32;
    CHECK(awq_cuda_repack(cuda, &packed, &t) == AWQ_ERR_GROUP_SIZE, "group_size");
    CHECK(awq_cuda_repack(cuda, nullptr, &t) == AWQ_ERR_NULL, "no tensor");
    CHECK(awq_cuda_repack(nullptr, &m.packed, &t) == AWQ_ERR_NULL, "no device");
    CHECK(counted.launches == 0, "something was launched");
    t.data = memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
    CHECK(awq_cuda_repack_host(&m.packed, &t, 16, m.c.rows) == AWQ_ERR_RANGE, "row 16");
    CHECK(awq_cuda_repack_host(&m.packed, &t, 64, 65) == AWQ_ERR_RANGE, "up to row 65");
    CHECK(awq_cuda_repack_host(&m.packed, &t, 64, 0) == AWQ_ERR_RANGE, "backwards");
    CHECK(awq_cuda_repack_host(&m.packed, &t, 0, m.c.rows + 64) == AWQ_ERR_RANGE, "too far");
}

/*  A launch that fails is told, with the runtime's reason.                                       */
static void test_failing_launches(call *c, const linear &m)
{
    awq_packed there = m.packed;
    there.data = to_device(m.bytes);
    for (int nth = 1; nth <= 2; nth++) {
        fail_launch(nth, cudaErrorLaunchFailure);
        c->cuda.error = cudaSuccess;
        CHECK(awq_cuda_repack(&c->cuda, &there, &c->tensor) == AWQ_ERR_CUDA, "repack, launch %d", nth);
        CHECK(c->cuda.error == cudaErrorLaunchFailure, "the runtime's reason");
        report();
    }
    c->cuda_given = &c->cuda;
    fail_launch(1, cudaErrorNoKernelImageForDevice);
    CHECK(run(c) == AWQ_ERR_CUDA && c->cuda.error == cudaErrorNoKernelImageForDevice, "product");
    fail_launch(0, 0);
    report();
    CHECK(run(c) == AWQ_OK, "after a failure");
    CHECK(report().empty(), "after a failure");
}

static void test_init(rng *r)
{
    awq_cuda cuda = new_device(r, 8);
    CHECK(awq_cuda_init(nullptr, 0, STREAM) == AWQ_ERR_NULL, "no struct");
    CHECK(awq_cuda_init(&cuda, 1, STREAM) == AWQ_ERR_RANGE, "another device than the current one");
    config.has_code = false;
    CHECK(awq_cuda_init(&cuda, 0, STREAM) != AWQ_OK, "a binary without code for the device");
    config.has_code = true;
    report();
}

/*  By tokens: 1 .. 8, .. 64 and beyond.                                                          */
static void test_thresholds(const awq_cuda &cuda, const awq_cuda_tensor &tensor)
{
    const awq_cuda_kernel few = cuda.sm >= 80 ? AWQ_CUDA_GEMV : AWQ_CUDA_PORTABLE;
    const awq_cuda_kernel some = cuda.sm >= 80 ? AWQ_CUDA_GEMM : AWQ_CUDA_PORTABLE;
    const awq_cuda_kernel many = cuda.has_wgmma ? AWQ_CUDA_WGMMA : some;
    CHECK(cuda.has_wgmma == (kernels_architecture == 900), "has_wgmma");
    CHECK(awq_cuda_pick(&cuda, &tensor, 8) == few, "8 tokens");
    CHECK(awq_cuda_pick(&cuda, &tensor, 9) == some, "9 tokens");
    CHECK(awq_cuda_pick(&cuda, &tensor, 64) == some, "64 tokens");
    CHECK(awq_cuda_pick(&cuda, &tensor, 65) == many, "65 tokens");
}

/*  What picks is what it picks.                                                                  */
static void test_pick(call *c, const linear &m, rng *r)
{
    c->kernel = awq_cuda_pick(&c->cuda, &c->tensor, c->x.rows);
    c->cuda_given = &c->cuda;
    c->y = new_output(r, m);
    CHECK(run(c) == AWQ_OK, "the kernel picked");
    const std::vector<uint16_t> expected = read_matrix(c->y);
    c->y = new_output(r, m);
    CHECK(awq_cuda_matmul(&c->cuda, &c->tensor, c->x, nullptr, c->residual, c->y) == AWQ_OK, "matmul");
    CHECK(report().empty(), "matmul");
    CHECK(read_matrix(c->y) == expected, "awq_cuda_matmul is not the kernel it picks");
}

void test_wrong_arguments(rng *r, bool)
{
    const linear_case shape = { 64, 0, AWQ_F16, AWQ_F16, 100, 1024, 5, NORMAL_NUMBERS, false, 1 };
    test_tensor_arguments();
    test_init(r);
    call c;
    c.cuda = new_device(r, 7);
    linear m = new_linear(r, shape);
    if (!repack(&c.cuda, &m, r)) return;
    give_workspace(&c.cuda, shape.tokens);
    c.kernel = AWQ_CUDA_PORTABLE;
    c.tensor = m.on_device;
    c.x = m.x.view;
    c.residual = m.residual.view;
    c.y = new_output(r, m);
    test_product_arguments(c);
    test_limits(c);
    test_repack_arguments(&c.cuda, m);
    test_thresholds(c.cuda, c.tensor);
    test_pick(&c, m, r);
    test_failing_launches(&c, m);
    free_linear(&m);
}

/* ---- rows gigabytes apart: no index of 32 bits ----------------------------------------------- */

static awq_matrix far_matrix(const awq_matrix &like, const std::vector<uint16_t> *values)
{
    awq_matrix m = like;
    m.stride = (size_t(1) << 31) + 8;
    m.data = device_alloc(m.cols * 2);
    for (size_t row = 1; row < m.rows; row++) {
        device_place(static_cast<uint16_t *>(m.data) + row * m.stride, m.cols * 2);
    }
    if (values) write_matrix(m, *values);
    return m;
}

void test_far_apart(rng *r, bool)
{
    for (int kernel = 0; kernel <= AWQ_CUDA_WGMMA; kernel++) {
        const linear_case shape = { 64, 0, AWQ_F16, AWQ_F16, 40, 128, 3, INTEGERS, false, 1 };
        awq_cuda cuda = new_device(r, 3);
        if (kernel != AWQ_CUDA_PORTABLE && cuda.sm < 80) continue;
        if (kernel == AWQ_CUDA_WGMMA && !cuda.has_wgmma) continue;
        linear m = new_linear(r, shape);
        if (!repack(&cuda, &m, r)) return;
        give_workspace(&cuda, shape.tokens);
        define_outputs(&m, EXACT_WEIGHTS);
        const awq_matrix x = far_matrix(m.x.view, &m.x.values);
        const awq_matrix residual = far_matrix(m.residual.view, &m.residual.values);
        const awq_matrix y = far_matrix(residual, nullptr);
        CHECK(awq_cuda_matmul_with(&cuda, awq_cuda_kernel(kernel), &m.on_device, x, nullptr, residual, y)
              == AWQ_OK, "kernel %d", kernel);
        if (check_report("rows far apart", shape)) {
            for (size_t i = 0; i < shape.tokens * shape.rows; i++) {
                uint16_t got;
                device_read(&got, static_cast<uint16_t *>(y.data) + i / shape.rows * y.stride
                                  + i % shape.rows, 2);
                CHECK(is_right(m, i / shape.rows, i % shape.rows, got), "kernel %d, output %zu", kernel, i);
            }
        }
        free_linear(&m);
    }
}
