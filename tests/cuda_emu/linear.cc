#include "linear.h"

#include <cmath>

std::string describe(const linear_case &c)
{
    static const char *const kinds[] = { "normal", "outliers", "cancelling", "large", "integers",
                                         "unit vectors" };
    static const char *const dtypes[] = { "f32", "f16", "bf16" };
    char text[256];
    snprintf(text, sizeof text, "%zu x %zu, %zu tokens, group %d%s, %s, scales %s, %s%s%s", c.rows,
             c.cols, c.tokens, c.group_size, c.symmetric ? " symmetric" : "", dtypes[c.dtype],
             dtypes[c.scale_dtype], kinds[c.kind], c.with_bias ? ", bias" : "",
             c.residual == 2 ? ", in place" : c.residual ? ", residual" : "");
    return text;
}

linear_case random_case(rng *r, size_t most_rows, size_t most_cols, size_t most_tokens)
{
    static const int groups[] = { 32, 64, 128, -1 };
    linear_case c;
    c.group_size = rng_pick(r, groups, COUNT(groups));
    c.symmetric = int(rng_below(r, 2));
    c.dtype = rng_below(r, 2) ? AWQ_F16 : AWQ_BF16;
    c.scale_dtype = rng_below(r, 4) ? c.dtype : awq_dtype(rng_below(r, 3));
    c.rows = 1 + rng_below(r, most_rows);
    c.cols = 8 * (1 + rng_below(r, most_cols / 8));
    c.tokens = 1 + rng_below(r, most_tokens);
    c.kind = numbers(rng_below(r, NUMBERS));
    c.with_bias = rng_below(r, 2) != 0;
    c.residual = int(rng_below(r, 3));
    return c;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void write_matrix(const awq_matrix &m, const std::vector<uint16_t> &values)
{
    for (size_t row = 0; row < m.rows; row++) {
        emulator::device_write(static_cast<uint16_t *>(m.data) + row * m.stride,
                               &values[row * m.cols], m.cols * 2);
    }
}

device_matrix new_device_matrix(awq_dtype dtype, size_t rows, size_t cols, size_t stride,
                                size_t offset, const std::vector<uint16_t> *values)
{
    const size_t count = rows ? (rows - 1) * stride + cols : 0;
    device_matrix m;
    void *data = emulator::device_alloc(count * 2, offset);
    m.view = awq_matrix{ data, rows, cols, stride, dtype };
    if (!values) return m;
    m.values = *values;
    write_matrix(m.view, m.values);
    return m;
}

std::vector<uint16_t> read_matrix(const awq_matrix &m)
{
    std::vector<uint16_t> values(m.rows * m.cols);
    const uint16_t *data = static_cast<const uint16_t *>(m.data);
    for (size_t row = 0; row < m.rows; row++, data += m.stride) {
        emulator::device_read(&values[row * m.cols], data, m.cols * 2);
        CHECK(emulator::device_written(data, m.cols * 2) == m.cols * 2, "row %zu was not written", row);
        if (row + 1 == m.rows) break;
        CHECK(emulator::device_written(data + m.cols, (m.stride - m.cols) * 2) == 0,
              "something was written after row %zu", row);
    }
    return values;
}

awq_matrix new_output(rng *r, const linear &m)
{
    if (m.c.residual == 2) {
        write_matrix(m.residual.view, m.residual.values);
        return m.residual.view;
    }
    const size_t stride = m.c.rows + rng_below(r, 2) * rng_below(r, 40);
    return new_device_matrix(m.c.dtype, m.c.tokens, m.c.rows, stride, 2 * rng_below(r, 64), nullptr)
        .view;
}

awq_cuda new_device(rng *r, int processors)
{
    static const struct { int major, minor, shared; } devices[] = {
        { 7, 5, 64 }, { 8, 0, 163 }, { 8, 6, 99 }, { 8, 9, 99 }, { 9, 0, 227 }, { 12, 0, 99 }
    };
    const size_t which = kernels_architecture == 900 ? 4 : kernels_architecture < 800
                       ? 0 : 1 + rng_below(r, COUNT(devices) - 1);
    emulator::config.registers = kernels_architecture == 900 ? 168 : 32;
    emulator::config.major = devices[which].major;
    emulator::config.minor = devices[which].minor;
    emulator::config.shared_per_block_optin = devices[which].shared * 1024;
    emulator::config.multiprocessors = processors;
    emulator::config.resident_blocks = 1 + int(rng_below(r, 16));
    awq_cuda cuda;
    const awq_status status = awq_cuda_init(&cuda, 0, STREAM);
    CHECK(status == AWQ_OK, "awq_cuda_init: %s", awq_status_string(status));
    return cuda;
}

/* ---- a linear -------------------------------------------------------------------------------- */

/*  Values of one kind. Integers are small enough for every sum of products with scales that are
    powers of two to be exact in fp32, and in what tensor cores keep of it.                       */
static double value_of(rng *r, numbers kind, size_t col)
{
    switch (kind) {
    case OUTLIERS: return rng_below(r, 50) ? rng_normal(r) * 0.01 : 300;
    case CANCELLING: return (col % 2 ? -1 : 1) * (100 + rng_unit(r));
    case LARGE: return rng_normal(r) * 2000;
    case INTEGERS: return double(rng_below(r, 17)) - 8;
    default: return rng_normal(r);
    }
}

static std::vector<uint16_t> random_values(rng *r, awq_dtype dtype, numbers kind, size_t rows,
                                           size_t cols)
{
    std::vector<uint16_t> values(rows * cols);
    for (size_t i = 0; i < values.size(); i++) {
        values[i] = uint16_t(narrow(dtype, value_of(r, kind, i % cols)));
    }
    return values;
}

static std::vector<uint16_t> unit_vectors(rng *r, awq_dtype dtype, size_t rows, size_t cols)
{
    std::vector<uint16_t> values(rows * cols, 0);
    for (size_t row = 0; row < rows; row++) {
        values[row * cols + rng_below(r, cols)] = uint16_t(narrow(dtype, 1.0));
    }
    return values;
}

static bool is_exact(numbers kind) { return kind == INTEGERS || kind == UNIT_VECTORS; }

static void set_scales(rng *r, const linear_case &c, awq_tensor *t)
{
    const size_t groups = c.rows * awq_group_count(c.cols, c.group_size);
    for (size_t i = 0; i < groups; i++) {
        const double scale = c.kind == INTEGERS ? power_of_two(-int(rng_below(r, 4)))
                                                : (1.5 + rng_unit(r)) / 15;
        set_element(c.scale_dtype, t->scales, i, scale);
    }
    if (rng_below(r, 4)) return;        /* ends of the range, where q - zero is largest */
    const unsigned char q = rng_below(r, 2) ? 15 : 0;
    memset(t->q, q, c.rows * c.cols);
    if (!c.symmetric) memset(t->zeros, 15 - q, groups);
}

static void pack(rng *r, linear *m)
{
    const awq_kernels kernels = awq_kernels_best();
    size_t size;
    const void *packed = pack_all(&kernels, &m->memory, r, &m->tensor, &size);
    m->bytes.assign(static_cast<const unsigned char *>(packed),
                    static_cast<const unsigned char *>(packed) + size);
    if (awq_packed_open(&m->packed, m->bytes.data(), size) != AWQ_OK) abort();
}

static void lay_out(linear *m)
{
    const awq_quant quant = m->tensor.quant;
    const size_t size = awq_cuda_tensor_size(quant, m->c.rows, m->c.cols, m->c.dtype);
    const awq_status status = awq_cuda_tensor_init(&m->on_device, quant, m->c.rows, m->c.cols,
                                                   m->c.dtype, emulator::device_alloc(size), size);
    CHECK(status == AWQ_OK, "awq_cuda_tensor_init: %s", awq_status_string(status));
}

linear new_linear(rng *r, const linear_case &c)
{
    linear m;
    m.c = c;
    m.memory.count = 0;
    const awq_quant quant = { 4, c.group_size, c.symmetric, c.scale_dtype };
    m.tensor = random_tensor(&m.memory, r, quant, c.rows, c.cols);
    set_scales(r, c, &m.tensor);
    pack(r, &m);
    lay_out(&m);
    const std::vector<uint16_t> x = c.kind == UNIT_VECTORS
                                  ? unit_vectors(r, c.dtype, c.tokens, c.cols)
                                  : random_values(r, c.dtype, c.kind, c.tokens, c.cols);
    const numbers added = is_exact(c.kind) ? INTEGERS : NORMAL_NUMBERS;
    const std::vector<uint16_t> residual = random_values(r, c.dtype, added, c.tokens, c.rows);
    m.x = new_device_matrix(c.dtype, c.tokens, c.cols, c.cols + 8 * rng_below(r, 4),
                            16 * rng_below(r, 16), &x);
    if (c.residual) {
        m.residual = new_device_matrix(c.dtype, c.tokens, c.rows, c.rows + rng_below(r, 9),
                                       2 * rng_below(r, 64), &residual);
    } else {
        m.residual.view = awq_matrix{ nullptr, 0, 0, 0, c.dtype };
    }
    m.bias = nullptr;
    if (c.with_bias) {
        m.bias_values = random_values(r, c.dtype, added, 1, c.rows);
        m.bias = to_device(m.bias_values, 2 * rng_below(r, 64));
    }
    return m;
}

void free_linear(linear *m)
{
    CHECK(pool_release(&m->memory) == 0, "the host wrote outside its memory");
    emulator::device_free_all();
}

/* ---- what must come out ---------------------------------------------------------------------- */

static size_t group_of(const linear &m, size_t row, size_t col)
{
    const size_t groups = awq_group_count(m.c.cols, m.c.group_size);
    return row * groups + (m.c.group_size == -1 ? 0 : col / size_t(m.c.group_size));
}

static double scale_of(const linear &m, size_t row, size_t col)
{
    return rounded(m.c.dtype, element(m.c.scale_dtype, m.tensor.scales, group_of(m, row, col)));
}

double weight_of(const linear &m, size_t row, size_t col)
{
    const int zero = m.tensor.zeros[group_of(m, row, col)];
    return double(m.tensor.q[row * m.c.cols + col] - zero) * scale_of(m, row, col);
}

/*  The largest offset of a kernel that leaves one in its sums.                                   */
static double offset_of(arithmetic how, awq_dtype dtype)
{
    return how != OFFSET_WEIGHTS ? 0 : dtype == AWQ_F16 ? 256 : 32;
}

static double term(const linear &m, size_t token, size_t col, double weight)
{
    const uint16_t x = m.x.values[token * m.c.cols + col];
    return weight * double(m.c.dtype == AWQ_F16 ? cuda_emu::f16::widen(x) : cuda_emu::bf16::widen(x));
}

/*  One output, and the bound of its error. Of every 8 products, a tensor core cuts off what is
    below 2^-23 of the largest of them and the sum so far; then there are the sums of groups and of
    parts. All sums so far are at most the sum of sizes.                                          */
static void define_output(linear *m, size_t token, size_t row, const std::vector<double> &weights,
                          const std::vector<double> &sizes)
{
    const linear_case &c = m->c;
    const size_t at = token * c.rows + row;
    const double bias = c.with_bias ? widen(c.dtype, m->bias_values[row]) : 0;
    const double residual = c.residual ? widen(c.dtype, m->residual.values[at]) : 0;
    double sum = bias + residual, size = std::fabs(bias) + std::fabs(residual);
    for (size_t col = 0; col < c.cols; col++) {
        sum += term(*m, token, col, weights[col]);
        size += std::fabs(term(*m, token, col, sizes[col]));
    }
    m->expected[at] = sum;
    m->slack[at] = power_of_two(-23) * size * (double(c.cols) / 8 + double(c.cols) / 32 + 40);
}

void define_outputs(linear *m, arithmetic how)
{
    const linear_case &c = m->c;
    std::vector<double> row_weights(c.cols), sizes(c.cols);
    m->expected.assign(c.tokens * c.rows, 0);
    m->slack.assign(c.tokens * c.rows, 0);
    for (size_t row = 0; row < c.rows; row++) {
        for (size_t col = 0; col < c.cols; col++) {
            const double w = weight_of(*m, row, col);
            row_weights[col] = how == ROUNDED_WEIGHTS ? rounded(c.dtype, w) : w;
            sizes[col] = std::fabs(w) + offset_of(how, c.dtype) * scale_of(*m, row, col);
        }
        for (size_t token = 0; token < c.tokens; token++) {
            define_output(m, token, row, row_weights, sizes);
        }
    }
}

bool is_right(const linear &m, size_t token, size_t row, uint16_t got)
{
    const awq_dtype dtype = m.c.dtype;
    const size_t at = token * m.c.rows + row;
    const double y = widen(dtype, got), expected = m.expected[at];
    const double slack = is_exact(m.c.kind) ? 0 : m.slack[at];
    return y >= rounded(dtype, expected - slack) && y <= rounded(dtype, expected + slack);
}
