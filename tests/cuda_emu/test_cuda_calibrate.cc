/*  test_cuda_calibrate.cc - statistics, sketch and loss on the device: the host's bits, or float64. */
#include "linear.h"

#include <cmath>

using namespace emulator;

/*  A host matrix on the device, with its gaps uninitialised there.                               */
static awq_matrix on_device(const awq_matrix &m)
{
    const size_t element = awq_dtype_size(m.dtype);
    awq_matrix copy = m;
    copy.data = device_alloc(((m.rows - 1) * m.stride + m.cols) * element);
    for (size_t row = 0; row < m.rows; row++) {
        device_write(static_cast<unsigned char *>(copy.data) + row * m.stride * element,
                     static_cast<const unsigned char *>(m.data) + row * m.stride * element,
                     m.cols * element);
    }
    return copy;
}

static std::vector<float> random_weights(rng *r, size_t count, bool with_zeros)
{
    std::vector<float> weights(count);
    for (float &w : weights) w = with_zeros && !rng_below(r, 4) ? 0.0f : float(1.5 + rng_unit(r));
    return weights;
}

/* ---- statistics ------------------------------------------------------------------------------ */

struct host_stats {
    std::vector<double> memory;
    awq_stats stats;
    host_stats(size_t in_features, size_t sketch_rows, uint64_t seed)
        : memory(awq_stats_size(in_features, sketch_rows, 0) / 8 + 1)
    {
        const awq_status status = awq_stats_init(&stats, in_features, sketch_rows, 0, seed,
                                                 memory.data(), memory.size() * 8);
        CHECK(status == AWQ_OK, "awq_stats_init: %s", awq_status_string(status));
    }
};

static void compare_stats(const awq_stats &got, const awq_stats &expected)
{
    const size_t n = got.in_features;
    CHECK(got.count == expected.count, "count %d, %d", int(got.count), int(expected.count));
    CHECK(got.weight == expected.weight, "weight %g, %g", got.weight, expected.weight);
    CHECK(!memcmp(got.abs_max, expected.abs_max, n * sizeof(float)), "abs_max");
    CHECK(!memcmp(got.sum, expected.sum, n * sizeof(double)), "sum");
    CHECK(!memcmp(got.abs_sum, expected.abs_sum, n * sizeof(double)), "abs_sum");
    CHECK(!memcmp(got.sq_sum, expected.sq_sum, n * sizeof(double)), "sq_sum");
    if (got.sketch_rows == 0) return;
    CHECK(!memcmp(got.sketch, expected.sketch, n * got.sketch_rows * sizeof(float)), "sketch");
}

/*  The same tokens, cut into batches in two ways.                                                */
static void check_stats(rng *r, size_t tokens)
{
    const awq_kernels kernels = awq_kernels_best();
    const size_t in_features = 1 + rng_below(r, 90), sketch_rows = rng_below(r, 2) * 16;
    const uint64_t seed = rng_next(r);
    awq_cuda cuda = new_device(r, 8);
    host_stats expected(in_features, sketch_rows, seed), got(in_features, sketch_rows, seed);
    const size_t size = awq_cuda_stats_size(in_features, sketch_rows);
    awq_cuda_stats stats;
    CHECK(awq_cuda_stats_init(&cuda, &stats, in_features, sketch_rows, seed, device_alloc(size), size)
          == AWQ_OK, "awq_cuda_stats_init");
    stats.first_token = expected.stats.first_token = got.stats.first_token = rng_below(r, 1000);
    pool p = { };
    const awq_matrix x = random_matrix(&p, r, tokens, in_features, 3), there = on_device(x);
    const std::vector<float> weights = random_weights(r, tokens, true);
    const float *weights_there = to_device(weights);
    const bool weighted = rng_below(r, 2) != 0;
    CHECK(awq_stats_add(&kernels, &expected.stats, x, weighted ? weights.data() : nullptr, nullptr,
                        nullptr) == AWQ_OK, "awq_stats_add");
    const size_t cut = rng_below(r, tokens + 1);
    for (int i = 0; i < 2; i++) {
        const size_t begin = i ? cut : 0, end = i ? tokens : cut;
        CHECK(awq_cuda_stats_add(&cuda, &stats, awq_matrix_rows(there, begin, end),
                                 weighted ? weights_there + begin : nullptr) == AWQ_OK, "add");
    }
    CHECK(awq_cuda_stats_copy(&cuda, &stats, &got.stats) == AWQ_OK, "awq_cuda_stats_copy");
    const std::string found = report();
    CHECK(found.empty(), "statistics: %s", found.c_str());
    compare_stats(got.stats, expected.stats);
    CHECK(pool_release(&p) == 0, "the host wrote outside its memory");
    device_free_all();
}

/* ---- the loss of a candidate ----------------------------------------------------------------- */

struct loss_bound { double loss, slack; };

/*  From the definition of the quantizer, which leaves the quotient by s in double. In fp32 are that
    quotient, near w, and dots of `cols` products.                                                */
static loss_bound define_loss(awq_quant quant, awq_matrix weight, const float *scale, awq_matrix x,
                              const float *token_weight)
{
    std::vector<double> quantized(weight.rows * weight.cols);
    define_fake_quantize(quant, weight, scale, nullptr, quantized.data());
    loss_bound b = { 0, 0 };
    for (size_t row = 0; row < weight.rows; row++) {
        for (size_t token = 0; token < x.rows; token++) {
            double y = 0, off = 0;
            for (size_t c = 0; c < weight.cols; c++) {
                const double w = at(weight, row, c);
                const double d = quantized[row * weight.cols + c] - w;
                y += d * at(x, token, c);
                off += power_of_two(-23) * std::fabs(at(x, token, c))
                     * (std::fabs(d) * double(weight.cols + 2) + std::fabs(w));
            }
            const double w = token_weight ? double(token_weight[token]) : 1;
            b.loss += w * y * y;
            b.slack += w * off * (2 * std::fabs(y) + off);
        }
    }
    return b;
}

static void check_loss(rng *r, size_t rows, size_t cols, size_t tokens)
{
    awq_cuda cuda = new_device(r, 8);
    pool p = { };
    const awq_quant quant = random_quant(r);
    const awq_matrix weight = random_matrix(&p, r, rows, cols, 0.1);
    const awq_matrix x = random_matrix(&p, r, tokens, cols, 1);
    const std::vector<float> scale = random_weights(r, cols, false);
    const std::vector<float> token_weight = random_weights(r, tokens, false);
    const bool scaled = rng_below(r, 2) != 0, weighted = rng_below(r, 2) != 0;
    const size_t size = awq_cuda_loss_size(rows, cols, tokens);
    double *loss = static_cast<double *>(device_alloc(sizeof(double))), got = 0;
    const awq_status status = awq_cuda_loss(&cuda, quant, on_device(weight),
                                            scaled ? to_device(scale) : nullptr, on_device(x),
                                            weighted ? to_device(token_weight) : nullptr,
                                            device_alloc(size), size, loss);
    const std::string found = report();
    CHECK(status == AWQ_OK && found.empty(), "loss %zu x %zu, %zu tokens: %s, %s", rows, cols, tokens,
          awq_status_string(status), found.c_str());
    device_read(&got, loss, sizeof got);
    const loss_bound b = define_loss(quant, weight, scaled ? scale.data() : nullptr, x,
                                     weighted ? token_weight.data() : nullptr);
    CHECK(magnitude(got - b.loss) <= b.slack, "loss %zu x %zu, %zu tokens, %d bits, group %d: %g, %g",
          rows, cols, tokens, quant.bits, quant.group_size, got, b.loss);
    CHECK(pool_release(&p) == 0, "the host wrote outside its memory");
    device_free_all();
}

void test_calibration(rng *r, bool full)
{
    for (int i = 0; i < (full ? 30 : 4) && !failures; i++) {
        set_seed(rng_next(r));
        check_stats(r, 1 + rng_below(r, i % 2 ? 100 : 2200));
    }
    for (int i = 0; i < (full ? 60 : 8) && !failures; i++) {
        set_seed(rng_next(r));
        check_loss(r, 1 + rng_below(r, 150), 1 + rng_below(r, 150), 1 + rng_below(r, 150));
    }
    if (!failures) check_loss(r, 1030, 8, 3);      /* more rows than are held at a time */
}
