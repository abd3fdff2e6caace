#include "runner.h"

TEST(packing_is_lossless)
{
    (void)state;
    RUN_BODY(body_pack, 250);
}

/*  4 bits, a 16-bit scale and half a byte of zero point per 128 weights, and 64 bytes of header. */
TEST(size_is_what_the_manual_says)
{
    const size_t shapes[][2] = { { 384, 1536 }, { 4096, 4096 }, { 11008, 4096 }, { 576, 1536 } };
    const awq_quant quant = { 4, 128, 0, AWQ_F16 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(shapes); i++) {
        double weights = (double)shapes[i][0] * (double)shapes[i][1];
        double bits = 8 * (double)awq_packed_size(quant, shapes[i][0], shapes[i][1]) / weights;
        assert_true(bits >= 4.15 && bits <= 4.19);
    }
}

/* ---- a reader written from FORMAT, sharing nothing with the library -------------------------- */

typedef struct reader {
    const unsigned char *bytes;
    size_t out, in, group, groups;
    int bits, symmetric, scale_dtype;
    size_t row_words, q, scales, zeros, size;
} reader;

static uint64_t little_endian(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    while (bytes-- > 0) v = v << 8 | p[bytes];
    return v;
}

static size_t words_of(int bits, size_t n)
{
    return bits == 3 ? (n + 31) / 32 * 3 : (n * (size_t)bits + 31) / 32;
}

static size_t round_up_64(size_t n) { return (n + 63) / 64 * 64; }

static reader read_header(const unsigned char *h)
{
    reader r;
    int32_t group_size = (int32_t)little_endian(h + 12, 4);
    size_t blocks;

    assert_memory_equal(h, "AWQ1", 4);
    assert_int_equal(little_endian(h + 4, 2), 1);
    assert_int_equal(h[6], AWQ_LAYOUT_ROWS16);
    r.bytes = h;
    r.bits = h[7];
    r.symmetric = h[8];
    r.scale_dtype = h[9];
    r.out = (size_t)little_endian(h + 16, 8);
    r.in = (size_t)little_endian(h + 24, 8);
    r.group = group_size < 0 || (size_t)group_size > r.in ? r.in : (size_t)group_size;
    r.groups = (r.in + r.group - 1) / r.group;
    r.row_words = (r.groups - 1) * words_of(r.bits, r.group) +
                  words_of(r.bits, r.in - (r.groups - 1) * r.group);
    blocks = (r.out + 15) / 16;
    r.q = 64;
    r.scales = round_up_64(r.q + blocks * r.row_words * 64);
    r.size = r.scales + blocks * r.groups * 16 * (r.scale_dtype == AWQ_F32 ? 4 : 2);
    r.zeros = round_up_64(r.size);
    if (!r.symmetric) r.size = r.zeros + blocks * r.groups * (r.bits == 8 ? 16 : 8);
    assert_int_equal(little_endian(h + 32, 8), r.size);
    return r;
}

static uint32_t word_of(const reader *r, size_t row, size_t word)
{
    return (uint32_t)little_endian(r->bytes + r->q + ((row / 16 * r->row_words + word) * 16 +
                                                      row % 16) * 4, 4);
}

static unsigned read_q(const reader *r, size_t row, size_t col)
{
    size_t word = col / r->group * words_of(r->bits, r->group), i = col % r->group, per;
    unsigned bits = (unsigned)r->bits;

    if (bits == 3) {        /* 32 values: two words of low bit pairs, one of high bits */
        size_t j = i % 32;
        uint32_t low, high;
        word += i / 32 * 3;
        low = word_of(r, row, word + j / 16) >> (8 * (j % 4) + 2 * (j % 16 / 4)) & 3u;
        high = word_of(r, row, word + 2) >> (8 * (j % 4) + j / 4) & 1u;
        return low | high << 2;
    }
    per = 32 / bits;
    return word_of(r, row, word + i / per) >> (8 * (i % 4) + bits * (i % per / 4)) &
           ((1u << bits) - 1);
}

static unsigned read_zero(const reader *r, size_t row, size_t group)
{
    size_t cell = row / 16 * r->groups + group, lane = row % 16;
    if (r->symmetric) return 1u << (r->bits - 1);
    if (r->bits == 8) return r->bytes[r->zeros + cell * 16 + lane];
    return (unsigned)r->bytes[r->zeros + cell * 8 + lane % 8] >> (lane < 8 ? 0 : 4) & 15u;
}

static double read_scale(const reader *r, size_t row, size_t group)
{
    size_t cell = (row / 16 * r->groups + group) * 16 + row % 16;
    int bytes = r->scale_dtype == AWQ_F32 ? 4 : 2;
    uint64_t bits = little_endian(r->bytes + r->scales + cell * (size_t)bytes, bytes);
    return widen((awq_dtype)r->scale_dtype, (uint32_t)bits);
}

typedef struct packed_case {
    awq_quant quant;
    awq_matrix weight;
    awq_tensor tensor;
    unsigned char *bytes;
    size_t size;
} packed_case;

static packed_case new_case(pool *p, rng *r, awq_quant quant, size_t rows, size_t cols)
{
    packed_case c;
    size_t size = awq_tensor_size(quant, rows, cols);

    c.quant = quant;
    c.weight = random_matrix(p, r, rows, cols, 1);
    assert_status(awq_tensor_init(&c.tensor, quant, rows, cols,
                                  pool_aligned(p, size, sizeof(float)), size), AWQ_OK);
    assert_status(awq_quantize(kernels, c.weight, NULL, NULL, &c.tensor, 0, rows, NULL), AWQ_OK);
    c.size = awq_packed_size(quant, rows, cols);
    c.bytes = pool_bytes(p, c.size, AT_END);
    assert_status(awq_packed_init(quant, rows, cols, c.bytes, c.size), AWQ_OK);
    assert_status(awq_pack(kernels, &c.tensor, c.bytes, c.size, 0, rows, NULL), AWQ_OK);
    return c;
}

TEST(bytes_are_laid_out_as_the_manual_says)
{
    rng random = { seed };
    int i;
    (void)state;
    for (i = 0; i < 60; i++) {
        pool p = { .count = 0 };
        packed_case c = new_case(&p, &random, random_quant(&random), 1 + rng_below(&random, 40),
                                 1 + rng_below(&random, 300));
        reader r = read_header(c.bytes);
        size_t row, col, g;
        assert_int_equal(r.size, c.size);
        for (row = 0; row < r.out; row++) {
            for (col = 0; col < r.in; col++)
                assert_int_equal(read_q(&r, row, col), c.tensor.q[row * r.in + col]);
            for (g = 0; g < r.groups; g++) {
                assert_int_equal(read_zero(&r, row, g), c.tensor.zeros[row * r.groups + g]);
                assert_true(read_scale(&r, row, g) == element(c.quant.scale_dtype, c.tensor.scales,
                                                              row * r.groups + g));
            }
        }
        assert_int_equal(pool_release(&p), 0);
    }
}

/*  A tensor put together from the spans of another, in ranges at random, is that tensor.          */
TEST(spans_are_all_the_bytes_of_a_range)
{
    rng random = { seed };
    int i;
    (void)state;
    for (i = 0; i < 60; i++) {
        pool p = { .count = 0 };
        packed_case c = new_case(&p, &random, random_quant(&random), 1 + rng_below(&random, 100),
                                 1 + rng_below(&random, 300));
        size_t rows = c.weight.rows, begin, end = 0, part, moved = 0;
        unsigned char *copy = pool_bytes(&p, c.size, AT_END);
        awq_packed packed;
        awq_span spans[3];

        assert_status(awq_packed_open(&packed, c.bytes, c.size), AWQ_OK);
        assert_status(awq_packed_init(c.quant, rows, c.weight.cols, copy, c.size), AWQ_OK);
        for (begin = 0; begin < rows; begin = end) {
            end = begin + AWQ_ROW_STEP * rng_below(&random, 4);
            if (end > rows) end = rows;
            assert_status(awq_packed_spans(&packed, begin, end, spans), AWQ_OK);
            for (part = 0; part < 3; part++) {
                memcpy(copy + spans[part].offset, c.bytes + spans[part].offset, spans[part].size);
                moved += spans[part].size;
            }
        }
        assert_memory_equal(copy, c.bytes, c.size);
        assert_true(moved <= c.size - 64 && moved + 64 + 2 * 63 >= c.size);
        assert_int_equal(pool_release(&p), 0);
    }
}

/* ---- untrusted bytes ------------------------------------------------------------------------- */

/*  If the bytes open, everything that takes a view must stay inside them.                        */
static void use_hostile_bytes(const unsigned char *bytes, size_t size)
{
    pool p = { .count = 0 };
    awq_packed packed;
    awq_prepared prepared;
    awq_matrix x, y;
    size_t prepared_size, tensor_size;
    awq_tensor tensor;
    awq_status status = awq_packed_open(&packed, bytes, size);

    if (status != AWQ_OK) {
        assert_status(status, AWQ_ERR_FORMAT);
        return;
    }
    assert_true(packed.size <= size);
    (void)awq_packed_check(&packed, NULL);
    x = new_matrix(&p, AWQ_F32, 2, packed.in_features, packed.in_features, AT_END);
    y = new_matrix(&p, AWQ_F32, 2, packed.out_features, packed.out_features, AT_END);
    prepared_size = awq_prepared_size(kernels, packed.in_features, packed.quant.group_size,
                                      AWQ_A16, 2);
    assert_status(awq_prepare(kernels, packed.quant.group_size, AWQ_A16, x, NULL,
                              pool_aligned(&p, prepared_size, sizeof(float)), prepared_size, 0, 2,
                              &prepared, NULL), AWQ_OK);
    assert_status(awq_matmul(kernels, &packed, &prepared, NULL, y, 0, packed.out_features), AWQ_OK);
    tensor_size = awq_tensor_size(packed.quant, packed.out_features, packed.in_features);
    assert_status(awq_tensor_init(&tensor, packed.quant, packed.out_features, packed.in_features,
                                  pool_aligned(&p, tensor_size, sizeof(float)), tensor_size),
                  AWQ_OK);
    assert_status(awq_unpack(kernels, &packed, &tensor, 0, packed.out_features), AWQ_OK);
    assert_int_equal(pool_release(&p), 0);
}

static void write_u64(unsigned char *p, uint64_t v)
{
    int i;
    for (i = 0; i < 8; i++) p[i] = (unsigned char)(v >> 8 * i);
}

TEST(truncated_files_are_refused)
{
    pool p = { .count = 0 };
    rng r = { seed };
    packed_case c = new_case(&p, &r, random_quant(&r), 19, 33);
    size_t size;
    (void)state;
    for (size = 0; size < c.size; size += size < 80 ? 1 : 37) {
        pool inner = { .count = 0 };
        awq_packed packed;
        unsigned char *bytes = pool_bytes(&inner, size, AT_END);
        memcpy(bytes, c.bytes, size);
        assert_status(awq_packed_open(&packed, bytes, size), AWQ_ERR_FORMAT);
        assert_int_equal(pool_release(&inner), 0);
    }
    assert_int_equal(pool_release(&p), 0);
}

/*  Magic, version, layout, what is reserved and the size: nothing but their one value opens.     */
static int must_be_exact(size_t byte)
{
    return byte < 7 || byte == 10 || byte == 11 || byte >= 32;
}

TEST(corrupt_headers_stay_inside_their_bytes)
{
    pool p = { .count = 0 };
    rng r = { seed };
    packed_case c = new_case(&p, &r, random_quant(&r), 17, 45);
    awq_packed packed;
    unsigned char header[64];
    size_t i, j;
    int value;
    (void)state;
    memcpy(header, c.bytes, sizeof header);
    for (i = 0; i < sizeof header; i++) {
        for (value = 0; value < 256; value++) {
            c.bytes[i] = (unsigned char)value;
            use_hostile_bytes(c.bytes, c.size);
            if (must_be_exact(i) && value != header[i])
                assert_status(awq_packed_open(&packed, c.bytes, c.size), AWQ_ERR_FORMAT);
        }
        c.bytes[i] = header[i];
    }
    for (i = 0; i < 5000; i++) {
        for (j = 0; j < 3; j++)
            c.bytes[rng_below(&r, 64)] ^= (unsigned char)(1u << rng_below(&r, 8));
        use_hostile_bytes(c.bytes, c.size);
        memcpy(c.bytes, header, sizeof header);
    }
    assert_int_equal(pool_release(&p), 0);
}

/*  Shapes whose sizes wrap around: to 0, to the true size, to anything.                          */
TEST(overflowing_shapes_are_refused)
{
    const uint64_t huge[] = { UINT64_MAX, UINT64_MAX / 2, (uint64_t)1 << 63, (uint64_t)1 << 61,
                              (uint64_t)1 << 60, ((uint64_t)1 << 60) + 1, (uint64_t)1 << 33,
                              UINT64_MAX - 63, UINT64_MAX / 16 + 1 };
    pool p = { .count = 0 };
    rng r = { seed };
    packed_case c = new_case(&p, &r, random_quant(&r), 16, 32);
    size_t i, j;
    awq_packed packed;
    (void)state;
    for (i = 0; i < COUNT(huge); i++)
        for (j = 0; j < COUNT(huge); j++) {
            write_u64(c.bytes + 16, huge[i]);
            write_u64(c.bytes + 24, j ? huge[j] : 32);
            assert_status(awq_packed_open(&packed, c.bytes, c.size), AWQ_ERR_FORMAT);
            write_u64(c.bytes + 16, j ? huge[j] : 16);
            write_u64(c.bytes + 24, huge[i]);
            assert_status(awq_packed_open(&packed, c.bytes, c.size), AWQ_ERR_FORMAT);
            write_u64(c.bytes + 32, huge[j]);
            assert_status(awq_packed_open(&packed, c.bytes, c.size), AWQ_ERR_FORMAT);
            write_u64(c.bytes + 32, c.size);
        }
    assert_int_equal(pool_release(&p), 0);
}

/*  Any payload may be run: at worst the numbers are nonsense.                                    */
TEST(corrupt_payloads_stay_inside_their_bytes)
{
    rng r = { seed };
    int i;
    (void)state;
    for (i = 0; i < 100; i++) {
        pool p = { .count = 0 };
        packed_case c = new_case(&p, &r, random_quant(&r), 1 + rng_below(&r, 40),
                                 1 + rng_below(&r, 150));
        size_t at;
        for (at = 64; at < c.size; at++) c.bytes[at] = (unsigned char)rng_next(&r);
        use_hostile_bytes(c.bytes, c.size);
        assert_int_equal(pool_release(&p), 0);
    }
}

/* ---- awq_packed_check ------------------------------------------------------------------------ */

/*  Breaks some bytes, expects the check to name the group, and mends them.                       */
static void assert_finds(const packed_case *c, size_t at, const void *broken, size_t bytes,
                         size_t row, size_t group)
{
    unsigned char kept[8];
    awq_where where = { 9, 9999, 9999 };
    awq_packed packed;

    memcpy(kept, c->bytes + at, bytes);
    assert_true(memcmp(kept, broken, bytes) != 0);
    memcpy(c->bytes + at, broken, bytes);
    assert_status(awq_packed_open(&packed, c->bytes, c->size), AWQ_OK);
    assert_status(awq_packed_check(&packed, &where), AWQ_ERR_FORMAT);
    assert_true(where.row == row && where.col == group);
    memcpy(c->bytes + at, kept, bytes);
    assert_status(awq_packed_check(&packed, &where), AWQ_OK);
}

TEST(check_finds_bad_scales)
{
    const double bad[] = { 0, -1, infinity(), -infinity(), not_a_number() };
    rng random = { seed };
    size_t i, d;
    (void)state;
    for (d = 0; d < 3; d++) {
        pool p = { .count = 0 };
        const awq_quant quant = { 4, 32, 0, (awq_dtype)d };
        packed_case c = new_case(&p, &random, quant, 19, 80);
        reader r = read_header(c.bytes);
        for (i = 0; i < COUNT(bad); i++) {
            size_t row = rng_below(&random, 19), g = rng_below(&random, 3), size = d ? 2 : 4;
            uint32_t bits = narrow(quant.scale_dtype, bad[i]);
            unsigned char value[8];
            write_u64(value, bits);
            assert_finds(&c, r.scales + ((row / 16 * 3 + g) * 16 + row % 16) * size, value, size,
                         row, g);
        }
        assert_int_equal(pool_release(&p), 0);
    }
}

TEST(check_finds_bad_zero_points)
{
    const int bits[] = { 2, 3 };
    rng random = { seed };
    size_t i, j;
    (void)state;
    for (i = 0; i < COUNT(bits); i++) {
        pool p = { .count = 0 };
        const awq_quant quant = { bits[i], 32, 0, AWQ_F16 };
        packed_case c = new_case(&p, &random, quant, 32, 80);
        reader r = read_header(c.bytes);
        for (j = 0; j < 20; j++) {
            size_t row = rng_below(&random, 32), g = rng_below(&random, 3);
            size_t at = r.zeros + (row / 16 * 3 + g) * 8 + row % 8;
            unsigned zero = (1u << bits[i]) + (unsigned)rng_below(&random, 16u - (1u << bits[i]));
            unsigned char value = row % 16 < 8
                ? (unsigned char)((c.bytes[at] & 0xF0u) | zero)
                : (unsigned char)((c.bytes[at] & 0x0Fu) | zero << 4);
            assert_finds(&c, at, &value, 1, row, g);
        }
        assert_int_equal(pool_release(&p), 0);
    }
}

/*  Bits that no weight uses: behind the last input of a group, and in the rows up to 16.         */
TEST(check_finds_padding_that_is_not_zero)
{
    const int bits[] = { 2, 3, 4, 8 };
    rng random = { seed };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bits); i++) {
        pool p = { .count = 0 };
        const awq_quant quant = { bits[i], 7, 0, AWQ_F16 };
        packed_case c = new_case(&p, &random, quant, 18, 7);
        reader r = read_header(c.bytes);
        size_t words = words_of(bits[i], 7), row = rng_below(&random, 18);
        size_t last = r.q + ((row / 16 * words + words - 1) * 16 + row % 16) * 4 + 3;
        unsigned char value = (unsigned char)(c.bytes[last] | 0x80u), one = 1, high = 0x10;
        if (bits[i] != 8) value = (unsigned char)(c.bytes[last] ^ 0x80u);
        assert_true(read_q(&r, row, 6) == c.tensor.q[row * 7 + 6]);
        assert_finds(&c, last, &value, 1, row, 0);
        assert_finds(&c, r.q + ((words + 0) * 16 + 5) * 4, &one, 1, 21, 0);
        assert_finds(&c, r.scales + (16 + 9) * 2, &one, 1, 25, 0);
        if (bits[i] == 8) assert_finds(&c, r.zeros + 16 + 12, &one, 1, 28, 0);
        else assert_finds(&c, r.zeros + 8 + 4, &high, 1, 28, 0);
        assert_int_equal(pool_release(&p), 0);
    }
}

/*  Up to 63 bytes between the scales and the zero points.                                        */
TEST(check_looks_between_the_sections)
{
    const awq_quant quant = { 4, 32, 0, AWQ_F16 };
    const unsigned char one = 1;
    rng random = { seed };
    pool p = { .count = 0 };
    packed_case c = new_case(&p, &random, quant, 16, 70);
    reader r = read_header(c.bytes);
    size_t end = r.scales + 3 * 16 * 2, at;
    (void)state;
    assert_true(end < r.zeros);
    for (at = end; at < r.zeros; at++) assert_finds(&c, at, &one, 1, 16, 0);
    assert_int_equal(pool_release(&p), 0);
}

TEST(values_that_do_not_fit_are_reported)
{
    rng random = { seed };
    const awq_quant quant = { 3, 32, 0, AWQ_F16 }, symmetric = { 4, 32, 1, AWQ_F16 };
    pool p = { .count = 0 };
    packed_case c = new_case(&p, &random, quant, 20, 70), s = new_case(&p, &random, symmetric, 20,
                                                                      70);
    awq_where where = { 9, 9, 9 };
    (void)state;

    c.tensor.q[17 * 70 + 41] = 8;
    assert_status(awq_pack(kernels, &c.tensor, c.bytes, c.size, 0, 20, &where), AWQ_ERR_DATA);
    assert_true(where.row == 17 && where.col == 41);
    assert_status(awq_pack(kernels, &c.tensor, c.bytes, c.size, 0, 16, &where), AWQ_OK);
    c.tensor.q[17 * 70 + 41] = 7;
    c.tensor.zeros[18 * 3 + 1] = 8;
    assert_status(awq_pack(kernels, &c.tensor, c.bytes, c.size, 0, 20, &where), AWQ_ERR_DATA);
    assert_true(where.row == 18 && where.col / 32 == 1);
    s.tensor.zeros[2] = 7;
    assert_status(awq_pack(kernels, &s.tensor, s.bytes, s.size, 0, 20, &where), AWQ_ERR_DATA);
    assert_true(where.row == 0 && where.col / 32 == 2);
    assert_int_equal(pool_release(&p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_is_lossless),
        cmocka_unit_test(size_is_what_the_manual_says),
        cmocka_unit_test(bytes_are_laid_out_as_the_manual_says),
        cmocka_unit_test(spans_are_all_the_bytes_of_a_range),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(corrupt_headers_stay_inside_their_bytes),
        cmocka_unit_test(overflowing_shapes_are_refused),
        cmocka_unit_test(corrupt_payloads_stay_inside_their_bytes),
        cmocka_unit_test(check_finds_bad_scales),
        cmocka_unit_test(check_finds_bad_zero_points),
        cmocka_unit_test(check_finds_padding_that_is_not_zero),
        cmocka_unit_test(check_looks_between_the_sections),
        cmocka_unit_test(values_that_do_not_fit_are_reported),
    };
    RUN_ON_EVERY_KERNEL_SET(tests);
}
