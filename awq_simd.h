/*  awq_simd.h - SIMD kernel sets for awq.h, which includes this file in its implementation

    One driver, one tile per instruction set. How a product is computed:

        prepare   a token's activations become signed bytes, once for all linears that share them:
                  A8 one byte per input, A16 two (x = 256 high + low). A block of at most 128 inputs
                  of a group is a slot: its bytes, then sx and what the zero points need. The slots
                  of all tokens for one block stand together.
        fill      32 (or 16) rows of one block of weights become unsigned bytes in the L1 cache:
                  a panel [row block][4 inputs][16 rows][4], as the packed words already have them.
        multiply  the panel times every token of a batch, a tile of tokens at a time in registers:
                  sum q * x in int32, then the zero points, then fp32:  y += scale * (sx * sum).
        few       up to 4 tokens: the same from the packed words, nothing stored in between.

    Zero points. With  x ~ sx * (xs - m),  xs the signed byte and m a number per block (A16: 0),
        sum (q - z)(xs - m)  =  sum q xs  -  m * sum q  -  z * sum (xs - m)
    so one dot product of two 16-bit pairs, {sum q, z} of the row and {-m, -sum (xs - m)} of the
    token, corrects a whole block. A16 has {z, 256 z} and minus the low and high part of sum x.

    TO ADD AN INSTRUCTION SET   docs/kernels.md is the checklist: a tile (fill, multiply, and few
    if it pays), a line in awq__simd_kernels, a bit in awq_cpu, its row in `make test-isa`.       */

#if !defined(AWQ__IMPLEMENTED)
#error "awq_simd.h is part of awq.h: define AWQ_IMPLEMENTATION and include awq.h"
#endif

/* gcc suspects its own _mm512_undefined_ps(); clang tells at -Os which loops stay loops. */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpass-failed"
#elif defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/* gcc for Windows keeps 32-byte vectors on a stack aligned to 16 (its bug 54412): portable only. */
#if defined(_WIN32) && defined(__GNUC__) && !defined(__clang__)
#elif defined(__x86_64__) || defined(_M_X64)
#define AWQ__X86
#include <immintrin.h>
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

/* Little-endian Arm. Sets beyond the compiler's flags need target attributes that it knows, and are
   detected on Linux. */
#if (defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN)) || defined(_M_ARM64)
#define AWQ__NEON
#include <arm_neon.h>
#if defined(__aarch64__) || defined(_M_ARM64)
#define AWQ__ARM64
#if defined(__linux__) && defined(__GNUC__)
#include <sys/auxv.h>
#define AWQ__HWCAP
#endif
#ifdef __ARM_FEATURE_QRDMX /* v8.1 or later, as the compiler wants for more */
#define AWQ__ARM_BASE ""
#elif defined(__ARM_FEATURE_CRYPTO) /* what the flags allow must stay allowed, to inline */
#define AWQ__ARM_BASE "arch=armv8.2-a+crypto"
#else
#define AWQ__ARM_BASE "arch=armv8.2-a"
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#define AWQ__DOTPROD
#elif defined(AWQ__HWCAP) && (__GNUC__ >= 8 || (defined(__clang__) && __clang_major__ >= 16))
#define AWQ__DOTPROD AWQ__TARGET(AWQ__ARM_BASE "+dotprod")
#endif
#if !defined(AWQ__DOTPROD)
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define AWQ__I8MM
#elif defined(AWQ__HWCAP) && (__GNUC__ >= 10 || (defined(__clang__) && __clang_major__ >= 16))
#define AWQ__I8MM AWQ__TARGET(AWQ__ARM_BASE "+i8mm")
#endif
#endif
#endif

#ifdef __wasm_simd128__
#define AWQ__WASM
#include <wasm_simd128.h>
#endif

#if defined(__riscv_v_intrinsic) && defined(__riscv_v_min_vlen)
#if __riscv_v_min_vlen >= 128
#define AWQ__RVV
#include <riscv_vector.h>
#endif
#endif

#if defined(AWQ__X86) || defined(AWQ__NEON) || defined(AWQ__WASM) || defined(AWQ__RVV)
#define AWQ__SIMD
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifdef AWQ__SIMD

#if defined(_MSC_VER) && !defined(__clang__)
#define AWQ__INLINE static __forceinline
#define AWQ__ALIGNED __declspec(align(64)) /* on whole cache lines */
#define AWQ__TARGET(features)
#define AWQ__UNROLL
#define AWQ__KEEP(v)
#ifdef AWQ__X86
#define AWQ__CLAIM(p) _m_prefetchw((void *)(p))
#else
#define AWQ__CLAIM(p) (void)(p)
#endif
#else
#define AWQ__INLINE static inline __attribute__((always_inline))
#define AWQ__ALIGNED __attribute__((aligned(64))) /* on whole cache lines */
#define AWQ__TARGET(features) __attribute__((target(features)))
#if defined(__CUDACC__) /* its front end knows no such pragma: right, but slow; compile this as C */
#define AWQ__UNROLL
#elif defined(__clang__)
#define AWQ__UNROLL _Pragma("clang loop unroll(full)")
#else
#define AWQ__UNROLL _Pragma("GCC unroll 16")
#endif
#if defined(AWQ__X86)
#define AWQ__CLAIM(p) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#else
#define AWQ__CLAIM(p) __builtin_prefetch(p, 1)
#endif
/* Ends the life of v here and begins a new one: else gcc keeps two copies of every accumulator. */
#define AWQ__KEEP(v) __asm__("" : "+v"(v))
#endif

/* =================================================================================================
   >>simd-slots   prepared activations
   ============================================================================================== */

#define AWQ__FORMAT_SLOTS 2

/* What stands behind the bytes of a slot. */
typedef struct awq__terms {
    float scale;  /* sx */
    float offset; /* A8: -AWQ__MAGIC_FLOAT * sx */
    int32_t pair; /* two int16: A8 {-m, -sum}, A16 {-(sum % 256), -(sum / 256)} */
    int32_t sum;  /* sum of the integers x */
} awq__terms;

/* An int32 d, |d| < 2^22, added to the bits of 1.5 * 2^23 makes the float 1.5 * 2^23 + d. */
#define AWQ__MAGIC_BITS 0x4b400000
#define AWQ__MAGIC_FLOAT 12582912.0f

static int32_t awq__pair(int32_t low, int32_t high) {
    return (int32_t)(((uint32_t)low & 0xffffu) | (uint32_t)high << 16);
}

/* sum is that of the integers x, which are xs - m with m = zero - 128 */
static awq__terms awq__terms_a8(awq__grid grid, int32_t sum) {
    awq__terms terms;
    terms.scale = grid.scale;
    terms.offset = -AWQ__MAGIC_FLOAT * grid.scale;
    terms.pair = awq__pair(128 - (int32_t)grid.zero, -sum);
    terms.sum = sum;
    return terms;
}

static awq__terms awq__terms_a16(float scale, int32_t sum) {
    awq__terms terms;
    int32_t high = (sum - (sum & 255)) / 256;
    terms.scale = scale;
    terms.offset = 0;
    terms.pair = awq__pair(-(sum & 255), -high);
    terms.sum = sum;
    return terms;
}

/* Bytes of one plane of a slot: the longest block, filled up with zeros. */
static size_t awq__slot_inputs(size_t in, int group_size) {
    size_t size = awq__group_size(in, group_size);
    return awq__align(awq__min(size, AWQ__CHUNK), 32);
}

static size_t awq__slot_size(size_t in, int group_size, awq_precision precision) {
    return awq__slot_inputs(in, group_size) * (precision == AWQ_A16 ? 2 : 1) + sizeof(awq__terms);
}

static size_t awq__token_size_slots(size_t in, int group_size, awq_precision precision) {
    return awq__mul(awq__blocks(in, group_size), awq__slot_size(in, group_size, precision));
}

static unsigned char *awq__slot_at(const awq_prepared *x, size_t slot_size, size_t block,
                                   size_t token) {
    return (unsigned char *)(uintptr_t)(x->data + (block * x->stored + token) * slot_size);
}

/* x[inputs] -> the slot; inputs is a multiple of 32, x filled up with zeros. 0 if a value is NaN or
   too large. */
typedef int awq__round_slot(const float *x, size_t inputs, awq_precision precision,
                            unsigned char *slot);
/* n elements to fp32 */
typedef void awq__load_floats(const void *from, awq_dtype dtype, size_t n, float *to);

/* One block of a token, which starts at column col; 0 if a value is bad. */
static int awq__prepare_block(awq__load_floats *load, awq__round_slot *round_slot, awq_matrix x,
                              const float *input_scale, size_t token, size_t col, size_t n,
                              size_t inputs, awq_precision precision, unsigned char *slot) {
    const unsigned char *from = awq__at(x, token, col);
    float block[AWQ__CHUNK];
    size_t i;
    if (x.dtype == AWQ_F32 && n == inputs && !input_scale && awq__is_aligned(from, sizeof(float)))
        return round_slot((const float *)(const void *)from, inputs, precision, slot);
    load(from, x.dtype, n, block);
    if (input_scale)
        for (i = 0; i < n; i++) block[i] /= input_scale[col + i];
    for (i = n; i < inputs; i++) block[i] = 0;
    return round_slot(block, inputs, precision, slot);
}

static awq_status awq__prepare_slots(awq__load_floats *load, awq__round_slot *round_slot,
                                     const awq_prepared *shape, awq_matrix x,
                                     const float *input_scale, size_t token_begin,
                                     size_t token_end, awq_where *where) {
    size_t in = shape->in_features, size = awq__group_size(in, shape->group_size);
    size_t slot_size = awq__slot_size(in, shape->group_size, shape->precision);
    size_t inputs = awq__slot_inputs(in, shape->group_size), t, begin, col, index;
    for (t = token_begin; t < token_end; t++)
        for (begin = index = 0; begin < in; begin += size)
            for (col = begin; col < awq__min(begin + size, in); col += AWQ__CHUNK, index++) {
                size_t n = awq__min(AWQ__CHUNK, awq__min(begin + size, in) - col);
                float block[AWQ__CHUNK];
                if (awq__prepare_block(load, round_slot, x, input_scale, t, col, n, inputs,
                                       shape->precision,
                                       awq__slot_at(shape, slot_size, index, t)))
                    continue;
                n = awq__load_activations(x, input_scale, t, col, n, block);
                return awq__fail(where, AWQ_ERR_DATA, 0, t, col + n);
            }
    return AWQ_OK;
}

/* =================================================================================================
   >>simd-driver
   ============================================================================================== */

#define AWQ__PANEL_BLOCKS 2 /* at most: blocks of AWQ_ROW_STEP rows in a panel */
#define AWQ__PANEL_ROWS (AWQ__PANEL_BLOCKS * AWQ_ROW_STEP)
#define AWQ__BATCH 96             /* tokens at most that share one filling of a panel */
#define AWQ__BATCH_BYTES 0xa0000u /* of slots at most: they stay in the L2 cache */

typedef struct awq__panel { /* whole cache lines first */
    unsigned char bytes[2][AWQ__PANEL_BLOCKS][AWQ__CHUNK * AWQ_ROW_STEP]; /* [1]: high nibbles */
    float scale[AWQ__PANEL_ROWS];
    int32_t pair[AWQ__PANEL_ROWS]; /* two int16: A8 {sum q, z}, A16 {z, 256 z} */
    int32_t zero[AWQ__PANEL_ROWS];
    const unsigned char *q[AWQ__PANEL_BLOCKS]; /* [steps][16 rows][4], in bytes or in packed */
    size_t steps;                              /* of 4 inputs, a multiple of 8 */
    size_t inputs;                             /* bytes of a plane of a slot */
    awq_precision precision;
    int wide; /* 8-bit weights */
} awq__panel;

/* One block of inputs, for the row blocks of a panel. */
typedef struct awq__block {
    size_t n;                   /* inputs */
    size_t row_blocks;          /* that exist: 1 .. AWQ__PANEL_BLOCKS */
    const unsigned char *words; /* of the first row block */
    size_t words_step;          /* bytes to those of the next row block */
    size_t cell, cell_step;     /* number of the group's 16 scales, and of the next row block's */
} awq__block;

#define AWQ__FEW 4 /* tokens */

typedef struct awq__few_tokens {
    size_t tokens;
    const unsigned char *slots[AWQ__FEW]; /* of the first block */
    size_t block_step;                    /* bytes to the slot of the next block */
    size_t inputs;                        /* bytes of a plane */
    int a16;
} awq__few_tokens;

typedef struct awq__tiles {
    size_t rows; /* of a panel */
    /* bytes, scales and zero points of a block; 0 for row blocks that do not exist */
    void (*fill)(const awq_packed *packed, const awq__block *block, awq__panel *panel);
    /* sums[token][panel row] += for tokens whose slots stand slot_size apart */
    void (*multiply)(const awq__panel *panel, const unsigned char *slots, size_t slot_size,
                     size_t tokens, float *sums);
    /* up to AWQ__FEW tokens straight from the packed words (bits 4 and 8), or NULL: sums[streams]
       [tokens][16] of the row blocks at row, row + 16 spread ...; streams is awq__streams() or 1 */
    void (*few)(const awq_packed *packed, const awq__few_tokens *few, size_t row, size_t spread,
                size_t streams, float *sums);
    /* y[token + t][row + r] = sums[t][r] + bias[r] for r < rows; bias may be NULL */
    void (*store)(const float *sums, size_t sums_stride, size_t tokens, size_t rows,
                  const float *bias, awq_matrix y, size_t token, size_t row);
} awq__tiles;

/* The bytes of a row block, any bits: field f of a word is 4 inputs, one per byte. */
static void awq__split_words(const unsigned char *from, int bits, size_t n, unsigned char *to) {
    size_t words = awq__words(bits, n), i, lane;
    unsigned f, fields = bits == 3 ? 8 : 8u / (unsigned)bits;
    for (i = 0; i < words; i += bits == 3 ? 3 : 1, to += fields * 4 * AWQ_ROW_STEP)
        for (lane = 0; lane < AWQ_ROW_STEP; lane++) {
            uint32_t layers[8], high[8];
            const unsigned char *at = from + 4 * lane;
            awq__split_word(awq__load_word(at, i), bits == 3 ? 2 : (unsigned)bits, layers);
            if (bits == 3) { /* two words of low bits, one of high bits */
                awq__split_word(awq__load_word(at, i + 1), 2, layers + 4);
                awq__split_word(awq__load_word(at, i + 2), 1, high);
                for (f = 0; f < 8; f++) layers[f] |= high[f] << 2;
            }
            for (f = 0; f < fields; f++)
                memcpy(to + (f * AWQ_ROW_STEP + lane) * 4, &layers[f], 4);
        }
}

/* Slots of tokens [first, first + count) of a block: in place, or gathered into `copy`. */
static const unsigned char *awq__slots(const awq_prepared *x, size_t slot_size, size_t block,
                                       size_t first, size_t count, unsigned char *copy) {
    size_t t;
    if (!x->index) return awq__slot_at(x, slot_size, block, first);
    for (t = 0; t < count; t++)
        memcpy(copy + t * slot_size, awq__slot_at(x, slot_size, block, x->index[first + t]),
               slot_size);
    return copy;
}

#define AWQ__GATHER 24 /* tokens gathered at a time */

static void awq__multiply_batch(const awq__tiles *tiles, const awq__panel *panel,
                                const awq_prepared *x, size_t slot_size, size_t block, size_t first,
                                size_t tokens, float *sums) {
    unsigned char copy[AWQ__GATHER * (2 * AWQ__CHUNK + sizeof(awq__terms))];
    size_t t, step = x->index ? AWQ__GATHER : tokens;
    for (t = 0; t < tokens; t += step) {
        size_t n = awq__min(step, tokens - t);
        tiles->multiply(panel, awq__slots(x, slot_size, block, first + t, n, copy), slot_size, n,
                        sums + t * tiles->rows);
    }
}

/* Tokens that are multiplied at a time: as many as the L2 cache keeps, in nearly equal parts. */
static size_t awq__batch_size(const awq_prepared *x) {
    size_t most = AWQ__BATCH_BYTES / x->token_size / 12 * 12;
    most = most < 12 ? 12 : awq__min(most, AWQ__BATCH);
    return awq__align(awq__ceil_div(x->tokens, awq__ceil_div(x->tokens, most)), 12);
}

/* A batch of tokens and the row blocks of a panel. These are far apart, so that each is one long
   stream through memory: block r has rows [row + r * step, row + r * step + AWQ_ROW_STEP). */
typedef struct awq__part {
    size_t first, tokens;
    size_t row, row_blocks, step;
} awq__part;

/* Writing a line of y takes it from whoever had it last, which is slow: ask while there is still
   work. Of the tokens [begin, end) of a part. */
static void awq__claim_outputs(awq_matrix y, const awq__part *part, size_t begin, size_t end) {
    size_t t, r;
    for (t = begin; t < end; t++)
        for (r = 0; r < part->row_blocks; r++)
            AWQ__CLAIM(awq__at(y, part->first + t, part->row + r * part->step));
}

/* sums[token][panel row] = the product of a part; y is only told that it will be written */
static void awq__multiply_part(const awq__tiles *tiles, const awq_packed *p, const awq_prepared *x,
                               const awq__part *part, awq_matrix y, awq__panel *panel,
                               float *sums) {
    size_t in = p->in_features, size = awq__group_size(in, p->quant.group_size), begin, left, index;
    size_t slot_size = awq__slot_size(in, p->quant.group_size, x->precision), done = 0;
    awq__block block;
    block.row_blocks = part->row_blocks;
    block.words = p->data + awq__word_at(p, part->row, 0);
    block.words_step = part->step * awq__row_words(p->quant, in) * 4;
    block.cell = part->row / AWQ_ROW_STEP * awq__ceil_div(in, size);
    block.cell_step = part->step / AWQ_ROW_STEP * awq__ceil_div(in, size);
    memset(sums, 0, part->tokens * tiles->rows * sizeof *sums);
    for (begin = index = 0; begin < in; begin += size, block.cell++)
        for (left = awq__min(size, in - begin); left; left -= block.n, index++) {
            block.n = awq__min(left, AWQ__CHUNK);
            tiles->fill(p, &block, panel);
            awq__claim_outputs(y, part, part->tokens * done / in,
                               part->tokens * (done + block.n) / in);
            awq__multiply_batch(tiles, panel, x, slot_size, index, part->first, part->tokens, sums);
            block.words += awq__words(p->quant.bits, block.n) * 4 * AWQ_ROW_STEP;
            done += block.n;
        }
}

static void awq__matmul_tiles(const awq__tiles *tiles, const awq_packed *packed,
                              const awq_prepared *x, const float *bias, awq_matrix y,
                              size_t row_begin, size_t row_end) {
    AWQ__ALIGNED float sums[AWQ__BATCH * AWQ__PANEL_ROWS];
    AWQ__ALIGNED awq__panel panel;
    size_t all = awq__ceil_div(row_end - row_begin, AWQ_ROW_STEP), batch, i, r, row;
    size_t spread = awq__ceil_div(all, tiles->rows / AWQ_ROW_STEP);
    awq__part part;
    if (x->tokens == 0) return;
    panel.inputs = awq__slot_inputs(x->in_features, x->group_size);
    panel.precision = x->precision;
    panel.wide = packed->quant.bits == 8;
    batch = awq__batch_size(x);
    part.step = spread * AWQ_ROW_STEP;
    for (part.first = 0; part.first < x->tokens; part.first += batch)
        for (i = 0; i < spread; i++) {
            part.tokens = awq__min(batch, x->tokens - part.first);
            part.row = row = row_begin + i * AWQ_ROW_STEP;
            part.row_blocks = awq__ceil_div(all - i, spread);
            awq__multiply_part(tiles, packed, x, &part, y, &panel, sums);
            for (r = 0; r < part.row_blocks; r++, row += part.step)
                tiles->store(sums + r * AWQ_ROW_STEP, tiles->rows, part.tokens,
                             awq__min(AWQ_ROW_STEP, row_end - row), bias ? bias + row : NULL, y,
                             part.first, row);
        }
}

/* Row blocks that are read side by side: memory answers several streams faster than one. */
static size_t awq__streams(size_t tokens) { return tokens == 1 ? 8 : tokens == 2 ? 4 : 2; }

static void awq__matmul_few(const awq__tiles *tiles, const awq_packed *packed,
                            const awq_prepared *x, const float *bias, awq_matrix y,
                            size_t row_begin, size_t row_end) {
    AWQ__ALIGNED float sums[8 * AWQ_ROW_STEP];
    size_t slot_size = awq__slot_size(x->in_features, x->group_size, x->precision), t, s, i, row;
    size_t all = awq__ceil_div(row_end - row_begin, AWQ_ROW_STEP);
    size_t streams = awq__streams(x->tokens), spread = all / streams;
    awq__few_tokens few;
    few.tokens = x->tokens;
    for (t = 0; t < x->tokens; t++)
        few.slots[t] = awq__slot_at(x, slot_size, 0, x->index ? x->index[t] : t);
    few.block_step = x->stored * slot_size;
    few.inputs = awq__slot_inputs(x->in_features, x->group_size);
    few.a16 = x->precision == AWQ_A16;
    for (i = 0; i < all; i += streams) { /* the streams side by side, then the few left over */
        if (i >= spread * streams) streams = 1;
        row = row_begin + (streams == 1 ? i : i / streams) * AWQ_ROW_STEP;
        tiles->few(packed, &few, row, spread, streams, sums);
        for (s = 0; s < streams; s++, row += spread * AWQ_ROW_STEP)
            tiles->store(sums + s * few.tokens * AWQ_ROW_STEP, AWQ_ROW_STEP, few.tokens,
                         awq__min(AWQ_ROW_STEP, row_end - row), bias ? bias + row : NULL, y, 0,
                         row);
    }
}

static void awq__matmul_simd(const awq__tiles *tiles, const awq_packed *packed,
                             const awq_prepared *x, const float *bias, awq_matrix y,
                             size_t row_begin, size_t row_end) {
    int bits = packed->quant.bits;
    if (x->tokens && x->tokens <= AWQ__FEW && tiles->few && (bits == 4 || bits == 8))
        awq__matmul_few(tiles, packed, x, bias, y, row_begin, row_end);
    else awq__matmul_tiles(tiles, packed, x, bias, y, row_begin, row_end);
}

/* =================================================================================================
   >>simd-x86   what the x86 sets share
   ============================================================================================== */

#ifdef AWQ__X86

#define AWQ__AHEAD 2048 /* bytes of packed words fetched ahead */

/* Scales and zero points are slow streams that the processor does not see coming. */
AWQ__INLINE void awq__fetch_grid(const awq_packed *p, size_t cell) {
    size_t bytes = awq_dtype_size(p->quant.scale_dtype);
    _mm_prefetch((const char *)p->data + p->scales_offset + (cell + 8) * AWQ_ROW_STEP * bytes,
                 _MM_HINT_T0);
    if (!p->quant.symmetric)
        _mm_prefetch((const char *)p->data + p->zeros_offset +
                         (cell + 8) * awq__zero_bytes(p->quant.bits),
                     _MM_HINT_T0);
}

/* Tiles are written once for a number of tokens that the compiler knows. */
#define AWQ__EACH_TILE(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

#define AWQ__AVX2 AWQ__TARGET("avx2,fma,f16c")

/* Tokens of the next tile: `most`, but the last two share what is left evenly. */
static size_t awq__tile_tokens(size_t left, size_t most) {
    return left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left;
}

AWQ__INLINE AWQ__AVX2 __m256 awq__load8_avx2(const unsigned char *p, awq_dtype dtype) {
    if (dtype == AWQ_F16) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
    if (dtype == AWQ_BF16)
        return _mm256_castsi256_ps(_mm256_slli_epi32(
            _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
    return _mm256_loadu_ps((const float *)(const void *)p);
}

/* fp32 to bf16, ties to even, NaN kept: 16 bits in each of 8 lanes */
AWQ__INLINE AWQ__AVX2 __m256i awq__bf16_avx2(__m256 x) {
    __m256i u = _mm256_castps_si256(x), odd, rounded;
    odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    u = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    rounded = _mm256_blendv_epi8(
        rounded, u, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm256_srli_epi32(rounded, 16);
}

AWQ__AVX2 static void awq__load_avx2(const void *from, awq_dtype dtype, size_t n, float *to) {
    const unsigned char *p = (const unsigned char *)from;
    size_t size = awq_dtype_size(dtype), i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, awq__load8_avx2(p + i * size, dtype));
    for (; i < n; i++) to[i] = awq__load_float(p + i * size, dtype);
}

AWQ__INLINE AWQ__AVX2 void awq__store8_avx2(__m256 v, awq_dtype dtype, unsigned char *to) {
    __m256i wide;
    if (dtype == AWQ_F32) {
        _mm256_storeu_ps((float *)(void *)to, v);
        return;
    }
    wide = awq__bf16_avx2(v);
    _mm_storeu_si128((__m128i *)(void *)to,
                     dtype == AWQ_F16 ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)
                                      : _mm_packus_epi32(_mm256_castsi256_si128(wide),
                                                         _mm256_extracti128_si256(wide, 1)));
}

AWQ__AVX2 static void awq__store_avx2(const float *sums, size_t sums_stride, size_t tokens,
                                      size_t rows, const float *bias, awq_matrix y, size_t token,
                                      size_t row) {
    size_t t, r, size = awq_dtype_size(y.dtype);
    for (t = 0; t < tokens; t++, sums += sums_stride) {
        unsigned char *to = awq__at(y, token + t, row);
        for (r = 0; r + 8 <= rows; r += 8) {
            __m256 v = _mm256_loadu_ps(sums + r);
            if (bias) v = _mm256_add_ps(v, _mm256_loadu_ps(bias + r));
            awq__store8_avx2(v, y.dtype, to + r * size);
        }
        for (; r < rows; r++)
            awq__store_float(to + r * size, y.dtype, bias ? sums[r] + bias[r] : sums[r]);
    }
}

AWQ__INLINE AWQ__AVX2 int32_t awq__sum_avx2(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

AWQ__INLINE AWQ__AVX2 float awq__max_avx2(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

/* 32 integers as bytes, in order; what lies beyond -128 .. 127 goes to the end. */
AWQ__INLINE AWQ__AVX2 __m256i awq__bytes_avx2(const __m256i v[4]) {
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* All bits set where x is NaN or too large. */
AWQ__INLINE AWQ__AVX2 __m256 awq__is_bad_avx2(__m256 x) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return _mm256_cmp_ps(_mm256_and_ps(x, magnitude), _mm256_set1_ps(AWQ__LARGEST), _CMP_NLE_UQ);
}

AWQ__INLINE AWQ__AVX2 __m256 awq__or4_avx2(const __m256 v[4]) {
    return _mm256_or_ps(_mm256_or_ps(v[0], v[1]), _mm256_or_ps(v[2], v[3]));
}

AWQ__INLINE AWQ__AVX2 __m256 awq__max4_avx2(const __m256 v[4]) {
    return _mm256_max_ps(_mm256_max_ps(v[0], v[1]), _mm256_max_ps(v[2], v[3]));
}

AWQ__AVX2 static int awq__round_a8_avx2(const float *x, size_t inputs, unsigned char *slot) {
    __m256 low[4], high[4], bad[4], inverse;
    __m256i middle, bytes, sum = _mm256_setzero_si256(), v[4];
    awq__grid grid;
    awq__terms terms;
    size_t i;
    int j;
    AWQ__UNROLL for (j = 0; j < 4; j++) low[j] = high[j] = bad[j] = _mm256_setzero_ps();
    for (i = 0; i < inputs; i += 32)
        AWQ__UNROLL for (j = 0; j < 4; j++) { /* four, so that none waits for the one before */
            __m256 f = _mm256_loadu_ps(x + i + 8 * j);
            bad[j] = _mm256_or_ps(bad[j], awq__is_bad_avx2(f));
            low[j] = _mm256_max_ps(low[j], _mm256_sub_ps(_mm256_setzero_ps(), f)); /* of -x */
            high[j] = _mm256_max_ps(high[j], f);
        }
    if (_mm256_movemask_ps(awq__or4_avx2(bad))) return 0;
    grid = awq__activation_grid(-awq__max_avx2(awq__max4_avx2(low)),
                                awq__max_avx2(awq__max4_avx2(high)));
    inverse = _mm256_set1_ps(1.0f / grid.scale);
    middle = _mm256_set1_epi32((int)grid.zero - 128);
    for (i = 0; i < inputs; i += 32) {
        AWQ__UNROLL for (j = 0; j < 4; j++) {
            __m256 f = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), inverse);
            v[j] = _mm256_add_epi32(_mm256_cvtps_epi32(f), middle);
        }
        bytes = awq__bytes_avx2(v);
        _mm256_storeu_si256((__m256i *)(void *)(slot + i), bytes);
        bytes = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(bytes, _mm256_set1_epi16(1)));
    }
    terms = awq__terms_a8(grid, awq__sum_avx2(sum) - (int32_t)inputs * ((int32_t)grid.zero - 128));
    memcpy(slot + inputs, &terms, sizeof terms);
    return 1;
}

AWQ__AVX2 static int awq__round_a16_avx2(const float *x, size_t inputs, unsigned char *slot) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 largest[4], bad[4], inverse;
    __m256i sum = _mm256_setzero_si256(), v, high[4], low[4];
    awq__terms terms;
    float scale;
    size_t i;
    int j;
    AWQ__UNROLL for (j = 0; j < 4; j++) largest[j] = bad[j] = _mm256_setzero_ps();
    for (i = 0; i < inputs; i += 32)
        AWQ__UNROLL for (j = 0; j < 4; j++) {
            __m256 f = _mm256_loadu_ps(x + i + 8 * j);
            bad[j] = _mm256_or_ps(bad[j], awq__is_bad_avx2(f));
            largest[j] = _mm256_max_ps(largest[j], _mm256_and_ps(magnitude, f));
        }
    if (_mm256_movemask_ps(awq__or4_avx2(bad))) return 0;
    scale = awq__activation_scale(awq__max_avx2(awq__max4_avx2(largest)) / AWQ__A16_MAX);
    inverse = _mm256_set1_ps(1.0f / scale);
    for (i = 0; i < inputs; i += 32) {
        AWQ__UNROLL for (j = 0; j < 4; j++) {
            v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), inverse));
            sum = _mm256_add_epi32(sum, v);
            high[j] = _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(128)), 8);
            low[j] = _mm256_sub_epi32(v, _mm256_slli_epi32(high[j], 8));
        }
        _mm256_storeu_si256((__m256i *)(void *)(slot + i),
                            awq__bytes_avx2(high));
        _mm256_storeu_si256((__m256i *)(void *)(slot + inputs + i),
                            awq__bytes_avx2(low));
    }
    terms = awq__terms_a16(scale, awq__sum_avx2(sum));
    memcpy(slot + 2 * inputs, &terms, sizeof terms);
    return 1;
}

AWQ__AVX2 static int awq__round_slot_avx2(const float *x, size_t inputs, awq_precision precision,
                                          unsigned char *slot) {
    return precision == AWQ_A16 ? awq__round_a16_avx2(x, inputs, slot)
                                : awq__round_a8_avx2(x, inputs, slot);
}

static awq_status awq__prepare_avx2(const awq_prepared *shape, awq_matrix x,
                                    const float *input_scale, void *memory, size_t token_begin,
                                    size_t token_end, awq_where *where) {
    (void)memory;
    return awq__prepare_slots(awq__load_avx2, awq__round_slot_avx2, shape, x, input_scale,
                              token_begin, token_end, where);
}

/* =================================================================================================
   >>simd-256   16 rows x 4 or 6 tokens; AVX2 alone adds products in 16 bits, 8 steps at a time
   ============================================================================================== */

#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11) ||    \
    (defined(_MSC_VER) && _MSC_VER >= 1930)
#define AWQ__HAS_AVXVNNI /* the compiler knows it */
#define AWQ__AVXVNNI AWQ__TARGET("avx2,fma,f16c,avxvnni")
#endif

AWQ__INLINE AWQ__AVX2 __m256i awq__load_avx2_bytes(const unsigned char *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

AWQ__INLINE AWQ__AVX2 __m256i awq__spread_avx2(const unsigned char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

AWQ__INLINE AWQ__AVX2 __m256 awq__spread_float_avx2(const unsigned char *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_ps(v);
}

/* sum[token][half of the rows] += q * one plane; at most 15 * 128 * 2 a step: 8 fit in 16 bits */
AWQ__INLINE AWQ__AVX2 void awq__dots_avx2(const unsigned char *q, size_t steps,
                                          const unsigned char *x, size_t slot_size, size_t tokens,
                                          __m256i sum[6][2]) {
    size_t k, i, t;
    for (k = 0; k < steps; k += 8) {
        __m256i part[4][2];
        AWQ__UNROLL for (t = 0; t < tokens; t++) part[t][0] = part[t][1] = _mm256_setzero_si256();
        for (i = k; i < k + 8; i++) {
            __m256i w0 = awq__load_avx2_bytes(q + 64 * i);
            __m256i w1 = awq__load_avx2_bytes(q + 64 * i + 32);
            AWQ__UNROLL for (t = 0; t < tokens; t++) {
                __m256i v = awq__spread_avx2(x + t * slot_size + 4 * i);
                part[t][0] = _mm256_add_epi16(part[t][0], _mm256_maddubs_epi16(w0, v));
                part[t][1] = _mm256_add_epi16(part[t][1], _mm256_maddubs_epi16(w1, v));
            }
        }
        AWQ__UNROLL for (t = 0; t < tokens; t++) {
            const __m256i ones = _mm256_set1_epi16(1);
            AWQ__KEEP(part[t][0]);
            AWQ__KEEP(part[t][1]);
            sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(part[t][0], ones));
            sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(part[t][1], ones));
        }
    }
}

AWQ__INLINE AWQ__AVX2 void awq__shift_avx2(size_t tokens, int bits, __m256i sum[6][2]) {
    size_t t;
    AWQ__UNROLL for (t = 0; t < tokens; t++) {
        sum[t][0] = _mm256_slli_epi32(sum[t][0], bits);
        sum[t][1] = _mm256_slli_epi32(sum[t][1], bits);
    }
}

/* Zero points, sx and scale: from integer sums to sums[token][16 rows]. */
AWQ__INLINE AWQ__AVX2 void awq__add_sums_avx2(const awq__panel *panel, const unsigned char *terms,
                                              size_t slot_size, size_t tokens, __m256i sum[6][2],
                                              float *sums) {
    int by_sum = panel->wide && panel->precision == AWQ_A16;
    size_t t, r;
    AWQ__UNROLL for (t = 0; t < tokens; t++, terms += slot_size, sums += AWQ_ROW_STEP)
        AWQ__UNROLL for (r = 0; r < 2; r++) {
            __m256i pair = awq__spread_avx2(terms + offsetof(awq__terms, pair)), fix;
            const unsigned char *rows = (const unsigned char *)(panel->pair + 8 * r);
            __m256 value, scale = _mm256_loadu_ps(panel->scale + 8 * r);
            fix = _mm256_madd_epi16(awq__load_avx2_bytes(rows), pair);
            if (by_sum) {
                rows = (const unsigned char *)(panel->zero + 8 * r);
                fix = awq__spread_avx2(terms + offsetof(awq__terms, sum));
                fix = _mm256_sub_epi32(_mm256_setzero_si256(),
                                       _mm256_mullo_epi32(awq__load_avx2_bytes(rows), fix));
            }
            value = _mm256_cvtepi32_ps(_mm256_add_epi32(sum[t][r], fix));
            value = _mm256_mul_ps(value, awq__spread_float_avx2(terms));
            value = _mm256_fmadd_ps(value, scale, _mm256_loadu_ps(sums + 8 * r));
            _mm256_storeu_ps(sums + 8 * r, value);
        }
}

AWQ__INLINE AWQ__AVX2 void awq__no_sums_avx2(size_t tokens, __m256i sum[6][2]) {
    size_t t;
    AWQ__UNROLL for (t = 0; t < tokens; t++) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
}

/* 8-bit weights are two planes of nibbles here, so that 16 bits hold the products. */
AWQ__INLINE AWQ__AVX2 void awq__tile_avx2(const awq__panel *panel, const unsigned char *x,
                                          size_t slot_size, size_t tokens, float *sums) {
    size_t planes = panel->precision == AWQ_A16 ? 2 : 1, plane;
    __m256i sum[6][2];
    awq__no_sums_avx2(tokens, sum);
    for (plane = 0; plane < planes; plane++) {
        const unsigned char *v = x + plane * panel->inputs;
        if (plane) awq__shift_avx2(tokens, panel->wide ? 4 : 8, sum);
        if (panel->wide) {
            awq__dots_avx2(panel->q[1], panel->steps, v, slot_size, tokens, sum);
            awq__shift_avx2(tokens, 4, sum);
        }
        awq__dots_avx2(panel->q[0], panel->steps, v, slot_size, tokens, sum);
    }
    awq__add_sums_avx2(panel, x + planes * panel->inputs, slot_size, tokens, sum, sums);
}

AWQ__AVX2 static void awq__multiply_avx2(const awq__panel *panel, const unsigned char *x,
                                         size_t slot_size, size_t tokens, float *sums) {
    while (tokens) {
        size_t n = awq__tile_tokens(tokens, 4);
        if (n == 4) awq__tile_avx2(panel, x, slot_size, 4, sums);
        else if (n == 3) awq__tile_avx2(panel, x, slot_size, 3, sums);
        else if (n == 2) awq__tile_avx2(panel, x, slot_size, 2, sums);
        else awq__tile_avx2(panel, x, slot_size, 1, sums);
        tokens -= n;
        x += n * slot_size;
        sums += n * AWQ_ROW_STEP;
    }
}

/* Fields of 4 bits to bytes: `fields` = 2 of a 4-bit word in input order; of 8-bit words the low
   nibbles to `to` and the high ones to `high`. */
AWQ__INLINE AWQ__AVX2 void awq__nibbles_avx2(const unsigned char *from, size_t words,
                                             unsigned char *to, unsigned char *high, size_t step) {
    const __m256i low = _mm256_set1_epi8(15);
    size_t i, h;
    for (i = 0; i < words; i++)
        for (h = 0; h < 64; h += 32) {
            __m256i v = awq__load_avx2_bytes(from + 64 * i + h);
            _mm_prefetch((const char *)from + 64 * i + h + AWQ__AHEAD, _MM_HINT_T0);
            _mm256_storeu_si256((__m256i *)(void *)(to + step * i + h), _mm256_and_si256(v, low));
            v = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
            _mm256_storeu_si256((__m256i *)(void *)(high + step * i + h), v);
        }
}

/* sum of the bytes of every row */
AWQ__AVX2 static void awq__row_sums_avx2(const unsigned char *q, size_t steps, int32_t sums[16]) {
    const __m256i bytes = _mm256_set1_epi8(1), halves = _mm256_set1_epi16(1);
    __m256i sum[2];
    size_t i, r;
    sum[0] = sum[1] = _mm256_setzero_si256();
    for (i = 0; i < steps; i++)
        for (r = 0; r < 2; r++) {
            __m256i v = awq__load_avx2_bytes(q + 64 * i + 32 * r);
            v = _mm256_madd_epi16(_mm256_maddubs_epi16(v, bytes), halves);
            sum[r] = _mm256_add_epi32(sum[r], v);
        }
    for (r = 0; r < 2; r++) _mm256_storeu_si256((__m256i *)(void *)(sums + 8 * r), sum[r]);
}

AWQ__AVX2 static void awq__fill_grid_avx2(const awq_packed *p, size_t cell, const int32_t sums[16],
                                          awq__panel *panel) {
    size_t bytes = awq_dtype_size(p->quant.scale_dtype), r;
    const unsigned char *scales = p->data + p->scales_offset + cell * AWQ_ROW_STEP * bytes;
    for (r = 0; r < AWQ_ROW_STEP; r += 8)
        _mm256_storeu_ps(panel->scale + r, awq__load8_avx2(scales + r * bytes,
                                                           p->quant.scale_dtype));
    for (r = 0; r < AWQ_ROW_STEP; r++) {
        int zero = awq__cell_zero(p, cell, r);
        panel->zero[r] = zero;
        panel->pair[r] = panel->precision == AWQ_A16 ? awq__pair(zero, 256 * zero)
                                                     : awq__pair(sums[r], zero);
    }
}

/* split_wide: 8-bit weights as two planes of nibbles, panel->q[1] the high one */
AWQ__INLINE AWQ__AVX2 void awq__fill_256(const awq_packed *p, const awq__block *block,
                                         int split_wide, awq__panel *panel) {
    unsigned char *to = panel->bytes[0][0], *high = panel->bytes[0][1];
    int bits = p->quant.bits, i;
    int32_t sums[16], other[16];
    awq__fetch_grid(p, block->cell);
    panel->steps = awq__align(block->n, 32) / 4;
    panel->q[0] = to;
    panel->q[1] = high;
    if (block->n % 32) memset(panel->bytes[0], 0, sizeof panel->bytes[0]);
    if (bits == 4) awq__nibbles_avx2(block->words, awq__ceil_div(block->n, 8), to, to + 64, 128);
    else if (bits != 8) awq__split_words(block->words, bits, block->n, to);
    else if (split_wide) awq__nibbles_avx2(block->words, awq__ceil_div(block->n, 4), to, high, 64);
    else if (block->n % 32) awq__split_words(block->words, 8, block->n, to);
    else panel->q[0] = block->words;
    if (panel->precision == AWQ_A8) {
        if (bits == 8 && !split_wide) { /* maddubs takes the bytes as they are: times 1, no loss */
            awq__row_sums_avx2(panel->q[0], panel->steps, sums);
        } else {
            awq__row_sums_avx2(to, panel->steps, sums);
            if (bits == 8) awq__row_sums_avx2(high, panel->steps, other);
            for (i = 0; bits == 8 && i < 16; i++) sums[i] += 16 * other[i];
        }
    }
    awq__fill_grid_avx2(p, block->cell, sums, panel);
}

AWQ__AVX2 static void awq__fill_avx2(const awq_packed *p, const awq__block *block,
                                     awq__panel *panel) {
    awq__fill_256(p, block, 1, panel);
}

static awq__tiles awq__tiles_avx2(void) {
    awq__tiles tiles;
    tiles.rows = AWQ_ROW_STEP;
    tiles.fill = awq__fill_avx2;
    tiles.multiply = awq__multiply_avx2;
    tiles.few = NULL;
    tiles.store = awq__store_avx2;
    return tiles;
}

static void awq__matmul_avx2(const awq_packed *packed, const awq_prepared *x, const float *bias,
                             awq_matrix y, size_t row_begin, size_t row_end) {
    awq__tiles tiles = awq__tiles_avx2();
    awq__matmul_simd(&tiles, packed, x, bias, y, row_begin, row_end);
}

#ifdef AWQ__HAS_AVXVNNI

AWQ__INLINE AWQ__AVXVNNI void awq__dots_avxvnni(const unsigned char *q, size_t steps,
                                                const unsigned char *x, size_t slot_size,
                                                size_t tokens, __m256i sum[6][2]) {
    size_t k, t;
    for (k = 0; k < steps; k++) {
        __m256i w0 = awq__load_avx2_bytes(q + 64 * k), w1 = awq__load_avx2_bytes(q + 64 * k + 32);
        AWQ__UNROLL for (t = 0; t < tokens; t++) {
            __m256i v = awq__spread_avx2(x + t * slot_size + 4 * k);
            sum[t][0] = _mm256_dpbusd_avx_epi32(sum[t][0], w0, v);
            sum[t][1] = _mm256_dpbusd_avx_epi32(sum[t][1], w1, v);
        }
    }
    AWQ__UNROLL for (t = 0; t < tokens; t++) {
        AWQ__KEEP(sum[t][0]);
        AWQ__KEEP(sum[t][1]);
    }
}

AWQ__INLINE AWQ__AVXVNNI void awq__tile_avxvnni(const awq__panel *panel, const unsigned char *x,
                                                size_t slot_size, size_t tokens, float *sums) {
    size_t planes = panel->precision == AWQ_A16 ? 2 : 1, plane;
    __m256i sum[6][2];
    awq__no_sums_avx2(tokens, sum);
    for (plane = 0; plane < planes; plane++) {
        if (plane) awq__shift_avx2(tokens, 8, sum);
        awq__dots_avxvnni(panel->q[0], panel->steps, x + plane * panel->inputs, slot_size, tokens,
                          sum);
    }
    awq__add_sums_avx2(panel, x + planes * panel->inputs, slot_size, tokens, sum, sums);
}

#define AWQ__TILES_256(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define AWQ__X(n)                                                                                  \
    AWQ__AVXVNNI static void awq__tile##n##_avxvnni(const awq__panel *panel,                       \
                                                    const unsigned char *x, size_t slot_size,      \
                                                    float *sums) {                                 \
        awq__tile_avxvnni(panel, x, slot_size, n, sums);                                           \
    }
AWQ__TILES_256(AWQ__X)
#undef AWQ__X

static void awq__multiply_avxvnni(const awq__panel *panel, const unsigned char *x, size_t slot_size,
                                  size_t tokens, float *sums) {
    while (tokens) {
        size_t n = awq__tile_tokens(tokens, 6);
        switch (n) {
#define AWQ__X(n)                                                                                  \
  case n: awq__tile##n##_avxvnni(panel, x, slot_size, sums); break;
            AWQ__TILES_256(AWQ__X)
#undef AWQ__X
        default: break;
        }
        tokens -= n;
        x += n * slot_size;
        sums += n * AWQ_ROW_STEP;
    }
}
#undef AWQ__TILES_256

AWQ__AVX2 static void awq__fill_avxvnni(const awq_packed *p, const awq__block *block,
                                        awq__panel *panel) {
    awq__fill_256(p, block, 0, panel);
}

static void awq__matmul_avxvnni(const awq_packed *packed, const awq_prepared *x, const float *bias,
                                awq_matrix y, size_t row_begin, size_t row_end) {
    awq__tiles tiles = awq__tiles_avx2();
    tiles.fill = awq__fill_avxvnni;
    tiles.multiply = awq__multiply_avxvnni;
    awq__matmul_simd(&tiles, packed, x, bias, y, row_begin, row_end);
}

#endif /* AWQ__HAS_AVXVNNI */

/* =================================================================================================
   >>simd-avx512   32 rows x 12 tokens in 24 registers; with VNNI one instruction is 64 products
   ============================================================================================== */

#define AWQ__AVX512 AWQ__TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define AWQ__VNNI512 AWQ__TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

AWQ__INLINE AWQ__VNNI512 __m512i awq__spread_avx512(const unsigned char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

AWQ__INLINE AWQ__VNNI512 __m512 awq__spread_float_avx512(const unsigned char *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_ps(v);
}

/* sum[token][row block] += panel * one plane of the slots */
AWQ__INLINE AWQ__VNNI512 void awq__dots_avx512vnni(const awq__panel *panel, const unsigned char *x,
                                                   size_t slot_size, size_t tokens,
                                                   __m512i sum[12][2]) {
    const unsigned char *q0 = panel->q[0], *q1 = panel->q[1];
    size_t k, i, t, steps = panel->steps;
    for (k = 0; k < steps; k += 4)
        AWQ__UNROLL for (i = k; i < k + 4; i++) {
            __m512i w0 = _mm512_loadu_si512(q0 + 64 * i), w1 = _mm512_loadu_si512(q1 + 64 * i);
            AWQ__UNROLL for (t = 0; t < tokens; t++) {
                __m512i v = awq__spread_avx512(x + t * slot_size + 4 * i);
                sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, v);
                sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, v);
            }
        }
    AWQ__UNROLL for (t = 0; t < tokens; t++) {
        AWQ__KEEP(sum[t][0]);
        AWQ__KEEP(sum[t][1]);
    }
}

AWQ__INLINE AWQ__VNNI512 void awq__add_sums_avx512(__m512 value, __m512 scale, float *sums) {
    _mm512_storeu_ps(sums, _mm512_fmadd_ps(value, scale, _mm512_loadu_ps(sums)));
}

/* A8: the zero points first, then one plane; |sum| < 2^22 unless the weights are wide */
AWQ__INLINE AWQ__VNNI512 void awq__tile_a8_avx512vnni(const awq__panel *panel,
                                                      const unsigned char *x, size_t slot_size,
                                                      size_t tokens, float *sums) {
    const unsigned char *terms = x + panel->inputs;
    const __m512i start = _mm512_set1_epi32(panel->wide ? 0 : AWQ__MAGIC_BITS);
    __m512i sum[12][2];
    size_t t, r;
    AWQ__UNROLL for (t = 0; t < tokens; t++) {
        __m512i pair = awq__spread_avx512(terms + t * slot_size + offsetof(awq__terms, pair));
        sum[t][0] = _mm512_dpwssd_epi32(start, _mm512_loadu_si512(panel->pair), pair);
        sum[t][1] = _mm512_dpwssd_epi32(start, _mm512_loadu_si512(panel->pair + 16), pair);
    }
    awq__dots_avx512vnni(panel, x, slot_size, tokens, sum);
    if (panel->wide) {
        AWQ__UNROLL for (t = 0; t < tokens; t++) {
            __m512 sx = awq__spread_float_avx512(terms + t * slot_size);
            AWQ__UNROLL for (r = 0; r < 2; r++)
                awq__add_sums_avx512(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[t][r]), sx),
                                     _mm512_loadu_ps(panel->scale + 16 * r),
                                     sums + 32 * t + 16 * r);
        }
    } else {
        AWQ__UNROLL for (t = 0; t < tokens; t++) {
            __m512 sx = awq__spread_float_avx512(terms + t * slot_size);
            __m512 offset = awq__spread_float_avx512(terms + t * slot_size +
                                                     offsetof(awq__terms, offset));
            AWQ__UNROLL for (r = 0; r < 2; r++)
                awq__add_sums_avx512(_mm512_fmadd_ps(_mm512_castsi512_ps(sum[t][r]), sx, offset),
                                     _mm512_loadu_ps(panel->scale + 16 * r),
                                     sums + 32 * t + 16 * r);
        }
    }
}

/* A16: the high plane, shifted, then the zero points and the low plane */
AWQ__INLINE AWQ__VNNI512 void awq__tile_a16_avx512vnni(const awq__panel *panel,
                                                       const unsigned char *x, size_t slot_size,
                                                       size_t tokens, float *sums) {
    const unsigned char *terms = x + 2 * panel->inputs;
    __m512i sum[12][2];
    size_t t, r;
    AWQ__UNROLL for (t = 0; t < tokens; t++)
        sum[t][0] = sum[t][1] = _mm512_setzero_si512();
    awq__dots_avx512vnni(panel, x, slot_size, tokens, sum);
    if (panel->wide) {
        AWQ__UNROLL for (t = 0; t < tokens; t++) {
            __m512i all = awq__spread_avx512(terms + t * slot_size + offsetof(awq__terms, sum));
            AWQ__UNROLL for (r = 0; r < 2; r++)
                sum[t][r] = _mm512_sub_epi32(
                    _mm512_slli_epi32(sum[t][r], 8),
                    _mm512_mullo_epi32(_mm512_loadu_si512(panel->zero + 16 * r), all));
        }
    } else {
        AWQ__UNROLL for (t = 0; t < tokens; t++) {
            __m512i pair = awq__spread_avx512(terms + t * slot_size + offsetof(awq__terms, pair));
            AWQ__UNROLL for (r = 0; r < 2; r++)
                sum[t][r] = _mm512_dpwssd_epi32(_mm512_slli_epi32(sum[t][r], 8),
                                                _mm512_loadu_si512(panel->pair + 16 * r), pair);
        }
    }
    awq__dots_avx512vnni(panel, x + panel->inputs, slot_size, tokens, sum);
    AWQ__UNROLL for (t = 0; t < tokens; t++) {
        __m512 sx = awq__spread_float_avx512(terms + t * slot_size);
        AWQ__UNROLL for (r = 0; r < 2; r++)
            awq__add_sums_avx512(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[t][r]), sx),
                                 _mm512_loadu_ps(panel->scale + 16 * r), sums + 32 * t + 16 * r);
    }
}

#define AWQ__X(n)                                                                                  \
    AWQ__VNNI512 static void awq__tile##n##_avx512vnni(const awq__panel *panel,                    \
                                                       const unsigned char *x, size_t slot_size,   \
                                                       float *sums) {                              \
        if (panel->precision == AWQ_A16)                                                           \
            awq__tile_a16_avx512vnni(panel, x, slot_size, n, sums);                                \
        else awq__tile_a8_avx512vnni(panel, x, slot_size, n, sums);                                \
    }
AWQ__EACH_TILE(AWQ__X)
#undef AWQ__X

static void awq__multiply_avx512vnni(const awq__panel *panel, const unsigned char *x,
                                     size_t slot_size, size_t tokens, float *sums) {
    while (tokens) {
        size_t n = awq__tile_tokens(tokens, 12);
        switch (n) {
#define AWQ__X(n)                                                                                  \
  case n: awq__tile##n##_avx512vnni(panel, x, slot_size, sums); break;
            AWQ__EACH_TILE(AWQ__X)
#undef AWQ__X
        default: break;
        }
        tokens -= n;
        x += n * slot_size;
        sums += n * AWQ__PANEL_ROWS;
    }
}

AWQ__INLINE AWQ__AVX512 __m512 awq__load16_avx512(__mmask16 lanes, const unsigned char *p,
                                                  awq_dtype dtype) {
    __m256i half;
    if (dtype == AWQ_F32) return _mm512_maskz_loadu_ps(lanes, p);
    half = _mm256_maskz_loadu_epi16(lanes, p);
    if (dtype == AWQ_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Scales and zero points of 16 rows and one group. */
AWQ__INLINE AWQ__VNNI512 __m512 awq__scales_avx512(const awq_packed *p, size_t cell) {
    size_t bytes = awq_dtype_size(p->quant.scale_dtype);
    return awq__load16_avx512(0xffff, p->data + p->scales_offset + cell * AWQ_ROW_STEP * bytes,
                              p->quant.scale_dtype);
}

AWQ__INLINE AWQ__VNNI512 __m512i awq__zeros_avx512(const awq_packed *p, size_t cell) {
    size_t bytes = awq__zero_bytes(p->quant.bits);
    const unsigned char *at = p->data + p->zeros_offset + cell * bytes;
    __m128i z;
    if (p->quant.symmetric) return _mm512_set1_epi32(1 << (p->quant.bits - 1));
    if (bytes == AWQ_ROW_STEP) z = _mm_loadu_si128((const __m128i *)(const void *)at);
    else {
        z = _mm_loadl_epi64((const __m128i *)(const void *)at);
        z = _mm_unpacklo_epi64(z, _mm_srli_epi16(z, 4));
        z = _mm_and_si128(z, _mm_set1_epi8(15));
    }
    return _mm512_cvtepu8_epi32(z);
}

/* 4-bit words of 16 rows to bytes; returns sum q of every row if asked to */
AWQ__INLINE AWQ__VNNI512 __m512i awq__split_avx512vnni(const unsigned char *from, size_t words,
                                                       int add_up, unsigned char *to) {
    const __m512i low = _mm512_set1_epi8(15), ones = _mm512_set1_epi8(1);
    __m512i sum = _mm512_setzero_si512(), other = sum;
    size_t i;
    for (i = 0; i < words; i++) {
        __m512i v = _mm512_loadu_si512(from + 64 * i), a = _mm512_and_si512(v, low),
                b = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        _mm_prefetch((const char *)from + 64 * i + AWQ__AHEAD, _MM_HINT_T0);
        _mm512_storeu_si512(to + 128 * i, a);
        _mm512_storeu_si512(to + 128 * i + 64, b);
        if (!add_up) continue;
        sum = _mm512_dpbusd_epi32(sum, a, ones);
        other = _mm512_dpbusd_epi32(other, b, ones);
    }
    return _mm512_add_epi32(sum, other);
}

AWQ__INLINE AWQ__VNNI512 __m512i awq__row_sums_avx512vnni(const unsigned char *q, size_t steps) {
    __m512i sum = _mm512_setzero_si512();
    size_t i;
    for (i = 0; i < steps; i++)
        sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(q + 64 * i), _mm512_set1_epi8(1));
    return sum;
}

/* Row block r of a panel; panel->q[r] says where its bytes are. */
AWQ__INLINE AWQ__VNNI512 void awq__fill_rows_avx512vnni(const awq_packed *p,
                                                        const awq__block *block, size_t r,
                                                        awq__panel *panel) {
    const unsigned char *from = block->words + r * block->words_step;
    size_t cell = block->cell + r * block->cell_step, words = awq__ceil_div(block->n, 8);
    int in_place = p->quant.bits == 8 && block->n % 32 == 0;
    __m512i zero = awq__zeros_avx512(p, cell), low = zero, high = _mm512_slli_epi32(zero, 8);
    awq__fetch_grid(p, cell);
    panel->q[r] = in_place ? from : panel->bytes[0][r];
    if (block->n % 32) memset(panel->bytes[0][r], 0, sizeof panel->bytes[0][r]);
    if (p->quant.bits == 4 && panel->precision == AWQ_A16)
        awq__split_avx512vnni(from, words, 0, panel->bytes[0][r]);
    else if (p->quant.bits == 4) low = awq__split_avx512vnni(from, words, 1, panel->bytes[0][r]);
    else if (!in_place) awq__split_words(from, p->quant.bits, block->n, panel->bytes[0][r]);
    if (panel->precision == AWQ_A8) {
        if (p->quant.bits != 4) low = awq__row_sums_avx512vnni(panel->q[r], panel->steps);
        high = zero;
    }
    _mm512_storeu_ps(panel->scale + 16 * r, awq__scales_avx512(p, cell));
    _mm512_storeu_si512(panel->zero + 16 * r, zero);
    _mm512_storeu_si512(panel->pair + 16 * r,
                        _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16)));
}

AWQ__VNNI512 static void awq__fill_avx512vnni(const awq_packed *p, const awq__block *block,
                                              awq__panel *panel) {
    panel->steps = awq__align(block->n, 32) / 4;
    awq__fill_rows_avx512vnni(p, block, 0, panel);
    if (block->row_blocks > 1) {
        awq__fill_rows_avx512vnni(p, block, 1, panel);
        return;
    }
    panel->q[1] = panel->q[0];
    _mm512_storeu_ps(panel->scale + 16, _mm512_setzero_ps());
    _mm512_storeu_si512(panel->zero + 16, _mm512_setzero_si512());
    _mm512_storeu_si512(panel->pair + 16, _mm512_setzero_si512());
}

/* sum[r][t] += q * x for 4 inputs, R row blocks and T tokens; after the T of them the second plane
   (A16) or sum q (A8) */
AWQ__INLINE AWQ__VNNI512 void awq__few_dots_avx512vnni(const __m512i *q, size_t R, size_t T,
                                                       const unsigned char *const *x, size_t k,
                                                       int a16, size_t plane, __m512i sum[8][8]) {
    size_t r, t;
    AWQ__UNROLL for (r = 0; r < R; r++)
        if (!a16) sum[r][T] = _mm512_dpbusd_epi32(sum[r][T], q[r], _mm512_set1_epi8(1));
    AWQ__UNROLL for (t = 0; t < T; t++) {
        __m512i v = awq__spread_avx512(x[t] + k);
        AWQ__UNROLL for (r = 0; r < R; r++)
            sum[r][t] = _mm512_dpbusd_epi32(sum[r][t], q[r], v);
        if (!a16) continue;
        v = awq__spread_avx512(x[t] + plane + k);
        AWQ__UNROLL for (r = 0; r < R; r++)
            sum[r][T + t] = _mm512_dpbusd_epi32(sum[r][T + t], q[r], v);
    }
}

/* Few tokens straight from the packed words: a word of every row block in turn, since memory
   answers several streams faster than one. */
AWQ__INLINE AWQ__VNNI512 void awq__words_avx512vnni(const unsigned char *from, size_t words_step,
                                                    size_t words, int bits, size_t R, size_t T,
                                                    const unsigned char *const *x, int a16,
                                                    size_t plane, __m512i sum[8][8]) {
    const __m512i low = _mm512_set1_epi8(15);
    size_t i, r, t;
    for (i = 0; i < words; i++, from += 64) {
        __m512i q[8], high[8];
        AWQ__UNROLL for (r = 0; r < R; r++) {
            q[r] = _mm512_loadu_si512(from + r * words_step);
            _mm_prefetch((const char *)from + r * words_step + (T == 1 ? 1024 : 4096), _MM_HINT_T0);
            if (bits != 4) continue;
            high[r] = _mm512_and_si512(_mm512_srli_epi16(q[r], 4), low);
            q[r] = _mm512_and_si512(q[r], low);
        }
        awq__few_dots_avx512vnni(q, R, T, x, (bits == 4 ? 8 : 4) * i, a16, plane, sum);
        if (bits == 4) awq__few_dots_avx512vnni(high, R, T, x, 8 * i + 4, a16, plane, sum);
    }
    AWQ__UNROLL for (r = 0; r < R; r++) {
        AWQ__UNROLL for (t = 0; t < T; t++) {
            AWQ__KEEP(sum[r][t]);
            if (a16 || t == 0) AWQ__KEEP(sum[r][T + t]);
        }
    }
}

/* Two int16 a row to meet awq__terms.pair; sums: sum q of the rows, for A8 */
AWQ__INLINE AWQ__VNNI512 __m512i awq__pairs_avx512vnni(__m512i zero, __m512i sums, int a16) {
    return a16 ? _mm512_or_si512(_mm512_slli_epi32(zero, 24), zero)
               : _mm512_or_si512(_mm512_slli_epi32(zero, 16), sums);
}

/* What the integer sum of a block means: the zero points in, times sx. by_sum: A16 of wide weights,
   whose products with the sum of x do not fit two int16. */
AWQ__INLINE AWQ__VNNI512 __m512 awq__value_avx512vnni(__m512i whole, __m512i pair, __m512i zero,
                                                      int by_sum, const unsigned char *terms) {
    if (by_sum) {
        __m512i all = awq__spread_avx512(terms + offsetof(awq__terms, sum));
        whole = _mm512_sub_epi32(whole, _mm512_mullo_epi32(zero, all));
    } else {
        whole = _mm512_dpwssd_epi32(whole, pair,
                                    awq__spread_avx512(terms + offsetof(awq__terms, pair)));
    }
    return _mm512_mul_ps(_mm512_cvtepi32_ps(whole), awq__spread_float_avx512(terms));
}

AWQ__INLINE AWQ__VNNI512 __m512i awq__join_planes_avx512(__m512i high, __m512i low) {
    return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

/* T tokens times R row blocks that are `spread` row blocks apart: sums[R][T][16] */
AWQ__INLINE AWQ__VNNI512 void awq__few_rows_avx512vnni(const awq_packed *p,
                                                       const awq__few_tokens *few, size_t row,
                                                       size_t spread, int bits, int a16, size_t R,
                                                       size_t T, float *sums) {
    size_t in = p->in_features, size = awq__group_size(in, p->quant.group_size), left, n, words, r;
    size_t groups = awq__ceil_div(in, size), cell = row / AWQ_ROW_STEP * groups, begin, t;
    size_t words_step = spread * awq__row_words(p->quant, in) * 4 * AWQ_ROW_STEP;
    const unsigned char *from = p->data + awq__word_at(p, row, 0), *x[4];
    for (t = 0; t < T; t++) x[t] = few->slots[t];
    for (r = 0; r < R * T; r++) _mm512_storeu_ps(sums + 16 * r, _mm512_setzero_ps());
    for (begin = 0; begin < in; begin += size, cell++)
        for (left = awq__min(size, in - begin); left; left -= n) {
            __m512i sum[8][8];
            n = awq__min(left, AWQ__CHUNK);
            words = awq__ceil_div(n, bits == 4 ? 8 : 4);
            AWQ__UNROLL for (r = 0; r < R; r++) {
                AWQ__UNROLL for (t = 0; t < 2 * T; t++) sum[r][t] = _mm512_setzero_si512();
            }
            awq__words_avx512vnni(from, words_step, words, bits, R, T, x, a16, few->inputs, sum);
            AWQ__UNROLL for (r = 0; r < R; r++) {
                __m512i zero = awq__zeros_avx512(p, cell + r * spread * groups);
                __m512i pair = awq__pairs_avx512vnni(zero, sum[r][T], a16);
                __m512 scale = awq__scales_avx512(p, cell + r * spread * groups);
                awq__fetch_grid(p, cell + r * spread * groups);
                AWQ__UNROLL for (t = 0; t < T; t++) {
                    __m512i whole =
                        a16 ? awq__join_planes_avx512(sum[r][t], sum[r][T + t]) : sum[r][t];
                    awq__add_sums_avx512(
                        awq__value_avx512vnni(whole, pair, zero, a16 && bits != 4,
                                              x[t] + (a16 ? 2 : 1) * few->inputs),
                        scale, sums + 16 * (r * T + t));
                }
            }
            from += 64 * words;
            AWQ__UNROLL for (t = 0; t < T; t++) x[t] += few->block_step;
        }
}

#define AWQ__X(R, T)                                                                               \
    AWQ__VNNI512 static void awq__few##R##x##T##_avx512vnni(const awq_packed *p,                   \
                                                            const awq__few_tokens *few,            \
                                                            size_t row, size_t spread,             \
                                                            float *sums) {                         \
        if (p->quant.bits == 4 && few->a16)                                                        \
            awq__few_rows_avx512vnni(p, few, row, spread, 4, 1, R, T, sums);                       \
        else if (p->quant.bits == 4)                                                               \
            awq__few_rows_avx512vnni(p, few, row, spread, 4, 0, R, T, sums);                       \
        else if (few->a16) awq__few_rows_avx512vnni(p, few, row, spread, 8, 1, R, T, sums);        \
        else awq__few_rows_avx512vnni(p, few, row, spread, 8, 0, R, T, sums);                      \
    }
#define AWQ__EACH_FEW(X) X(8, 1) X(4, 2) X(2, 3) X(2, 4) X(1, 1) X(1, 2) X(1, 3) X(1, 4)
AWQ__EACH_FEW(AWQ__X)
#undef AWQ__X

static void awq__few_avx512vnni(const awq_packed *p, const awq__few_tokens *few, size_t row,
                                size_t spread, size_t streams, float *sums) {
    switch (streams * 10 + few->tokens) {
#define AWQ__X(R, T)                                                                               \
  case R * 10 + T: awq__few##R##x##T##_avx512vnni(p, few, row, spread, sums); break;
        AWQ__EACH_FEW(AWQ__X)
#undef AWQ__X
    default: break;
    }
}

static awq__tiles awq__tiles_avx512vnni(void) {
    awq__tiles tiles;
    tiles.rows = AWQ__PANEL_ROWS;
    tiles.fill = awq__fill_avx512vnni;
    tiles.multiply = awq__multiply_avx512vnni;
    tiles.few = awq__few_avx512vnni;
    tiles.store = awq__store_avx2;
    return tiles;
}

static void awq__matmul_avx512vnni(const awq_packed *packed, const awq_prepared *x,
                                   const float *bias, awq_matrix y, size_t row_begin,
                                   size_t row_end) {
    awq__tiles tiles = awq__tiles_avx512vnni();
    awq__matmul_simd(&tiles, packed, x, bias, y, row_begin, row_end);
}

/* =================================================================================================
   >>simd-amx   32 rows x 32 tokens in four tile registers: the slots as they stand are one operand,
   the panel as it stands the other
   ============================================================================================== */

#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define AWQ__HAS_AMX /* the compiler knows it */
#define AWQ__AMX                                                                                   \
    AWQ__TARGET("amx-tile,amx-int8,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,"   \
                "fma,f16c")
#endif

#ifdef AWQ__HAS_AMX

#define AWQ__AMX_TOKENS 16 /* of a tile register */
#define AWQ__MEMORY_BARRIER __asm__ volatile("" : : : "memory")

/* Every tile register is 16 rows of 64 bytes. */
AWQ__AMX static void awq__begin_amx(void) {
    AWQ__ALIGNED unsigned char config[64];
    size_t i;
    memset(config, 0, sizeof config);
    config[0] = 1;
    for (i = 0; i < 8; i++) {
        config[16 + 2 * i] = 64;
        config[48 + i] = 16;
    }
    AWQ__MEMORY_BARRIER;
    _tile_loadconfig(config);
}

AWQ__AMX static void awq__end_amx(void) { _tile_release(); }

/* sum[row block][32 tokens][16 rows] = panel * one plane of the slots of 32 tokens */
AWQ__INLINE AWQ__AMX void awq__dots_amx(const awq__panel *panel, const unsigned char *x,
                                        size_t slot_size, int32_t *sum) {
    const unsigned char *y = x + AWQ__AMX_TOKENS * slot_size;
    size_t k;
    AWQ__MEMORY_BARRIER; /* the tile intrinsics do not say what they read */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (k = 0; k < 4 * panel->steps; k += 64) {
        _tile_loadd(4, x + k, (int)slot_size);
        _tile_loadd(6, panel->q[0] + 16 * k, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(5, y + k, (int)slot_size);
        _tile_dpbsud(1, 5, 6);
        _tile_loadd(7, panel->q[1] + 16 * k, 64);
        _tile_dpbsud(2, 4, 7);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sum, 64);
    _tile_stored(1, sum + 256, 64);
    _tile_stored(2, sum + 512, 64);
    _tile_stored(3, sum + 768, 64);
}

/* From integer sums to sums[32 tokens][32 rows]: the zero points in, times sx and scale. */
AWQ__INLINE AWQ__AMX void awq__add_amx(const awq__panel *panel, const int32_t *first,
                                       const int32_t *second, int a16, const unsigned char *terms,
                                       size_t slot_size, float *sums) {
    size_t t, r;
    for (r = 0; r < 2; r++) {
        const __m512i pair = _mm512_loadu_si512(panel->pair + 16 * r),
                      zero = _mm512_loadu_si512(panel->zero + 16 * r);
        const __m512 scale = _mm512_loadu_ps(panel->scale + 16 * r);
        for (t = 0; t < 2 * AWQ__AMX_TOKENS; t++, first += 16, second += 16) {
            const unsigned char *at = terms + t * slot_size;
            __m512i whole = _mm512_loadu_si512(first);
            if (a16) whole = awq__join_planes_avx512(whole, _mm512_loadu_si512(second));
            awq__add_sums_avx512(
                awq__value_avx512vnni(whole, pair, zero, a16 && panel->wide, at), scale,
                sums + t * AWQ__PANEL_ROWS + 16 * r);
        }
    }
}

/* The integer sums of 32 tokens: A16 has two planes. */
AWQ__INLINE AWQ__AMX void awq__planes_amx(const awq__panel *panel, const unsigned char *x,
                                          size_t slot_size, int32_t sum[2][1024]) {
    awq__dots_amx(panel, x, slot_size, sum[0]);
    if (panel->precision == AWQ_A16)
        awq__dots_amx(panel, x + panel->inputs, slot_size, sum[1]);
}

/* The tile registers work on the next 32 tokens while the last 32 are made floats. */
AWQ__AMX static void awq__multiply_amx(const awq__panel *panel, const unsigned char *x,
                                       size_t slot_size, size_t tokens, float *sums) {
    AWQ__ALIGNED int32_t sum[2][2][1024];
    size_t step = 2 * AWQ__AMX_TOKENS, batches = panel->steps % 16 ? 0 : tokens / step, i;
    int a16 = panel->precision == AWQ_A16;
    const unsigned char *terms = x + (a16 ? 2 : 1) * panel->inputs;
    if (batches) awq__planes_amx(panel, x, slot_size, sum[0]);
    for (i = 0; i < batches; i++, x += step * slot_size, terms += step * slot_size) {
        if (i + 1 < batches)
            awq__planes_amx(panel, x + step * slot_size, slot_size, sum[(i + 1) % 2]);
        if (a16) awq__add_amx(panel, sum[i % 2][0], sum[i % 2][1], 1, terms, slot_size, sums);
        else awq__add_amx(panel, sum[i % 2][0], sum[i % 2][0], 0, terms, slot_size, sums);
        sums += step * AWQ__PANEL_ROWS;
    }
    awq__multiply_avx512vnni(panel, x, slot_size, tokens - batches * step, sums);
}

static void awq__matmul_amx(const awq_packed *packed, const awq_prepared *x, const float *bias,
                            awq_matrix y, size_t row_begin, size_t row_end) {
    awq__tiles tiles = awq__tiles_avx512vnni();
    if (x->tokens < 2 * AWQ__AMX_TOKENS) { /* not enough for tiles: leave them asleep */
        awq__matmul_simd(&tiles, packed, x, bias, y, row_begin, row_end);
        return;
    }
    tiles.multiply = awq__multiply_amx;
    awq__begin_amx();
    awq__matmul_simd(&tiles, packed, x, bias, y, row_begin, row_end);
    awq__end_amx();
}

#endif /* AWQ__HAS_AMX */

/* =================================================================================================
   >>simd-quantize   the hot loops of calibrate, search, clip and quantize on x86
   ============================================================================================== */

#ifndef AWQ_INFERENCE_ONLY

AWQ__INLINE AWQ__AVX2 void awq__load_scaled8_avx2(const unsigned char *p, awq_dtype dtype,
                                                  const float *scale, size_t n, float *u) {
    size_t i, size = awq_dtype_size(dtype);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 v = awq__load8_avx2(p + i * size, dtype);
        _mm_prefetch((const char *)p + i * size + AWQ__AHEAD, _MM_HINT_T0);
        if (scale) v = _mm256_mul_ps(v, _mm256_loadu_ps(scale + i));
        _mm256_storeu_ps(u + i, v);
    }
    awq__load_scaled_portable(p + i * size, dtype, scale ? scale + i : NULL, n - i, u + i);
}

AWQ__AVX2 static void awq__load_scaled_avx2(const void *from, awq_dtype dtype, const float *scale,
                                            size_t n, float *u) {
    const unsigned char *p = (const unsigned char *)from;
    if (dtype == AWQ_F16) awq__load_scaled8_avx2(p, AWQ_F16, scale, n, u);
    else if (dtype == AWQ_BF16) awq__load_scaled8_avx2(p, AWQ_BF16, scale, n, u);
    else awq__load_scaled8_avx2(p, AWQ_F32, scale, n, u);
}

AWQ__AVX2 static int awq__widen_range_avx2(const float *u, size_t n, float *lo, float *hi) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), most = _mm256_set1_epi32(0x7f7fffff);
    __m256 low[2], high[2];
    __m256i bad = _mm256_setzero_si256();
    float least, largest;
    size_t i, j;
    low[0] = low[1] = high[0] = high[1] = _mm256_setzero_ps();
    for (i = 0; i + 16 <= n; i += 16)
        AWQ__UNROLL for (j = 0; j < 2; j++) {
            __m256 v = _mm256_loadu_ps(u + i + 8 * j);
            low[j] = _mm256_min_ps(v, low[j]);
            high[j] = _mm256_max_ps(v, high[j]);
            bad = _mm256_or_si256(
                bad, _mm256_cmpgt_epi32(_mm256_and_si256(_mm256_castps_si256(v), magnitude), most));
        }
    if (!_mm256_testz_si256(bad, bad)) return 0;
    least = -awq__max_avx2(_mm256_sub_ps(_mm256_setzero_ps(), _mm256_min_ps(low[0], low[1])));
    largest = awq__max_avx2(_mm256_max_ps(high[0], high[1]));
    if (least < *lo) *lo = least;
    if (largest > *hi) *hi = largest;
    return i == n || awq__widen_range_portable(u + i, n - i, lo, hi);
}

/* 32 small integers as bytes, in order. */
AWQ__INLINE AWQ__AVX2 __m256i awq__unsigned_bytes_avx2(const __m256i v[4]) {
    __m256i bytes =
        _mm256_packus_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* 32 weights; what is below 0 or above 255 saturates on its way to bytes */
AWQ__INLINE AWQ__AVX2 void awq__round32_avx2(const float *u, __m256 scale, __m256i zero,
                                             __m256i levels, uint8_t *q) {
    __m256i v[4];
    size_t j;
    AWQ__UNROLL for (j = 0; j < 4; j++) {
        __m256 quotient = _mm256_div_ps(_mm256_loadu_ps(u + 8 * j), scale);
        v[j] = _mm256_add_epi32(_mm256_cvtps_epi32(quotient), zero);
    }
    _mm256_storeu_si256((__m256i *)(void *)q,
                        _mm256_min_epu8(awq__unsigned_bytes_avx2(v), levels));
}

AWQ__AVX2 static void awq__round_weights_avx2(const float *u, size_t n, float scale, float zero,
                                              float levels, uint8_t *q) {
    const __m256 divisor = _mm256_set1_ps(scale);
    const __m256i start = _mm256_set1_epi32((int)zero), most = _mm256_set1_epi8((char)(int)levels);
    float rest[32];
    uint8_t bytes[32];
    size_t i;
    for (i = 0; i + 32 <= n; i += 32) awq__round32_avx2(u + i, divisor, start, most, q + i);
    if (i == n) return;
    memset(rest, 0, sizeof rest);
    memcpy(rest, u + i, (n - i) * sizeof *u);
    awq__round32_avx2(rest, divisor, start, most, bytes);
    memcpy(q + i, bytes, n - i);
}

/* 32 errors of rounding u * inverse to [lowest, highest], times factor, plus 128 */
AWQ__INLINE AWQ__AVX2 void awq__errors32_avx2(const float *u, __m256 inverse, __m256 lowest,
                                              __m256 highest, __m256 factor, uint8_t *e) {
    __m256i v[4];
    size_t j;
    AWQ__UNROLL for (j = 0; j < 4; j++) {
        __m256 exact = _mm256_mul_ps(_mm256_loadu_ps(u + 8 * j), inverse), q;
        q = _mm256_round_ps(exact, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        q = _mm256_max_ps(_mm256_min_ps(q, highest), lowest);
        v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(q, exact), factor));
    }
    _mm256_storeu_si256((__m256i *)(void *)e,
                        _mm256_xor_si256(awq__bytes_avx2(v),
                                         _mm256_set1_epi8((char)-128)));
}

AWQ__AVX2 static void awq__round_errors_avx2(const float *u, size_t n, float inverse, float lowest,
                                             float highest, float factor, uint8_t *e) {
    const __m256 times_inverse = _mm256_set1_ps(inverse), low = _mm256_set1_ps(lowest),
                 high = _mm256_set1_ps(highest), times = _mm256_set1_ps(factor);
    float rest[32];
    uint8_t bytes[32];
    size_t i;
    for (i = 0; i + 32 <= n; i += 32)
        awq__errors32_avx2(u + i, times_inverse, low, high, times, e + i);
    if (i == n) return;
    memset(rest, 0, sizeof rest);
    memcpy(rest, u + i, (n - i) * sizeof *u);
    awq__errors32_avx2(rest, times_inverse, low, high, times, bytes);
    memcpy(e + i, bytes, n - i);
}

/* The sums of lanes 8 to 15 come second. */
AWQ__INLINE AWQ__AVX2 float awq__fold_avx2(__m256 low, __m256 high) {
    __m128 v;
    low = _mm256_add_ps(low, high);
    v = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

AWQ__AVX2 static void awq__grid_sums_avx2(const float *u, const float *ru, const float *r,
                                          size_t n, float scale, float zero, float levels,
                                          size_t count, float (*sums)[3]) {
    const __m256 step = _mm256_set1_ps(scale), inverse = _mm256_set1_ps(1.0f / scale);
    size_t i, j, z;
    for (z = 0; z < count; z++, zero += 1) {
        const __m256 low = _mm256_set1_ps(-zero), high = _mm256_set1_ps(levels - zero);
        __m256 error[2], uv[2], vv[2];
        AWQ__UNROLL for (j = 0; j < 2; j++) error[j] = uv[j] = vv[j] = _mm256_setzero_ps();
        for (i = 0; i < n; i += 16)
            AWQ__UNROLL for (j = 0; j < 2; j++) {
                __m256 v = _mm256_mul_ps(_mm256_loadu_ps(u + i + 8 * j), inverse), d;
                __m256 exact = _mm256_loadu_ps(ru + i + 8 * j);
                v = _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
                v = _mm256_min_ps(_mm256_max_ps(v, low), high);
                v = _mm256_mul_ps(v, _mm256_loadu_ps(r + i + 8 * j));
                d = _mm256_fmsub_ps(v, step, exact);
                error[j] = _mm256_fmadd_ps(d, d, error[j]);
                uv[j] = _mm256_fmadd_ps(v, exact, uv[j]);
                vv[j] = _mm256_fmadd_ps(v, v, vv[j]);
            }
        sums[z][0] = awq__fold_avx2(error[0], error[1]);
        sums[z][1] = awq__fold_avx2(uv[0], uv[1]);
        sums[z][2] = awq__fold_avx2(vv[0], vv[1]);
    }
}

AWQ__INLINE AWQ__AVX2 __m256 awq__power_avx2(__m256 v) {
    v = _mm256_mul_ps(v, v);
    v = _mm256_mul_ps(v, v);
    v = _mm256_mul_ps(v, v);
    return _mm256_mul_ps(v, v);
}

AWQ__AVX2 static float awq__add_strain_avx2(const float *u, size_t n, int symmetric,
                                            float *strain) {
    const __m256 zero = _mm256_setzero_ps();
    __m256 up[2], down[2], above, below;
    float lo = 0, hi = 0, r;
    awq__sides s;
    size_t i, j;
    (void)awq__widen_range_avx2(u, n, &lo, &hi);
    s = awq__sides_of(lo, hi, symmetric);
    above = _mm256_set1_ps(s.inverse[0]);
    below = _mm256_set1_ps(s.inverse[1]);
    up[0] = up[1] = down[0] = down[1] = zero;
    for (i = 0; i < n; i += 16)
        AWQ__UNROLL for (j = 0; j < 2; j++) {
            __m256 v = _mm256_loadu_ps(u + i + 8 * j), sign = _mm256_cmp_ps(v, zero, _CMP_LT_OQ);
            v = awq__power_avx2(_mm256_mul_ps(v, _mm256_blendv_ps(above, below, sign)));
            up[j] = _mm256_add_ps(up[j], _mm256_andnot_ps(sign, v));
            down[j] = _mm256_add_ps(down[j], _mm256_and_ps(sign, v));
        }
    r = awq__pull_sides(&s, awq__fold_avx2(up[0], up[1]), awq__fold_avx2(down[0], down[1]),
                        symmetric);
    for (i = 0; i < n; i += 8) {
        __m256 v = _mm256_loadu_ps(u + i), sign = _mm256_cmp_ps(v, zero, _CMP_LT_OQ), pull;
        v = awq__power_avx2(_mm256_mul_ps(v, _mm256_blendv_ps(above, below, sign)));
        pull = _mm256_blendv_ps(_mm256_set1_ps(s.pull[0]), _mm256_set1_ps(s.pull[1]), sign);
        _mm256_storeu_ps(strain + i, _mm256_fmadd_ps(v, pull, _mm256_loadu_ps(strain + i)));
    }
    return r;
}

#define AWQ__TALL 6 /* rows and 2 vectors: 12 sums in 16 registers */

/* y (rows, 8 vectors) += A X, one tile in registers */
AWQ__INLINE AWQ__AVX2 void awq__products_avx2(float *y, size_t y_stride, size_t rows,
                                              size_t vectors, const float *a, size_t a_stride,
                                              size_t a_step, const float *x, size_t x_stride,
                                              size_t count) {
    __m256 sum[AWQ__TALL][2];
    size_t r, i, j;
    AWQ__UNROLL for (r = 0; r < rows; r++) {
        AWQ__UNROLL for (i = 0; i < vectors; i++)
            sum[r][i] = _mm256_loadu_ps(y + r * y_stride + 8 * i);
    }
    for (j = 0; j < count; j++, x += x_stride, a += a_step) {
        __m256 v[2];
        AWQ__UNROLL for (i = 0; i < vectors; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
        AWQ__UNROLL for (r = 0; r < rows; r++) {
            __m256 factor = _mm256_broadcast_ss(a + r * a_stride);
            AWQ__UNROLL for (i = 0; i < vectors; i++)
                sum[r][i] = _mm256_fmadd_ps(factor, v[i], sum[r][i]);
        }
    }
    AWQ__UNROLL for (r = 0; r < rows; r++) {
        AWQ__UNROLL for (i = 0; i < vectors; i++)
            _mm256_storeu_ps(y + r * y_stride + 8 * i, sum[r][i]);
    }
}

AWQ__AVX2 static void awq__add_products_avx2(float *y, size_t y_stride, size_t rows, size_t n,
                                             const float *a, size_t a_stride, size_t a_step,
                                             const float *x, size_t x_stride, size_t count) {
    size_t i, r;
    for (; rows; rows -= r, y += r * y_stride, a += r * a_stride) {
        r = rows >= AWQ__TALL ? AWQ__TALL : rows >= AWQ__ROWS ? AWQ__ROWS : 1;
        for (i = 0; i + 16 <= n; i += 16) {
            if (r == 1) awq__products_avx2(y + i, 0, 1, 2, a, 0, a_step, x + i, x_stride, count);
            else if (r == AWQ__ROWS)
                awq__products_avx2(y + i, y_stride, AWQ__ROWS, 2, a, a_stride, a_step, x + i,
                                   x_stride, count);
            else awq__products_avx2(y + i, y_stride, AWQ__TALL, 2, a, a_stride, a_step, x + i,
                                    x_stride, count);
        }
        awq__add_products_portable(y + i, y_stride, r, n - i, a, a_stride, a_step, x + i, x_stride,
                                   count);
    }
}

AWQ__INLINE AWQ__AVX2 double awq__squares_avx2(__m256 y, const float *token_weight) {
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(y)), squares;
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1));
    __m128d half;
    low = _mm256_mul_pd(low, low);
    high = _mm256_mul_pd(high, high);
    if (token_weight) {
        low = _mm256_mul_pd(low, _mm256_cvtps_pd(_mm_loadu_ps(token_weight)));
        high = _mm256_mul_pd(high, _mm256_cvtps_pd(_mm_loadu_ps(token_weight + 4)));
    }
    squares = _mm256_add_pd(low, high);
    half = _mm_add_pd(_mm256_castpd256_pd128(squares), _mm256_extractf128_pd(squares, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

/* Four rows, of which some may be the same, and one tile of 16 tokens. */
AWQ__AVX2 static void awq__squared_errors_avx2(const float *d, size_t rows, size_t d_stride,
                                               const float *xt, size_t cols, size_t xt_stride,
                                               size_t tokens, const float *token_weight,
                                               double *sums) {
    const float *from[AWQ__ROWS];
    size_t r, c, t;
    for (r = 0; r < AWQ__ROWS; r++) from[r] = d + awq__min(r, rows - 1) * d_stride;
    for (r = 0; r < rows; r++) sums[r] = 0;
    for (t = 0; t < tokens; t += AWQ__TILE, xt += xt_stride) {
        __m256 sum[AWQ__ROWS][2];
        AWQ__UNROLL for (r = 0; r < AWQ__ROWS; r++) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
        for (c = 0; c < cols; c++) {
            __m256 low = _mm256_loadu_ps(xt + AWQ__TILE * c);
            __m256 high = _mm256_loadu_ps(xt + AWQ__TILE * c + 8);
            AWQ__UNROLL for (r = 0; r < AWQ__ROWS; r++) {
                __m256 factor = _mm256_broadcast_ss(from[r] + c);
                sum[r][0] = _mm256_fmadd_ps(factor, low, sum[r][0]);
                sum[r][1] = _mm256_fmadd_ps(factor, high, sum[r][1]);
            }
        }
        AWQ__UNROLL for (r = 0; r < AWQ__ROWS; r++) {
            const float *w = token_weight ? token_weight + t : NULL;
            if (r < rows)
                sums[r] += awq__squares_avx2(sum[r][0], w) +
                           awq__squares_avx2(sum[r][1], w ? w + 8 : NULL);
        }
    }
}

/* Lanes of a vector of 16 that has n - i elements left. */
AWQ__INLINE AWQ__AVX512 __mmask16 awq__lanes_avx512(size_t n, size_t i) {
    return (__mmask16)(n - i >= 16 ? 0xffffu : (1u << (n - i)) - 1);
}

AWQ__INLINE AWQ__AVX512 void awq__load_scaled16_avx512(const unsigned char *p, awq_dtype dtype,
                                                       const float *scale, size_t n, float *u) {
    size_t i, size = awq_dtype_size(dtype);
    for (i = 0; i < n; i += 16) {
        __mmask16 lanes = awq__lanes_avx512(n, i);
        __m512 v = awq__load16_avx512(lanes, p + i * size, dtype);
        _mm_prefetch((const char *)p + i * size + AWQ__AHEAD, _MM_HINT_T0);
        if (scale) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, scale + i));
        _mm512_mask_storeu_ps(u + i, lanes, v);
    }
}

AWQ__AVX512 static void awq__load_scaled_avx512(const void *from, awq_dtype dtype,
                                                const float *scale, size_t n, float *u) {
    const unsigned char *p = (const unsigned char *)from;
    if (dtype == AWQ_F16) awq__load_scaled16_avx512(p, AWQ_F16, scale, n, u);
    else if (dtype == AWQ_BF16) awq__load_scaled16_avx512(p, AWQ_BF16, scale, n, u);
    else awq__load_scaled16_avx512(p, AWQ_F32, scale, n, u);
}

AWQ__INLINE AWQ__AVX512 float awq__max_avx512(__m512 v) {
    return awq__max_avx2(
        _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_maskz_extractf32x8_ps(0xff, v, 1)));
}

#define AWQ__NOT_FINITE 0x99 /* the two kinds of NaN and both infinities */

AWQ__AVX512 static int awq__widen_range_avx512(const float *u, size_t n, float *lo, float *hi) {
    __m512 low = _mm512_setzero_ps(), high = low;
    __mmask16 bad = 0;
    float least, largest;
    size_t i;
    for (i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(awq__lanes_avx512(n, i), u + i);
        low = _mm512_min_ps(v, low);
        high = _mm512_max_ps(v, high);
        bad = (__mmask16)(bad | _mm512_fpclass_ps_mask(v, AWQ__NOT_FINITE));
    }
    if (bad) return 0;
    least = -awq__max_avx512(_mm512_sub_ps(_mm512_setzero_ps(), low));
    largest = awq__max_avx512(high);
    if (least < *lo) *lo = least;
    if (largest > *hi) *hi = largest;
    return 1;
}

/* A product with 1 / scale is within levels * 2^-21 of the quotient, where that matters. So it
   rounds to the same integer, but close to a tie; then all are divided. */
AWQ__AVX512 static void awq__round_weights_avx512(const float *u, size_t n, float scale, float zero,
                                                  float levels, uint8_t *q) {
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    const __m512 clear = _mm512_set1_ps(0.5f - levels * (1.0f / 1048576.0f));
    const __m512i start = _mm512_set1_epi32((int)zero), most = _mm512_set1_epi32((int)levels);
    __mmask16 close = 0;
    size_t i;
    for (i = 0; i < n; i += 16) {
        __mmask16 lanes = awq__lanes_avx512(n, i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, u + i), inverse);
        __m512i whole = _mm512_cvtps_epi32(v);
        __m512 rest = _mm512_abs_ps(_mm512_sub_ps(v, _mm512_cvtepi32_ps(whole)));
        close = (__mmask16)(close | _mm512_cmp_ps_mask(rest, clear, _CMP_NLT_UQ));
        whole = _mm512_max_epi32(_mm512_add_epi32(whole, start), _mm512_setzero_si512());
        _mm512_mask_cvtepi32_storeu_epi8(q + i, lanes, _mm512_min_epi32(whole, most));
    }
    if (close) awq__round_weights_avx2(u, n, scale, zero, levels, q);
}

AWQ__AVX512 static void awq__round_errors_avx512(const float *u, size_t n, float inverse,
                                                 float lowest, float highest, float factor,
                                                 uint8_t *e) {
    const __m512 times_inverse = _mm512_set1_ps(inverse), low = _mm512_set1_ps(lowest),
                 high = _mm512_set1_ps(highest), times = _mm512_set1_ps(factor);
    size_t i;
    for (i = 0; i < n; i += 16) {
        __mmask16 lanes = awq__lanes_avx512(n, i);
        __m512 exact = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, u + i), times_inverse);
        __m512 v = _mm512_cvtepi32_ps(_mm512_cvtps_epi32(exact));
        v = _mm512_max_ps(_mm512_min_ps(v, high), low);
        v = _mm512_fmadd_ps(_mm512_sub_ps(v, exact), times, _mm512_set1_ps(128));
        _mm512_mask_cvtepi32_storeu_epi8(e + i, lanes, _mm512_cvtps_epi32(v));
    }
}

AWQ__INLINE AWQ__AVX512 float awq__fold_avx512(__m512 v) {
    return awq__fold_avx2(_mm512_castps512_ps256(v), _mm512_maskz_extractf32x8_ps(0xff, v, 1));
}

/* Several zero points share what is loaded and rounded, and hide each other's latency. */
AWQ__INLINE AWQ__AVX512 void awq__zero_sums_avx512(const float *u, const float *ru, const float *r,
                                                   size_t n, float scale, float zero,
                                                   float levels, size_t count, float (*sums)[3]) {
    const __m512 step = _mm512_set1_ps(scale), inverse = _mm512_set1_ps(1.0f / scale);
    __m512 error[AWQ__ZEROS], uv[AWQ__ZEROS], vv[AWQ__ZEROS], low[AWQ__ZEROS], high[AWQ__ZEROS];
    size_t i, z;
    AWQ__UNROLL for (z = 0; z < count; z++, zero += 1) {
        error[z] = uv[z] = vv[z] = _mm512_setzero_ps();
        low[z] = _mm512_set1_ps(-zero);
        high[z] = _mm512_set1_ps(levels - zero);
    }
    for (i = 0; i < n; i += 16) {
        __m512 exact = _mm512_loadu_ps(ru + i), root = _mm512_loadu_ps(r + i);
        __m512 whole = _mm512_cvtepi32_ps(
            _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(u + i), inverse)));
        AWQ__UNROLL for (z = 0; z < count; z++) {
            __m512 v = _mm512_min_ps(_mm512_max_ps(whole, low[z]), high[z]), d;
            v = _mm512_mul_ps(v, root);
            d = _mm512_fmsub_ps(v, step, exact);
            error[z] = _mm512_fmadd_ps(d, d, error[z]);
            uv[z] = _mm512_fmadd_ps(v, exact, uv[z]);
            vv[z] = _mm512_fmadd_ps(v, v, vv[z]);
        }
    }
    AWQ__UNROLL for (z = 0; z < count; z++) {
        sums[z][0] = awq__fold_avx512(error[z]);
        sums[z][1] = awq__fold_avx512(uv[z]);
        sums[z][2] = awq__fold_avx512(vv[z]);
    }
}

AWQ__AVX512 static void awq__grid_sums_avx512(const float *u, const float *ru, const float *r,
                                              size_t n, float scale, float zero, float levels,
                                              size_t count, float (*sums)[3]) {
    if (count == 4) awq__zero_sums_avx512(u, ru, r, n, scale, zero, levels, 4, sums);
    else if (count == 3) awq__zero_sums_avx512(u, ru, r, n, scale, zero, levels, 3, sums);
    else if (count == 2) awq__zero_sums_avx512(u, ru, r, n, scale, zero, levels, 2, sums);
    else awq__zero_sums_avx512(u, ru, r, n, scale, zero, levels, 1, sums);
}

AWQ__INLINE AWQ__AVX512 __m512 awq__power_avx512(__m512 v) {
    v = _mm512_mul_ps(v, v);
    v = _mm512_mul_ps(v, v);
    v = _mm512_mul_ps(v, v);
    return _mm512_mul_ps(v, v);
}

AWQ__AVX512 static float awq__add_strain_avx512(const float *u, size_t n, int symmetric,
                                                float *strain) {
    __m512 up = _mm512_setzero_ps(), down = up, above, below;
    float lo = 0, hi = 0, r;
    awq__sides s;
    size_t i;
    (void)awq__widen_range_avx512(u, n, &lo, &hi);
    s = awq__sides_of(lo, hi, symmetric);
    above = _mm512_set1_ps(s.inverse[0]);
    below = _mm512_set1_ps(s.inverse[1]);
    for (i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(u + i);
        __mmask16 sign = _mm512_movepi32_mask(_mm512_castps_si512(v));
        v = awq__power_avx512(_mm512_mul_ps(v, _mm512_mask_blend_ps(sign, above, below)));
        up = _mm512_mask_add_ps(up, (__mmask16)~sign, up, v);
        down = _mm512_mask_add_ps(down, sign, down, v);
    }
    r = awq__pull_sides(&s, awq__fold_avx512(up), awq__fold_avx512(down), symmetric);
    for (i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(u + i), pull;
        __mmask16 sign = _mm512_movepi32_mask(_mm512_castps_si512(v));
        v = awq__power_avx512(_mm512_mul_ps(v, _mm512_mask_blend_ps(sign, above, below)));
        pull = _mm512_mask_blend_ps(sign, _mm512_set1_ps(s.pull[0]), _mm512_set1_ps(s.pull[1]));
        _mm512_storeu_ps(strain + i, _mm512_fmadd_ps(v, pull, _mm512_loadu_ps(strain + i)));
    }
    return r;
}

/* The first `bytes` of `rows` rows: what the next tile reads is on its way while this one works. */
AWQ__INLINE void awq__ask_for(const float *m, size_t stride, size_t rows, size_t bytes) {
    size_t r, i;
    for (r = 0; r < rows; r++)
        for (i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)(m + r * stride) + i, _MM_HINT_T0);
}

AWQ__INLINE AWQ__AVX512 void awq__products_avx512(float *y, size_t y_stride, __mmask16 lanes,
                                                  size_t rows, size_t vectors, const float *a,
                                                  size_t a_stride, size_t a_step, const float *x,
                                                  size_t x_stride, size_t count) {
    __m512 sum[AWQ__ROWS][4];
    size_t r, i, j;
    AWQ__UNROLL for (r = 0; r < rows; r++) {
        AWQ__UNROLL for (i = 0; i < vectors; i++)
            sum[r][i] = _mm512_maskz_loadu_ps(lanes, y + r * y_stride + 16 * i);
    }
    for (j = 0; j < count; j++, x += x_stride, a += a_step) {
        __m512 v[4];
        AWQ__UNROLL for (i = 0; i < vectors; i++) v[i] = _mm512_maskz_loadu_ps(lanes, x + 16 * i);
        AWQ__UNROLL for (r = 0; r < rows; r++) {
            __m512 factor = _mm512_set1_ps(a[r * a_stride]);
            AWQ__UNROLL for (i = 0; i < vectors; i++)
                sum[r][i] = _mm512_fmadd_ps(factor, v[i], sum[r][i]);
        }
    }
    AWQ__UNROLL for (r = 0; r < rows; r++) {
        AWQ__UNROLL for (i = 0; i < vectors; i++)
            _mm512_mask_storeu_ps(y + r * y_stride + 16 * i, lanes, sum[r][i]);
    }
}

AWQ__AVX512 static void awq__add_products_avx512(float *y, size_t y_stride, size_t rows, size_t n,
                                                 const float *a, size_t a_stride, size_t a_step,
                                                 const float *x, size_t x_stride, size_t count) {
    size_t i, r;
    for (; rows; rows -= r, y += r * y_stride, a += r * a_stride) {
        r = rows < AWQ__ROWS ? 1 : AWQ__ROWS;
        if (rows > r && a_step == 1)
            awq__ask_for(a + r * a_stride, a_stride, r, count * sizeof *a);
        for (i = 0; i + 64 <= n; i += 64) {
            if (rows > r) awq__ask_for(y + r * y_stride + i, y_stride, r, 256);
            if (r == 1) awq__products_avx512(y + i, 0, 0xffff, 1, 4, a, 0, a_step, x + i, x_stride,
                                             count);
            else awq__products_avx512(y + i, y_stride, 0xffff, AWQ__ROWS, 4, a, a_stride, a_step,
                                      x + i, x_stride, count);
        }
        for (; i < n; i += 16) {
            __mmask16 lanes = awq__lanes_avx512(n, i);
            if (r == 1) awq__products_avx512(y + i, 0, lanes, 1, 1, a, 0, a_step, x + i, x_stride,
                                             count);
            else awq__products_avx512(y + i, y_stride, lanes, AWQ__ROWS, 1, a, a_stride, a_step,
                                      x + i, x_stride, count);
        }
    }
}

#ifdef AWQ__HAS_AMX

/* Products of fp32 in bf16 tiles: x = high + low but for 2^-16 of it, and of the four products the
   one of both lows is left out. What is read is put into tiles first: 16 rows of 16 words, a word
   two neighbours of a sum. A step takes 32 of the sum for 32 rows and 32 columns. */
#define AWQ__AMX_STEP 32
#define AWQ__AMX_WORDS 256 /* of a tile */

AWQ__INLINE AWQ__AMX __m512i awq__bf16_amx(__m512 x) { /* rounded, in the upper half */
    return _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)),
                            _mm512_set1_epi32((int)0xffff0000u));
}

AWQ__INLINE AWQ__AMX void awq__split_amx(__m512 even, __m512 odd, __m512i *high, __m512i *low) {
    __m512i e = awq__bf16_amx(even), o = awq__bf16_amx(odd);
    *high = _mm512_or_si512(_mm512_srli_epi32(e, 16), o);
    e = awq__bf16_amx(_mm512_sub_ps(even, _mm512_castsi512_ps(e)));
    o = awq__bf16_amx(_mm512_sub_ps(odd, _mm512_castsi512_ps(o)));
    *low = _mm512_or_si512(_mm512_srli_epi32(e, 16), o);
}

/* The 16 words m[0 .. 15][i] to m[i]. */
AWQ__INLINE AWQ__AMX void awq__turn_amx(__m512i m[16]) {
    __m512i t[16];
    size_t i;
    AWQ__UNROLL for (i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    }
    AWQ__UNROLL for (i = 0; i < 16; i++) {
        size_t at = i / 4 * 4 + i % 4 / 2;
        m[i] = i % 2 ? _mm512_unpackhi_epi64(t[at], t[at + 2])
                     : _mm512_unpacklo_epi64(t[at], t[at + 2]);
    }
    AWQ__UNROLL for (i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(m[i], m[4 + i], 0x88);
        __m512i b = _mm512_shuffle_i32x4(m[i], m[4 + i], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(m[8 + i], m[12 + i], 0x88);
        __m512i d = _mm512_shuffle_i32x4(m[8 + i], m[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    AWQ__UNROLL for (i = 0; i < 16; i++) m[i] = t[i];
}

/* Two lines of 16 from rows of x as they stand, the second one if there is one: words of 16
   columns. Lines and columns beyond the last are 0. */
AWQ__INLINE AWQ__AMX void awq__lines_amx(const float *x, size_t stride, size_t lines, size_t n,
                                         __m512i *high, __m512i *low) {
    __mmask16 some = n ? awq__lanes_avx512(n, 0) : 0;
    awq__split_amx(_mm512_maskz_loadu_ps(lines > 0 ? some : 0, x),
                   _mm512_maskz_loadu_ps(lines > 1 ? some : 0, x + stride), high, low);
}

/* 16 rows and a step of A: those of a column stand together. */
AWQ__INLINE AWQ__AMX void awq__fill_columns_amx(const float *a, size_t a_step, size_t rows,
                                                size_t count, uint32_t *high, uint32_t *low) {
    __m512i h[16], l[16];
    size_t j;
    AWQ__UNROLL for (j = 0; j < 16; j++)
        awq__lines_amx(a + 2 * j * a_step, a_step, count - awq__min(2 * j, count), rows, h + j,
                       l + j);
    awq__turn_amx(h);
    awq__turn_amx(l);
    AWQ__UNROLL for (j = 0; j < 16; j++) {
        _mm512_store_si512(high + 16 * j, h[j]);
        _mm512_store_si512(low + 16 * j, l[j]);
    }
}

/* The same where those of a row do. */
AWQ__INLINE AWQ__AMX void awq__fill_rows_amx(const float *a, size_t a_stride, size_t rows,
                                             size_t count, uint32_t *high, uint32_t *low) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    __mmask16 first = awq__lanes_avx512(count, 0);
    __mmask16 second = count > 16 ? awq__lanes_avx512(count, 16) : 0;
    size_t r;
    for (r = 0; r < 16; r++, high += 16, low += 16) {
        __m512 x = _mm512_maskz_loadu_ps(r < rows ? first : 0, a + r * a_stride);
        __m512 y = _mm512_maskz_loadu_ps(r < rows ? second : 0, a + r * a_stride + 16);
        __m512i h, l;
        awq__split_amx(_mm512_permutex2var_ps(x, even, y), _mm512_permutex2var_ps(x, odd, y), &h,
                       &l);
        _mm512_store_si512(high, h);
        _mm512_store_si512(low, l);
    }
}

/* A as [32 rows][steps][high, low][16 rows] tiles */
AWQ__AMX static void awq__fill_part_amx(const float *a, size_t a_stride, size_t a_step, size_t rows,
                                        size_t count, uint32_t *tiles) {
    size_t r, k, half;
    for (r = 0; r < rows; r += AWQ__AMX_STEP)
        for (k = 0; k < count; k += AWQ__AMX_STEP, tiles += 4 * AWQ__AMX_WORDS)
            for (half = 0; half < 2; half++) {
                size_t first = awq__min(r + 16 * half, rows);
                const float *from = a + first * a_stride + k * a_step;
                uint32_t *high = tiles + half * AWQ__AMX_WORDS, *low = high + 2 * AWQ__AMX_WORDS;
                if (a_step == 1)
                    awq__fill_rows_amx(from, a_stride, rows - first, count - k, high, low);
                else awq__fill_columns_amx(from, a_step, rows - first, count - k, high, low);
            }
}

/* 32 columns of X as [steps][high, low][16 columns] tiles; the next ones are asked for. */
AWQ__AMX static void awq__fill_strip_amx(const float *x, size_t x_stride, size_t n, size_t count,
                                         uint32_t *tiles) {
    const __mmask16 left = awq__lanes_avx512(n, 0), right = n > 16 ? awq__lanes_avx512(n, 16) : 0;
    size_t line, lines = awq__align(count, AWQ__AMX_STEP);
    for (line = 0; line < lines; line += 2, x += 2 * x_stride) {
        uint32_t *to = tiles + line / AWQ__AMX_STEP * 4 * AWQ__AMX_WORDS +
                       line % AWQ__AMX_STEP / 2 * 16;
        const __mmask16 even = line < count ? 0xffff : 0, odd = line + 1 < count ? 0xffff : 0;
        __m512i high, low;
        awq__ask_for(x + AWQ__AMX_STEP, x_stride, 2, 128);
        awq__split_amx(_mm512_maskz_loadu_ps(even & left, x),
                       _mm512_maskz_loadu_ps(odd & left, x + x_stride), &high, &low);
        _mm512_store_si512(to, high);
        _mm512_store_si512(to + 2 * AWQ__AMX_WORDS, low);
        awq__split_amx(_mm512_maskz_loadu_ps(even & right, x + 16),
                       _mm512_maskz_loadu_ps(odd & right, x + x_stride + 16), &high, &low);
        _mm512_store_si512(to + AWQ__AMX_WORDS, high);
        _mm512_store_si512(to + 3 * AWQ__AMX_WORDS, low);
    }
}

/* sum[4 tiles] of 32 rows and 32 columns */
AWQ__INLINE AWQ__AMX void awq__products_amx(const uint32_t *a, const uint32_t *x, size_t count,
                                            float *sum) {
    const size_t tile = AWQ__AMX_WORDS;
    size_t k;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (k = 0; k < count; k += AWQ__AMX_STEP, a += 4 * tile, x += 4 * tile) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, x + 2 * tile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + 3 * tile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + tile, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, x, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + tile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, a + 2 * tile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 3 * tile, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sum, 64);
    _tile_stored(1, sum + tile, 64);
    _tile_stored(2, sum + 2 * tile, 64);
    _tile_stored(3, sum + 3 * tile, 64);
}

AWQ__INLINE AWQ__AMX void awq__add_tiles_amx(float *y, size_t y_stride, size_t rows, size_t n,
                                             const float *sum) {
    __mmask16 left = awq__lanes_avx512(n, 0), right = n > 16 ? awq__lanes_avx512(n, 16) : 0;
    size_t r;
    for (r = 0; r < rows; r++, y += y_stride) {
        const float *from = sum + r / 16 * 2 * AWQ__AMX_WORDS + r % 16 * 16;
        _mm512_mask_storeu_ps(y, left, _mm512_add_ps(_mm512_maskz_loadu_ps(left, y),
                                                     _mm512_load_ps(from)));
        _mm512_mask_storeu_ps(y + 16, right,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(right, y + 16),
                                            _mm512_load_ps(from + AWQ__AMX_WORDS)));
    }
}

AWQ__AMX static void awq__add_part_amx(float *y, size_t y_stride, size_t rows, size_t n,
                                       const float *a, size_t a_stride, size_t a_step,
                                       const float *x, size_t x_stride, size_t count,
                                       const void *split, void *room) {
    uint32_t *part = (uint32_t *)room, *own = part + AWQ__SQUARE;
    const uint32_t *strip = split ? (const uint32_t *)split : own;
    float *sum = (float *)(own + AWQ__AMX_STEP * AWQ__CHUNK);
    size_t steps = awq__ceil_div(count, AWQ__AMX_STEP), i, r;
    awq__fill_part_amx(a, a_stride, a_step, rows, count, part);
    awq__begin_amx();
    for (i = 0; i < n; i += AWQ__AMX_STEP) {
        size_t columns = awq__min(AWQ__AMX_STEP, n - i);
        if (!split) awq__fill_strip_amx(x + i, x_stride, columns, count, own);
        AWQ__MEMORY_BARRIER; /* the tile intrinsics do not say what they read */
        for (r = 0; r < rows; r += AWQ__AMX_STEP) {
            awq__products_amx(part + r / AWQ__AMX_STEP * steps * 4 * AWQ__AMX_WORDS, strip, count,
                              sum);
            AWQ__MEMORY_BARRIER;
            awq__add_tiles_amx(y + r * y_stride + i, y_stride, awq__min(AWQ__AMX_STEP, rows - r),
                               columns, sum);
        }
        if (split) strip += steps * 4 * AWQ__AMX_WORDS;
    }
    awq__end_amx();
}

AWQ__AMX static void awq__split_part_amx(const float *x, size_t x_stride, size_t n, size_t count,
                                         void *split) {
    size_t strip = awq__ceil_div(count, AWQ__AMX_STEP) * 4 * AWQ__AMX_WORDS, i;
    for (i = 0; i < n; i += AWQ__AMX_STEP)
        awq__fill_strip_amx(x + i, x_stride, awq__min(AWQ__AMX_STEP, n - i), count,
                            (uint32_t *)split + i / AWQ__AMX_STEP * strip);
}

#endif /* AWQ__HAS_AMX */

#define AWQ__LOSS_TILES 3 /* of 16 tokens, and 4 rows: 12 sums hide the latency of a product */

AWQ__INLINE AWQ__AVX512 void awq__tile_errors_avx512(const float *const *d, size_t rows,
                                                     const float *xt, size_t cols,
                                                     size_t xt_stride, size_t tiles,
                                                     const float *token_weight, double *sums) {
    __m512 sum[AWQ__ROWS][AWQ__LOSS_TILES], x[AWQ__LOSS_TILES];
    float y[AWQ__TILE];
    size_t r, c, i;
    AWQ__UNROLL for (r = 0; r < AWQ__ROWS; r++)
        AWQ__UNROLL for (i = 0; i < tiles; i++) sum[r][i] = _mm512_setzero_ps();
    for (c = 0; c < cols; c++) {
        AWQ__UNROLL for (i = 0; i < tiles; i++)
            x[i] = _mm512_loadu_ps(xt + i * xt_stride + AWQ__TILE * c);
        AWQ__UNROLL for (r = 0; r < AWQ__ROWS; r++) {
            __m512 factor = _mm512_set1_ps(d[r][c]);
            AWQ__UNROLL for (i = 0; i < tiles; i++)
                sum[r][i] = _mm512_fmadd_ps(factor, x[i], sum[r][i]);
        }
    }
    AWQ__UNROLL for (r = 0; r < AWQ__ROWS; r++)
        AWQ__UNROLL for (i = 0; i < tiles; i++) {
            const float *w = token_weight ? token_weight + AWQ__TILE * i : NULL;
            if (r >= rows) continue;
            _mm512_storeu_ps(y, sum[r][i]);
            sums[r] += awq__squares_avx2(_mm256_loadu_ps(y), w) +
                       awq__squares_avx2(_mm256_loadu_ps(y + 8), w ? w + 8 : NULL);
        }
}

AWQ__AVX512 static void awq__squared_errors_avx512(const float *d, size_t rows, size_t d_stride,
                                                   const float *xt, size_t cols, size_t xt_stride,
                                                   size_t tokens, const float *token_weight,
                                                   double *sums) {
    const float *from[AWQ__ROWS];
    size_t r, tile, tiles = tokens / AWQ__TILE;
    for (r = 0; r < AWQ__ROWS; r++) from[r] = d + awq__min(r, rows - 1) * d_stride;
    for (r = 0; r < rows; r++) sums[r] = 0;
    for (tile = 0; tile < tiles; tile += AWQ__LOSS_TILES) {
        const float *w = token_weight ? token_weight + tile * AWQ__TILE : NULL;
        const float *x = xt + tile * xt_stride;
        if (tiles - tile >= 3)
            awq__tile_errors_avx512(from, rows, x, cols, xt_stride, 3, w, sums);
        else if (tiles - tile == 2)
            awq__tile_errors_avx512(from, rows, x, cols, xt_stride, 2, w, sums);
        else awq__tile_errors_avx512(from, rows, x, cols, xt_stride, 1, w, sums);
    }
}

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>simd-layouts   gemm's words on x86: 8 inputs x 16 rows are a line of a packed block

   Bits of numbers, highest first: word c of gemm holds rows 8 c + n as nibbles (n0 n2 n1); word
   (c0 n2 n1 n0) of line c / 2 holds inputs k as nibbles (k1 k0 k2).
   ============================================================================================== */

#ifndef AWQ_INFERENCE_ONLY

#define AWQ__PANEL_AHEAD 128 /* bytes of a row of gemm fetched ahead */

/* For vectors of 256 or 512 bits. Between x[k], dwords c and bytes (n0 n2) in them, and
   x[n1 c1 c0], lanes of 128 bits as they were and bytes (n0 n2 k1 k0) in them. */
#define AWQ__GEMM_BYTES(isa, target, bits)                                                         \
    AWQ__INLINE target void awq__swap_nibbles_##isa(__m##bits##i x[8]) {                           \
        const __m##bits##i low = _mm##bits##_set1_epi8(15);                                        \
        size_t i;                                                                                  \
        AWQ__UNROLL for (i = 0; i < 4; i++) { /* n1 and k2 */                                      \
            __m##bits##i t = _mm##bits##_xor_si##bits(_mm##bits##_srli_epi16(x[i], 4), x[i + 4]);  \
            t = _mm##bits##_and_si##bits(t, low);                                                  \
            x[i + 4] = _mm##bits##_xor_si##bits(x[i + 4], t);                                      \
            x[i] = _mm##bits##_xor_si##bits(x[i], _mm##bits##_slli_epi16(t, 4));                   \
        }                                                                                          \
    }                                                                                              \
    AWQ__INLINE target void awq__gather_inputs_##isa(__m##bits##i x[8]) {                          \
        size_t i;                                                                                  \
        awq__swap_nibbles_##isa(x);                                                                \
        AWQ__UNROLL for (i = 0; i < 8; i += 4) { /* k0 and c1, then k1 and c0 */                   \
            __m##bits##i a = _mm##bits##_unpacklo_epi8(x[i], x[i + 1]);                            \
            __m##bits##i b = _mm##bits##_unpackhi_epi8(x[i], x[i + 1]);                            \
            __m##bits##i c = _mm##bits##_unpacklo_epi8(x[i + 2], x[i + 3]);                        \
            __m##bits##i d = _mm##bits##_unpackhi_epi8(x[i + 2], x[i + 3]);                        \
            x[i] = _mm##bits##_unpacklo_epi16(a, c);                                               \
            x[i + 1] = _mm##bits##_unpackhi_epi16(a, c);                                           \
            x[i + 2] = _mm##bits##_unpacklo_epi16(b, d);                                           \
            x[i + 3] = _mm##bits##_unpackhi_epi16(b, d);                                           \
        }                                                                                          \
    }                                                                                              \
    AWQ__INLINE target __m##bits##i awq__shuffle_##isa(__m##bits##i a, __m##bits##i b, int odd) {  \
        __m##bits p = _mm##bits##_castsi##bits##_ps(a), q = _mm##bits##_castsi##bits##_ps(b);      \
        return _mm##bits##_castps_si##bits(odd ? _mm##bits##_shuffle_ps(p, q, 0xdd)                \
                                               : _mm##bits##_shuffle_ps(p, q, 0x88));              \
    }                                                                                              \
    AWQ__INLINE target void awq__scatter_inputs_##isa(__m##bits##i x[8], __m##bits##i order) {     \
        size_t i;                                                                                  \
        AWQ__UNROLL for (i = 0; i < 8; i++) x[i] = _mm##bits##_shuffle_epi8(x[i], order);          \
        AWQ__UNROLL for (i = 0; i < 8; i += 4) { /* k1 and c0, then k0 and c1 */                   \
            __m##bits##i a = _mm##bits##_unpacklo_epi64(x[i], x[i + 1]);                           \
            __m##bits##i b = _mm##bits##_unpackhi_epi64(x[i], x[i + 1]);                           \
            __m##bits##i c = _mm##bits##_unpacklo_epi64(x[i + 2], x[i + 3]);                       \
            __m##bits##i d = _mm##bits##_unpackhi_epi64(x[i + 2], x[i + 3]);                       \
            x[i] = awq__shuffle_##isa(a, c, 0);                                                    \
            x[i + 1] = awq__shuffle_##isa(a, c, 1);                                                \
            x[i + 2] = awq__shuffle_##isa(b, d, 0);                                                \
            x[i + 3] = awq__shuffle_##isa(b, d, 1);                                                \
        }                                                                                          \
        awq__swap_nibbles_##isa(x);                                                                \
    }

AWQ__GEMM_BYTES(avx2, AWQ__AVX2, 256)
AWQ__GEMM_BYTES(avx512, AWQ__AVX512, 512)
#undef AWQ__GEMM_BYTES

/* (k1 k0 n0 n2) from (n0 n2 k1 k0). */
AWQ__INLINE AWQ__AVX2 __m128i awq__inputs_first(void) {
    return _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

/* Words that are not read again soon bypass the caches: whole lines, one after another. */
AWQ__INLINE AWQ__AVX2 void awq__put_avx2(unsigned char *to, int stream, __m256i v) {
    if (stream) _mm256_stream_si256((__m256i *)(void *)to, v);
    else _mm256_storeu_si256((__m256i *)(void *)to, v);
}
AWQ__INLINE AWQ__AVX512 void awq__put_avx512(unsigned char *to, int stream, __m512i v) {
    if (stream) _mm512_stream_si512((__m512i *)(void *)to, v);
    else _mm512_storeu_si512(to, v);
}

/* Tiles of 8 inputs and 8 blocks or less; with 256 bits, both halves of one. */
/* The words of gemm of so many blocks. */
AWQ__INLINE AWQ__AVX2 __m256i awq__words_avx2(size_t blocks) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)blocks * 2),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

AWQ__INLINE AWQ__AVX2 void awq__import_half_avx2(const unsigned char *gemm, size_t gemm_stride,
                                                 unsigned char *rows16, size_t block_stride,
                                                 size_t blocks, int stream) {
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); /* (n2 n1 n0) of (n1 n0 n2) */
    const __m256i lanes = awq__words_avx2(blocks);
    __m256i x[8];
    size_t i;
    AWQ__UNROLL for (i = 0; i < 8; i++) {
        const unsigned char *from = gemm + i * gemm_stride;
        x[i] = _mm256_maskload_epi32((const int *)(const void *)from, lanes);
        _mm_prefetch((const char *)from + AWQ__PANEL_AHEAD, _MM_HINT_T0);
    }
    awq__gather_inputs_avx2(x);
    AWQ__UNROLL for (i = 0; i < 8; i++) { /* c */
        unsigned char *to = rows16 + i / 2 * block_stride + i % 2 * 32;
        __m256i a = x[i % 4], b = x[i % 4 + 4];
        a = i < 4 ? _mm256_permute2x128_si256(a, b, 0x20) : _mm256_permute2x128_si256(a, b, 0x31);
        if (i / 2 < blocks) awq__put_avx2(to, stream, _mm256_permutevar8x32_epi32(a, order));
    }
}

AWQ__INLINE AWQ__AVX2 void awq__export_half_avx2(const unsigned char *rows16, size_t block_stride,
                                                 size_t blocks, __m256i x[8]) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* (n1 n0 n2) of (n2 n1 n0) */
    __m256i c[8];
    size_t i;
    AWQ__UNROLL for (i = 0; i < 8; i++) {
        const unsigned char *from = rows16 + i / 2 * block_stride + i % 2 * 32;
        c[i] = _mm256_setzero_si256();
        if (i / 2 < blocks)
            c[i] = _mm256_permutevar8x32_epi32(
                _mm256_loadu_si256((const __m256i *)(const void *)from), order);
    }
    AWQ__UNROLL for (i = 0; i < 4; i++) {
        x[i] = _mm256_permute2x128_si256(c[i], c[i + 4], 0x20);
        x[i + 4] = _mm256_permute2x128_si256(c[i], c[i + 4], 0x31);
    }
    awq__scatter_inputs_avx2(x, _mm256_broadcastsi128_si256(awq__inputs_first()));
}

AWQ__INLINE AWQ__AVX2 void awq__import_tile_avx2(const unsigned char *gemm, size_t gemm_stride,
                                                 unsigned char *rows16, size_t block_stride,
                                                 size_t blocks, int stream) {
    awq__import_half_avx2(gemm, gemm_stride, rows16, block_stride, awq__min(blocks, 4), stream);
    if (blocks > 4)
        awq__import_half_avx2(gemm + 32, gemm_stride, rows16 + 4 * block_stride, block_stride,
                              blocks - 4, stream);
}

AWQ__INLINE AWQ__AVX2 void awq__export_tile_avx2(const unsigned char *rows16, size_t block_stride,
                                                 unsigned char *gemm, size_t gemm_stride,
                                                 size_t blocks, int stream) {
    __m256i x[8], y[8];
    size_t i;
    awq__export_half_avx2(rows16, block_stride, awq__min(blocks, 4), x);
    if (blocks > 4)
        awq__export_half_avx2(rows16 + 4 * block_stride, block_stride, blocks - 4, y);
    for (i = 0; i < 8; i++) {
        unsigned char *to = gemm + i * gemm_stride;
        if (blocks < 4) _mm256_maskstore_epi32((int *)(void *)to, awq__words_avx2(blocks), x[i]);
        else awq__put_avx2(to, stream, x[i]);
        if (blocks == 8) awq__put_avx2(to + 32, stream, y[i]);
        else if (blocks > 4)
            _mm256_maskstore_epi32((int *)(void *)(to + 32), awq__words_avx2(blocks - 4), y[i]);
    }
}

AWQ__INLINE AWQ__AVX512 void awq__import_tile_avx512(const unsigned char *gemm, size_t gemm_stride,
                                                     unsigned char *rows16, size_t block_stride,
                                                     size_t blocks, int stream) {
    /* (c3 n2 n1 n0) of (n1) and (c3 c2 n0 n2), for c2 = 0; + 4: 1 */
    const __m512i order =
        _mm512_setr_epi32(0, 2, 16, 18, 1, 3, 17, 19, 8, 10, 24, 26, 9, 11, 25, 27);
    const __m512i second = _mm512_add_epi32(order, _mm512_set1_epi32(4));
    const __mmask16 lanes = (__mmask16)((1u << 2 * blocks) - 1);
    __m512i x[8];
    size_t i;
    AWQ__UNROLL for (i = 0; i < 8; i++) {
        const unsigned char *from = gemm + i * gemm_stride;
        x[i] = _mm512_maskz_loadu_epi32(lanes, from);
        _mm_prefetch((const char *)from + AWQ__PANEL_AHEAD, _MM_HINT_T0);
    }
    awq__gather_inputs_avx512(x);
    AWQ__UNROLL for (i = 0; i < 8; i++) { /* c3 c2 c1 */
        size_t c1 = i % 2 * 2;
        __m512i a = _mm512_permutex2var_epi32(x[c1], i & 2 ? second : order, x[c1 + 4]);
        __m512i b = _mm512_permutex2var_epi32(x[c1 + 1], i & 2 ? second : order, x[c1 + 5]);
        a = i < 4 ? _mm512_inserti64x4(a, _mm512_castsi512_si256(b), 1)
                  : _mm512_shuffle_i64x2(a, b, 0xee);
        if (i < blocks) awq__put_avx512(rows16 + i * block_stride, stream, a);
    }
}

AWQ__INLINE AWQ__AVX512 void awq__export_tile_avx512(const unsigned char *rows16,
                                                     size_t block_stride, unsigned char *gemm,
                                                     size_t gemm_stride, size_t blocks,
                                                     int stream) {
    /* (c3 c2 n0 n2) of (c2) and (c3 n2 n1 n0), for n1 = 0; + 2: 1 */
    const __m512i order =
        _mm512_setr_epi32(0, 4, 1, 5, 16, 20, 17, 21, 8, 12, 9, 13, 24, 28, 25, 29);
    const __m512i second = _mm512_add_epi32(order, _mm512_set1_epi32(2));
    const __mmask16 lanes = (__mmask16)((1u << 2 * blocks) - 1);
    __m512i v[8], x[8];
    size_t i;
    AWQ__UNROLL for (i = 0; i < 8; i++)
        v[i] = i < blocks ? _mm512_loadu_si512(rows16 + i * block_stride) : _mm512_setzero_si512();
    AWQ__UNROLL for (i = 0; i < 4; i++) { /* c1 c0 */
        __m512i a = v[i / 2], b = v[i / 2 + 2], c = v[i / 2 + 4], d = v[i / 2 + 6];
        a = i % 2 ? _mm512_shuffle_i64x2(a, c, 0xee)
                  : _mm512_inserti64x4(a, _mm512_castsi512_si256(c), 1);
        b = i % 2 ? _mm512_shuffle_i64x2(b, d, 0xee)
                  : _mm512_inserti64x4(b, _mm512_castsi512_si256(d), 1);
        x[i] = _mm512_permutex2var_epi32(a, order, b);
        x[i + 4] = _mm512_permutex2var_epi32(a, second, b);
    }
    awq__scatter_inputs_avx512(x, _mm512_broadcast_i32x4(awq__inputs_first()));
    AWQ__UNROLL for (i = 0; i < 8; i++) {
        unsigned char *to = gemm + i * gemm_stride;
        if (blocks == 8) awq__put_avx512(to, stream, x[i]);
        else _mm512_mask_storeu_epi32(to, lanes, x[i]);
    }
}

/* Whole lines of both sides: 8 blocks, along the inputs. */
#define AWQ__GEMM_WALK(tile, from, from_stride, from_block, from_line, to, to_stride, to_block,    \
                       to_line)                                                                    \
    do {                                                                                           \
        size_t b, i;                                                                               \
        int stream = ((uintptr_t)to | to_stride) % 64 == 0;                                        \
        for (b = 0; b < blocks; b += 8)                                                            \
            for (i = 0; i < lines; i++) {                                                          \
                const unsigned char *p = from + b * from_block + i * from_line;                    \
                unsigned char *q = to + b * to_block + i * to_line;                                \
                if (blocks - b < 8) tile(p, from_stride, q, to_stride, blocks - b, 0);             \
                else if (stream) tile(p, from_stride, q, to_stride, 8, 1);                         \
                else tile(p, from_stride, q, to_stride, 8, 0);                                     \
            }                                                                                      \
        _mm_sfence();                                                                              \
    } while (0)

#define AWQ__GEMM_HOOKS(isa, target)                                                               \
    target static void awq__gemm_to_rows16_##isa(const unsigned char *gemm, size_t gemm_stride,    \
                                                 unsigned char *rows16, size_t block_stride,       \
                                                 size_t blocks, size_t lines) {                    \
        AWQ__GEMM_WALK(awq__import_tile_##isa, gemm, gemm_stride, 8, 8 * gemm_stride, rows16,      \
                       block_stride, block_stride, 64);                                            \
    }                                                                                              \
    target static void awq__rows16_to_gemm_##isa(const unsigned char *rows16, size_t block_stride, \
                                                 unsigned char *gemm, size_t gemm_stride,          \
                                                 size_t blocks, size_t lines) {                    \
        AWQ__GEMM_WALK(awq__export_tile_##isa, rows16, block_stride, block_stride, 64, gemm,       \
                       gemm_stride, 8, 8 * gemm_stride);                                           \
    }

AWQ__GEMM_HOOKS(avx2, AWQ__AVX2)
AWQ__GEMM_HOOKS(avx512, AWQ__AVX512)
#undef AWQ__GEMM_HOOKS
#undef AWQ__GEMM_WALK
#undef AWQ__PANEL_AHEAD

#endif /* AWQ_INFERENCE_ONLY */

/* The hot loops of everything but the product. */
static void awq__quantize_avx2(awq_kernels *k) {
#ifdef AWQ_INFERENCE_ONLY
    (void)k;
#else
    k->load_scaled = awq__load_scaled_avx2;
    k->widen_range = awq__widen_range_avx2;
    k->round_weights = awq__round_weights_avx2;
    k->round_errors = awq__round_errors_avx2;
    k->grid_sums = awq__grid_sums_avx2;
    k->add_strain = awq__add_strain_avx2;
    k->add_products = awq__add_products_avx2;
    k->squared_errors = awq__squared_errors_avx2;
    k->gemm_to_rows16 = awq__gemm_to_rows16_avx2;
    k->rows16_to_gemm = awq__rows16_to_gemm_avx2;
#endif
}

static void awq__quantize_avx512(awq_kernels *k) {
    awq__quantize_avx2(k);
#ifndef AWQ_INFERENCE_ONLY
    k->load_scaled = awq__load_scaled_avx512;
    k->widen_range = awq__widen_range_avx512;
    k->round_weights = awq__round_weights_avx512;
    k->round_errors = awq__round_errors_avx512;
    k->grid_sums = awq__grid_sums_avx512;
    k->add_strain = awq__add_strain_avx512;
    k->add_products = awq__add_products_avx512;
    k->squared_errors = awq__squared_errors_avx512;
    k->gemm_to_rows16 = awq__gemm_to_rows16_avx512;
    k->rows16_to_gemm = awq__rows16_to_gemm_avx512;
#endif
}

#endif /* AWQ__X86 */

/* =================================================================================================
   >>simd-plain   what the sets that are not x86 share
   ============================================================================================== */

#ifndef AWQ__X86

static int awq__round_slot_plain(const float *x, size_t inputs, awq_precision precision,
                                 unsigned char *slot) {
    int16_t xi[AWQ__CHUNK];
    awq__terms terms;
    int32_t sum = 0;
    size_t i;
    for (i = 0; i < inputs; i++)
        if (!(awq__abs(x[i]) <= AWQ__LARGEST)) return 0;
    if (precision == AWQ_A16) {
        float scale = awq__round_a16(x, inputs, xi);
        for (i = 0; i < inputs; i++) {
            int high = (xi[i] + 128 + 32768) / 256 - 128; /* rounded, and low in -128 .. 127 */
            slot[i] = (unsigned char)(high & 255);
            slot[inputs + i] = (unsigned char)((xi[i] - 256 * high) & 255);
            sum += xi[i];
        }
        terms = awq__terms_a16(scale, sum);
        slot += inputs;
    } else {
        awq__grid grid = awq__round_a8(x, inputs, xi);
        int shift = (int)grid.zero - 128;
        for (i = 0; i < inputs; i++) {
            slot[i] = (unsigned char)((xi[i] + shift) & 255);
            sum += xi[i];
        }
        terms = awq__terms_a8(grid, sum);
    }
    memcpy(slot + inputs, &terms, sizeof terms);
    return 1;
}

static awq_status awq__prepare_plain(const awq_prepared *shape, awq_matrix x,
                                     const float *input_scale, void *memory, size_t token_begin,
                                     size_t token_end, awq_where *where) {
    (void)memory;
    return awq__prepare_slots(awq__load_values, awq__round_slot_plain, shape, x, input_scale,
                              token_begin, token_end, where);
}

static void awq__store_plain(const float *sums, size_t sums_stride, size_t tokens, size_t rows,
                             const float *bias, awq_matrix y, size_t token, size_t row) {
    size_t t, r, size = awq_dtype_size(y.dtype);
    for (t = 0; t < tokens; t++, sums += sums_stride) {
        unsigned char *to = awq__at(y, token + t, row);
        for (r = 0; r < rows; r++)
            awq__store_float(to + r * size, y.dtype, bias ? sums[r] + bias[r] : sums[r]);
    }
}

/* A set from the rows of its panels, its fill, multiply and few (or NULL). */
#define AWQ__MATMUL_PLAIN(set, its_rows, its_few)                                                  \
    static void awq__matmul_##set(const awq_packed *packed, const awq_prepared *x,                 \
                                  const float *bias, awq_matrix y, size_t row_begin,               \
                                  size_t row_end) {                                                \
        awq__tiles tiles;                                                                          \
        tiles.rows = its_rows;                                                                     \
        tiles.fill = awq__fill_##set;                                                              \
        tiles.multiply = awq__multiply_##set;                                                      \
        tiles.few = its_few;                                                                       \
        tiles.store = awq__store_plain;                                                            \
        awq__matmul_simd(&tiles, packed, x, bias, y, row_begin, row_end);                          \
    }

/* Signed weights. These sets store w = q - c, c = 128 for 8-bit weights and else the row's zero
   point, so a row needs its sum of w (in `pair`) for A8, and z - c (in `zero`) for 8-bit weights:
       sum (q - z)(xs - m)  =  sum w xs  -  m * sum w  -  (z - c) * sum (xs - m)
   Here: the scales of a row block, c and z - c. */
#ifndef AWQ__NEON
static void awq__row_grids(const awq_packed *p, size_t cell, size_t row_block, awq__panel *panel,
                           unsigned char center[AWQ_ROW_STEP]) {
    float *scale = panel->scale + AWQ_ROW_STEP * row_block;
    int32_t *zero = panel->zero + AWQ_ROW_STEP * row_block;
    size_t r, size = awq_dtype_size(p->quant.scale_dtype);
    const unsigned char *at = p->data + p->scales_offset + cell * AWQ_ROW_STEP * size;
    for (r = 0; r < AWQ_ROW_STEP; r++) {
        int z = awq__cell_zero(p, cell, r);
        scale[r] = awq__load_le_float(at + r * size, p->quant.scale_dtype);
        zero[r] = panel->wide ? z - 128 : 0;
        center[r] = (unsigned char)(panel->wide ? 128 : z);
    }
}
#endif

static awq__terms awq__slot_terms(const awq__panel *panel, const unsigned char *slot) {
    awq__terms terms;
    memcpy(&terms, slot + (panel->precision == AWQ_A16 ? 2 : 1) * panel->inputs, sizeof terms);
    return terms;
}

static int32_t awq__minus_m(int a16, awq__terms terms) {
    return a16 ? 0 : (int16_t)(uint16_t)((uint32_t)terms.pair & 0xffffu);
}

/* A set's multiply from its tile of at most 4 tokens. */
#define AWQ__MULTIPLY4(set, target)                                                                \
    target static void awq__multiply_##set(const awq__panel *panel, const unsigned char *x,        \
                                           size_t slot_size, size_t tokens, float *sums) {         \
        for (; tokens >= 4; tokens -= 4, x += 4 * slot_size, sums += 4 * AWQ_ROW_STEP)             \
            awq__tile_##set(panel, x, slot_size, 4, sums);                                         \
        if (tokens == 3) awq__tile_##set(panel, x, slot_size, 3, sums);                            \
        if (tokens == 2) awq__tile_##set(panel, x, slot_size, 2, sums);                            \
        if (tokens == 1) awq__tile_##set(panel, x, slot_size, 1, sums);                            \
    }

#endif /* not AWQ__X86 */

/* =================================================================================================
   >>simd-neon   Arm: 16 rows x 4 tokens; plain NEON, dot products, 2 x 2 matrices of dot products
   ============================================================================================== */

#ifdef AWQ__NEON

/* The zero points of a row block */
AWQ__INLINE uint8x16_t awq__zeros_neon(const awq_packed *p, size_t cell) {
    size_t bytes = awq__zero_bytes(p->quant.bits);
    const unsigned char *at = p->data + p->zeros_offset + cell * bytes;
    uint8x8_t z;
    if (p->quant.symmetric) return vdupq_n_u8((uint8_t)(1 << (p->quant.bits - 1)));
    if (bytes == AWQ_ROW_STEP) return vld1q_u8(at);
    z = vld1_u8(at);
    return vcombine_u8(vand_u8(z, vdup_n_u8(15)), vshr_n_u8(z, 4));
}

/* a - b of 16 bytes */
AWQ__INLINE void awq__subtract_neon(uint8x16_t a, uint8x16_t b, int32x4_t to[4]) {
    int16x8_t low = vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(a), vget_low_u8(b)));
    int16x8_t high = vreinterpretq_s16_u16(vsubl_u8(vget_high_u8(a), vget_high_u8(b)));
    to[0] = vmovl_s16(vget_low_s16(low));
    to[1] = vmovl_s16(vget_high_s16(low));
    to[2] = vmovl_s16(vget_low_s16(high));
    to[3] = vmovl_s16(vget_high_s16(high));
}

/* The scales of rows 4r .. 4r + 3 of a row block */
AWQ__INLINE float32x4_t awq__scales_neon(const awq_packed *p, size_t cell, size_t r) {
    awq_dtype dtype = p->quant.scale_dtype;
    const unsigned char *at =
        p->data + p->scales_offset + (cell * AWQ_ROW_STEP + 4 * r) * awq_dtype_size(dtype);
    uint16x4_t half;
    if (dtype == AWQ_F32) return vreinterpretq_f32_u8(vld1q_u8(at));
    half = vreinterpret_u16_u8(vld1_u8(at));
    if (dtype == AWQ_BF16) return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(half), 16));
#ifdef AWQ__ARM64
    return vcvt_f32_f16(vreinterpret_f16_u16(half));
#else
    {
        float scale[4];
        size_t i;
        for (i = 0; i < 4; i++) scale[i] = awq__half_to_float(awq__load_le16(at + 2 * i));
        return vld1q_f32(scale);
    }
#endif
}

/* Two steps of 4 rows, less c, to the panel; `zip` joins them to 8 inputs a row. Returns sums of w,
   added to `sum`. */
AWQ__INLINE int32x4_t awq__put_neon(uint8x16_t a, uint8x16_t b, uint8x16_t center, int zip,
                                    unsigned char *to, int32x4_t sum) {
    a = vsubq_u8(a, center);
    b = vsubq_u8(b, center);
    if (zip) {
        uint32x4x2_t z = vzipq_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
        vst1q_u8(to, vreinterpretq_u8_u32(z.val[0]));
        vst1q_u8(to + 16, vreinterpretq_u8_u32(z.val[1]));
    } else {
        vst1q_u8(to, a);
        vst1q_u8(to + 64, b);
    }
    sum = vpadalq_s16(sum, vpaddlq_s8(vreinterpretq_s8_u8(a)));
    return vpadalq_s16(sum, vpaddlq_s8(vreinterpretq_s8_u8(b)));
}

/* Panel [steps][16 rows][4], zipped [steps / 2][16 rows][8]; rows 4r .. 4r + 3. `from`: `given`
   steps of bytes, or 4-bit words of two. */
AWQ__INLINE void awq__fill_rows_neon(const unsigned char *from, int packed4, size_t given, int zip,
                                     size_t r, uint8x16_t center, awq__panel *panel) {
    const uint8x16_t low = vdupq_n_u8(15);
    unsigned char *to = panel->bytes[0][0] + (zip ? 32 : 16) * r;
    int32x4_t sum = vdupq_n_s32(0);
    size_t k;
    from += 16 * r;
    for (k = 0; k < given; k += 2, to += 128) {
        uint8x16_t a = vld1q_u8(from), b = center;
        if (packed4) {
            b = vshrq_n_u8(a, 4);
            a = vandq_u8(a, low);
        } else if (k + 1 < given) b = vld1q_u8(from + 64);
        from += packed4 ? 64 : 128;
        sum = awq__put_neon(a, b, center, zip, to, sum);
    }
    vst1q_s32(panel->pair + 4 * r, sum);
}

AWQ__INLINE void awq__fill_panel_neon(const awq_packed *p, const awq__block *block, int zip,
                                      awq__panel *panel) {
    const unsigned char *from = block->words;
    unsigned char *bytes = panel->bytes[0][0];
    size_t given = awq__ceil_div(block->n, 4), even = awq__align(given, 2), r;
    uint8x16_t z = awq__zeros_neon(p, block->cell), center = panel->wide ? vdupq_n_u8(128) : z;
    uint8x16x2_t twice = vzipq_u8(center, center), four[2];
    int32x4_t zero[4];
    four[0] = vzipq_u8(twice.val[0], twice.val[0]);
    four[1] = vzipq_u8(twice.val[1], twice.val[1]);
    awq__subtract_neon(z, center, zero);
    if (p->quant.bits < 4) {
        awq__split_words(from, p->quant.bits, block->n, panel->bytes[1][0]);
        from = panel->bytes[1][0];
        given = even;
    }
    for (r = 0; r < 4; r++) {
        uint8x16_t c = four[r / 2].val[r % 2];
        if (p->quant.bits == 4) awq__fill_rows_neon(from, 1, given, zip, r, c, panel);
        else awq__fill_rows_neon(from, 0, given, zip, r, c, panel);
        vst1q_s32(panel->zero + 4 * r, zero[r]);
        vst1q_f32(panel->scale + 4 * r, awq__scales_neon(p, block->cell, r));
    }
    panel->steps = awq__align(given, 4);
    memset(bytes + 64 * even, 0, 64 * (panel->steps - even));
}

static void awq__fill_neon(const awq_packed *p, const awq__block *block, awq__panel *panel) {
    awq__fill_panel_neon(p, block, 0, panel);
}

#ifdef AWQ__ARM64
AWQ__INLINE float32x4_t awq__add_part_neon(float32x4_t y, int32x4_t sum, float sx,
                                           float32x4_t scale) {
    return vfmaq_f32(y, vmulq_n_f32(vcvtq_f32_s32(sum), sx), scale);
}
#endif

/* sums of 16 rows += scale * (sx * (the dots and their zero points)) */
AWQ__INLINE void awq__add_sums_neon(const awq__panel *panel, const unsigned char *slot,
                                    const int32x4_t sum[4], float *sums) {
    awq__terms terms = awq__slot_terms(panel, slot);
    int32_t m = awq__minus_m(panel->precision == AWQ_A16, terms);
    size_t r;
    AWQ__UNROLL for (r = 0; r < 4; r++) {
        int32x4_t v = vmlaq_n_s32(sum[r], vld1q_s32(panel->pair + 4 * r), m);
        v = vmlsq_n_s32(v, vld1q_s32(panel->zero + 4 * r), terms.sum);
#ifdef AWQ__ARM64
        vst1q_f32(sums + 4 * r, awq__add_part_neon(vld1q_f32(sums + 4 * r), v, terms.scale,
                                                   vld1q_f32(panel->scale + 4 * r)));
#else /* vectors would lose denormals */
        int32_t s[4];
        size_t i;
        vst1q_s32(s, v);
        for (i = 0; i < 4; i++)
            sums[4 * r + i] += panel->scale[4 * r + i] * (terms.scale * (float)s[i]);
#endif
    }
}

AWQ__INLINE int8x16_t awq__spread_neon(const unsigned char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

/* A set's tile and its multiply from its dots: sum[token][4 rows] += panel * one plane. */
#define AWQ__MULTIPLY_NEON(set, target)                                                            \
    AWQ__INLINE target void awq__tile_##set(const awq__panel *panel, const unsigned char *slots,   \
                                            size_t slot_size, size_t tokens, float *sums) {        \
        size_t plane, planes = panel->precision == AWQ_A16 ? 2 : 1, t, r;                          \
        int32x4_t sum[4][4];                                                                       \
        AWQ__UNROLL for (t = 0; t < tokens; t++)                                                   \
            AWQ__UNROLL for (r = 0; r < 4; r++) sum[t][r] = vdupq_n_s32(0);                        \
        for (plane = 0; plane < planes; plane++) {                                                 \
            AWQ__UNROLL for (t = 0; t < tokens; t++)                                               \
                AWQ__UNROLL for (r = 0; r < 4; r++) sum[t][r] = vshlq_n_s32(sum[t][r], 8);         \
            awq__dots_##set(panel, slots + plane * panel->inputs, slot_size, tokens, sum);         \
        }                                                                                          \
        AWQ__UNROLL for (t = 0; t < tokens; t++)                                                   \
            awq__add_sums_neon(panel, slots + t * slot_size, sum[t], sums + 16 * t);               \
    }                                                                                              \
    AWQ__MULTIPLY4(set, target)

#ifdef AWQ__DOTPROD

AWQ__INLINE AWQ__DOTPROD void awq__dots_dotprod(const awq__panel *panel, const unsigned char *x,
                                                size_t slot_size, size_t tokens,
                                                int32x4_t sum[4][4]) {
    const unsigned char *w = panel->bytes[0][0];
    size_t k, t, r;
    for (k = 0; k < panel->steps; k += 4, w += 256, x += 16) {
        int8x16_t v[4];
        AWQ__UNROLL for (t = 0; t < tokens; t++)
            v[t] = vld1q_s8((const int8_t *)(x + t * slot_size));
#define AWQ__X(lane)                                                                               \
    AWQ__UNROLL for (r = 0; r < 4; r++) {                                                          \
        int8x16_t q = vld1q_s8((const int8_t *)(w + 64 * lane + 16 * r));                          \
        AWQ__UNROLL for (t = 0; t < tokens; t++)                                                   \
            sum[t][r] = vdotq_laneq_s32(sum[t][r], q, v[t], lane);                                 \
    }
        AWQ__X(0)
        AWQ__X(1)
        AWQ__X(2)
        AWQ__X(3)
#undef AWQ__X
    }
}

AWQ__MULTIPLY_NEON(dotprod, AWQ__DOTPROD)

/* sum[0] += a row block's words times x, sum[1] += the words times y, or their own sum */
AWQ__INLINE AWQ__DOTPROD void awq__words_dotprod(const unsigned char *from, int bits, size_t words,
                                                 const unsigned char *x, const unsigned char *y,
                                                 int32x4_t sum[2][4]) {
    const int8x8_t ones = vdup_n_s8(1);
    size_t i, r;
    for (i = 0; i < words; i++, from += 64) {
        if (bits == 4) {
            int8x8_t u = vld1_s8((const int8_t *)x);
            int8x8_t v = y ? vld1_s8((const int8_t *)y) : ones;
            AWQ__UNROLL for (r = 0; r < 4; r++) {
                uint8x16_t w = vld1q_u8(from + 16 * r);
                int8x16_t a = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
                int8x16_t b = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));
                sum[0][r] = vdotq_lane_s32(vdotq_lane_s32(sum[0][r], a, u, 0), b, u, 1);
                sum[1][r] = vdotq_lane_s32(vdotq_lane_s32(sum[1][r], a, v, 0), b, v, 1);
            }
        } else {
            int8x16_t u = awq__spread_neon(x);
            int8x16_t v = y ? awq__spread_neon(y) : vcombine_s8(ones, ones);
            AWQ__UNROLL for (r = 0; r < 4; r++) {
                uint8x16_t w = veorq_u8(vld1q_u8(from + 16 * r), vdupq_n_u8(128));
                sum[0][r] = vdotq_s32(sum[0][r], vreinterpretq_s8_u8(w), u);
                sum[1][r] = vdotq_s32(sum[1][r], vreinterpretq_s8_u8(w), v);
            }
        }
        x += bits == 4 ? 8 : 4;
        if (y) y += bits == 4 ? 8 : 4;
    }
}

/* One row block times one token */
AWQ__INLINE AWQ__DOTPROD void awq__row_block_dotprod(const awq_packed *p,
                                                     const awq__few_tokens *few, size_t token,
                                                     size_t row, int bits, int a16, float *sums) {
    size_t in = p->in_features, size = awq__group_size(in, p->quant.group_size), begin, left, n, r;
    size_t cell = row / AWQ_ROW_STEP * awq__ceil_div(in, size);
    const unsigned char *from = p->data + awq__word_at(p, row, 0), *x = few->slots[token];
    const uint8x16_t center = vdupq_n_u8(bits == 4 ? 0 : 128);
    float32x4_t y[4];
    AWQ__UNROLL for (r = 0; r < 4; r++) y[r] = vdupq_n_f32(0);
    for (begin = 0; begin < in; begin += size, cell++) {
        int32x4_t zero[4];
        awq__subtract_neon(awq__zeros_neon(p, cell), center, zero);
        for (left = awq__min(size, in - begin); left; left -= n, x += few->block_step) {
            int32x4_t sum[2][4];
            awq__terms terms;
            size_t words;
            n = awq__min(left, AWQ__CHUNK);
            words = bits == 4 ? awq__ceil_div(n, 8) : awq__ceil_div(n, 4);
            memcpy(&terms, x + (a16 ? 2 : 1) * few->inputs, sizeof terms);
            AWQ__UNROLL for (r = 0; r < 4; r++) sum[0][r] = sum[1][r] = vdupq_n_s32(0);
            awq__words_dotprod(from, bits, words, x, a16 ? x + few->inputs : NULL, sum);
            from += 64 * words;
            AWQ__UNROLL for (r = 0; r < 4; r++) {
                int32x4_t v = a16 ? vaddq_s32(vshlq_n_s32(sum[0][r], 8), sum[1][r])
                                  : vmlaq_n_s32(sum[0][r], sum[1][r], awq__minus_m(0, terms));
                v = vmlsq_n_s32(v, zero[r], terms.sum);
                y[r] = awq__add_part_neon(y[r], v, terms.scale, awq__scales_neon(p, cell, r));
            }
        }
    }
    AWQ__UNROLL for (r = 0; r < 4; r++) vst1q_f32(sums + 4 * r, y[r]);
}

AWQ__DOTPROD static void awq__few_dotprod(const awq_packed *p, const awq__few_tokens *few,
                                          size_t row, size_t spread, size_t streams, float *sums) {
    size_t t;
    for (; streams; streams--, row += spread * AWQ_ROW_STEP)
        for (t = 0; t < few->tokens; t++, sums += AWQ_ROW_STEP) {
            if (p->quant.bits == 8) awq__row_block_dotprod(p, few, t, row, 8, few->a16, sums);
            else if (few->a16) awq__row_block_dotprod(p, few, t, row, 4, 1, sums);
            else awq__row_block_dotprod(p, few, t, row, 4, 0, sums);
        }
}

#define awq__fill_dotprod awq__fill_neon
AWQ__MATMUL_PLAIN(dotprod, AWQ_ROW_STEP, awq__few_dotprod)

#endif /* AWQ__DOTPROD */

#ifdef AWQ__I8MM

static void awq__fill_i8mm(const awq_packed *p, const awq__block *block, awq__panel *panel) {
    awq__fill_panel_neon(p, block, 1, panel);
}

/* An instruction is 2 rows x 2 tokens x 8 inputs; an odd token is its own neighbour. */
AWQ__INLINE AWQ__I8MM void awq__dots_i8mm(const awq__panel *panel, const unsigned char *x,
                                          size_t slot_size, size_t tokens,
                                          int32x4_t sum[4][4]) {
    const unsigned char *w = panel->bytes[0][0];
    size_t k, j, r, pairs = (tokens + 1) / 2;
    int32x4_t two[2][8];
    AWQ__UNROLL for (j = 0; j < pairs; j++)
        AWQ__UNROLL for (r = 0; r < 8; r++) two[j][r] = vdupq_n_s32(0);
    for (k = 0; k < panel->steps; k += 2, w += 128, x += 8) {
        int8x16_t v[2];
        AWQ__UNROLL for (j = 0; j < pairs; j++) {
            size_t next = 2 * j + 1 < tokens ? 2 * j + 1 : 2 * j;
            v[j] = vcombine_s8(vld1_s8((const int8_t *)(x + 2 * j * slot_size)),
                               vld1_s8((const int8_t *)(x + next * slot_size)));
        }
        AWQ__UNROLL for (r = 0; r < 8; r++) {
            int8x16_t q = vld1q_s8((const int8_t *)(w + 16 * r));
            AWQ__UNROLL for (j = 0; j < pairs; j++) two[j][r] = vmmlaq_s32(two[j][r], q, v[j]);
        }
    }
    AWQ__UNROLL for (j = 0; j < pairs; j++)
        AWQ__UNROLL for (r = 0; r < 4; r++) {
            int32x4_t a = two[j][2 * r], b = two[j][2 * r + 1];
            sum[2 * j][r] = vaddq_s32(sum[2 * j][r], vuzp1q_s32(a, b));
            if (2 * j + 1 < tokens)
                sum[2 * j + 1][r] = vaddq_s32(sum[2 * j + 1][r], vuzp2q_s32(a, b));
        }
}

AWQ__MULTIPLY_NEON(i8mm, AWQ__I8MM)
AWQ__MATMUL_PLAIN(i8mm, AWQ_ROW_STEP, awq__few_dotprod)

#endif /* AWQ__I8MM */

/* Sums of pairs that stand next to each other. */
AWQ__INLINE int32x4_t awq__pairs_neon(int32x4_t a, int32x4_t b) {
#ifdef AWQ__ARM64
    return vpaddq_s32(a, b);
#else
    return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)),
                        vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}

/* Products of the high halves; v is spread, so its halves are equal. */
AWQ__INLINE int16x8_t awq__add_high_neon(int16x8_t sum, int8x16_t q, int8x16_t v) {
#ifdef AWQ__ARM64
    return vmlal_high_s8(sum, q, v);
#else
    return vmlal_s8(sum, vget_high_s8(q), vget_low_s8(v));
#endif
}

AWQ__INLINE int16x8_t awq__multiply_high_neon(int8x16_t q, int8x16_t v) {
#ifdef AWQ__ARM64
    return vmull_high_s8(q, v);
#else
    return vmull_s8(vget_high_s8(q), vget_low_s8(v));
#endif
}

/* 8 rows: |w| <= 15, so 16 products of bytes add up in 16 bits. */
AWQ__INLINE void awq__narrow_neon(const unsigned char *w, const unsigned char *x, size_t slot_size,
                                  size_t tokens, size_t steps, int32x4_t sum[4][2]) {
    size_t k, t, r;
    while (steps) {
        size_t run = awq__min(steps, 16);
        int16x8_t short_sum[4][4];
        AWQ__UNROLL for (t = 0; t < tokens; t++)
            AWQ__UNROLL for (r = 0; r < 4; r++) short_sum[t][r] = vdupq_n_s16(0);
        for (k = 0; k < run; k++, w += 64, x += 4)
            AWQ__UNROLL for (r = 0; r < 2; r++) {
                int8x16_t q = vld1q_s8((const int8_t *)(w + 16 * r));
                AWQ__UNROLL for (t = 0; t < tokens; t++) {
                    int8x16_t v = awq__spread_neon(x + t * slot_size);
                    int16x8_t *s = &short_sum[t][2 * r];
                    s[0] = vmlal_s8(s[0], vget_low_s8(q), vget_low_s8(v));
                    s[1] = awq__add_high_neon(s[1], q, v);
                }
            }
        AWQ__UNROLL for (t = 0; t < tokens; t++)
            AWQ__UNROLL for (r = 0; r < 2; r++)
                sum[t][r] = vaddq_s32(sum[t][r],
                                      awq__pairs_neon(vpaddlq_s16(short_sum[t][2 * r]),
                                                      vpaddlq_s16(short_sum[t][2 * r + 1])));
        steps -= run;
    }
}

/* 8 rows of 8-bit weights */
AWQ__INLINE void awq__wide_neon(const unsigned char *w, const unsigned char *x, size_t slot_size,
                                size_t tokens, size_t steps, int32x4_t sum[4][2]) {
    int32x4_t pairs[4][4];
    size_t k, t, r;
    AWQ__UNROLL for (t = 0; t < tokens; t++)
        AWQ__UNROLL for (r = 0; r < 4; r++) pairs[t][r] = vdupq_n_s32(0);
    for (k = 0; k < steps; k++, w += 64, x += 4)
        AWQ__UNROLL for (r = 0; r < 2; r++) {
            int8x16_t q = vld1q_s8((const int8_t *)(w + 16 * r));
            AWQ__UNROLL for (t = 0; t < tokens; t++) {
                int8x16_t v = awq__spread_neon(x + t * slot_size);
                int32x4_t *s = &pairs[t][2 * r];
                s[0] = vpadalq_s16(s[0], vmull_s8(vget_low_s8(q), vget_low_s8(v)));
                s[1] = vpadalq_s16(s[1], awq__multiply_high_neon(q, v));
            }
        }
    AWQ__UNROLL for (t = 0; t < tokens; t++)
        AWQ__UNROLL for (r = 0; r < 2; r++)
            sum[t][r] =
                vaddq_s32(sum[t][r], awq__pairs_neon(pairs[t][2 * r], pairs[t][2 * r + 1]));
}

AWQ__INLINE void awq__dots_neon(const awq__panel *panel, const unsigned char *x, size_t slot_size,
                                size_t tokens, int32x4_t sum[4][4]) {
    size_t half, t, r;
    for (half = 0; half < 2; half++) {
        const unsigned char *w = panel->bytes[0][0] + 32 * half;
        int32x4_t part[4][2];
        AWQ__UNROLL for (t = 0; t < tokens; t++)
            AWQ__UNROLL for (r = 0; r < 2; r++) part[t][r] = sum[t][2 * half + r];
        if (panel->wide) awq__wide_neon(w, x, slot_size, tokens, panel->steps, part);
        else awq__narrow_neon(w, x, slot_size, tokens, panel->steps, part);
        AWQ__UNROLL for (t = 0; t < tokens; t++)
            AWQ__UNROLL for (r = 0; r < 2; r++) sum[t][2 * half + r] = part[t][r];
    }
}

AWQ__MULTIPLY_NEON(neon, )
AWQ__MATMUL_PLAIN(neon, AWQ_ROW_STEP, NULL)

#endif /* AWQ__NEON */

/* =================================================================================================
   >>simd-wasm   16-bit dot products of two: weights q - z as int16, panel [2 inputs][16 rows][2];
                 activations become int16 on the way, so zero points need nothing else
   ============================================================================================== */

#ifdef AWQ__WASM

/* One step of 4 rows */
AWQ__INLINE void awq__put_wasm(v128_t q, v128_t zero, unsigned char *to) {
    q = wasm_i8x16_shuffle(q, q, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    wasm_v128_store(to, wasm_i16x8_sub(wasm_u16x8_extend_low_u8x16(q), zero));
    wasm_v128_store(to + 64, wasm_i16x8_sub(wasm_u16x8_extend_high_u8x16(q), zero));
}

static void awq__fill_wasm(const awq_packed *p, const awq__block *block, awq__panel *panel) {
    const unsigned char *from = block->words;
    unsigned char center[AWQ_ROW_STEP], *to = panel->bytes[0][0];
    size_t steps = awq__ceil_div(block->n, 4), k, r;
    awq__row_grids(p, block->cell, 0, panel, center);
    for (r = 0; r < AWQ_ROW_STEP; r++) panel->pair[r] = 0x10001 * (center[r] + panel->zero[r]);
    panel->steps = awq__align(steps, 2);
    if (p->quant.bits < 4) {
        awq__split_words(from, p->quant.bits, block->n, panel->bytes[1][0]);
        from = panel->bytes[1][0];
    }
    if (steps < panel->steps) memset(to + 128 * steps, 0, 128);
    for (r = 0; r < 4; r++, from += 16, to += 16) {
        v128_t zero = wasm_v128_load(panel->pair + 4 * r);
        if (p->quant.bits == 4)
            for (k = 0; k < steps; k += 2) {
                v128_t q = wasm_v128_load(from + 32 * k);
                awq__put_wasm(wasm_v128_and(q, wasm_i8x16_const_splat(15)), zero, to + 128 * k);
                awq__put_wasm(wasm_u8x16_shr(q, 4), zero, to + 128 * k + 128);
            }
        else
            for (k = 0; k < steps; k++)
                awq__put_wasm(wasm_v128_load(from + 64 * k), zero, to + 128 * k);
    }
}

/* 8 inputs of a slot: A8 less m, A16 256 high + low */
AWQ__INLINE v128_t awq__inputs_wasm(const unsigned char *x, size_t plane, int a16, v128_t m) {
    v128_t v = wasm_i16x8_load8x8(x);
    if (!a16) return wasm_i16x8_sub(v, m);
    return wasm_i16x8_add(wasm_i16x8_shl(v, 8), wasm_i16x8_load8x8(x + plane));
}

AWQ__INLINE void awq__tile_of_wasm(const awq__panel *panel, const unsigned char *slots,
                                   size_t slot_size, size_t tokens, int a16, float *sums) {
    const unsigned char *w = panel->bytes[0][0], *x = slots;
    awq__terms terms[4];
    v128_t sum[4][4], m[4], v[4], s[4];
    size_t k, t, r;
    AWQ__UNROLL for (t = 0; t < tokens; t++) {
        terms[t] = awq__slot_terms(panel, slots + t * slot_size);
        m[t] = wasm_i16x8_splat((int16_t)-awq__minus_m(panel->precision == AWQ_A16, terms[t]));
        AWQ__UNROLL for (r = 0; r < 4; r++) sum[t][r] = wasm_i32x4_const_splat(0);
    }
    for (k = 0; k < panel->steps; k += 2, w += 256, x += 8) {
        AWQ__UNROLL for (t = 0; t < tokens; t++)
            v[t] = awq__inputs_wasm(x + t * slot_size, panel->inputs, a16, m[t]);
#define AWQ__X(j)                                                                                  \
    AWQ__UNROLL for (t = 0; t < tokens; t++) s[t] = wasm_i32x4_shuffle(v[t], v[t], j, j, j, j);    \
    AWQ__UNROLL for (r = 0; r < 4; r++) {                                                          \
        v128_t q = wasm_v128_load(w + 64 * j + 16 * r);                                            \
        AWQ__UNROLL for (t = 0; t < tokens; t++)                                                   \
            sum[t][r] = wasm_i32x4_add(sum[t][r], wasm_i32x4_dot_i16x8(q, s[t]));                  \
    }
        AWQ__X(0)
        AWQ__X(1)
        AWQ__X(2)
        AWQ__X(3)
#undef AWQ__X
    }
    AWQ__UNROLL for (t = 0; t < tokens; t++)
        AWQ__UNROLL for (r = 0; r < 4; r++) {
            float *y = sums + 16 * t + 4 * r;
            v128_t part = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum[t][r]),
                                         wasm_f32x4_splat(terms[t].scale));
            part = wasm_f32x4_mul(part, wasm_v128_load(panel->scale + 4 * r));
            wasm_v128_store(y, wasm_f32x4_add(wasm_v128_load(y), part));
        }
}

AWQ__INLINE void awq__tile_wasm(const awq__panel *panel, const unsigned char *slots,
                                size_t slot_size, size_t tokens, float *sums) {
    if (panel->precision == AWQ_A16) awq__tile_of_wasm(panel, slots, slot_size, tokens, 1, sums);
    else awq__tile_of_wasm(panel, slots, slot_size, tokens, 0, sums);
}

AWQ__MULTIPLY4(wasm, )
AWQ__MATMUL_PLAIN(wasm, AWQ_ROW_STEP, NULL)

#endif /* AWQ__WASM */

/* =================================================================================================
   >>simd-rvv   RISC-V V: a register holds an input of 16 rows (32 where vectors have 256 bits or
                more), so the panel is [inputs][rows]; a token's inputs are scalars
   ============================================================================================== */

#ifdef AWQ__RVV

static size_t awq__rows_rvv(void) { return awq__min(__riscv_vsetvlmax_e8m1(), AWQ__PANEL_ROWS); }

/* An input of 16 rows, less c, to the panel; returns sums of w, added to `sum`. */
AWQ__INLINE vint16m2_t awq__put_rvv(vuint8m1_t q, vuint8m1_t center, unsigned char *to,
                                    vint16m2_t sum) {
    q = __riscv_vsub_vv_u8m1(q, center, 16);
    __riscv_vse8_v_u8m1(to, q, 16);
    return __riscv_vwadd_wv_i16m2(sum, __riscv_vreinterpret_v_u8m1_i8m1(q), 16);
}

/* Row block r from `steps` steps of 4 bytes, or from 4-bit words of two. */
AWQ__INLINE void awq__fill_rows_rvv(const unsigned char *from, int packed4, size_t steps, size_t r,
                                    size_t rows, const unsigned char *center, awq__panel *panel) {
    const vuint8m1_t c = __riscv_vle8_v_u8m1(center, 16);
    vint16m2_t sum = __riscv_vmv_v_x_i16m2(0, 16);
    unsigned char *to = panel->bytes[0][0] + 16 * r;
    size_t k;
    for (k = 0; k < steps; k += packed4 ? 2 : 1, from += 64) {
        vuint8m1x4_t words = __riscv_vlseg4e8_v_u8m1x4(from, 16);
#define AWQ__X(j)                                                                                  \
    do {                                                                                           \
        vuint8m1_t q = __riscv_vget_v_u8m1x4_u8m1(words, j);                                       \
        if (packed4) {                                                                             \
            vuint8m1_t high = __riscv_vsrl_vx_u8m1(q, 4, 16);                                      \
            sum = awq__put_rvv(high, c, to + (4 * k + 4 + j) * rows, sum);                         \
            q = __riscv_vand_vx_u8m1(q, 15, 16);                                                   \
        }                                                                                          \
        sum = awq__put_rvv(q, c, to + (4 * k + j) * rows, sum);                                    \
    } while (0)
        AWQ__X(0);
        AWQ__X(1);
        AWQ__X(2);
        AWQ__X(3);
#undef AWQ__X
    }
    __riscv_vse32_v_i32m4(panel->pair + 16 * r, __riscv_vwcvt_x_x_v_i32m4(sum, 16), 16);
}

static void awq__fill_rvv(const awq_packed *p, const awq__block *block, awq__panel *panel) {
    size_t rows = awq__rows_rvv(), r;
    unsigned char center[AWQ_ROW_STEP];
    panel->steps = awq__align(awq__ceil_div(block->n, 4), 2);
    if (block->row_blocks * AWQ_ROW_STEP < rows) {
        memset(panel->bytes[0], 0, sizeof panel->bytes[0]);
        memset(panel->scale, 0, sizeof panel->scale);
        memset(panel->pair, 0, sizeof panel->pair);
        memset(panel->zero, 0, sizeof panel->zero);
    }
    for (r = 0; r < block->row_blocks; r++) {
        const unsigned char *from = block->words + r * block->words_step;
        awq__row_grids(p, block->cell + r * block->cell_step, r, panel, center);
        if (p->quant.bits == 4) {
            awq__fill_rows_rvv(from, 1, panel->steps, r, rows, center, panel);
            continue;
        }
        if (p->quant.bits == 8) panel->steps = awq__ceil_div(block->n, 4);
        else {
            awq__split_words(from, p->quant.bits, block->n, panel->bytes[1][0]);
            from = panel->bytes[1][0];
        }
        awq__fill_rows_rvv(from, 0, panel->steps, r, rows, center, panel);
    }
}

/* A tile of the tokens that EACH(X) names: 16 products |w x| <= 15 * 128 add up in 16 bits, those
   of 8-bit weights in 32. */
#define AWQ__TILE_RVV(name, EACH)                                                                  \
    static void name(const awq__panel *panel, const unsigned char *slots, size_t slot_size,        \
                     float *sums) {                                                                \
        size_t rows = awq__rows_rvv(), vl = rows, inputs = 4 * panel->steps, i, end;               \
        int plane, planes = panel->precision == AWQ_A16 ? 2 : 1;                                   \
        EACH(AWQ__START_RVV)                                                                       \
        for (plane = 0; plane < planes; plane++) {                                                 \
            const int8_t *x = (const int8_t *)slots + (size_t)plane * panel->inputs;               \
            const int8_t *w = (const int8_t *)panel->bytes[0][0];                                  \
            EACH(AWQ__SHIFT_RVV)                                                                   \
            for (i = 0; panel->wide && i < inputs; i++, w += rows) {                               \
                vint16m2_t v = __riscv_vwcvt_x_x_v_i16m2(__riscv_vle8_v_i8m1(w, vl), vl);          \
                EACH(AWQ__WIDE_RVV)                                                                \
            }                                                                                      \
            for (; i < inputs; ) {                                                                 \
                EACH(AWQ__RUN_RVV)                                                                 \
                for (end = awq__min(i + 16, inputs); i < end; i++, w += rows) {                    \
                    vint8m1_t v = __riscv_vle8_v_i8m1(w, vl);                                      \
                    EACH(AWQ__NARROW_RVV)                                                          \
                }                                                                                  \
                EACH(AWQ__ADD_RUN_RVV)                                                             \
            }                                                                                      \
        }                                                                                          \
        EACH(AWQ__FINISH_RVV)                                                                      \
    }
#define AWQ__START_RVV(t) vint32m4_t sum##t = __riscv_vmv_v_x_i32m4(0, vl);
#define AWQ__SHIFT_RVV(t) sum##t = __riscv_vsll_vx_i32m4(sum##t, 8, vl);
#define AWQ__WIDE_RVV(t) sum##t = __riscv_vwmacc_vx_i32m4(sum##t, x[t * slot_size + i], v, vl);
#define AWQ__RUN_RVV(t) vint16m2_t run##t = __riscv_vmv_v_x_i16m2(0, vl);
#define AWQ__NARROW_RVV(t) run##t = __riscv_vwmacc_vx_i16m2(run##t, x[t * slot_size + i], v, vl);
#define AWQ__ADD_RUN_RVV(t) sum##t = __riscv_vwadd_wv_i32m4(sum##t, run##t, vl);
#define AWQ__FINISH_RVV(t)                                                                         \
    awq__add_sums_rvv(panel, slots + t * slot_size, vl, sum##t, sums + t * rows);

AWQ__INLINE void awq__add_sums_rvv(const awq__panel *panel, const unsigned char *slot, size_t vl,
                                   vint32m4_t sum, float *sums) {
    awq__terms terms = awq__slot_terms(panel, slot);
    vfloat32m4_t part;
    sum = __riscv_vmacc_vx_i32m4(sum, awq__minus_m(panel->precision == AWQ_A16, terms),
                                 __riscv_vle32_v_i32m4(panel->pair, vl), vl);
    sum = __riscv_vnmsac_vx_i32m4(sum, terms.sum, __riscv_vle32_v_i32m4(panel->zero, vl), vl);
    part = __riscv_vfmul_vf_f32m4(__riscv_vfcvt_f_x_v_f32m4(sum, vl), terms.scale, vl);
    part = __riscv_vfmacc_vv_f32m4(__riscv_vle32_v_f32m4(sums, vl), part,
                                   __riscv_vle32_v_f32m4(panel->scale, vl), vl);
    __riscv_vse32_v_f32m4(sums, part, vl);
}

#define AWQ__FOUR(X) X(0) X(1) X(2) X(3)
#define AWQ__ONE(X) X(0)
AWQ__TILE_RVV(awq__tile4_rvv, AWQ__FOUR)
AWQ__TILE_RVV(awq__tile1_rvv, AWQ__ONE)

static void awq__multiply_rvv(const awq__panel *panel, const unsigned char *x, size_t slot_size,
                              size_t tokens, float *sums) {
    size_t rows = awq__rows_rvv();
    for (; tokens >= 4; tokens -= 4, x += 4 * slot_size, sums += 4 * rows)
        awq__tile4_rvv(panel, x, slot_size, sums);
    for (; tokens; tokens--, x += slot_size, sums += rows)
        awq__tile1_rvv(panel, x, slot_size, sums);
}

AWQ__MATMUL_PLAIN(rvv, awq__rows_rvv(), NULL)

#endif /* AWQ__RVV */

/* =================================================================================================
   >>simd-detect
   ============================================================================================== */

#ifdef AWQ__X86
static void awq__cpuid(unsigned leaf, unsigned subleaf, unsigned out[4]) {
#ifdef _MSC_VER
    __cpuidex((int *)out, (int)leaf, (int)subleaf);
#else
    out[0] = out[1] = out[2] = out[3] = 0;
    __get_cpuid_count(leaf, subleaf, out, out + 1, out + 2, out + 3);
#endif
}

/* Register states that the operating system saves. */
static uint32_t awq__os_saves(void) {
#ifdef _MSC_VER
    return (uint32_t)_xgetbv(0);
#else
    uint32_t low;
    __asm__ volatile("xgetbv" : "=a"(low) : "c"(0) : "rdx");
    return low;
#endif
}

/* Tile registers belong to a process that has asked the system for them; this only looks. */
static int awq__may_use_tiles(void) {
#if defined(__linux__) && !defined(_MSC_VER)
    uint64_t allowed = 0;
    long status;
    __asm__ volatile("syscall"
                     : "=a"(status)
                     : "a"(158L), "D"(0x1022L), "S"(&allowed) /* arch_prctl(GET_XCOMP_PERM) */
                     : "rcx", "r11", "memory");
    return status == 0 && (allowed >> 18 & 1u);
#else
    return 0;
#endif
}

AWQDEF uint32_t awq_cpu_features(void) {
    const unsigned fma_xsave_f16c = 1u << 12 | 1u << 27 | 1u << 29;
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    unsigned one[4], seven[4], more[4];
    uint32_t found = 0, saved;
    awq__cpuid(1, 0, one);
    if ((one[2] & fma_xsave_f16c) != fma_xsave_f16c) return 0;
    saved = awq__os_saves();
    awq__cpuid(7, 0, seven);
    awq__cpuid(7, 1, more);
    if ((saved & 6) != 6 || !(seven[1] & 1u << 5)) return 0;
    found = AWQ_CPU_AVX2;
    if (more[0] & 1u << 4) found |= AWQ_CPU_AVX_VNNI;
    if ((saved & 0xe6) != 0xe6 || (seven[1] & f_dq_bw_vl) != f_dq_bw_vl) return found;
    found |= AWQ_CPU_AVX512;
    if (seven[2] & 1u << 11) found |= AWQ_CPU_AVX512_VNNI;
    if ((saved >> 17 & 3u) == 3u && (seven[3] >> 24 & 3u) == 3u && awq__may_use_tiles())
        found |= AWQ_CPU_AMX; /* tiles and their int8 products */
    return found;
}
#endif

#ifdef AWQ__NEON
AWQDEF uint32_t awq_cpu_features(void) {
    uint32_t found = AWQ_CPU_NEON;
#ifdef __ARM_FEATURE_DOTPROD
    found |= AWQ_CPU_DOTPROD;
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
    found |= AWQ_CPU_I8MM;
#endif
#ifdef AWQ__HWCAP
    if (getauxval(AT_HWCAP) & 1ul << 20) found |= AWQ_CPU_DOTPROD;
    if (getauxval(AT_HWCAP2) & 1ul << 13) found |= AWQ_CPU_I8MM;
#endif
    return found;
}
#endif

#ifdef AWQ__WASM
AWQDEF uint32_t awq_cpu_features(void) { return AWQ_CPU_WASM_SIMD; }
#endif

#ifdef AWQ__RVV
AWQDEF uint32_t awq_cpu_features(void) { return AWQ_CPU_RVV; }
#endif

typedef awq_status awq__prepare(const awq_prepared *shape, awq_matrix x, const float *input_scale,
                                void *memory, size_t token_begin, size_t token_end,
                                awq_where *where);
typedef void awq__matmul(const awq_packed *packed, const awq_prepared *x, const float *bias,
                         awq_matrix y, size_t row_begin, size_t row_end);

/* A set on slots; the hot loops of quantization stay the portable ones. */
static awq_kernels awq__slot_kernels(const char *name, awq__prepare *prepare,
                                     awq__matmul *matmul) {
    awq_kernels k = awq_kernels_portable();
    k.name = name;
    k.prepared_format = AWQ__FORMAT_SLOTS;
    k.token_size = awq__token_size_slots;
    k.prepare = prepare;
    k.matmul_rows = matmul;
    return k;
}

/* The sets that need no other features, fastest first. */
static size_t awq__simd_kernels(uint32_t features, awq_kernels out[AWQ__SIMD_SETS]) {
    size_t n = 0;
#ifdef AWQ__X86
    size_t i = 0;
    const uint32_t avx2 = AWQ_CPU_AVX2, avxvnni = avx2 | AWQ_CPU_AVX_VNNI;
    const uint32_t avx512vnni = avx2 | AWQ_CPU_AVX512 | AWQ_CPU_AVX512_VNNI;
    const uint32_t amx = avx512vnni | AWQ_CPU_AMX;
    (void)avxvnni;
    (void)amx;
#ifdef AWQ__HAS_AMX
    if ((features & amx) == amx) {
        out[n] = awq__slot_kernels("amx", awq__prepare_avx2, awq__matmul_amx);
#ifndef AWQ_INFERENCE_ONLY
        out[n].add_part = awq__add_part_amx;
        out[n].split_part = awq__split_part_amx;
#endif
        n++;
    }
#endif
    if ((features & avx512vnni) == avx512vnni)
        out[n++] = awq__slot_kernels("avx512vnni", awq__prepare_avx2, awq__matmul_avx512vnni);
    while (i < n) awq__quantize_avx512(&out[i++]);
#ifdef AWQ__HAS_AVXVNNI
    if ((features & avxvnni) == avxvnni)
        out[n++] = awq__slot_kernels("avxvnni", awq__prepare_avx2, awq__matmul_avxvnni);
#endif
    if (features & avx2)
        out[n++] = awq__slot_kernels("avx2", awq__prepare_avx2, awq__matmul_avx2);
    while (i < n) awq__quantize_avx2(&out[i++]);
#endif
#ifdef AWQ__NEON
    if (!(features & AWQ_CPU_NEON)) return n;
#ifdef AWQ__I8MM
    if ((features & AWQ_CPU_DOTPROD) && (features & AWQ_CPU_I8MM))
        out[n++] = awq__slot_kernels("i8mm", awq__prepare_plain, awq__matmul_i8mm);
#endif
#ifdef AWQ__DOTPROD
    if (features & AWQ_CPU_DOTPROD)
        out[n++] = awq__slot_kernels("dotprod", awq__prepare_plain, awq__matmul_dotprod);
#endif
    out[n++] = awq__slot_kernels("neon", awq__prepare_plain, awq__matmul_neon);
#endif
#ifdef AWQ__WASM
    if (features & AWQ_CPU_WASM_SIMD)
        out[n++] = awq__slot_kernels("wasm", awq__prepare_plain, awq__matmul_wasm);
#endif
#ifdef AWQ__RVV
    if (features & AWQ_CPU_RVV)
        out[n++] = awq__slot_kernels("rvv", awq__prepare_plain, awq__matmul_rvv);
#endif
    return n;
}

#endif /* AWQ__SIMD */

#ifdef __cplusplus
}
#endif

#undef AWQ__ADD_RUN_RVV
#undef AWQ__AHEAD
#undef AWQ__ALIGNED
#undef AWQ__AMX
#undef AWQ__AMX_TOKENS
#undef AWQ__AMX_STEP
#undef AWQ__AMX_WORDS
#undef AWQ__ARM64
#undef AWQ__ARM_BASE
#undef AWQ__AVX2
#undef AWQ__AVX512
#undef AWQ__AVXVNNI
#undef AWQ__BATCH
#undef AWQ__BATCH_BYTES
#undef AWQ__CLAIM
#undef AWQ__DOTPROD
#undef AWQ__EACH_FEW
#undef AWQ__EACH_TILE
#undef AWQ__FEW
#undef AWQ__FINISH_RVV
#undef AWQ__FORMAT_SLOTS
#undef AWQ__FOUR
#undef AWQ__GATHER
#undef AWQ__HAS_AMX
#undef AWQ__HAS_AVXVNNI
#undef AWQ__HWCAP
#undef AWQ__I8MM
#undef AWQ__INLINE
#undef AWQ__KEEP
#undef AWQ__LOSS_TILES
#undef AWQ__MAGIC_BITS
#undef AWQ__MAGIC_FLOAT
#undef AWQ__MATMUL_PLAIN
#undef AWQ__MEMORY_BARRIER
#undef AWQ__MULTIPLY4
#undef AWQ__MULTIPLY_NEON
#undef AWQ__NARROW_RVV
#undef AWQ__NEON
#undef AWQ__NOT_FINITE
#undef AWQ__ONE
#undef AWQ__PANEL_BLOCKS
#undef AWQ__PANEL_ROWS
#undef AWQ__RUN_RVV
#undef AWQ__RVV
#undef AWQ__SHIFT_RVV
#undef AWQ__START_RVV
#undef AWQ__TARGET
#undef AWQ__TILE_RVV
#undef AWQ__UNROLL
#undef AWQ__VNNI512
#undef AWQ__WASM
#undef AWQ__WIDE_RVV
#undef AWQ__TALL
#undef AWQ__X86
#undef awq__fill_dotprod

#if defined(__clang__)
#pragma clang diagnostic pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
