/*  awq.h - v0.1.0 - activation-aware weight quantization (AWQ) for neural networks, in C

    Do this in exactly one C or C++ file, then include awq.h plainly wherever you need it:

        #define AWQ_IMPLEMENTATION      awq_simd.h, the SIMD kernels, stands beside awq.h;
        #include "awq.h"                define AWQ_NO_SIMD to do without it

    It turns the weights of linear layers into 4-bit integers (2, 3 and 8 too) that lose little of
    the layer's output, and multiplies by them without unpacking. Pure functions: no malloc, no I/O,
    no threads, no global state; the caller brings memory and, if it likes, a parallel-for.

    QUICK EXAMPLE   a complete program is examples/quickstart.c; this is its spine

        awq_kernels kernels = awq_kernels_best();
        awq_quant quant = { 4, 128, 0, AWQ_F16 };        bits, group_size, symmetric, scale dtype

        awq_stats_init(&stats, in_features, 0, 0, 1, memory, awq_stats_size(in_features, 0, 0));
        awq_stats_add(&kernels, &stats, x, NULL, NULL, NULL);            every batch that enters
        awq_search(&kernels, &config, &inputs, &weight, 1, scratch, scratch_size, NULL,
                   scale, NULL, &result, NULL);                          s = stat ^ ratio
        awq_fold_norm(AWQ_FOLD, scale, in_features, gamma, beta, NULL);  the producer takes 1 / s
        awq_packed_init(quant, out_features, in_features, packed, packed_size);
        awq_quantize_packed(&kernels, weight, scale, NULL, packed, packed_size,
                            0, out_features, NULL);                      the weights take s

        awq_packed_open(&linear, packed, packed_size);                   maybe in another program
        awq_prepare(&kernels, 128, AWQ_A16, x, NULL, prepared_memory, prepared_size,
                    0, x.rows, &prepared, NULL);                         once per input
        awq_matmul(&kernels, &linear, &prepared, bias, y, 0, out_features);

    CONTENTS   search for the tag
        >>config >>types                        what every part uses
        >>calibrate >>search >>fold >>clip >>quantize >>improve      find good integers
        >>pack >>layouts >>matmul >>kernels     store them, exchange them, run them

    AWQ IN ONE SCREEN   (Lin et al., "AWQ", MLSys 2024; docs/how-awq-works.md goes slowly)
        A linear computes y = W x. Rounding W to 4 bits changes y by dW x, so an error counts as
        much as the activation it meets, and a few input channels are far larger than the rest.
        Scaling column j of W by s_j > 1 and x_j by 1/s_j changes nothing before rounding; after
        it, the error of channel j is about s_j times smaller, unless s_j widens its group's range.
          calibrate   collect |x_j| over real tokens                            awq_stats_add
          search      s = |x|^ratio: try ratios, measure |Q(W s)(x/s) - W x|^2, keep the best
                                                                                awq_search
          fold        put 1/s into whatever makes x: a norm, a linear           awq_fold_norm ...
          clip        shrink a group's range where that lowers the error        awq_clip_search
          quantize    round W s to integers with a scale per group              awq_quantize
          improve     better scales, zero points and integers, if time allows   awq_fit, awq_round
          pack        bytes for a file or flash                                 awq_pack
          matmul      y = x What^T, straight from the packed bytes              awq_matmul

    FORMAT   layout ROWS16, version 1: little-endian, no pointers, no alignment needed
        bytes 0-3 "AWQ1" | 4-5 version 1 | 6 layout 1 | 7 bits | 8 symmetric | 9 scale dtype (0
        fp32, 1 fp16, 2 bf16) | 10-11 zero | 12-15 group_size, two's complement | 16-23 out_features
        | 24-31 in_features | 32-39 size of everything | 40-63 zero | then three sections, each from
        the next multiple of 64: q, scales, zeros (the last only if asymmetric).
        Rows stand in blocks of 16 (the last filled up with zero bytes), groups in order inside:
          q       for each word number of a row: the 32-bit word of row 0, of row 1 ... of row 15
          scales  for each group: 16 scales
          zeros   for each group: 16 bytes; for bits <= 4: 8 bytes, rows 0-7 low, 8-15 high nibbles
        A group starts a new word. A word has 4 bytes of 8/bits fields; input k of its 32/bits is in
        byte k % 4, field k / 4, low bits first. For 4 bits:
          bit    31..28 27..24 23..20 19..16 15..12 11..8   7..4   3..0
          input     7      3      6      2      5      1      4      0
        3 bits: for 32 inputs two words of 2-bit fields (the low bits of 16 inputs each), then one
        word of 1-bit fields (the high bits of all 32).
        Value:  w = (q - zero) * scale.   At group 128 with 16-bit scales: 4.16 bits per weight.

    NUMERICS
        Quantize, pack, unpack, dequantize give the same bits on every machine and compiler (IEEE
        754 single precision; x87 needs -msse2 -mfpmath=sse). Matmul: integer dots, then fp32 sums
        in one fixed order per output, so a result never depends on batch, split or thread; kernel
        sets make the same integers, their sums may differ in the last bits. How far it is from
        float64 is stated at awq_matmul. Compile without -ffast-math.

    RULES
        Memory     the caller's. Sizes come from *_size functions first; 0 from one means the
                   options are wrong or the size does not fit in size_t.
        Overlap    outputs must not overlap inputs, unless a function says so.
        Threads    no function keeps hidden state: calls on different memory never interfere.
        NULL       allowed where the comment says so, and for data of zero rows.
        Errors     a status; arguments are checked before the first write. docs/embedding.md.
        Endian     every host reads and writes the same bytes.

    CONFIGURATION   define before including; layouts of public structs never change with any of them
        AWQ_IMPLEMENTATION   off   emit the code here; in one file, unless AWQ_STATIC
        AWQ_STATIC           off   everything static: every file has its own copy
        AWQ_INFERENCE_ONLY   off   packed tensors and matmul only: 6 KB on a Cortex-M4 at -Os, no
                                   libm, needs nothing but memcpy and friends
        AWQ_NO_SIMD          off   portable kernels only, awq_simd.h is not needed: 14 KB instead of
                                   185 KB on x86-64 (inference only, gcc -O2)
        AWQDEF               -     linkage of public functions, e.g. __declspec(dllexport)

    VERSIONS
        The source interface is stable within a major version (from 1.0.0 on). There is no binary
        promise. Packed bytes carry their own version; a reader of version n reads 1 .. n.

    LIMITATIONS
        GPU kernels are another header, awq_cuda.cuh. The scale search looks at one group of linears
        at a time. A loss from rows takes 4 in_features * tokens bytes of scratch; use the
        sketch where that is too much. Foreign layouts are read and written at 4 bits, without act
        order; their files are the host's.

    Licence: MIT, see the end of the file.
*/

#ifndef AWQ_H
#define AWQ_H

/* =================================================================================================
   >>config
   ============================================================================================== */

#define AWQ_VERSION_MAJOR 0
#define AWQ_VERSION_MINOR 1
#define AWQ_VERSION_PATCH 0
#define AWQ_VERSION (AWQ_VERSION_MAJOR * 10000 + AWQ_VERSION_MINOR * 100 + AWQ_VERSION_PATCH)

#include <stddef.h>
#include <stdint.h>

#ifndef AWQDEF
#  if !defined(AWQ_STATIC)
#    define AWQDEF extern
#  elif defined(__GNUC__)
#    define AWQDEF static __attribute__((unused))
#  else
#    define AWQDEF static
#  endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* =================================================================================================
   >>types
   ============================================================================================== */

/*  What every function that can fail returns. Argument errors are found before the first write. On
    AWQ_ERR_DATA and AWQ_ERR_SCALE the statistics are as they were, other outputs are unspecified,
    and *where (if given) names the element to blame.                                             */
#define AWQ_STATUS_LIST(X)                                                                         \
    X(AWQ_OK,                0, "success")                                                         \
    X(AWQ_ERR_NULL,         -1, "a required pointer is NULL")                                      \
    X(AWQ_ERR_SHAPE,        -2, "shapes do not agree, or a stride is shorter than its row")        \
    X(AWQ_ERR_CONFIG,       -3, "an option has no such value (bits, group_size, grid, enum)")      \
    X(AWQ_ERR_DTYPE,        -4, "no such dtype")                                                   \
    X(AWQ_ERR_RANGE,        -5, "a range is reversed, out of bounds or not a multiple of its step")\
    X(AWQ_ERR_MEMORY,       -6, "the memory given is too small or misaligned, or size_t overflows")\
    X(AWQ_ERR_DATA,         -7, "a value is NaN, infinite, of a wrong sign, or too large to sum")  \
    X(AWQ_ERR_SCALE,        -8, "a group's scale is too large for the scale dtype")                \
    X(AWQ_ERR_FORMAT,       -9, "not a packed tensor of a known version, or truncated or corrupt") \
    X(AWQ_ERR_MISMATCH,    -10, "activations were prepared for another shape or kernel set")       \
    X(AWQ_ERR_CALLBACK,    -11, "the host's loss callback failed")                                 \
    X(AWQ_ERR_OUT_FEATURES,-12, "out_features is not a multiple of what the layout needs")         \
    X(AWQ_ERR_IN_FEATURES, -13, "in_features is not a multiple of what the layout needs")          \
    X(AWQ_ERR_GROUP_SIZE,  -14, "the layout has no such group_size")                               \
    X(AWQ_ERR_SHORT_GROUP, -15, "the layout has no short last group: in_features % group_size")    \
    X(AWQ_ERR_GROUP_SPLIT, -16, "groups differ or do not divide, where one of them becomes many")  \
    X(AWQ_ERR_ASYMMETRIC,  -17, "a zero point is not 8, and the target is symmetric")              \
    X(AWQ_ERR_ZERO_POINT,  -18, "the target cannot hold a zero point (GPTQ v1: 0; 4 bits: 16)")    \
    X(AWQ_ERR_ROUNDING,    -19, "the target cannot hold a value exactly, and may not round it")    \
    X(AWQ_ERR_ACT_ORDER,   -20, "group_index is not k / group_size: act order is not supported")   \
    X(AWQ_ERR_DEVICE,      -21, "this GPU, or this binary's code, cannot do it (awq_cuda.cuh)")    \
    X(AWQ_ERR_CUDA,        -22, "the CUDA runtime failed; awq_cuda.error says how (awq_cuda.cuh)")

typedef enum awq_status {
#define AWQ__X(name, value, text) name = value,
    AWQ_STATUS_LIST(AWQ__X)
#undef AWQ__X
    AWQ_STATUS_END = -23
} awq_status;

typedef enum awq_dtype { AWQ_F32 = 0, AWQ_F16 = 1, AWQ_BF16 = 2 } awq_dtype;

/*  One view for every input and output: element (r, c) is data[r * stride + c], stride counted in
    elements. A view owns nothing; what a function takes as input it does not write. data needs no
    alignment.                                                                                    */
typedef struct awq_matrix {
    void     *data;
    size_t    rows, cols;
    size_t    stride;
    awq_dtype dtype;
} awq_matrix;

/*  Where bad data was found: which matrix of a list (0 for a single one), row and column.        */
typedef struct awq_where { size_t matrix, row, col; } awq_where;

/*  How weights are stored.
    bits         2, 3, 4 or 8
    group_size   inputs per scale, any >= 1, or -1: the whole row. The last group of a row is short
                 where group_size does not divide in_features.
    symmetric    0: w ~ (q - zero) * scale, q and zero in 0 .. 2^bits - 1, range includes 0
                 1: the same with zero = 2^(bits-1) everywhere, not stored
    scale_dtype  of the stored scales; q is computed against the scale as stored                  */
typedef struct awq_quant {
    int       bits;
    int       group_size;
    int       symmetric;
    awq_dtype scale_dtype;
} awq_quant;

/*  A caller's parallel-for. run() calls task(arg, begin, end, worker) on ranges that cover
    [0, count) exactly once, every begin a multiple of step, and returns when all are done; worker <
    workers, and no two calls with the same worker overlap in time. A NULL awq_parallel means: here,
    serially. No result depends on how the work was split.                                        */
typedef void awq_task(void *arg, size_t begin, size_t end, size_t worker);
typedef struct awq_parallel {
    void (*run)(void *context, size_t count, size_t step, awq_task *task, void *arg);
    void  *context;
    size_t workers;
} awq_parallel;

typedef struct awq_kernels awq_kernels;     /* the CPU kernel set, see >>kernels */

/*  A dense view: stride = cols.                                                                  */
AWQDEF awq_matrix  awq_matrix_view(const void *data, awq_dtype dtype, size_t rows, size_t cols);
/*  Rows [row_begin, row_end) of a view; the caller keeps the range inside it.                    */
AWQDEF awq_matrix  awq_matrix_rows(awq_matrix m, size_t row_begin, size_t row_end);
/*  Bytes of one element; 0 for an unknown dtype.                                                 */
AWQDEF size_t      awq_dtype_size(awq_dtype dtype);
/*  ceil(in_features / group_size); 1 for group_size = -1; 0 for one that is not allowed.         */
AWQDEF size_t      awq_group_count(size_t in_features, int group_size);
/*  to = from, element by element, rounded to the nearest of to's dtype (NaN stays NaN, too large
    becomes infinite). Both (rows, cols); they must not overlap.
    Errors    NULL, SHAPE, DTYPE                                                                  */
AWQDEF awq_status  awq_convert(awq_matrix from, awq_matrix to);
/*  One sentence per status, never NULL.                                                          */
AWQDEF const char *awq_status_string(awq_status status);
/*  AWQ_VERSION of the implementation that was linked.                                            */
AWQDEF int         awq_version(void);

#ifndef AWQ_INFERENCE_ONLY

/* =================================================================================================
   >>calibrate   what is known about the rows x that enter a linear
   ============================================================================================== */

/*  Plain sums and maxima over the tokens seen. w is the token's weight (1 unless given); a token of
    weight 0 is not read. Shards are merged by adding sums and taking maxima: awq_stats_merge(), or
    an all-reduce over these arrays. sketch: every token is added to one of its rows, drawn at
    random, with a random sign, so that for any row d of weight error  E |S d|^2 = sum w (d.x)^2
    whatever the number of tokens.                                                                */
typedef struct awq_stats {
    size_t    in_features;
    size_t    sketch_rows;  /* 0: no sketch; 128 .. 512 are useful                                */
    uint64_t  sketch_seed;  /* of rows and signs: another one for every shard, or one for all ... */
    uint64_t  first_token;  /* ... and here how many tokens of weight > 0 come before this shard's:
                               then the merged sketch is that of one pass, to within rounding     */
    uint64_t  count;        /* tokens of weight > 0                                               */
    double    weight;       /* sum of w                                                           */
    int       is_centred;   /* see awq_stats_centre()                                             */
    float    *abs_max;      /* [in_features]               max |x| (not weighted)                 */
    double   *sum;          /* [in_features]               sum w x                                */
    double   *abs_sum;      /* [in_features]               sum w |x|                              */
    double   *sq_sum;       /* [in_features]               sum w x^2                              */
    float    *sketch;       /* [sketch_rows][in_features]  sum sign sqrt(w) x, or NULL            */
    float    *gram;         /* [in_features][in_features]  sum w x_i x_j for j >= i, or NULL   */
    float    *block;        /* workspace                                                          */
} awq_stats;

/*  awq_stats_init  -  empty statistics in the caller's memory

    Memory    awq_stats_size() bytes, aligned for double; the struct points into it. 0 from the size
              function: too large for this machine. The Gram matrix is 4 in_features^2 bytes of it.
    Errors    NULL, SHAPE (in_features = 0), MEMORY */
AWQDEF size_t     awq_stats_size(size_t in_features, size_t sketch_rows, int with_gram);
AWQDEF awq_status awq_stats_init(awq_stats *stats, size_t in_features, size_t sketch_rows,
                                 int with_gram, uint64_t sketch_seed, void *memory,
                                 size_t memory_size);

/*  awq_stats_add  -  add a batch of tokens

    Shapes    x (tokens, in_features) any dtype; token_weight [tokens] >= 0, or NULL for 1
    Errors    NULL, SHAPE, DTYPE, CONFIG (centred); DATA: where->row is the token (where->col =
              in_features: its weight). A batch with bad data changes nothing.
    Threads   one call at a time per stats; give each thread its own and merge, or pass a parallel.
    Numerics  sums in double; sketch and Gram in fp32, the Gram over 128 tokens of a call at a time,
              then added: its last bits depend on how tokens are cut into calls
    Source    maxima: Lin et al. 2023, sec. 3.2; sketch: Charikar, Chen, Farach-Colton 2002;
              token weights: docs/how-awq-works.md                                                */
AWQDEF awq_status awq_stats_add(const awq_kernels *k, awq_stats *stats, awq_matrix x,
                                const float *token_weight, const awq_parallel *parallel,
                                awq_where *where);

/*  awq_stats_merge  -  into += from, for shards of the same shape (sketch and Gram in both or none)

    Errors    NULL, SHAPE, CONFIG (one of them is centred)                                        */
AWQDEF awq_status awq_stats_merge(awq_stats *into, const awq_stats *from);

/*  awq_stats_centre  -  take the mean out of the Gram matrix, or put it back

    For linears with a bias: the error of the mean output can go there (awq_shift_bias), so only
    what varies from token to token must be kept small. Changes nothing but the Gram matrix, and
    nothing if it is so already; tokens and shards are added before.
    Formula   gram -= sum_i sum_j / weight;  on = 0: +=, which brings the sums back to a rounding
    Errors    NULL (also: no Gram matrix)                                                         */
AWQDEF awq_status awq_stats_centre(awq_stats *stats, int on);

/*  awq_stats_get  -  one number per channel: max |x|, mean |x|, mean x^2 or mean x (0 if no token
                      was seen)

    Shapes    out [in_features]
    Errors    NULL, CONFIG                                                                        */
typedef enum awq_statistic {
    AWQ_ABS_MAX = 0, AWQ_ABS_MEAN = 1, AWQ_SQ_MEAN = 2, AWQ_MEAN = 3
} awq_statistic;
AWQDEF awq_status awq_stats_get(const awq_stats *stats, awq_statistic which, float *out);

/* =================================================================================================
   >>search   s = stat^ratio over a grid, minimising || Q(W s)(x / s) - W x ||^2
   ============================================================================================== */

/*  How ratio r makes s. v is the mean over rows of |w| / max|w| of its group (awq_weight_stat).
    Every rule ends with  s = max(s, 1e-4)  and  s /= sqrt(max s * min s).                        */
typedef enum awq_scale_rule {
    AWQ_SCALE_MAX   = 0,    /* max|x|^r                           Lin et al. 2023, activation max */
    AWQ_SCALE_MEAN  = 1,    /* mean|x|^r                          llm-awq */
    AWQ_SCALE_DUO   = 2,    /* mean|x|^r / (v^(1-r) + 1e-4)       AutoAWQ, duo_scaling */
    AWQ_SCALE_KERAS = 3     /* max(mean|x|,1e-4)^r / max(v,1e-4)^(1-r)    Keras */
} awq_scale_rule;

/*  What the loss is measured on. All but the last two estimate the same thing, the mean over tokens
    and rows of (error of the output)^2.                                                          */
typedef enum awq_loss {
    AWQ_LOSS_ROWS     = 0,  /* the rows of X given                                                */
    AWQ_LOSS_SKETCH   = 1,  /* stats->sketch: unbiased for all tokens seen, cost of sketch_rows   */
    AWQ_LOSS_GRAM     = 2,  /* stats->gram: exact for all tokens seen                             */
    AWQ_LOSS_DIAGONAL = 3,  /* mean of mean|x|^2 (weight error)^2: Keras; blind to correlation    */
    AWQ_LOSS_CALLBACK = 4   /* the host says: block-level output, as llm-awq does                 */
} awq_loss;

/*  The host's loss for a candidate s [in_features]; 0 on success. awq_fake_quantize() gives the
    weights it leads to. Called from awq_search's own thread, for s = 1 and then in grid order.   */
typedef int awq_loss_callback(void *context, const float *scale, double *loss);

/*  What is known about the input X that one or more linears share.                               */
typedef struct awq_inputs {
    awq_loss           loss;
    const awq_stats   *stats;           /* of X; awq_search needs it, the rest if the loss does */
    awq_matrix         rows;            /* AWQ_LOSS_ROWS: X (tokens, in_features) */
    const float       *token_weight;    /* AWQ_LOSS_ROWS: [tokens] >= 0, or NULL for 1 */
    awq_loss_callback *callback;        /* AWQ_LOSS_CALLBACK */
    void              *context;
} awq_inputs;

/*  Channels that must share one s so that it can be folded through grouped-query attention: of
    in_features = kv_heads * repeat * head_dim channels of o_proj, the `repeat` query heads that
    read the same kv head. {0, 0} or repeat = 1: none. Their statistics are pooled first.         */
typedef struct awq_tie { size_t repeat, head_dim; } awq_tie;

typedef struct awq_search_config {
    awq_quant      quant;
    awq_scale_rule rule;
    int            grid_points; /* candidates r = i / grid_steps for i = 0 .. grid_points - 1 */
    int            grid_steps;
    awq_tie        tie;
} awq_search_config;

typedef struct awq_search_result {
    int    index;           /* grid point of least loss                                           */
    double ratio;           /* index / grid_steps                                                 */
    int    is_identity;     /* plain rounding beat every grid point, so the scale returned is 1   */
    double loss;            /* of the scale returned                                              */
    double identity_loss;   /* of plain rounding, s = 1                                           */
} awq_search_result;

/*  Named semantics, reproduced on golden data: grids i/20, i < 20 (Keras: i <= 20). The loss is the
    caller's to choose; Keras' own is AWQ_LOSS_DIAGONAL.                                          */
typedef enum awq_preset {
    AWQ_PRESET_PAPER = 0, AWQ_PRESET_LLM_AWQ = 1, AWQ_PRESET_AUTOAWQ = 2, AWQ_PRESET_KERAS = 3
} awq_preset;
AWQDEF awq_search_config awq_search_preset(awq_preset preset, awq_quant quant);

/*  awq_search  -  the per-channel scale s that the linears sharing one input like best

    Formula   s* = argmin over r of sum over linears of || Q(W diag(s)) diag(s)^-1 X - W X ||^2,
              divided by tokens and rows; s = 1 is always a candidate
    Shapes    weights: weight_count views (out_features_i, in_features); scale [in_features];
              loss_curve [grid_points] or NULL: the whole curve (inf where s was not usable)
    Memory    scratch: awq_search_scratch_size() bytes, aligned for double; 0 from it: overflow.
              AWQ_LOSS_ROWS needs 4 * tokens * in_features bytes, the sketch 4 * (rows + 64) *
              in_features; every worker 72 * in_features + 256 * tokens (or sketch rows) more.
    Sketch    from 128 rows on, the grid is measured on the sketch folded to 64 rows and on 1024
              rows of each weight or a few more, evenly spread; then the best four and s = 1 on all
              of both: loss_curve has what was measured last
    Errors    NULL, SHAPE, CONFIG, DTYPE, MEMORY; DATA (where->matrix: which weight; weight_count:
              the rows of X), SCALE, CALLBACK
    Threads   pure; work is spread over `parallel`, losses are reduced in a fixed order in double
    Numerics  Q uses scales rounded to quant.scale_dtype; the peers' searches do not: AWQ_F32.
              From 65536 outputs (rows of all weights * tokens) on, sets other than portable round
              the errors Q(u) - u to 8 bits and x / s to A16 (rows) or A8 (sketch): a loss is then
              within about 1e-3 (4096 x 4096: 2e-4; 2 bits: 2e-3) of the exact one, and candidates
              that close may change places.
    Source    llm-awq auto_scale.py; AutoAWQ quantizer.py; Keras awq.py */
AWQDEF size_t     awq_search_scratch_size(const awq_inputs *inputs, const awq_matrix *weights,
                                          size_t weight_count, const awq_parallel *parallel);
AWQDEF awq_status awq_search(const awq_kernels *k, const awq_search_config *config,
                             const awq_inputs *inputs, const awq_matrix *weights,
                             size_t weight_count, void *scratch, size_t scratch_size,
                             const awq_parallel *parallel, float *scale, double *loss_curve,
                             awq_search_result *result, awq_where *where);

/*  awq_weight_stat  -  v[c] = mean over all rows of |w[c]| / (max |w| of its row and group + 1e-6)

    Shapes    out [in_features]
    Errors    NULL, SHAPE, CONFIG, DTYPE, DATA
    Source    llm-awq / AutoAWQ get_weight_scale */
AWQDEF awq_status awq_weight_stat(const awq_matrix *weights, size_t weight_count, int group_size,
                                  double *out, awq_where *where);

/*  awq_scale_at  -  the candidate s of one ratio

    Shapes    act_stat: max|x| or mean|x|, whichever the rule names; weight_stat: v, or NULL where
              the rule has none; scale: all [in_features]
    Errors    NULL, CONFIG, SHAPE; DATA: a statistic or the result is not usable (where->col)     */
AWQDEF awq_status awq_scale_at(awq_scale_rule rule, double ratio, size_t in_features,
                               const float *act_stat, const double *weight_stat, float *scale,
                               awq_where *where);

/*  awq_output_error  -  mean over tokens and rows of ((What - W) x)^2

    Shapes    approximation like weight; its data NULL stands for What = 0: the mean square output
    Memory    scratch as for awq_search with this one weight
    Errors    NULL, SHAPE, CONFIG (no AWQ_LOSS_CALLBACK), DTYPE, MEMORY; DATA (where->matrix: 0
              weight, 1 approximation, 2 the rows of X)                                           */
AWQDEF awq_status awq_output_error(const awq_kernels *k, const awq_inputs *inputs,
                                   awq_matrix weight, awq_matrix approximation, void *scratch,
                                   size_t scratch_size, const awq_parallel *parallel,
                                   double *error, awq_where *where);

/* =================================================================================================
   >>fold   move s into the operation that makes x
   ============================================================================================== */

/*  AWQ_FOLD divides the producer (multiplies the consumer) by s; AWQ_UNFOLD takes it back, to
    within a rounding of the dtype.
    Errors    NULL, SHAPE, DTYPE, CONFIG; DATA: a scale that is not > 0 and finite (where->col), or
              a result that is not finite in its dtype (where->matrix: 1 weight, norm or x; 2 bias).
              Then nothing was written.                                                           */
typedef enum awq_direction { AWQ_FOLD = 0, AWQ_UNFOLD = 1 } awq_direction;

/*  Norm: weight and bias, both (1, in_features), /= s. bias.data may be NULL.                    */
AWQDEF awq_status awq_fold_norm(awq_direction direction, const float *scale, size_t in_features,
                                awq_matrix weight, awq_matrix bias, awq_where *where);
/*  Previous linear: row j of weight (in_features, any) and bias (1, in_features) /= s[j]. With a
    tie weight has in_features / repeat rows (v_proj), and tied channels must agree (else DATA).  */
AWQDEF awq_status awq_fold_linear(awq_direction direction, const float *scale, size_t in_features,
                                  awq_tie tie, awq_matrix weight, awq_matrix bias,
                                  awq_where *where);
/*  Activation without parameters (GELU ...): the rows x (tokens, in_features) /= s, at run time.
    awq_prepare() does the same on the fly.                                                       */
AWQDEF awq_status awq_fold_activation(awq_direction direction, const float *scale,
                                      size_t in_features, awq_matrix x, awq_where *where);
/*  Consumer: column c of weight (out_features, in_features) *= s[c]. awq_quantize() does the same
    on the fly.                                                                                   */
AWQDEF awq_status awq_fold_consumer(awq_direction direction, const float *scale,
                                    size_t in_features, awq_matrix weight, awq_where *where);

/* =================================================================================================
   >>clip   the largest |w| worth keeping, per row and group
   ============================================================================================== */

typedef struct awq_clip_config {
    awq_quant quant;
    int       grid_points;  /* candidates max|w| * (1 - i / grid_steps), i = 0 .. grid_points - 1 */
    int       grid_steps;
} awq_clip_config;

/*  llm-awq and AutoAWQ: 10 points of 20 steps, so down to 0.55 of the maximum.                   */
AWQDEF awq_clip_config awq_clip_preset(awq_quant quant);

/*  awq_clip_search  -  shrink each group's range where that lowers the error of its own output

    Formula   clip[r][g] = argmin over m of sum_t w_t (d(m) . x_t over the group)^2, where
              d(m) = Q(clamp(w s, +-m)) / s - w;  the first of equals wins
    Shapes    weight (out_features, in_features), scale [in_features] the s found before (NULL = 1),
              clip_max [out_features][groups]: bounds |w s|
    Memory    scratch: awq_clip_scratch_size() bytes, aligned for double; 0 from it: overflow
    Errors    NULL, SHAPE, CONFIG (loss: rows, sketch, Gram or diagonal), DTYPE, MEMORY, DATA, SCALE
    Threads   rows are spread over `parallel`, 64 at a time
    Numerics  with as many tokens (or sketch rows) as inputs in a group, up to 128, the loss is
              d G d, G the Gram matrix of the group's inputs: the same but for fp32 rounding
    Source    llm-awq auto_clip.py (leave q_proj and k_proj alone, as it does) */
AWQDEF size_t     awq_clip_scratch_size(const awq_inputs *inputs, awq_matrix weight,
                                        const awq_clip_config *config,
                                        const awq_parallel *parallel);
AWQDEF awq_status awq_clip_search(const awq_kernels *k, const awq_clip_config *config,
                                  const awq_inputs *inputs, awq_matrix weight, const float *scale,
                                  void *scratch, size_t scratch_size,
                                  const awq_parallel *parallel, float *clip_max,
                                  awq_where *where);

/* =================================================================================================
   >>quantize
   ============================================================================================== */

/*  A quantized linear, unpacked, one byte per q: the form to inspect, edit and convert.          */
typedef struct awq_tensor {
    size_t    out_features, in_features;
    awq_quant quant;
    uint8_t  *q;            /* [out_features][in_features]                                        */
    uint8_t  *zeros;        /* [out_features][groups]; 2^(bits-1) throughout if symmetric         */
    void     *scales;       /* [out_features][groups] of quant.scale_dtype                        */
} awq_tensor;

/*  awq_tensor_init  -  lay a tensor out in awq_tensor_size() bytes of the caller's memory, aligned
    for float. (The pointers may also be set by hand to arrays of one's own.)
    Errors    NULL, SHAPE, CONFIG, DTYPE, MEMORY */
AWQDEF size_t     awq_tensor_size(awq_quant quant, size_t out_features, size_t in_features);
AWQDEF awq_status awq_tensor_init(awq_tensor *tensor, awq_quant quant, size_t out_features,
                                  size_t in_features, void *memory, size_t memory_size);

/*  awq_quantize  -  round a linear to (q, zero, scale), rows [row_begin, row_end)

    Formula   u = w * s, clamped to +-clip_max; per row and group, lo = min(u, 0), hi = max(u, 0):
              scale = (hi - lo) / (2^bits - 1)           symmetric: max|u| / (2^(bits-1) - 1)
              zero  = round(-lo / scale)                            2^(bits-1)
              q     = clamp(round(u / stored scale) + zero, 0, 2^bits - 1), ties to even
    Shapes    weight (out_features, in_features); scale [in_features] or NULL; clip_max
              [out_features][groups] or NULL
    Range     any rows; the union of ranges is the whole, bit for bit
    Errors    NULL, SHAPE, CONFIG, DTYPE, RANGE, DATA, SCALE (fp16: a group beyond +-65504 * 15)
    Numerics  bit-exact on every machine; a stored scale is never 0, NaN, infinite, or subnormal in
              fp32 (fp16: >= 2^-24, bf16 and fp32: >= 2^-126)
    Source    llm-awq / AutoAWQ pseudo_quantize_tensor, with the range always including 0 */
AWQDEF awq_status awq_quantize(const awq_kernels *k, awq_matrix weight, const float *scale,
                               const float *clip_max, awq_tensor *tensor, size_t row_begin,
                               size_t row_end, awq_where *where);

/*  awq_dequantize  -  out[r][c] = (q - zero) * scale of the group / s[c], rows [row_begin, row_end)

    Shapes    out (out_features, in_features) any dtype; scale [in_features], or NULL for 1
    Errors    NULL, SHAPE, CONFIG, DTYPE, RANGE; DATA (a scale s that is not > 0) */
AWQDEF awq_status awq_dequantize(const awq_tensor *tensor, const float *scale, awq_matrix out,
                                 size_t row_begin, size_t row_end);

/*  awq_fake_quantize  -  out = Q(clamp(W s)) / s: what the linear becomes, without storing q

    Shapes, errors, range as awq_quantize; out (out_features, in_features) any dtype              */
AWQDEF awq_status awq_fake_quantize(const awq_kernels *k, awq_quant quant, awq_matrix weight,
                                    const float *scale, const float *clip_max, awq_matrix out,
                                    size_t row_begin, size_t row_end, awq_where *where);

/* =================================================================================================
   >>improve   better grids and better integers for the same storage
   ============================================================================================== */

/*  awq_fit  -  scale and zero point of each group by weighted error instead of by range

    Formula   per row and group, argmin over (scale, zero, q) of
              sum_c h_c ((q_c - zero) scale - u_c)^2,   u = w s,   h_c = importance[c] / s[c]^2
              searched: scales down to half the range's (every second of 16, then those beside the
              best), every zero point that keeps an end of the range or lies between, the scale
              then refitted to its q by least squares. The range's own
              grid is a candidate, so no group gets worse.
    Shapes    weight (out_features, in_features); scale [in_features] or NULL; importance
              [in_features] >= 0, mean x^2 of awq_stats_get, or NULL for 1; tensor: q, zeros, scales
              are written
    Range     any rows; the union of ranges is the whole, bit for bit
    Errors    NULL, SHAPE, CONFIG, DTYPE, RANGE, SCALE; DATA (where->matrix: 0 weight, 1 importance)
    Threads   disjoint ranges may run at once
    Source    ggml's importance matrix quantizers; NNCF scale estimation                          */
AWQDEF awq_status awq_fit(const awq_kernels *k, awq_matrix weight, const float *scale,
                          const float *importance, awq_tensor *tensor, size_t row_begin,
                          size_t row_end, awq_where *where);

typedef enum awq_order {
    AWQ_ORDER_ACTIVATION = 0,   /* columns of the largest mean (x / s)^2 are rounded first        */
    AWQ_ORDER_COLUMN     = 1    /* from the last to the first                                     */
} awq_order;

/*  H = sum w x x^T of some inputs, and a factor of it: for every linear that reads them. It lives
    in the Gram matrix of the statistics, which keep one at a time.                               */
typedef struct awq_hessian {
    size_t       in_features;
    const float *gram;          /* [in_features][in_features] H from the diagonal on; below the
                                   blocks of 128 on the diagonal L, L L^T = H + damping, rows and
                                   columns in `order`                                             */
    float       *corners;       /* [ceil(in_features / 128)][128][128] L in those blocks          */
    uint32_t    *order;         /* [in_features] channel of row i; the last row is rounded first  */
    float       *innovation;    /* [in_features] L_ii^2 of channel c: what of H_cc those rounded
                                   after it cannot make up for                                    */
} awq_hessian;

/*  awq_hessian_init  -  factor the Gram matrix of stats

    Formula   L L^T = P (H + damping * mean_c(H_cc / s_c^2) * diag(s^2)) P^T, Cholesky in fp32; a
              pivot below its damping is raised to it
    Shapes    stats with a Gram matrix; scale [in_features] or NULL; damping 0.01 is usual, > 0
    Memory    awq_hessian_size() bytes, aligned for float: 1 KiB per channel; 0 from it: overflow.
              L itself is written below the diagonal of stats->gram, where no sums stand: stats
              stay what they are, *hessian views them, and the next factor takes its place
    Errors    NULL, CONFIG, MEMORY; DATA: a scale is not > 0, or so far from the others that the
              damping of its channel (where->col) is not a normal number
    Threads   work is spread over `parallel`
    Source    Frantar et al., GPTQ, 2023; Chee et al., QuIP, 2023 (its LDL form is what is used)  */
AWQDEF size_t     awq_hessian_size(size_t in_features);
AWQDEF awq_status awq_hessian_init(const awq_kernels *k, awq_stats *stats, const float *scale,
                                   double damping, awq_order order, void *memory,
                                   size_t memory_size, const awq_parallel *parallel,
                                   awq_hessian *hessian, awq_where *where);

/*  awq_balance  -  the per-channel scale s that suits awq_fit and awq_round, without a grid

    Formula   argmin over s of  sum over rows and groups of  R^2 sum_c h_c / s_c^2,  where
              R = |max(w s, 0)|_p + |max(-w s, 0)|_p  over the group, p = 16, is its range, smoothed
              (symmetric: twice the p-norm of w s). A grid's step is R / levels, and rounding leaves
              step^2 h_c / (12 s_c^2) of channel c. At the minimum the noise of a channel is its
              share in the ranges: s_c^2 = h_c sum R^2 / (strain_c sum h / s^2), taken as the step
              of an iteration. Scaled to a geometric mean of 1.
    Shapes    weights: weight_count views (out_features_i, in_features) of the linears that share
              the input; importance [in_features] >= 0: hessian.innovation, or mean x^2 of
              awq_stats_get where there is no hessian, or NULL for 1; scale [in_features]
    Rows      of 2048 or more, every n-th (about 1024) is read until scales change by less than 5 %,
              then all, until it is 1 %: the formula is within 1e-3 of its minimum, mostly 1e-5
    Memory    scratch: awq_balance_scratch_size() bytes, aligned for double: 272 per channel and
              2 KiB; 0 from it: overflow
    Errors    NULL, SHAPE, CONFIG, DTYPE, MEMORY; DATA (where->matrix: which weight; weight_count:
              importance)
    Threads   pure; 16 shards of rows are spread over `parallel` and added in order
    Source    ours; AutoAWQ's duo rule s = act^a / weight^b approximates it (docs/quality.md)     */
AWQDEF size_t     awq_balance_scratch_size(size_t in_features);
AWQDEF awq_status awq_balance(const awq_kernels *k, awq_quant quant, awq_tie tie,
                              const float *importance, const awq_matrix *weights,
                              size_t weight_count, void *scratch, size_t scratch_size,
                              const awq_parallel *parallel, float *scale, awq_where *where);

/*  awq_round  -  choose the integers of a tensor so that their errors cancel in the output

    Formula   per row, q for the tensor's grids so that  d H d^T  is small,  d = What / s - W:
              column by column each rounding error is carried to the columns after it (GPTQ), then
              `passes` times, in column order and back: every q moves where that lowers the loss
              (coordinate descent); if refit, the group's scale then becomes the best for its q
    Shapes    weight (out_features, in_features); scale [in_features] or NULL; tensor: zeros and
              scales are read, q is written, scales too if refit
    Memory    scratch: awq_round_scratch_size() bytes, aligned for float: 4.7 KiB per channel and
              worker; 0 from it: overflow
    Errors    NULL, SHAPE, CONFIG, DTYPE, MEMORY; DATA: a weight, or a scale of the tensor, is not
              finite (> 0)
    Threads   rows are spread over `parallel`, up to 512 share what they read of H; no result
              depends on the split
    Source    as awq_hessian_init; coordinate descent: Behdin et al., QuantEase, 2023             */
typedef struct awq_round_config { int passes, refit; } awq_round_config;
AWQDEF size_t     awq_round_scratch_size(size_t in_features, const awq_parallel *parallel);
AWQDEF awq_status awq_round(const awq_kernels *k, const awq_round_config *config,
                            const awq_hessian *hessian, awq_matrix weight, const float *scale,
                            awq_tensor *tensor, void *scratch, size_t scratch_size,
                            const awq_parallel *parallel, awq_where *where);

/*  awq_shift_bias  -  what rounding does to the mean output goes into the bias

    Formula   bias[r] += sum_c (w - (q - zero) * scale of the group / s[c]) mean[c], in double
    Shapes    weight (out_features, in_features); scale [in_features] or NULL; mean [in_features] of
              x, AWQ_MEAN of awq_stats_get; bias [out_features], read and written
    Range     any rows
    Errors    NULL, SHAPE, CONFIG, DTYPE, RANGE; DATA (where->matrix: 0 weight; 1 mean, scale or
              bias; the row or column)
    Threads   disjoint ranges may run at once
    Source    Nagel et al., Data-free quantization, 2019, sec. 4.2 */
AWQDEF awq_status awq_shift_bias(awq_matrix weight, const float *scale, const float *mean,
                                 const awq_tensor *tensor, float *bias, size_t row_begin,
                                 size_t row_end, awq_where *where);

/*  One way to store a linear: what it takes, and what it loses in units that add up over linears.
    An infinite error stands for a way that this linear does not have.                            */
typedef struct awq_offer { uint64_t bytes; double error; } awq_offer;

/*  What the chosen offers take and lose; no choice within the budget loses less than `bound`.    */
typedef struct awq_allotment { uint64_t bytes; double error, bound; } awq_allotment;

/*  awq_allot  -  the format of each linear, so that all together lose little within a budget

    Formula   min over choices of sum_i offers[i][choice[i]].error, where the bytes are <= budget.
              From the smallest formats on, the step that saves most error per byte, while it fits;
              in the end whatever still fits. A budget that the last step fills is used best; else
              error - bound is less than what the first step that did not fit would have saved.
    Shapes    offers [linears][formats], in any order; choice [linears]. Linears that must be stored
              alike are one of them: add up their bytes and errors.
    Memory    scratch: awq_allot_scratch_size() bytes, aligned for double; 0 from it: overflow
    Errors    NULL, SHAPE (no linear, no format), MEMORY; DATA: an error is negative or NaN, or all
              of a linear are infinite (where->row: linear, where->col: format); RANGE: the smallest
              formats take more than the budget
    Numerics  the same choice on every machine
    Source    Sinha and Zoltners, The multiple-choice knapsack problem, 1979                      */
AWQDEF size_t     awq_allot_scratch_size(size_t linears);
AWQDEF awq_status awq_allot(const awq_offer *offers, size_t linears, size_t formats,
                            uint64_t budget, void *scratch, size_t scratch_size, size_t *choice,
                            awq_allotment *result, awq_where *where);

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>pack
   ============================================================================================== */

#define AWQ_LAYOUT_ROWS16 1     /* the native layout: see FORMAT                                  */
#define AWQ_ROW_STEP     16     /* row ranges of packed tensors begin at multiples of this        */

/*  A view of a packed tensor: pointer-free little-endian bytes whose header has been checked.    */
typedef struct awq_packed {
    const unsigned char *data;
    size_t    size;                         /* bytes used, header included                        */
    size_t    out_features, in_features;
    awq_quant quant;
    int       layout;
    size_t    q_offset, scales_offset, zeros_offset;    /* zeros_offset = 0 if symmetric          */
} awq_packed;

/*  Bytes of a packed tensor; 0 if the options are wrong or the size overflows.                   */
AWQDEF size_t     awq_packed_size(awq_quant quant, size_t out_features, size_t in_features);

/*  awq_packed_open  -  read the header of untrusted bytes (a mapped file, a const array)

    After AWQ_OK no call with this view reads outside [bytes, bytes + size), whatever the payload.
    size may exceed the tensor's own, packed->size: the bytes after it are the host's.
    Errors    NULL, FORMAT                                                                        */
AWQDEF awq_status awq_packed_open(awq_packed *packed, const void *bytes, size_t size);

/*  awq_packed_check  -  read the payload too: scales finite and > 0, zeros in range, padding 0

    Errors    NULL, FORMAT (where->row, where->col: row and group; row = rows in blocks of 16 and
              col = 0: between the sections)                                                      */
AWQDEF awq_status awq_packed_check(const awq_packed *packed, awq_where *where);

/*  awq_packed_dequantize  -  rows [row_begin, row_end) as numbers: to look up an embedding, say

    Formula   out[r - row_begin][c] = (q[r][c] - zero) * scale / s[c]
    Shapes    out (row_end - row_begin, in_features) any dtype; scale s [in_features] or NULL for 1
    Range     any rows
    Errors    NULL, SHAPE, DTYPE, RANGE; DATA (a scale s that is not > 0)                         */
AWQDEF awq_status awq_packed_dequantize(const awq_packed *packed, const float *scale,
                                        awq_matrix out, size_t row_begin, size_t row_end);

#ifndef AWQ_INFERENCE_ONLY

/*  awq_packed_spans  -  where the bytes of rows [row_begin, row_end) stand in packed->data

    To send some rows to another machine: a tensor that awq_packed_init() made there with the same
    quant and shape has them at the same offsets.
    Shapes    spans [3]: q, scales, zeros (of size 0 if symmetric)
    Range     as awq_pack; the spans of disjoint ranges share no byte, those of all rows are all
              bytes but the header and what aligns the sections
    Errors    NULL, RANGE                                                                         */
typedef struct awq_span { size_t offset, size; } awq_span;
AWQDEF awq_status awq_packed_spans(const awq_packed *packed, size_t row_begin, size_t row_end,
                                   awq_span *spans);

/*  awq_packed_init  -  write the header and clear the payload, so that ranges of rows can be filled

    Memory    awq_packed_size() bytes, no alignment needed (64 is fastest to run)
    Errors    NULL, SHAPE, CONFIG, DTYPE, MEMORY */
AWQDEF awq_status awq_packed_init(awq_quant quant, size_t out_features, size_t in_features,
                                  void *memory, size_t memory_size);

/*  awq_pack, awq_unpack  -  rows [row_begin, row_end) between a tensor and packed bytes, lossless

    Range     row_begin a multiple of AWQ_ROW_STEP, row_end too or = out_features
    Threads   disjoint ranges may run at once
    Errors    NULL, SHAPE, CONFIG (the quant of both must agree), RANGE, FORMAT (the header);
              DATA: a q or zero that does not fit in bits (where->row, where->col)                */
AWQDEF awq_status awq_pack(const awq_kernels *k, const awq_tensor *tensor, void *memory,
                           size_t memory_size, size_t row_begin, size_t row_end,
                           awq_where *where);
AWQDEF awq_status awq_unpack(const awq_kernels *k, const awq_packed *packed, awq_tensor *tensor,
                             size_t row_begin, size_t row_end);

/*  awq_quantize_packed  -  awq_quantize straight into packed bytes, no tensor between

    The same bits as awq_quantize then awq_pack. Range and threads as awq_pack; errors of both.   */
AWQDEF awq_status awq_quantize_packed(const awq_kernels *k, awq_matrix weight, const float *scale,
                                      const float *clip_max, void *memory, size_t memory_size,
                                      size_t row_begin, size_t row_end, awq_where *where);

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>layouts   4-bit weights as other projects store them, to packed tensors and back
   ============================================================================================== */

#ifndef AWQ_INFERENCE_ONLY

/*  docs/formats.md has their closed forms. N = out_features, K = in_features, G groups, Z as in
    AutoAWQ's gemv: G / 8 rounded up, to a multiple of 2 at group 64, of 4 at group 32. Words of 8
    nibbles, nibble 0 lowest. Planes have these rows and columns:
                        weights            scales        zeros
      GEMM              i32 [K, N/8]       [G, N]        i32 [G, N/8]   AutoAWQ gemm_pack
      GEMV              i32 [N, K/8]       [N, 8 Z]      i32 [N, Z]     AutoAWQ gemv
      GEMV_FAST         i16 [N/4, K]       [8 Z, N]      [8 Z, N], -scale * zero
      MARLIN            i32 [K/16, 2 N]    [G, N]                       IST-DASLab marlin
      MARLIN_ZP         i32 [K/16, 2 N]    [G, N]        i32 [G, N/8]   vLLM awq_marlin
      GPTQ              i32 [K/8, N]       [G, N]        i32 [G, N/8], zero - 1
      GPTQ_V2           i32 [K/8, N]       [G, N]        i32 [G, N/8]
      COMPRESSED        i32 [N, K/8]       [N, G]        i32 [N/8, G]; rounded up; if asymmetric
      TINYCHAT_Q4_3, 4  u8 [N, K/2]        [N, K/32]                    x86, Arm
      TINYCHAT_Q4_6     i32 [N, K/8]       [N, 8 Z]      i32 [N, Z], 8  CUDA
      GGML_Q4_0, Q4_1   blocks [N, K/32] of 18, 20 bytes                                          */
typedef enum awq_layout {
    AWQ_GEMM = 1,           /* AutoAWQ, the usual AWQ checkpoint                                  */
    AWQ_GEMV,
    AWQ_GEMV_FAST,          /* = llm-awq v2                                                       */
    AWQ_MARLIN,
    AWQ_MARLIN_ZP,
    AWQ_GPTQ,               /* v1 and ExLlama: cannot hold a zero point of 0                      */
    AWQ_GPTQ_V2,
    AWQ_COMPRESSED,         /* compressed-tensors, pack-quantized                                 */
    AWQ_TINYCHAT_Q4_3,
    AWQ_TINYCHAT_Q4_4,
    AWQ_TINYCHAT_Q4_6,
    AWQ_GGML_Q4_0,
    AWQ_GGML_Q4_1
} awq_layout;

#define AWQ_LAYOUT_END  14      /* layouts are 1 .. AWQ_LAYOUT_END - 1                            */
#define AWQ_EXPORT_STEP 64      /* row ranges of awq_export begin at multiples of this            */

/*  A layout's rules, for messages and choices.                                                   */
typedef struct awq_layout_rules {
    const char *name;           /* "gemm"                                                         */
    size_t out_multiple, in_multiple;   /* of out_features, in_features                           */
    int group_sizes[4];         /* the allowed ones, ended by 0; -1: the whole row                */
    int group_from;             /* also all multiples of 8 from here on; 0: none                  */
    int short_group;            /* 1: group_size need not divide in_features                      */
    int symmetric;              /* 1: no zero points, 0: always, -1: as quant.symmetric says      */
    unsigned scale_dtypes;      /* sum of 1 << awq_dtype                                          */
} awq_layout_rules;

/*  Elements (r, c) of element_size bytes at data + r * stride + c * element_size, stride in bytes.
    Little-endian on every host; data needs no alignment. rows = 0: the layout has no such plane. */
typedef struct awq_plane {
    void  *data;
    size_t rows, cols, element_size, stride;
} awq_plane;

/*  A linear in another project's layout.                                                         */
typedef struct awq_foreign {
    awq_layout layout;
    size_t     out_features, in_features;
    awq_quant  quant;
    awq_plane  weights, scales, zeros;
    const void *group_index;    /* GPTQ's and compressed-tensors' g_idx, int32 [in_features], or
                                   NULL: read by awq_import, must be k / group_size               */
} awq_foreign;

/*  awq_layout_rules_of  -  all zeros, name "" for a layout that does not exist                   */
AWQDEF awq_layout_rules awq_layout_rules_of(awq_layout layout);

/*  awq_foreign_init  -  check the layout's rules and describe its planes, dense; data is NULL

    The caller then sets data (and strides, if planes are wider). quant.symmetric becomes what the
    layout stores, unless that is free (COMPRESSED). scale_dtype is that of the foreign scales.
    Errors    NULL, SHAPE (0 or too large), CONFIG (no such layout; bits is not 4), DTYPE (of the
              scales), OUT_FEATURES, IN_FEATURES, GROUP_SIZE, SHORT_GROUP                         */
AWQDEF awq_status awq_foreign_init(awq_foreign *foreign, awq_layout layout, awq_quant quant,
                                   size_t out_features, size_t in_features);
/*  Bytes from a plane's first to its last; 0 if it has none, or they overflow.                   */
AWQDEF size_t     awq_plane_size(const awq_plane *plane);

/*  awq_import  -  rows [row_begin, row_end) of foreign weights into an awq_packed_init()ed tensor

    Formula   q, zero, scale as stored. Where a scale is negative (Q4_0, TinyChat), 15 - q, 15 -
              zero and |scale|; where it is 0, the weights are: q = zero = 8, the smallest scale.
              GEMV_FAST: zero = round(-scaled_zero / scale). Q4_1: zero = round(-m / d), exact if m
              = fp16(-zero d); d = 0: q = 9 or 7, zero 8, scale |m|.
    Groups    the packed group_size may divide the foreign one (grids repeat), or be a multiple (the
              grids of its groups must agree); both multiples of 8, or the whole row
    Range     as awq_pack: multiples of AWQ_ROW_STEP, row_end may be out_features
    Threads   disjoint ranges may run at once; each is checked before its first write
    Errors    NULL, SHAPE, CONFIG (bits), DTYPE, RANGE, FORMAT (the header), those of
              awq_foreign_init, GROUP_SPLIT, ACT_ORDER; DATA (a scale is NaN or infinite),
              ASYMMETRIC, ZERO_POINT (v1: 16; GEMV_FAST, Q4_1: outside 0 .. 15), ROUNDING (a scale
              in the packed dtype, or a scaled zero that is no multiple of its scale).
              where->row, col: the weight; matrix: 0 weights, 1 scales, 2 zeros, 3 group_index    */
AWQDEF awq_status awq_import(const awq_kernels *k, const awq_foreign *from, void *memory,
                             size_t memory_size, size_t row_begin, size_t row_end,
                             awq_where *where);

/*  awq_export  -  rows [row_begin, row_end) of a packed tensor into foreign planes

    Without allow_rounding what is written imports to the same q, zeros and scales. With it, a scale
    may be rounded to the foreign dtype (never to 0 or infinity), and Q4_1's minimum to fp16(-zero
    scale). Padding of planes that have some is written by the range that ends at out_features.
    Groups    as awq_import
    Range     row_begin a multiple of AWQ_EXPORT_STEP, row_end too or = out_features
    Threads   disjoint ranges may run at once and share no byte; checked before the first write
    Errors    as awq_import; ASYMMETRIC (a zero point is not 8 where none are stored), ZERO_POINT
              (GPTQ: 0), ROUNDING                                                                 */
AWQDEF awq_status awq_export(const awq_kernels *k, const awq_packed *from, const awq_foreign *to,
                             int allow_rounding, size_t row_begin, size_t row_end,
                             awq_where *where);

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>matmul   y = x What^T + bias, What never materialised
   ============================================================================================== */

/*  Activations are rounded per token and block of at most 128 inputs of one group: x ~ sx * xi.
    A16: |xi| <= 32639; error of y about 3e-5.
    A8: xi = u - m, with u and zero point m in 0 .. 255; error about 6e-3.                        */
typedef enum awq_precision { AWQ_A16 = 0, AWQ_A8 = 1 } awq_precision;

/*  Activations prepared once, for every linear that shares them (q/k/v, gate/up, experts).       */
typedef struct awq_prepared {
    const unsigned char *data;
    size_t          tokens, in_features;
    int             group_size;
    awq_precision   precision;
    int             format;             /* of the kernel set that prepared it                     */
    size_t          token_size;         /* bytes of one token                                     */
    size_t          stored;             /* tokens in data: all of them, also in a selection       */
    const uint32_t *index;              /* NULL, or token t stands at index[t]                    */
} awq_prepared;

/*  awq_prepare  -  round tokens [token_begin, token_end) of x to integers

    Formula   A16: per block, sx = max|x| / 32639, xi = round(x / sx)
              A8: lo = min(x, 0), hi = max(x, 0), sx = (hi - lo) / 255, m = round(-lo / sx),
              xi = clamp(round(x / sx) + m, 0, 255) - m
              (sx is rounded up to 22 significant bits.) x / s takes the place of x where
              input_scale s [in_features] is given: an activation that could not be folded away
    Shapes    x (tokens, in_features) any dtype; group_size that of the weights
    Memory    awq_prepared_size() bytes for all tokens, aligned for float; 0 from it: overflow.
              *prepared views it and is the same for every range; y may be computed once all ran.
    Errors    NULL, SHAPE, CONFIG, DTYPE, RANGE, MEMORY; DATA: NaN or beyond +-2^110 (where->row and
              col: the token and channel of x; where->matrix = 1: of input_scale)
    Threads   disjoint ranges may run at once                                                     */
AWQDEF size_t     awq_prepared_size(const awq_kernels *k, size_t in_features, int group_size,
                                    awq_precision precision, size_t tokens);
AWQDEF awq_status awq_prepare(const awq_kernels *k, int group_size, awq_precision precision,
                              awq_matrix x, const float *input_scale, void *memory,
                              size_t memory_size, size_t token_begin, size_t token_end,
                              awq_prepared *prepared, awq_where *where);

/*  awq_prepared_select  -  a view of some prepared tokens, in any order: an expert's share

    Shapes    index [count], each < all->tokens, kept alive by the caller
    Errors    NULL, RANGE, MISMATCH (`all` is itself a selection)                                 */
AWQDEF awq_status awq_prepared_select(const awq_prepared *all, const uint32_t *index, size_t count,
                                      awq_prepared *selected);

/*  awq_matmul  -  rows [row_begin, row_end) of a quantized linear, applied to prepared activations

    Formula   y[t][r] = bias[r] + sum over blocks b of (scale * sx) * sum in b of (q - zero) * xi
    Shapes    packed (out_features, in_features); y (tokens, out_features) any dtype: only columns
              [row_begin, row_end) are written; bias [out_features] or NULL
    Range     row_begin a multiple of AWQ_ROW_STEP, row_end too or = out_features
    Memory    y must not overlap the inputs; no scratch; stack: portable 1 KiB, SIMD sets 30 KiB,
              amx 46 KiB
    Errors    NULL, SHAPE, DTYPE, RANGE, MISMATCH
    Threads   pure; disjoint ranges may run at once
    Numerics  integer dots, then fp32 sums in block order: y[t][r] does not depend on the batch, the
              range or the run. Against float64 on What: |error| <= 0.504 * the sum over blocks of
              sx * sum |What|, and fp32 rounding. That is some 3e-5 of |y| for A16 and 6e-3 for A8
              on normal data; 1e-4 and 1.3e-2 where one input is 100 times larger than the rest of
              its block, 3e-3 for A8 where all have one sign (docs/numerics.md).
              What overflows y's dtype becomes infinite.                                          */
AWQDEF awq_status awq_matmul(const awq_kernels *k, const awq_packed *packed,
                             const awq_prepared *x, const float *bias, awq_matrix y,
                             size_t row_begin, size_t row_end);

/* =================================================================================================
   >>kernels   the CPU kernel set, a value the caller holds
   ============================================================================================== */

struct awq_kernels {
    const char *name;               /* "avx512vnni", "neon", "portable" ...: docs/kernels.md      */
    int         prepared_format;    /* kernel sets with equal format share prepared activations   */
    /* the tiles below are internal: awq_* functions check their arguments and call them          */
    size_t (*token_size)(size_t in_features, int group_size, awq_precision precision);
    awq_status (*prepare)(const awq_prepared *shape, awq_matrix x, const float *input_scale,
                          void *memory, size_t token_begin, size_t token_end, awq_where *where);
    void (*matmul_rows)(const awq_packed *packed, const awq_prepared *x, const float *bias,
                        awq_matrix y, size_t row_begin, size_t row_end);
    /* the rest is NULL with AWQ_INFERENCE_ONLY */
    void (*load_scaled)(const void *from, awq_dtype dtype, const float *scale, size_t n, float *u);
    int (*widen_range)(const float *u, size_t n, float *lo, float *hi);
    void (*round_weights)(const float *u, size_t n, float scale, float zero, float levels,
                          uint8_t *q);
    /* NULL: the search measures with fp32 errors only */
    void (*round_errors)(const float *u, size_t n, float inverse, float lowest, float highest,
                         float factor, uint8_t *e);
    void (*grid_sums)(const float *u, const float *ru, const float *r, size_t n, float scale,
                      float zero, float levels, size_t count, float (*sums)[3]);
    float (*add_strain)(const float *u, size_t n, int symmetric, float *strain);
    void (*add_products)(float *y, size_t y_stride, size_t rows, size_t n, const float *a,
                         size_t a_stride, size_t a_step, const float *x, size_t x_stride,
                         size_t count);
    /* the same for at most 128 rows and 128 products, as good as fp32 but for 2^-14 of each; split:
       x as split_part left it, or NULL; room: 84 KiB; both aligned to 64. NULL: add_products */
    void (*add_part)(float *y, size_t y_stride, size_t rows, size_t n, const float *a,
                     size_t a_stride, size_t a_step, const float *x, size_t x_stride, size_t count,
                     const void *split, void *room);
    /* 4 bytes of `split` for each of 128 times n, rounded up to 32, values */
    void (*split_part)(const float *x, size_t x_stride, size_t n, size_t count, void *split);
    void (*squared_errors)(const float *d, size_t rows, size_t d_stride, const float *xt,
                           size_t cols, size_t xt_stride, size_t tokens,
                           const float *token_weight, double *sums);
    /* words of AWQ_GEMM, 8 `lines` inputs of 16 `blocks` rows; NULL: bit by bit, as all layouts */
    void (*gemm_to_rows16)(const unsigned char *gemm, size_t gemm_stride, unsigned char *rows16,
                           size_t block_stride, size_t blocks, size_t lines);
    void (*rows16_to_gemm)(const unsigned char *rows16, size_t block_stride, unsigned char *gemm,
                           size_t gemm_stride, size_t blocks, size_t lines);
};

/*  What a set may need of a processor.                                                           */
typedef enum awq_cpu {
    AWQ_CPU_AVX2        =   1,      /* and FMA, F16C */
    AWQ_CPU_AVX_VNNI    =   2,
    AWQ_CPU_AVX512      =   4,      /* F, BW, DQ, VL */
    AWQ_CPU_AVX512_VNNI =   8,
    AWQ_CPU_NEON        =  16,
    AWQ_CPU_DOTPROD     =  32,
    AWQ_CPU_I8MM        =  64,
    AWQ_CPU_RVV         = 128,
    AWQ_CPU_WASM_SIMD   = 256,
    AWQ_CPU_AMX         = 512       /* see awq_cpu_features */
} awq_cpu;

/*  The specification, in portable C.                                                             */
AWQDEF awq_kernels awq_kernels_portable(void);
/*  The fastest set that this processor and operating system support. Detects on every call (some
    microseconds): call it once and keep the value.                                               */
AWQDEF awq_kernels awq_kernels_best(void);
/*  All sets that can run here, fastest first; writes up to `capacity`, returns how many exist.   */
AWQDEF size_t      awq_kernels_list(awq_kernels *out, size_t capacity);
/*  The awq_cpu bits of this processor and operating system. AMX is among them only if the process
    has asked for its registers before; Linux: syscall(SYS_arch_prctl, 0x1023, 18).               */
AWQDEF uint32_t    awq_cpu_features(void);
/*  The sets that need no other features than these: to test with fewer than there are, or where a
    host knows better than detection.                                                             */
AWQDEF size_t      awq_kernels_for(uint32_t features, awq_kernels *out, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif /* AWQ_H */

/* Stop here if you only want the API. */

/* =================================================================================================
   IMPLEMENTATION
   ============================================================================================== */

#if defined(AWQ_IMPLEMENTATION) && !defined(AWQ__IMPLEMENTED)
#define AWQ__IMPLEMENTED

#include <float.h>
#include <limits.h>
#include <string.h>
#ifndef AWQ_INFERENCE_ONLY
#include <math.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define AWQ__CHUNK 128 /* floats handled at a time on the stack; also a block of activations */

#if defined(__GNUC__) || defined(_MSC_VER)
#define AWQ__RESTRICT __restrict
#else
#define AWQ__RESTRICT
#endif

/* =================================================================================================
   >>impl-bits   numbers as bytes
   ============================================================================================== */

static uint32_t awq__float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static float awq__bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static int awq__is_finite(float x) { return (awq__float_bits(x) & 0x7f800000u) != 0x7f800000u; }
static int awq__is_scale(float x) { return x > 0 && awq__is_finite(x); }
static float awq__abs(float x) { return awq__bits_float(awq__float_bits(x) & 0x7fffffffu); }

/* Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 pushes the fraction out. The
   volatile keeps wider registers (x87) and -ffast-math from undoing it. */
static float awq__round(float x) {
#if defined(__FAST_MATH__) ||                                                                      \
    (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16)
    volatile float shifted = x + 12582912.0f;
#else
    float shifted = x + 12582912.0f;
#endif
    return shifted - 12582912.0f;
}

static float awq__half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 1023u;
    float subnormal;
    if (exponent == 31) return awq__bits_float(sign | 0x7f800000u | (mantissa << 13));
    if (exponent) return awq__bits_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
    subnormal = (float)(int)mantissa * (1.0f / 16777216.0f); /* 2^-24 */
    return awq__bits_float(sign | awq__float_bits(subnormal));
}

/* The top bits of u, rounded to nearest even; drop >= 1 bits go. */
static uint32_t awq__round_bits(uint32_t u, unsigned drop) {
    return (u + ((1u << (drop - 1)) - 1) + ((u >> drop) & 1u)) >> drop;
}

static uint16_t awq__float_to_half(float x) {
    uint32_t u = awq__float_bits(x), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN */
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* >= 65520 rounds to infinity */
    if (u >= 0x38800000u) return (uint16_t)(sign | awq__round_bits(u - 0x38000000u, 13));
    if (u < 0x33000000u) return (uint16_t)sign; /* < 2^-25 */
    return (uint16_t)(sign | awq__round_bits((u & 0x7fffffu) | 0x800000u, 126 - (u >> 23)));
}

static uint16_t awq__float_to_bf16(float x) {
    uint32_t u = awq__float_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)awq__round_bits(u, 16);
}

static uint16_t awq__load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float awq__load_float(const void *p, awq_dtype dtype) {
    float x;
    if (dtype == AWQ_F16) return awq__half_to_float(awq__load_u16(p));
    if (dtype == AWQ_BF16) return awq__bits_float((uint32_t)awq__load_u16(p) << 16);
    memcpy(&x, p, sizeof x);
    return x;
}

static void awq__store_float(void *p, awq_dtype dtype, float x) {
    uint16_t v;
    if (dtype == AWQ_F32) {
        memcpy(p, &x, sizeof x);
        return;
    }
    v = dtype == AWQ_F16 ? awq__float_to_half(x) : awq__float_to_bf16(x);
    memcpy(p, &v, sizeof v);
}

/* Little-endian bytes, whatever the host. */
static uint16_t awq__load_le16(const unsigned char *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t awq__load_le32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t awq__load_le64(const unsigned char *p) {
    return (uint64_t)awq__load_le32(p) | (uint64_t)awq__load_le32(p + 4) << 32;
}
static float awq__load_le_float(const unsigned char *p, awq_dtype dtype) {
    if (dtype == AWQ_F16) return awq__half_to_float(awq__load_le16(p));
    if (dtype == AWQ_BF16) return awq__bits_float((uint32_t)awq__load_le16(p) << 16);
    return awq__bits_float(awq__load_le32(p));
}

/* Sizes saturate at SIZE_MAX, which stands for "too large". */
static size_t awq__add(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }
static size_t awq__mul(size_t a, size_t b) { return a && b > SIZE_MAX / a ? SIZE_MAX : a * b; }
static size_t awq__align(size_t n, size_t to) {
    return n > SIZE_MAX - to ? SIZE_MAX : (n + to - 1) / to * to;
}
static size_t awq__ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
static size_t awq__min(size_t a, size_t b) { return a < b ? a : b; }
static size_t awq__size_or_0(size_t n) { return n == SIZE_MAX ? 0 : n; }
static int awq__is_aligned(const void *p, size_t to) { return (uintptr_t)p % to == 0; }

/* =================================================================================================
   >>impl-types
   ============================================================================================== */

AWQDEF int awq_version(void) { return AWQ_VERSION; }

AWQDEF const char *awq_status_string(awq_status status) {
    switch (status) {
#define AWQ__X(name, value, text)                                                                  \
  case name: return text;
        AWQ_STATUS_LIST(AWQ__X)
#undef AWQ__X
    default: return "not a status of awq.h";
    }
}

AWQDEF size_t awq_dtype_size(awq_dtype dtype) {
    return dtype == AWQ_F32 ? 4 : dtype == AWQ_F16 || dtype == AWQ_BF16 ? 2 : 0;
}

AWQDEF awq_matrix awq_matrix_view(const void *data, awq_dtype dtype, size_t rows, size_t cols) {
    awq_matrix m;
    memcpy(&m.data, &data, sizeof data); /* one view type for inputs and outputs: drops const */
    m.rows = rows;
    m.cols = cols;
    m.stride = cols;
    m.dtype = dtype;
    return m;
}

static unsigned char *awq__at(awq_matrix m, size_t row, size_t col) {
    return (unsigned char *)m.data + (row * m.stride + col) * awq_dtype_size(m.dtype);
}

AWQDEF awq_matrix awq_matrix_rows(awq_matrix m, size_t row_begin, size_t row_end) {
    m.data = awq__at(m, row_begin, 0);
    m.rows = row_end - row_begin;
    return m;
}

static void awq__load_values(const void *from, awq_dtype dtype, size_t n, float *out) {
    const unsigned char *p = (const unsigned char *)from;
    size_t i;
    if (dtype == AWQ_F32) memcpy(out, p, n * sizeof *out);
    else
        for (i = 0; i < n; i++) out[i] = awq__load_float(p + 2 * i, dtype);
}

/* n elements of a row as fp32. */
static void awq__load_row(awq_matrix m, size_t row, size_t col, size_t n, float *out) {
    awq__load_values(awq__at(m, row, col), m.dtype, n, out);
}

/* What turns integers back into values:  (q - zero) * scale. */
typedef struct awq__grid {
    float scale;
    float zero;
} awq__grid;

static size_t awq__group_size(size_t in_features, int group_size) {
    return group_size < 0 || (size_t)group_size > in_features ? in_features : (size_t)group_size;
}

AWQDEF size_t awq_group_count(size_t in_features, int group_size) {
    if (in_features == 0 || group_size == 0 || group_size < -1) return 0;
    return awq__ceil_div(in_features, awq__group_size(in_features, group_size));
}

/* =================================================================================================
   >>impl-check   arguments
   ============================================================================================== */

static awq_status awq__fail(awq_where *where, awq_status status, size_t matrix, size_t row,
                            size_t col) {
    if (where) {
        where->matrix = matrix;
        where->row = row;
        where->col = col;
    }
    return status;
}

static awq_status awq__check_matrix(awq_matrix m) {
    size_t elements;
    if (awq_dtype_size(m.dtype) == 0) return AWQ_ERR_DTYPE;
    if (m.rows == 0 || m.cols == 0) return AWQ_OK;
    if (!m.data) return AWQ_ERR_NULL;
    if (m.rows > 1 && m.stride < m.cols) return AWQ_ERR_SHAPE;
    elements = awq__add(awq__mul(m.rows - 1, m.stride), m.cols);
    return awq__mul(elements, awq_dtype_size(m.dtype)) == SIZE_MAX ? AWQ_ERR_SHAPE : AWQ_OK;
}

static awq_status awq__check_quant(awq_quant quant) {
    if (quant.bits != 2 && quant.bits != 3 && quant.bits != 4 && quant.bits != 8)
        return AWQ_ERR_CONFIG;
    if (quant.group_size < -1 || quant.group_size == 0) return AWQ_ERR_CONFIG;
    if (quant.symmetric != 0 && quant.symmetric != 1) return AWQ_ERR_CONFIG;
    return awq_dtype_size(quant.scale_dtype) ? AWQ_OK : AWQ_ERR_DTYPE;
}

static awq_status awq__check_range(size_t begin, size_t end, size_t count, size_t step) {
    if (begin > end || end > count) return AWQ_ERR_RANGE;
    if (begin % step || (end % step && end != count)) return AWQ_ERR_RANGE;
    return AWQ_OK;
}

#define AWQ__TRY(call)                                                                             \
    do {                                                                                           \
        awq_status awq__status = (call);                                                           \
        if (awq__status != AWQ_OK) return awq__status;                                             \
    } while (0)

AWQDEF awq_status awq_convert(awq_matrix from, awq_matrix to) {
    float x[AWQ__CHUNK];
    size_t row, col, i;
    AWQ__TRY(awq__check_matrix(from));
    AWQ__TRY(awq__check_matrix(to));
    if (from.rows != to.rows || from.cols != to.cols) return AWQ_ERR_SHAPE;
    for (row = 0; row < from.rows; row++)
        for (col = 0; col < from.cols; col += AWQ__CHUNK) {
            size_t n = awq__min(AWQ__CHUNK, from.cols - col);
            awq__load_row(from, row, col, n, x);
            for (i = 0; i < n; i++) awq__store_float(awq__at(to, row, col + i), to.dtype, x[i]);
        }
    return AWQ_OK;
}

#ifndef AWQ_INFERENCE_ONLY

/* A caller's memory handed out piece by piece; the same calls with base = NULL measure it. */
typedef struct awq__arena {
    unsigned char *base;
    size_t used;
} awq__arena;

static void *awq__take(awq__arena *arena, size_t count, size_t size) {
    size_t at = awq__align(arena->used, 64);
    if (at == SIZE_MAX) at = arena->used = SIZE_MAX;
    else arena->used = awq__add(at, awq__mul(count, size));
    return arena->base && arena->used != SIZE_MAX ? arena->base + at : NULL;
}

static void awq__run(const awq_parallel *parallel, size_t count, size_t step, awq_task *task,
                     void *arg) {
    if (count == 0) return;
    if (parallel) parallel->run(parallel->context, count, step, task, arg);
    else task(arg, 0, count, 0);
}

static awq_status awq__check_parallel(const awq_parallel *parallel) {
    if (!parallel) return AWQ_OK;
    if (!parallel->run) return AWQ_ERR_NULL;
    return parallel->workers ? AWQ_OK : AWQ_ERR_CONFIG;
}

static size_t awq__workers(const awq_parallel *parallel) {
    return parallel ? parallel->workers : 1;
}

/* n values > 0 and finite, or AWQ_ERR_DATA. NULL stands for all 1. */
static awq_status awq__check_scale(const float *scale, size_t n, awq_where *where) {
    size_t i;
    for (i = 0; scale && i < n; i++)
        if (!awq__is_scale(scale[i])) return awq__fail(where, AWQ_ERR_DATA, 0, 0, i);
    return AWQ_OK;
}

/* Index of the first value that is NaN or infinite, or n. */
static size_t awq__find_bad(const float *x, size_t n) {
    uint32_t worst = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t u = awq__float_bits(x[i]) & 0x7fffffffu;
        worst = u > worst ? u : worst;
    }
    if (worst < 0x7f800000u) return n;
    for (i = 0; awq__is_finite(x[i]); i++) {
    }
    return i;
}

/* Whether words of 64 bits hold finite values only: one more carries into the sign from an exponent
   of all ones, and from no other. */
static int awq__finite_words(const unsigned char *p, size_t words, awq_dtype dtype) {
    const uint64_t each = dtype == AWQ_F32 ? 0x0000000100000001u : 0x0001000100010001u;
    const uint64_t one = each * (dtype == AWQ_F32 ? 0x800000u : dtype == AWQ_F16 ? 0x400u : 0x80u);
    const uint64_t sign = each * (dtype == AWQ_F32 ? 0x80000000u : 0x8000u), exponent = sign - one;
    uint64_t carries = 0, x;
    for (; words; words--, p += sizeof x) {
        memcpy(&x, p, sizeof x);
        carries |= (x & exponent) + one;
    }
    return !(carries & sign);
}

/* Every element finite, or AWQ_ERR_DATA with its place. */
static awq_status awq__check_finite(awq_matrix m, size_t matrix, awq_where *where) {
    size_t each = sizeof(uint64_t) / awq_dtype_size(m.dtype), words = m.cols / each, row, col;
    float x[AWQ__CHUNK];
    for (row = 0; row < m.rows; row++) {
        col = awq__finite_words(awq__at(m, row, 0), words, m.dtype) ? words * each : 0;
        for (; col < m.cols; col += AWQ__CHUNK) {
            size_t n = awq__min(AWQ__CHUNK, m.cols - col), bad;
            awq__load_row(m, row, col, n, x);
            if ((bad = awq__find_bad(x, n)) < n)
                return awq__fail(where, AWQ_ERR_DATA, matrix, row, col + bad);
        }
    }
    return AWQ_OK;
}

static awq_status awq__check_weight(awq_matrix weight, size_t in_features) {
    AWQ__TRY(awq__check_matrix(weight));
    return weight.rows && weight.cols && weight.cols == in_features ? AWQ_OK : AWQ_ERR_SHAPE;
}

static awq_status awq__check_weights(const awq_matrix *weights, size_t count) {
    size_t i;
    if (!weights) return AWQ_ERR_NULL;
    if (count == 0) return AWQ_ERR_SHAPE;
    for (i = 0; i < count; i++) AWQ__TRY(awq__check_weight(weights[i], weights[0].cols));
    return AWQ_OK;
}

/* y[i] += sum over j < count of a[j * a_step] * x[j * x_stride + i]. Eight at a time, so that y is
   loaded and stored once per eight products; compilers vectorise the loop over i. */
static void awq__add_row_products(float *AWQ__RESTRICT y, size_t n, const float *AWQ__RESTRICT a,
                                  size_t a_step, const float *AWQ__RESTRICT x, size_t x_stride,
                                  size_t count) {
    size_t i, s = x_stride;
    for (; count >= 8; count -= 8, a += 8 * a_step, x += 8 * x_stride) {
        size_t k = a_step;
        float a0 = a[0], a1 = a[k], a2 = a[2 * k], a3 = a[3 * k];
        float a4 = a[4 * k], a5 = a[5 * k], a6 = a[6 * k], a7 = a[7 * k];
        for (i = 0; i < n; i++) {
            float low = (a0 * x[i] + a1 * x[s + i]) + (a2 * x[2 * s + i] + a3 * x[3 * s + i]);
            float high = (a4 * x[4 * s + i] + a5 * x[5 * s + i]) +
                         (a6 * x[6 * s + i] + a7 * x[7 * s + i]);
            y[i] += low + high;
        }
    }
    for (; count; count--, a += a_step, x += x_stride)
        for (i = 0; i < n; i++) y[i] += *a * x[i];
}

/* The same for `rows` rows: y (rows, n) += A (rows, count) X (count, n). A sum does not depend on
   how many rows and columns are asked for at a time. */
static void awq__add_products_portable(float *y, size_t y_stride, size_t rows, size_t n,
                                       const float *a, size_t a_stride, size_t a_step,
                                       const float *x, size_t x_stride, size_t count) {
    size_t r;
    for (r = 0; r < rows; r++)
        awq__add_row_products(y + r * y_stride, n, a + r * a_stride, a_step, x, x_stride, count);
}

/* =================================================================================================
   >>impl-calibrate
   ============================================================================================== */

#define AWQ__BLOCK 128 /* tokens accumulated at a time with a Gram matrix: it is large */
#define AWQ__ROWS 4    /* rows of a matrix handled together */
#define AWQ__SQUARE (AWQ__CHUNK * AWQ__CHUNK)
#define AWQ__STRIP 64  /* columns of a large product at a time: AWQ__CHUNK rows fit the L1 cache */

static size_t awq__block_tokens(int with_gram) { return with_gram ? AWQ__BLOCK : 32; }

static void awq__stats_layout(awq_stats *s, awq__arena *arena, size_t in, size_t sketch_rows,
                              int with_gram) {
    s->sum = (double *)awq__take(arena, in, sizeof(double));
    s->abs_sum = (double *)awq__take(arena, in, sizeof(double));
    s->sq_sum = (double *)awq__take(arena, in, sizeof(double));
    s->abs_max = (float *)awq__take(arena, in, sizeof(float));
    s->block = (float *)awq__take(arena, awq__mul(in, awq__block_tokens(with_gram)),
                                   sizeof(float));
    s->sketch =
        sketch_rows ? (float *)awq__take(arena, awq__mul(in, sketch_rows), sizeof(float)) : NULL;
    s->gram = with_gram ? (float *)awq__take(arena, awq__mul(in, in), sizeof(float)) : NULL;
}

AWQDEF size_t awq_stats_size(size_t in_features, size_t sketch_rows, int with_gram) {
    awq_stats stats;
    awq__arena arena = { NULL, 0 };
    awq__stats_layout(&stats, &arena, in_features, sketch_rows, with_gram);
    return awq__size_or_0(arena.used);
}

AWQDEF awq_status awq_stats_init(awq_stats *stats, size_t in_features, size_t sketch_rows,
                                 int with_gram, uint64_t sketch_seed, void *memory,
                                 size_t memory_size) {
    size_t size = awq_stats_size(in_features, sketch_rows, with_gram);
    awq__arena arena;
    if (!stats || !memory) return AWQ_ERR_NULL;
    if (in_features == 0) return AWQ_ERR_SHAPE;
    if (size == 0 || memory_size < size || !awq__is_aligned(memory, sizeof(double)))
        return AWQ_ERR_MEMORY;
    memset(memory, 0, size);
    memset(stats, 0, sizeof *stats);
    arena.base = (unsigned char *)memory;
    arena.used = 0;
    awq__stats_layout(stats, &arena, in_features, sketch_rows, with_gram);
    stats->in_features = in_features;
    stats->sketch_rows = sketch_rows;
    stats->sketch_seed = sketch_seed;
    return AWQ_OK;
}

/* A block of tokens on its way into the sums. */
typedef struct awq__batch {
    const awq_kernels *k;
    awq_stats *stats;
    awq_matrix x;
    size_t tokens;          /* <= AWQ__BLOCK, all of weight > 0 */
    size_t row[AWQ__BLOCK]; /* of x */
    float weight[AWQ__BLOCK];
} awq__batch;

static void awq__batch_moments(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__batch *b = (const awq__batch *)arg;
    awq_stats *s = b->stats;
    size_t t, c;
    (void)worker;
    for (t = 0; t < b->tokens; t++) {
        float *x = s->block + t * s->in_features, root = sqrtf(b->weight[t]);
        double w = (double)b->weight[t];
        awq__load_row(b->x, b->row[t], begin, end - begin, x + begin);
        for (c = begin; c < end; c++) {
            float a = awq__abs(x[c]);
            s->abs_max[c] = a > s->abs_max[c] ? a : s->abs_max[c];
            s->sum[c] += w * (double)x[c];
            s->abs_sum[c] += w * (double)a;
            s->sq_sum[c] += w * ((double)a * (double)a);
            x[c] *= root;
        }
    }
}

/* The row of the sketch that token number `token` is added to, and its sign. The mixer is
   splitmix64's. */
static size_t awq__sketch_row(const awq_stats *s, uint64_t token, float *sign) {
    uint64_t h = s->sketch_seed + token * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    h ^= h >> 31;
    *sign = h & 1u ? -1.0f : 1.0f;
    return (size_t)((h >> 1) % s->sketch_rows);
}

static void awq__batch_sketch(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__batch *b = (const awq__batch *)arg;
    const awq_stats *s = b->stats;
    size_t t;
    (void)worker;
    for (t = 0; t < b->tokens; t++) {
        uint64_t token = s->first_token + s->count + t;
        float sign, *row = s->sketch + awq__sketch_row(s, token, &sign) * s->in_features;
        b->k->add_products(row + begin, 0, 1, end - begin, &sign, 0, 0,
                           s->block + t * s->in_features + begin, 0, 1);
    }
}

/* gram[row + r][c] += the block's part, for r < rows <= AWQ__ROWS and c in [begin, end), from the
   diagonal on */
static void awq__gram_rows(const awq__batch *b, size_t row, size_t rows, size_t begin, size_t end) {
    const awq_stats *s = b->stats;
    size_t in = s->in_features, from = begin > row ? begin : row, r, c;
    float sum[AWQ__ROWS][AWQ__CHUNK];
    if (from >= end) return;
    memset(sum, 0, sizeof sum);
    b->k->add_products(sum[0], AWQ__CHUNK, rows, end - from, s->block + row, 1, in, s->block + from,
                       in, b->tokens);
    for (r = 0; r < rows; r++)
        for (c = from > row + r ? from : row + r; c < end; c++)
            s->gram[(row + r) * in + c] += sum[r][c - from];
}

/* Rows of index p from the top and from the bottom together, so that every index costs the same. */
static void awq__batch_gram(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__batch *b = (const awq__batch *)arg;
    size_t in = b->stats->in_features, p, col;
    (void)worker;
    for (col = 0; col < in; col += AWQ__CHUNK)
        for (p = begin; p < end; p++) {
            size_t top = p * AWQ__ROWS, stop = awq__min(col + AWQ__CHUNK, in);
            size_t bottom = (awq__ceil_div(in, AWQ__ROWS) - 1 - p) * AWQ__ROWS;
            awq__gram_rows(b, top, awq__min(AWQ__ROWS, in - top), col, stop);
            if (bottom > top)
                awq__gram_rows(b, bottom, awq__min(AWQ__ROWS, in - bottom), col, stop);
        }
}

/* The batch is good: every value finite, weights >= 0, and no fp32 sum can overflow. */
static awq_status awq__check_batch(const awq_stats *stats, awq_matrix x, const float *token_weight,
                                   awq_where *where) {
    float chunk[AWQ__CHUNK], largest = 0;
    double weight = stats->weight;
    size_t row, col, i, at_row = 0, at_col = 0;
    for (row = 0; row < x.rows; row++) {
        float w = token_weight ? token_weight[row] : 1.0f;
        if (!(w >= 0) || !awq__is_finite(w)) return awq__fail(where, AWQ_ERR_DATA, 0, row, x.cols);
        weight += (double)w;
        for (col = 0; w > 0 && col < x.cols; col += AWQ__CHUNK) {
            size_t n = awq__min(AWQ__CHUNK, x.cols - col), bad;
            awq__load_row(x, row, col, n, chunk);
            if ((bad = awq__find_bad(chunk, n)) < n)
                return awq__fail(where, AWQ_ERR_DATA, 0, row, col + bad);
            for (i = 0; i < n; i++)
                if (awq__abs(chunk[i]) > largest) {
                    largest = awq__abs(chunk[i]);
                    at_row = row;
                    at_col = col + i;
                }
        }
    }
    if (!stats->sketch && !stats->gram) return AWQ_OK;
    for (i = 0; i < stats->in_features; i++)
        if (stats->abs_max[i] > largest) largest = stats->abs_max[i];
    if ((double)largest * (double)largest * weight > (double)FLT_MAX / 4)
        return awq__fail(where, AWQ_ERR_DATA, 0, at_row, at_col);
    return AWQ_OK;
}

static void awq__add_batch(awq__batch *b, const awq_parallel *parallel) {
    awq_stats *s = b->stats;
    size_t t;
    if (b->tokens == 0) return;
    awq__run(parallel, s->in_features, 16, awq__batch_moments, b);
    if (s->sketch) awq__run(parallel, s->in_features, 16, awq__batch_sketch, b);
    if (s->gram)
        awq__run(parallel, awq__ceil_div(awq__ceil_div(s->in_features, AWQ__ROWS), 2), 1,
                 awq__batch_gram, b);
    for (t = 0; t < b->tokens; t++) s->weight += (double)b->weight[t];
    s->count += b->tokens;
    b->tokens = 0;
}

AWQDEF awq_status awq_stats_add(const awq_kernels *k, awq_stats *stats, awq_matrix x,
                                const float *token_weight, const awq_parallel *parallel,
                                awq_where *where) {
    awq__batch batch;
    size_t row;
    if (!k || !stats || !stats->abs_max) return AWQ_ERR_NULL;
    if (stats->is_centred) return AWQ_ERR_CONFIG;
    AWQ__TRY(awq__check_matrix(x));
    AWQ__TRY(awq__check_parallel(parallel));
    if (x.rows && x.cols != stats->in_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_batch(stats, x, token_weight, where));
    batch.k = k;
    batch.stats = stats;
    batch.x = x;
    batch.tokens = 0;
    for (row = 0; row < x.rows; row++) {
        float w = token_weight ? token_weight[row] : 1.0f;
        if (!(w > 0)) continue;
        batch.row[batch.tokens] = row;
        batch.weight[batch.tokens++] = w;
        if (batch.tokens == awq__block_tokens(stats->gram != NULL))
            awq__add_batch(&batch, parallel);
    }
    awq__add_batch(&batch, parallel);
    return AWQ_OK;
}

AWQDEF awq_status awq_stats_merge(awq_stats *into, const awq_stats *from) {
    size_t i, n;
    if (!into || !from || !into->abs_max || !from->abs_max) return AWQ_ERR_NULL;
    n = into->in_features;
    if (from->in_features != n || into->sketch_rows != from->sketch_rows ||
        !into->gram != !from->gram)
        return AWQ_ERR_SHAPE;
    if (into->is_centred || from->is_centred) return AWQ_ERR_CONFIG;
    into->count += from->count;
    into->weight += from->weight;
    for (i = 0; i < n; i++) {
        if (from->abs_max[i] > into->abs_max[i]) into->abs_max[i] = from->abs_max[i];
        into->sum[i] += from->sum[i];
        into->abs_sum[i] += from->abs_sum[i];
        into->sq_sum[i] += from->sq_sum[i];
    }
    for (i = 0; i < n * into->sketch_rows; i++) into->sketch[i] += from->sketch[i];
    for (i = 0; into->gram && i < n * n; i++) into->gram[i] += from->gram[i];
    return AWQ_OK;
}

AWQDEF awq_status awq_stats_centre(awq_stats *stats, int on) {
    size_t i, j, in;
    double sign = on ? -1 : 1;
    if (!stats || !stats->gram) return AWQ_ERR_NULL;
    if (!stats->is_centred == !on || !(stats->weight > 0)) return AWQ_OK;
    in = stats->in_features;
    for (i = 0; i < in; i++) {
        double mean = sign * stats->sum[i] / stats->weight;
        float *row = stats->gram + i * in;
        for (j = i; j < in; j++) row[j] = (float)((double)row[j] + mean * stats->sum[j]);
        if (row[i] < 0) row[i] = 0;
    }
    stats->is_centred = on != 0;
    return AWQ_OK;
}

AWQDEF awq_status awq_stats_get(const awq_stats *stats, awq_statistic which, float *out) {
    const double *sum;
    double tokens;
    size_t i;
    if (!stats || !stats->abs_max || !out) return AWQ_ERR_NULL;
    if ((unsigned)which > AWQ_MEAN) return AWQ_ERR_CONFIG;
    if (which == AWQ_ABS_MAX) {
        memcpy(out, stats->abs_max, stats->in_features * sizeof *out);
        return AWQ_OK;
    }
    sum = which == AWQ_ABS_MEAN ? stats->abs_sum
          : which == AWQ_MEAN   ? stats->sum
                                : stats->sq_sum;
    tokens = stats->weight > 0 ? stats->weight : 1;
    for (i = 0; i < stats->in_features; i++) out[i] = (float)(sum[i] / tokens);
    return AWQ_OK;
}
/* =================================================================================================
   >>impl-group   the quantizer of one group of one row; search, clip and quantize all call it
   ============================================================================================== */

/* The weights as the quantizer sees them: u = clamp(w * s, +-clip). */
typedef struct awq__source {
    const awq_kernels *k;
    awq_matrix weight;
    const float *scale;    /* [in_features] or NULL */
    const float *clip_max; /* [out_features][groups] or NULL */
} awq__source;

static float awq__levels(int bits) { return (float)((1 << bits) - 1); }

static void awq__load_scaled_portable(const void *from, awq_dtype dtype, const float *scale,
                                      size_t n, float *u) {
    size_t i;
    awq__load_values(from, dtype, n, u);
    if (scale)
        for (i = 0; i < n; i++) u[i] *= scale[i];
}

static void awq__load_scaled(const awq__source *src, size_t row, size_t col, size_t n, float *u) {
    src->k->load_scaled(awq__at(src->weight, row, col), src->weight.dtype,
                        src->scale ? src->scale + col : NULL, n, u);
}

static void awq__clip(float *u, size_t n, float clip) {
    size_t i;
    if (clip < FLT_MAX)
        for (i = 0; i < n; i++) u[i] = u[i] > clip ? clip : u[i] < -clip ? -clip : u[i];
}

/* The range grows to include u; 0 if a value is NaN or infinite. */
static int awq__widen_range_portable(const float *u, size_t n, float *lo, float *hi) {
    float low = *lo, high = *hi;
    size_t i;
    if (awq__find_bad(u, n) < n) return 0;
    for (i = 0; i < n; i++) {
        low = u[i] < low ? u[i] : low;
        high = u[i] > high ? u[i] : high;
    }
    *lo = low;
    *hi = high;
    return 1;
}

static void awq__round_weights_portable(const float *u, size_t n, float scale, float zero,
                                        float levels, uint8_t *q) {
    size_t i;
    for (i = 0; i < n; i++) {
        float v = awq__round(u[i] / scale) + zero;
        q[i] = (uint8_t)(int)(v < 0 ? 0 : v > levels ? levels : v);
    }
}

/* Smallest scale stored: still a normal number once it is fp32. */
static float awq__least_scale(awq_dtype dtype) {
    return dtype == AWQ_F16 ? 1.0f / 16777216.0f : FLT_MIN;
}

/* x as it will be stored. */
static float awq__to_dtype(float x, awq_dtype dtype) {
    unsigned char bytes[4];
    awq__store_float(bytes, dtype, x);
    return awq__load_float(bytes, dtype);
}

/* scale and zero point for the range [lo, hi], which includes 0. The zero point comes from the
   scale before it is rounded to its dtype, as in AutoAWQ. */
static awq_status awq__fit_range(const awq_quant *quant, float lo, float hi, awq__grid *grid) {
    float levels = awq__levels(quant->bits), half = (float)(1 << (quant->bits - 1));
    float least = awq__least_scale(quant->scale_dtype), raw, span = hi - lo, reach;
    if (quant->symmetric) raw = (-lo > hi ? -lo : hi) / (half - 1);
    else raw = awq__is_finite(span) ? span / levels : hi / levels - lo / levels;
    if (raw < least) raw = least;
    grid->zero = quant->symmetric ? half : awq__round(-lo / raw);
    grid->scale = awq__to_dtype(raw, quant->scale_dtype);
    /* rounding the scale up must not push the largest What beyond fp32 */
    reach = quant->symmetric ? half - 1 : grid->zero >= half ? grid->zero : levels - grid->zero;
    return awq__is_finite(grid->scale * reach) ? AWQ_OK : AWQ_ERR_SCALE;
}

/* The range of u in columns [begin, end) of a row; it includes 0. The last chunk stays in u. */
static awq_status awq__group_range(const awq__source *src, size_t row, size_t begin, size_t end,
                                   float clip, float u[AWQ__CHUNK], float *lo, float *hi,
                                   awq_where *where) {
    size_t col;
    *lo = *hi = 0;
    if (!(clip >= 0)) return awq__fail(where, AWQ_ERR_DATA, 0, row, begin);
    for (col = begin; col < end; col += AWQ__CHUNK) {
        size_t n = awq__min(AWQ__CHUNK, end - col);
        awq__load_scaled(src, row, col, n, u);
        if (!src->k->widen_range(u, n, lo, hi))
            return awq__fail(where, AWQ_ERR_DATA, 0, row, col + awq__find_bad(u, n));
    }
    if (*lo < -clip) *lo = -clip;
    if (*hi > clip) *hi = clip;
    return AWQ_OK;
}

static awq_status awq__fit_group(const awq__source *src, const awq_quant *quant, size_t row,
                                 size_t begin, size_t end, float clip, float u[AWQ__CHUNK],
                                 awq__grid *grid, awq_where *where) {
    float lo, hi;
    AWQ__TRY(awq__group_range(src, row, begin, end, clip, u, &lo, &hi, where));
    return awq__fit_range(quant, lo, hi, grid) == AWQ_OK
               ? AWQ_OK
               : awq__fail(where, AWQ_ERR_SCALE, 0, row, begin);
}

/* q of n <= AWQ__CHUNK columns, whose u is loaded; it is clipped here */
static void awq__round_chunk(const awq__source *src, const awq_quant *quant, size_t n, float clip,
                             awq__grid grid, float *u, uint8_t *q) {
    awq__clip(u, n, clip);
    src->k->round_weights(u, n, grid.scale, grid.zero, awq__levels(quant->bits), q);
}

/* out = Q(u) / s: what columns [begin, end) become */
static void awq__fake_group(const awq__source *src, const awq_quant *quant, size_t row,
                            size_t begin, size_t end, float clip, awq__grid grid, float *out) {
    float u[AWQ__CHUNK];
    uint8_t q[AWQ__CHUNK];
    size_t col, i;
    for (col = begin; col < end; col += AWQ__CHUNK, out += AWQ__CHUNK) {
        size_t n = awq__min(AWQ__CHUNK, end - col);
        awq__load_scaled(src, row, col, n, u);
        awq__round_chunk(src, quant, n, clip, grid, u, q);
        for (i = 0; i < n; i++) out[i] = ((float)q[i] - grid.zero) * grid.scale;
        if (src->scale)
            for (i = 0; i < n; i++) out[i] /= src->scale[col + i];
    }
}

/* out = Q(u) / s - w */
static void awq__error_group(const awq__source *src, const awq_quant *quant, size_t row,
                             size_t begin, size_t end, float clip, awq__grid grid, float *out) {
    float w[AWQ__CHUNK];
    size_t col, i;
    awq__fake_group(src, quant, row, begin, end, clip, grid, out);
    for (col = begin; col < end; col += AWQ__CHUNK) {
        size_t n = awq__min(AWQ__CHUNK, end - col);
        src->k->load_scaled(awq__at(src->weight, row, col), src->weight.dtype, NULL, n, w);
        for (i = 0; i < n; i++) out[col - begin + i] -= w[i];
    }
}

/* Every group can be quantized without a bound; then it can with one. */
static awq_status awq__check_groups(const awq__source *source, const awq_quant *quant,
                                    awq_where *where) {
    size_t row, begin, in = source->weight.cols, size = awq__group_size(in, quant->group_size);
    for (row = 0; row < source->weight.rows; row++)
        for (begin = 0; begin < in; begin += size) {
            float u[AWQ__CHUNK];
            awq__grid grid;
            AWQ__TRY(awq__fit_group(source, quant, row, begin, awq__min(begin + size, in), FLT_MAX,
                                    u, &grid, where));
        }
    return AWQ_OK;
}

/* =================================================================================================
   >>impl-loss   what an error d of a weight row does to the output
   ============================================================================================== */

#define AWQ__TILE 16 /* tokens side by side, so that the inner loop is a vector */

/* The inputs in the form the loss reads. Rows of X, or of the sketch, stand in tiles of AWQ__TILE
   tokens: xt[tile][channel][AWQ__TILE], the last tile filled up with zeros. */
typedef struct awq__evidence {
    awq_loss loss;
    size_t in_features, tokens;
    float *xt;
    float *token_weight; /* [tokens, whole tiles] or NULL */
    float *diagonal;     /* [in_features] mean|x|^2 */
    const float *gram;
    double divisor; /* turns a sum over rows of W into a mean over tokens */
    int as_bytes;   /* what stands in xt is x / s, prepared for a product with errors of 8 bits */
    awq_matrix x;   /* the rows of X, or of the sketch */
    awq_prepared prepared;
} awq__evidence;

static size_t awq__evidence_tokens(const awq_inputs *inputs) {
    if (inputs->loss == AWQ_LOSS_ROWS) return inputs->rows.rows;
    return inputs->loss == AWQ_LOSS_SKETCH ? inputs->stats->sketch_rows : 0;
}

static void awq__evidence_layout(awq__evidence *e, awq__arena *arena, const awq_inputs *inputs,
                                 size_t in) {
    size_t tokens = awq__align(awq__evidence_tokens(inputs), AWQ__TILE);
    memset(e, 0, sizeof *e);
    e->loss = inputs->loss;
    e->in_features = in;
    e->tokens = tokens;
    if (tokens) e->xt = (float *)awq__take(arena, awq__mul(tokens, in), sizeof(float));
    if (inputs->loss == AWQ_LOSS_ROWS && inputs->token_weight)
        e->token_weight = (float *)awq__take(arena, tokens, sizeof(float));
    if (inputs->loss == AWQ_LOSS_DIAGONAL)
        e->diagonal = (float *)awq__take(arena, in, sizeof(float));
}

static awq_status awq__check_inputs(const awq_inputs *inputs, size_t in) {
    if (!inputs) return AWQ_ERR_NULL;
    if (inputs->stats && inputs->stats->in_features != in) return AWQ_ERR_SHAPE;
    switch (inputs->loss) {
    case AWQ_LOSS_ROWS:
        AWQ__TRY(awq__check_matrix(inputs->rows));
        return inputs->rows.rows && inputs->rows.cols == in ? AWQ_OK : AWQ_ERR_SHAPE;
    case AWQ_LOSS_SKETCH: return inputs->stats && inputs->stats->sketch ? AWQ_OK : AWQ_ERR_NULL;
    case AWQ_LOSS_GRAM: return inputs->stats && inputs->stats->gram ? AWQ_OK : AWQ_ERR_NULL;
    case AWQ_LOSS_DIAGONAL: return inputs->stats && inputs->stats->abs_sum ? AWQ_OK : AWQ_ERR_NULL;
    case AWQ_LOSS_CALLBACK: return inputs->callback ? AWQ_OK : AWQ_ERR_NULL;
    default: return AWQ_ERR_CONFIG;
    }
}

static void awq__spread_token(awq__evidence *e, size_t token, size_t col, size_t n,
                              const float *x) {
    float *out = e->xt + (token / AWQ__TILE * e->in_features + col) * AWQ__TILE + token % AWQ__TILE;
    size_t i;
    for (i = 0; i < n; i++) out[i * AWQ__TILE] = x[i];
}

static awq_status awq__spread_rows(awq__evidence *e, const awq_inputs *inputs, size_t matrix,
                                   awq_where *where) {
    float x[AWQ__CHUNK];
    size_t t, col;
    memset(e->xt, 0, e->tokens * e->in_features * sizeof *e->xt);
    if (e->token_weight) memset(e->token_weight, 0, e->tokens * sizeof *e->token_weight);
    for (t = 0; t < inputs->rows.rows; t++) {
        float w = inputs->token_weight ? inputs->token_weight[t] : 1.0f;
        if (!(w >= 0) || !awq__is_finite(w))
            return awq__fail(where, AWQ_ERR_DATA, matrix, t, e->in_features);
        if (e->token_weight) e->token_weight[t] = w;
        e->divisor += (double)w;
        for (col = 0; w > 0 && col < e->in_features; col += AWQ__CHUNK) {
            size_t n = awq__min(AWQ__CHUNK, e->in_features - col), bad;
            awq__load_row(inputs->rows, t, col, n, x);
            if ((bad = awq__find_bad(x, n)) < n)
                return awq__fail(where, AWQ_ERR_DATA, matrix, t, col + bad);
            if (!e->as_bytes) awq__spread_token(e, t, col, n, x);
        }
    }
    return AWQ_OK;
}

/* The loss on this sketch, of tokens of this weight. */
static void awq__use_sketch(awq__evidence *e, const float *sketch, size_t rows, double weight) {
    size_t r;
    e->x = awq_matrix_view(sketch, AWQ_F32, rows, e->in_features);
    e->tokens = awq__align(rows, AWQ__TILE);
    e->divisor = weight;
    if (e->as_bytes) return; /* awq__prepare_inputs fills xt, for every candidate */
    memset(e->xt, 0, e->tokens * e->in_features * sizeof *e->xt);
    for (r = 0; r < rows; r++)
        awq__spread_token(e, r, 0, e->in_features, sketch + r * e->in_features);
}

/* Fill what awq__evidence_layout laid out. `matrix` is how *where names the rows of X. */
static awq_status awq__evidence_fill(awq__evidence *e, const awq_inputs *inputs, size_t matrix,
                                     awq_where *where) {
    const awq_stats *s = inputs->stats;
    size_t c;
    if (e->loss == AWQ_LOSS_ROWS) {
        e->x = inputs->rows;
        return awq__spread_rows(e, inputs, matrix, where);
    }
    if (e->loss == AWQ_LOSS_SKETCH) awq__use_sketch(e, s->sketch, s->sketch_rows, s->weight);
    if (e->loss == AWQ_LOSS_GRAM) {
        e->gram = s->gram;
        e->divisor = s->weight;
    }
    if (e->loss == AWQ_LOSS_DIAGONAL) {
        AWQ__TRY(awq_stats_get(s, AWQ_ABS_MEAN, e->diagonal));
        for (c = 0; c < e->in_features; c++) e->diagonal[c] *= e->diagonal[c];
        e->divisor = s->weight > 0 ? (double)e->in_features : 0;
    }
    return AWQ_OK;
}

/* sums[r] = sum over tokens of w_t (d[r] . x_t)^2, for rows <= AWQ__ROWS */
static void awq__squared_errors_portable(const float *d, size_t rows, size_t d_stride,
                                         const float *xt, size_t cols, size_t xt_stride,
                                         size_t tokens, const float *token_weight, double *sums) {
    size_t tile, r, c, t;
    for (r = 0; r < rows; r++) sums[r] = 0;
    for (tile = 0; tile < tokens / AWQ__TILE; tile++) {
        float y[AWQ__ROWS][AWQ__TILE];
        memset(y, 0, sizeof y);
        for (c = 0; c < cols; c += AWQ__CHUNK) /* a chunk of x serves all rows from the L1 cache */
            awq__add_products_portable(y[0], AWQ__TILE, rows, AWQ__TILE, d + c, d_stride, 1,
                                       xt + tile * xt_stride + c * AWQ__TILE, AWQ__TILE,
                                       awq__min(AWQ__CHUNK, cols - c));
        for (r = 0; r < rows; r++)
            for (t = 0; t < AWQ__TILE; t++) {
                double w = token_weight ? (double)token_weight[tile * AWQ__TILE + t] : 1.0;
                sums[r] += w * ((double)y[r][t] * (double)y[r][t]);
            }
    }
}

/* sums[r] = d[r] H d[r] over channels [begin, begin + n), from the upper triangle of H. z is d H
   for a chunk of columns; a part of H serves all rows from the L1 cache. */
static void awq__gram_losses(const awq_kernels *k, const awq__evidence *e, const float *d,
                             size_t rows, size_t d_stride, size_t begin, size_t n, double *sums) {
    const float *gram = e->gram + begin * e->in_features + begin;
    size_t col, i, c, r, in = e->in_features;
    for (r = 0; r < rows; r++) sums[r] = 0;
    for (col = 0; col < n; col += AWQ__CHUNK) {
        size_t width = awq__min(AWQ__CHUNK, n - col);
        const float *corner = gram + col * in + col;
        float z[AWQ__ROWS][AWQ__CHUNK];
        memset(z, 0, sizeof z);
        for (i = 0; i < col; i += AWQ__CHUNK / 2)
            k->add_products(z[0], AWQ__CHUNK, rows, width, d + i, d_stride, 1, gram + i * in + col,
                            in, AWQ__CHUNK / 2);
        for (r = 0; r < rows; r++) {
            const float *v = d + r * d_stride + col;
            for (i = 0; i < width; i++)
                for (c = i + 1; c < width; c++) z[r][c] += v[i] * corner[i * in + c];
            for (c = 0; c < width; c++)
                sums[r] += (double)v[c] *
                           (2 * (double)z[r][c] + (double)corner[c * in + c] * (double)v[c]);
        }
    }
    for (r = 0; r < rows; r++) /* rounding may leave a little less than 0 */
        if (sums[r] < 0) sums[r] = 0;
}

/* sums[r] = the loss of d[r], which stands for columns [begin, end) */
static void awq__row_losses(const awq_kernels *k, const awq__evidence *e, const float *d,
                            size_t rows, size_t d_stride, size_t begin, size_t end, double *sums) {
    size_t r, i, n = end - begin;
    if (e->xt) {
        k->squared_errors(d, rows, d_stride, e->xt + begin * AWQ__TILE, n,
                          e->in_features * AWQ__TILE, e->tokens, e->token_weight, sums);
    } else if (e->gram) {
        awq__gram_losses(k, e, d, rows, d_stride, begin, n, sums);
    } else {
        for (r = 0; r < rows; r++) {
            sums[r] = 0;
            for (i = 0; i < n; i++) {
                double v = (double)d[r * d_stride + i];
                sums[r] += (double)e->diagonal[begin + i] * (v * v);
            }
        }
    }
}

/* One pass over the rows of one weight: how d is made, and where the row losses go. */
typedef struct awq__loss_task {
    const awq_kernels *k;
    const awq__evidence *evidence;
    awq__source source;
    const awq_quant *quant;   /* NULL: d = approximation - w */
    awq_matrix approximation; /* data NULL: 0 */
    unsigned char *work;      /* [workers][work_size] */
    size_t work_size;
    double *row_loss; /* [out_features] */
    size_t every; /* AWQ__BYTE_ROWS rows of so many times that number are measured, the first */
} awq__loss_task;

/* 0 where the row cannot be quantized so: its scale, or a scaled weight, overflows */
static int awq__error_row(const awq__loss_task *task, size_t row, float *d) {
    size_t in = task->evidence->in_features, begin, i, size;
    if (!task->quant) {
        awq__load_row(task->source.weight, row, 0, in, d);
        for (i = 0; task->approximation.data && i < in; i++)
            d[i] =
                awq__load_float(awq__at(task->approximation, row, i), task->approximation.dtype) -
                d[i];
        return 1;
    }
    size = awq__group_size(in, task->quant->group_size);
    for (begin = 0; begin < in; begin += size) {
        size_t end = awq__min(begin + size, in);
        float u[AWQ__CHUNK];
        awq__grid grid;
        if (awq__fit_group(&task->source, task->quant, row, begin, end, FLT_MAX, u, &grid, NULL) !=
            AWQ_OK)
            return 0;
        awq__error_group(&task->source, task->quant, row, begin, end, FLT_MAX, grid, d + begin);
    }
    return 1;
}

static void awq__loss_rows(const awq__loss_task *task, size_t begin, size_t end, size_t worker) {
    size_t in = task->evidence->in_features, row, r;
    float *d = (float *)(void *)(task->work + worker * task->work_size);
    for (row = begin; row < end; row += AWQ__ROWS) {
        size_t rows = awq__min(AWQ__ROWS, end - row);
        int usable[AWQ__ROWS];
        for (r = 0; r < rows; r++)
            if (!(usable[r] = awq__error_row(task, row + r, d + r * in)))
                memset(d + r * in, 0, in * sizeof *d);
        awq__row_losses(task->k, task->evidence, d, rows, in, 0, in, task->row_loss + row);
        for (r = 0; r < rows; r++)
            if (!usable[r]) task->row_loss[row + r] = HUGE_VAL;
    }
}

/* Where rounding errors are bytes: >>impl-byte-loss, which packs and multiplies. */
#define AWQ__BYTE_ROWS 64
static size_t awq__byte_room(size_t in);
static int awq__fits_bytes(const awq__loss_task *task, double rows);
static int awq__prepare_inputs(awq__loss_task *task, awq__evidence *e, const float *scale,
                               const awq_parallel *parallel);
static void awq__byte_losses(const awq__loss_task *task, size_t begin, size_t end, size_t worker);

/* Bytes of one worker: d of AWQ__ROWS rows, or AWQ__BYTE_ROWS rows as bytes and their products. */
static size_t awq__work_size(const awq__evidence *e) {
    size_t y = awq__mul(e->tokens, AWQ__BYTE_ROWS * sizeof(float));
    return awq__align(awq__add(awq__byte_room(e->in_features), y), 64);
}

/* Rows [begin, end) of those that are measured. */
static void awq__loss_range(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__loss_task *task = (const awq__loss_task *)arg;
    size_t row, last, rows = task->source.weight.rows;
    if (task->evidence->as_bytes) /* the last rows may be few, and words have padding */
        memset(task->work + worker * task->work_size, 0, task->work_size);
    for (; begin < end; begin += AWQ__BYTE_ROWS) {
        row = begin * task->every;
        last = awq__min(row + awq__min(AWQ__BYTE_ROWS, end - begin), rows);
        if (row >= last) continue;
        if (task->evidence->as_bytes) awq__byte_losses(task, row, last, worker);
        else awq__loss_rows(task, row, last, worker);
    }
}

/* Sum over the rows of one weight, in row order whatever the split. */
static double awq__loss_sum(awq__loss_task *task, const awq_parallel *parallel) {
    double sum = 0, counted = 0;
    size_t row, rows = task->source.weight.rows, step = AWQ__BYTE_ROWS * task->every;
    awq__run(parallel, awq__ceil_div(rows, step) * AWQ__BYTE_ROWS, AWQ__BYTE_ROWS,
             awq__loss_range, task);
    for (row = 0; row < rows; row++)
        if (row % step < AWQ__BYTE_ROWS) {
            sum += task->row_loss[row];
            counted += 1;
        }
    return task->every > 1 ? sum * ((double)rows / counted) : sum;
}

/* =================================================================================================
   >>impl-search
   ============================================================================================== */

AWQDEF awq_search_config awq_search_preset(awq_preset preset, awq_quant quant) {
    awq_search_config config;
    memset(&config, 0, sizeof config);
    config.quant = quant;
    config.rule = preset == AWQ_PRESET_PAPER     ? AWQ_SCALE_MAX
                  : preset == AWQ_PRESET_AUTOAWQ ? AWQ_SCALE_DUO
                  : preset == AWQ_PRESET_KERAS   ? AWQ_SCALE_KERAS
                                                 : AWQ_SCALE_MEAN;
    config.grid_points = preset == AWQ_PRESET_KERAS ? 21 : 20;
    config.grid_steps = 20;
    return config;
}

/* The mean over rows on its way, for all groups of columns. */
typedef struct awq__weight_stats {
    void (*load)(const void *from, awq_dtype dtype, const float *scale, size_t n, float *u);
    const awq_matrix *weights;
    size_t weight_count, size; /* of a group */
    double *v;                 /* [in_features] */
} awq__weight_stats;

/* v[c] += |w[c]| / max|w| of the group, for one row; what is not finite makes v NaN */
static void awq__add_weight_stat(const awq__weight_stats *t, awq_matrix weight, size_t row,
                                 size_t begin, size_t end) {
    float w[AWQ__CHUNK], largest = 0;
    size_t col, i, n = 0;
    for (col = begin; col < end; col += n) {
        n = awq__min(AWQ__CHUNK, end - col);
        t->load(awq__at(weight, row, col), weight.dtype, NULL, n, w);
        for (i = 0; i < n; i++) largest = awq__abs(w[i]) > largest ? awq__abs(w[i]) : largest;
    }
    for (col = begin; col < end; col += n) {
        n = awq__min(AWQ__CHUNK, end - col);
        if (end - begin > AWQ__CHUNK)
            t->load(awq__at(weight, row, col), weight.dtype, NULL, n, w);
        for (i = 0; i < n; i++) t->v[col + i] += (double)(awq__abs(w[i]) / (largest + 1e-6f));
    }
}

/* Groups [begin, end) of all rows: a channel's sum is in row order whatever the split. */
static void awq__add_weight_stats(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__weight_stats *t = (const awq__weight_stats *)arg;
    size_t m, row, group, in = t->weights[0].cols;
    (void)worker;
    for (m = 0; m < t->weight_count; m++)
        for (row = 0; row < t->weights[m].rows; row++)
            for (group = begin; group < end; group++)
                awq__add_weight_stat(t, t->weights[m], row, group * t->size,
                                     awq__min((group + 1) * t->size, in));
}

static awq_status awq__weight_means(awq__weight_stats *t, const awq_parallel *parallel,
                                    awq_where *where) {
    size_t m, c, in = t->weights[0].cols;
    double rows = 0;
    for (c = 0; c < in; c++) t->v[c] = 0;
    awq__run(parallel, awq__ceil_div(in, t->size), 1, awq__add_weight_stats, t);
    for (m = 0; m < t->weight_count; m++) rows += (double)t->weights[m].rows;
    for (c = 0; c < in; c++) {
        t->v[c] /= rows;
        if (t->v[c] >= 0) continue;
        for (m = 0; m < t->weight_count; m++) AWQ__TRY(awq__check_finite(t->weights[m], m, where));
    }
    return AWQ_OK;
}

AWQDEF awq_status awq_weight_stat(const awq_matrix *weights, size_t weight_count, int group_size,
                                  double *out, awq_where *where) {
    awq__weight_stats t;
    AWQ__TRY(awq__check_weights(weights, weight_count));
    if (!out) return AWQ_ERR_NULL;
    if (awq_group_count(weights[0].cols, group_size) == 0) return AWQ_ERR_CONFIG;
    t.load = awq__load_scaled_portable;
    t.weights = weights;
    t.weight_count = weight_count;
    t.size = awq__group_size(weights[0].cols, group_size);
    t.v = out;
    return awq__weight_means(&t, NULL, where);
}

/* powf, but through double: the same float from every libm, or very nearly */
static float awq__pow(float x, double power) { return (float)pow((double)x, (double)(float)power); }
static float awq__at_least(float x, float least) { return x > least ? x : least; }

static float awq__raw_scale(awq_scale_rule rule, double ratio, float act, float weight) {
    if (rule == AWQ_SCALE_DUO) return awq__pow(act, ratio) / (awq__pow(weight, 1 - ratio) + 1e-4f);
    if (rule == AWQ_SCALE_KERAS)
        return awq__pow(awq__at_least(act, 1e-4f), ratio) /
               awq__pow(awq__at_least(weight, 1e-4f), 1 - ratio);
    return awq__pow(act, ratio);
}

static int awq__reads_weights(awq_scale_rule rule) {
    return rule == AWQ_SCALE_DUO || rule == AWQ_SCALE_KERAS;
}
static int awq__is_rule(awq_scale_rule rule) {
    return rule >= AWQ_SCALE_MAX && rule <= AWQ_SCALE_KERAS;
}

AWQDEF awq_status awq_scale_at(awq_scale_rule rule, double ratio, size_t in_features,
                               const float *act_stat, const double *weight_stat, float *scale,
                               awq_where *where) {
    float largest = 0, smallest = FLT_MAX, middle;
    size_t c;
    if (!act_stat || !scale || (!weight_stat && awq__reads_weights(rule))) return AWQ_ERR_NULL;
    if (!awq__is_rule(rule) || !(ratio >= 0 && ratio <= 64)) return AWQ_ERR_CONFIG;
    if (in_features == 0) return AWQ_ERR_SHAPE;
    for (c = 0; c < in_features; c++) {
        float s = awq__raw_scale(rule, ratio, act_stat[c], weight_stat ? (float)weight_stat[c] : 0);
        if (!awq__is_finite(s)) return awq__fail(where, AWQ_ERR_DATA, 0, 0, c);
        scale[c] = s = awq__at_least(s, 1e-4f);
        largest = s > largest ? s : largest;
        smallest = s < smallest ? s : smallest;
    }
    middle = largest * smallest;
    middle = awq__is_finite(middle) ? sqrtf(middle) : sqrtf(largest) * sqrtf(smallest);
    for (c = 0; c < in_features; c++) {
        scale[c] /= middle;
        if (!awq__is_scale(scale[c])) return awq__fail(where, AWQ_ERR_DATA, 0, 0, c);
    }
    return AWQ_OK;
}

#define AWQ__COARSE 64   /* rows of the folded sketch */
#define AWQ__SHORTLIST 3 /* candidates that are measured on all of it, and on all rows of W */
#define AWQ__ENOUGH 1024 /* rows of W that the others are measured on, or more */

/* What a search keeps in the caller's scratch. */
typedef struct awq__search_state {
    awq__evidence evidence;
    awq__loss_task task;
    float *coarse;       /* [AWQ__COARSE][in_features], or NULL */
    float *act_stat;     /* [in_features] */
    float *candidate;    /* [in_features] */
    double *weight_stat; /* [in_features] */
    double total_rows;   /* of all weights */
} awq__search_state;

static void awq__search_layout(awq__search_state *state, awq__arena *arena,
                               const awq_inputs *inputs, const awq_matrix *weights,
                               size_t weight_count, const awq_parallel *parallel) {
    size_t i, in = weights[0].cols, rows = 0, workers = awq__workers(parallel);
    memset(state, 0, sizeof *state);
    for (i = 0; i < weight_count; i++) {
        rows = weights[i].rows > rows ? weights[i].rows : rows;
        state->total_rows += (double)weights[i].rows;
    }
    awq__evidence_layout(&state->evidence, arena, inputs, in);
    if (inputs->loss == AWQ_LOSS_SKETCH && inputs->stats->sketch_rows >= 2 * AWQ__COARSE)
        state->coarse = (float *)awq__take(arena, awq__mul(in, AWQ__COARSE), sizeof(float));
    state->act_stat = (float *)awq__take(arena, in, sizeof(float));
    state->candidate = (float *)awq__take(arena, in, sizeof(float));
    state->weight_stat = (double *)awq__take(arena, in, sizeof(double));
    state->task.work_size = awq__work_size(&state->evidence);
    state->task.work = (unsigned char *)awq__take(arena, workers, state->task.work_size);
    state->task.row_loss = (double *)awq__take(arena, rows, sizeof(double));
    state->task.evidence = &state->evidence;
}

static void awq__set_kernels(awq__loss_task *task, const awq_kernels *k) {
    task->k = k;
    task->source.k = k;
}

AWQDEF size_t awq_search_scratch_size(const awq_inputs *inputs, const awq_matrix *weights,
                                      size_t weight_count, const awq_parallel *parallel) {
    awq__search_state state;
    awq__arena arena = { NULL, 0 };
    if (!inputs || !weights || weight_count == 0) return 0;
    if (inputs->loss == AWQ_LOSS_SKETCH && !inputs->stats) return 0;
    awq__search_layout(&state, &arena, inputs, weights, weight_count, parallel);
    return awq__size_or_0(awq__add(arena.used, 64));
}

/* Scratch at the next multiple of 64: tiles stand on cache lines whatever the caller gave. */
static awq__arena awq__arena_of(void *memory) {
    awq__arena arena;
    uintptr_t at = (uintptr_t)memory;
    arena.base = (unsigned char *)memory + ((64 - at % 64) % 64);
    arena.used = 0;
    return arena;
}

/* Channels that one kv channel feeds get one statistic: the maximum, or the mean. */
static void awq__pool(awq_tie tie, size_t in, int by_maximum, float *act, double *weight) {
    size_t block = tie.repeat * tie.head_dim, base, d, r;
    for (base = 0; block && base < in; base += block)
        for (d = 0; d < tie.head_dim; d++) {
            double sum = 0, weight_sum = 0, largest = 0;
            for (r = 0; r < tie.repeat; r++) {
                size_t c = base + r * tie.head_dim + d;
                sum += (double)act[c];
                weight_sum += weight[c];
                largest = (double)act[c] > largest ? (double)act[c] : largest;
            }
            for (r = 0; r < tie.repeat; r++) {
                size_t c = base + r * tie.head_dim + d;
                act[c] = (float)(by_maximum ? largest : sum / (double)tie.repeat);
                weight[c] = weight_sum / (double)tie.repeat;
            }
        }
}

static awq_status awq__check_tie(awq_tie tie, size_t in) {
    size_t block = awq__mul(tie.repeat, tie.head_dim);
    if (tie.repeat == 0 && tie.head_dim == 0) return AWQ_OK;
    return block && block != SIZE_MAX && in % block == 0 ? AWQ_OK : AWQ_ERR_CONFIG;
}

static awq_status awq__check_search(const awq_search_config *config, const awq_inputs *inputs,
                                    const awq_matrix *weights, size_t weight_count,
                                    const awq_parallel *parallel) {
    if (!config) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_weights(weights, weight_count));
    AWQ__TRY(awq__check_inputs(inputs, weights[0].cols));
    AWQ__TRY(awq__check_parallel(parallel));
    AWQ__TRY(awq__check_quant(config->quant));
    if (!inputs->stats) return AWQ_ERR_NULL;
    if (!awq__is_rule(config->rule) || config->grid_points < 1 || config->grid_steps < 1)
        return AWQ_ERR_CONFIG;
    return awq__check_tie(config->tie, weights[0].cols);
}

static awq_status awq__search_stats(awq__search_state *state, const awq_search_config *config,
                                    const awq_inputs *inputs, const awq_matrix *weights,
                                    size_t weight_count, const awq_parallel *parallel,
                                    awq_where *where) {
    size_t i, in = weights[0].cols;
    int by_maximum = config->rule == AWQ_SCALE_MAX;
    awq__weight_stats means;
    means.load = state->task.k->load_scaled;
    means.weights = weights;
    means.weight_count = weight_count;
    means.size = awq__group_size(in, config->quant.group_size);
    means.v = state->weight_stat;
    for (i = 0; i < in; i++) state->weight_stat[i] = 0;
    if (awq__reads_weights(config->rule))
        AWQ__TRY(awq__weight_means(&means, parallel, where));
    else if (inputs->loss == AWQ_LOSS_CALLBACK) /* other losses notice by themselves */
        for (i = 0; i < weight_count; i++) AWQ__TRY(awq__check_finite(weights[i], i, where));
    AWQ__TRY(
        awq_stats_get(inputs->stats, by_maximum ? AWQ_ABS_MAX : AWQ_ABS_MEAN, state->act_stat));
    awq__pool(config->tie, in, by_maximum, state->act_stat, state->weight_stat);
    return awq__evidence_fill(&state->evidence, inputs, weight_count, where);
}

/* Mean loss of one candidate over all weights (scale NULL: plain rounding). */
static awq_status awq__candidate_loss(awq__search_state *state, const awq_inputs *inputs,
                                      const awq_matrix *weights, size_t weight_count,
                                      const float *scale, const awq_parallel *parallel,
                                      double *loss) {
    size_t i;
    *loss = 0;
    if (inputs->loss == AWQ_LOSS_CALLBACK) {
        if (!scale) {
            for (i = 0; i < weights[0].cols; i++) state->candidate[i] = 1;
            scale = state->candidate;
        }
        return inputs->callback(inputs->context, scale, loss) == 0 ? AWQ_OK : AWQ_ERR_CALLBACK;
    }
    if (state->evidence.as_bytes &&
        !awq__prepare_inputs(&state->task, &state->evidence, scale, parallel)) {
        *loss = HUGE_VAL;
        return AWQ_OK;
    }
    for (i = 0; i < weight_count; i++) {
        state->task.every = 1;
        if (state->evidence.x.data == state->coarse && weights[i].rows >= AWQ__ENOUGH)
            state->task.every = weights[i].rows / AWQ__ENOUGH;
        state->task.source.weight = weights[i];
        state->task.source.scale = scale;
        *loss += awq__loss_sum(&state->task, parallel);
    }
    if (state->evidence.divisor > 0) *loss /= state->evidence.divisor * state->total_rows;
    return AWQ_OK;
}

/* Where plain rounding itself fails, for the status of a search in which nothing was usable. */
static awq_status awq__find_unusable(const awq_kernels *k, const awq_quant *quant,
                                     const awq_matrix *weights, size_t weight_count,
                                     awq_where *where) {
    size_t m;
    for (m = 0; m < weight_count; m++) {
        awq__source source = { k, weights[m], NULL, NULL };
        awq_status status = awq__check_groups(&source, quant, where);
        if (status != AWQ_OK && where) where->matrix = m;
        AWQ__TRY(status);
    }
    return awq__fail(where, AWQ_ERR_DATA, 0, 0, 0); /* the losses themselves are not finite */
}

/* A search on its way. */
typedef struct awq__search {
    awq__search_state *state;
    const awq_search_config *config;
    const awq_inputs *inputs;
    const awq_matrix *weights;
    size_t weight_count;
    const awq_parallel *parallel;
    double *loss_curve; /* or NULL */
} awq__search;

/* Of s = 1 (point -1) or a grid point; infinite where it is not usable. */
static awq_status awq__point_loss(const awq__search *a, int point, double *loss) {
    const float *scale = point < 0 ? NULL : a->state->candidate;
    *loss = HUGE_VAL;
    if (point < 0 ||
        awq_scale_at(a->config->rule, (double)point / a->config->grid_steps, a->weights[0].cols,
                     a->state->act_stat, a->state->weight_stat, a->state->candidate,
                     NULL) == AWQ_OK)
        AWQ__TRY(awq__candidate_loss(a->state, a->inputs, a->weights, a->weight_count, scale,
                                     a->parallel, loss));
    if (!(*loss < HUGE_VAL)) *loss = HUGE_VAL; /* NaN too */
    if (point >= 0 && a->loss_curve) a->loss_curve[point] = *loss;
    return AWQ_OK;
}

/* The least losses so far and their grid points, least first; the first of equals wins. */
typedef struct awq__ranking {
    double loss[AWQ__SHORTLIST];
    int point[AWQ__SHORTLIST];
} awq__ranking;

static void awq__rank_none(awq__ranking *ranking) {
    size_t i;
    for (i = 0; i < AWQ__SHORTLIST; i++) {
        ranking->loss[i] = HUGE_VAL;
        ranking->point[i] = 0;
    }
}

static void awq__rank(awq__ranking *ranking, int point, double loss) {
    size_t i;
    for (i = AWQ__SHORTLIST; i > 0; i--) {
        double above = ranking->loss[i - 1];
        if (!(loss < above || (loss <= above && loss < HUGE_VAL && point < ranking->point[i - 1])))
            break;
        if (i < AWQ__SHORTLIST) {
            ranking->loss[i] = ranking->loss[i - 1];
            ranking->point[i] = ranking->point[i - 1];
        }
        ranking->loss[i - 1] = loss;
        ranking->point[i - 1] = point;
    }
}

/* Row i of the folded sketch is the sum of rows i, i + AWQ__COARSE ...: a sketch, too. */
static void awq__fold_sketch(awq__search_state *state, const awq_stats *s) {
    size_t r, c, in = s->in_features;
    memset(state->coarse, 0, AWQ__COARSE * in * sizeof *state->coarse);
    for (r = 0; r < s->sketch_rows; r++)
        for (c = 0; c < in; c++) state->coarse[r % AWQ__COARSE * in + c] += s->sketch[r * in + c];
    awq__use_sketch(&state->evidence, state->coarse, AWQ__COARSE, s->weight);
}

/* What the folded sketch ranked first, measured on all of it. */
static awq_status awq__measure_shortlist(const awq__search *a, awq__ranking *ranking) {
    const awq_stats *s = a->inputs->stats;
    awq__ranking coarse = *ranking;
    size_t i;
    awq__use_sketch(&a->state->evidence, s->sketch, s->sketch_rows, s->weight);
    awq__rank_none(ranking);
    for (i = 0; i < AWQ__SHORTLIST && coarse.loss[i] < HUGE_VAL; i++) {
        double loss;
        AWQ__TRY(awq__point_loss(a, coarse.point[i], &loss));
        awq__rank(ranking, coarse.point[i], loss);
    }
    return AWQ_OK;
}

static awq_status awq__grid_losses(const awq__search *a, awq_search_result *best) {
    awq__ranking ranking;
    int i;
    awq__rank_none(&ranking);
    if (a->state->coarse) awq__fold_sketch(a->state, a->inputs->stats);
    else AWQ__TRY(awq__point_loss(a, -1, &best->identity_loss));
    for (i = 0; i < a->config->grid_points; i++) {
        double loss;
        AWQ__TRY(awq__point_loss(a, i, &loss));
        awq__rank(&ranking, i, loss);
    }
    if (a->state->coarse) {
        AWQ__TRY(awq__measure_shortlist(a, &ranking));
        AWQ__TRY(awq__point_loss(a, -1, &best->identity_loss));
    }
    best->index = ranking.point[0];
    best->loss = ranking.loss[0];
    best->ratio = (double)best->index / a->config->grid_steps;
    best->is_identity = !(best->loss <= best->identity_loss);
    return AWQ_OK;
}

AWQDEF awq_status awq_search(const awq_kernels *k, const awq_search_config *config,
                             const awq_inputs *inputs, const awq_matrix *weights,
                             size_t weight_count, void *scratch, size_t scratch_size,
                             const awq_parallel *parallel, float *scale, double *loss_curve,
                             awq_search_result *result, awq_where *where) {
    awq__search_state state;
    awq__search all = { NULL, config, inputs, weights, weight_count, parallel, loss_curve };
    awq_search_result best;
    awq__arena arena;
    size_t i, in, size;
    AWQ__TRY(awq__check_search(config, inputs, weights, weight_count, parallel));
    if (!k || !scratch || !scale || !result) return AWQ_ERR_NULL;
    size = awq_search_scratch_size(inputs, weights, weight_count, parallel);
    if (size == 0 || scratch_size < size) return AWQ_ERR_MEMORY;

    arena = awq__arena_of(scratch);
    in = weights[0].cols;
    awq__search_layout(&state, &arena, inputs, weights, weight_count, parallel);
    awq__set_kernels(&state.task, k);
    state.task.quant = &config->quant;
    state.evidence.as_bytes = awq__fits_bytes(&state.task, state.total_rows);
    AWQ__TRY(awq__search_stats(&state, config, inputs, weights, weight_count, parallel, where));

    memset(&best, 0, sizeof best);
    all.state = &state;
    AWQ__TRY(awq__grid_losses(&all, &best));
    if (!(best.loss < HUGE_VAL) && !(best.identity_loss < HUGE_VAL))
        return awq__find_unusable(k, &config->quant, weights, weight_count, where);
    if (inputs->stats->weight <= 0) best.is_identity = 1; /* nothing was seen: leave W alone */
    if (best.is_identity) {
        best.loss = best.identity_loss;
        for (i = 0; i < in; i++) scale[i] = 1;
    } else {
        AWQ__TRY(awq_scale_at(config->rule, best.ratio, in, state.act_stat, state.weight_stat,
                              scale, where));
    }
    *result = best;
    return AWQ_OK;
}

AWQDEF awq_status awq_output_error(const awq_kernels *k, const awq_inputs *inputs,
                                   awq_matrix weight, awq_matrix approximation, void *scratch,
                                   size_t scratch_size, const awq_parallel *parallel, double *error,
                                   awq_where *where) {
    awq__search_state state;
    awq__arena arena;
    double sum;
    size_t size;
    AWQ__TRY(awq__check_weights(&weight, 1));
    AWQ__TRY(awq__check_inputs(inputs, weight.cols));
    AWQ__TRY(awq__check_parallel(parallel));
    if (inputs->loss == AWQ_LOSS_CALLBACK) return AWQ_ERR_CONFIG;
    if (approximation.data) {
        AWQ__TRY(awq__check_matrix(approximation));
        if (approximation.rows != weight.rows || approximation.cols != weight.cols)
            return AWQ_ERR_SHAPE;
    }
    if (!k || !scratch || !error) return AWQ_ERR_NULL;
    size = awq_search_scratch_size(inputs, &weight, 1, parallel);
    if (size == 0 || scratch_size < size) return AWQ_ERR_MEMORY;

    arena = awq__arena_of(scratch);
    awq__search_layout(&state, &arena, inputs, &weight, 1, parallel);
    awq__set_kernels(&state.task, k);
    state.task.source.weight = weight;
    state.task.approximation = approximation;
    state.task.every = 1;
    AWQ__TRY(awq__check_finite(weight, 0, where));
    if (approximation.data) AWQ__TRY(awq__check_finite(approximation, 1, where));
    AWQ__TRY(awq__evidence_fill(&state.evidence, inputs, 2, where));
    sum = awq__loss_sum(&state.task, parallel);
    *error = state.evidence.divisor > 0 ? sum / (state.evidence.divisor * state.total_rows) : 0;
    return AWQ_OK;
}

/* =================================================================================================
   >>impl-fold
   ============================================================================================== */

static awq_status awq__check_fold(awq_direction direction, const float *scale, size_t in,
                                  awq_where *where) {
    if (!scale) return AWQ_ERR_NULL;
    if (direction != AWQ_FOLD && direction != AWQ_UNFOLD) return AWQ_ERR_CONFIG;
    if (in == 0) return AWQ_ERR_SHAPE;
    return awq__check_scale(scale, in, where);
}

/* The channel of s that row `row` of v_proj (kv_head, d) takes: its first query head's. */
static size_t awq__tied_channel(awq_tie tie, size_t row) {
    if (tie.repeat <= 1) return row;
    return row / tie.head_dim * tie.repeat * tie.head_dim + row % tie.head_dim;
}

/* A matrix whose rows, or columns, are multiplied or divided by s. */
typedef struct awq__rescaling {
    awq_matrix   m;
    const float *scale;
    awq_tie      tie;
    int          by_row, multiply;
} awq__rescaling;

/* Without `write` only looks whether every result is finite. */
static awq_status awq__rescale(const awq__rescaling *r, int write, size_t matrix,
                               awq_where *where) {
    size_t row, col;
    for (row = 0; r->m.data && row < r->m.rows; row++)
        for (col = 0; col < r->m.cols; col++) {
            unsigned char *p = awq__at(r->m, row, col), stored[4];
            float s = r->scale[awq__tied_channel(r->tie, r->by_row ? row : col)];
            float x = awq__load_float(p, r->m.dtype);
            awq__store_float(stored, r->m.dtype, r->multiply ? x * s : x / s);
            if (write) memcpy(p, stored, awq_dtype_size(r->m.dtype));
            else if (!awq__is_finite(awq__load_float(stored, r->m.dtype)))
                return awq__fail(where, AWQ_ERR_DATA, matrix, row, col);
        }
    return AWQ_OK;
}

/* Both or neither. bias.data may be NULL. */
static awq_status awq__rescale_pair(awq__rescaling *weight, awq_matrix bias, awq_where *where) {
    awq__rescaling second = *weight;
    second.m = bias;
    second.by_row = 0;
    AWQ__TRY(awq__rescale(weight, 0, 1, where));
    AWQ__TRY(awq__rescale(&second, 0, 2, where));
    AWQ__TRY(awq__rescale(weight, 1, 1, where));
    return awq__rescale(&second, 1, 2, where);
}

static awq_status awq__check_vector(awq_matrix v, size_t n) {
    AWQ__TRY(awq__check_matrix(v));
    return v.rows == 1 && v.cols == n ? AWQ_OK : AWQ_ERR_SHAPE;
}

static awq_status awq__fold_columns(awq_matrix m, awq_matrix bias, const float *scale, int multiply,
                                    awq_where *where) {
    awq__rescaling columns;
    memset(&columns, 0, sizeof columns);
    columns.m = m;
    columns.scale = scale;
    columns.multiply = multiply;
    return awq__rescale_pair(&columns, bias, where);
}

AWQDEF awq_status awq_fold_norm(awq_direction direction, const float *scale, size_t in_features,
                                awq_matrix weight, awq_matrix bias, awq_where *where) {
    AWQ__TRY(awq__check_vector(weight, in_features));
    if (bias.data) AWQ__TRY(awq__check_vector(bias, in_features));
    AWQ__TRY(awq__check_fold(direction, scale, in_features, where));
    return awq__fold_columns(weight, bias, scale, direction == AWQ_UNFOLD, where);
}

/* Channels that are tied have one scale. */
static awq_status awq__check_tied(awq_tie tie, const float *scale, size_t rows, awq_where *where) {
    size_t row, r;
    for (row = 0; tie.repeat > 1 && row < rows; row++)
        for (r = 1; r < tie.repeat; r++) {
            size_t first = awq__tied_channel(tie, row), other = first + r * tie.head_dim;
            if (scale[other] < scale[first] || scale[other] > scale[first])
                return awq__fail(where, AWQ_ERR_DATA, 0, 0, other);
        }
    return AWQ_OK;
}

AWQDEF awq_status awq_fold_linear(awq_direction direction, const float *scale, size_t in_features,
                                  awq_tie tie, awq_matrix weight, awq_matrix bias,
                                  awq_where *where) {
    awq__rescaling rows;
    AWQ__TRY(awq__check_tie(tie, in_features));
    memset(&rows, 0, sizeof rows);
    rows.m = weight;
    rows.scale = scale;
    rows.tie = tie;
    rows.by_row = 1;
    rows.multiply = direction == AWQ_UNFOLD;
    AWQ__TRY(awq__check_matrix(weight));
    if (weight.rows != in_features / (tie.repeat > 1 ? tie.repeat : 1) || weight.cols == 0)
        return AWQ_ERR_SHAPE;
    if (bias.data) AWQ__TRY(awq__check_vector(bias, weight.rows));
    AWQ__TRY(awq__check_fold(direction, scale, in_features, where));
    AWQ__TRY(awq__check_tied(tie, scale, weight.rows, where));
    return awq__rescale_pair(&rows, bias, where);
}

static awq_status awq__check_columns(awq_direction direction, const float *scale, size_t in,
                                     awq_matrix m, awq_where *where) {
    AWQ__TRY(awq__check_matrix(m));
    if (m.rows && m.cols != in) return AWQ_ERR_SHAPE;
    return awq__check_fold(direction, scale, in, where);
}

AWQDEF awq_status awq_fold_activation(awq_direction direction, const float *scale,
                                      size_t in_features, awq_matrix x, awq_where *where) {
    awq_matrix none = awq_matrix_view(NULL, AWQ_F32, 0, 0);
    AWQ__TRY(awq__check_columns(direction, scale, in_features, x, where));
    return awq__fold_columns(x, none, scale, direction == AWQ_UNFOLD, where);
}

AWQDEF awq_status awq_fold_consumer(awq_direction direction, const float *scale, size_t in_features,
                                    awq_matrix weight, awq_where *where) {
    awq_matrix none = awq_matrix_view(NULL, AWQ_F32, 0, 0);
    AWQ__TRY(awq__check_columns(direction, scale, in_features, weight, where));
    return awq__fold_columns(weight, none, scale, direction == AWQ_FOLD, where);
}

/* =================================================================================================
   >>impl-clip
   ============================================================================================== */

AWQDEF awq_clip_config awq_clip_preset(awq_quant quant) {
    awq_clip_config config;
    config.quant = quant;
    config.grid_points = 10;
    config.grid_steps = 20;
    return config;
}

#define AWQ__CLIP_BATCH 32 /* bounds, of one group of some rows, that share a pass over x */

typedef struct awq__clip_state {
    const awq_kernels *k;
    const awq_clip_config *config;
    awq__evidence evidence;
    awq__source source;
    float *d; /* [workers][AWQ__CLIP_BATCH][group] */
    float *block; /* [workers][group][group] what the group at work has of H, or NULL: x itself */
    float *clip_max;
} awq__clip_state;

static void awq__clip_layout(awq__clip_state *state, awq__arena *arena, const awq_inputs *inputs,
                             awq_matrix weight, const awq_clip_config *config,
                             const awq_parallel *parallel) {
    size_t group = awq__group_size(weight.cols, config->quant.group_size);
    size_t rows = awq__mul(awq__workers(parallel), AWQ__CLIP_BATCH);
    memset(state, 0, sizeof *state);
    awq__evidence_layout(&state->evidence, arena, inputs, weight.cols);
    state->d = (float *)awq__take(arena, awq__mul(rows, group), sizeof(float));
    if (group <= AWQ__CHUNK && group <= state->evidence.tokens)
        state->block = (float *)awq__take(
            arena, awq__mul(awq__workers(parallel), group * group), sizeof(float));
}

AWQDEF size_t awq_clip_scratch_size(const awq_inputs *inputs, awq_matrix weight,
                                    const awq_clip_config *config, const awq_parallel *parallel) {
    awq__clip_state state;
    awq__arena arena = { NULL, 0 };
    if (!inputs || !config || (inputs->loss == AWQ_LOSS_SKETCH && !inputs->stats)) return 0;
    if (awq__check_quant(config->quant) != AWQ_OK) return 0;
    awq__clip_layout(&state, &arena, inputs, weight, config, parallel);
    return awq__size_or_0(awq__add(arena.used, 64));
}

/* d G d, from what awq__clip_block left; a strip of it stays in the L1 cache. */
static void awq__block_losses(const awq__clip_state *state, const float *d, size_t rows, size_t n,
                              const float *block, double *loss) {
    float z[AWQ__CLIP_BATCH][AWQ__STRIP];
    size_t r, i, l, col, wide;
    for (r = 0; r < rows; r++) loss[r] = 0;
    for (col = 0; col < n; col += AWQ__STRIP) {
        wide = awq__min(AWQ__STRIP, n - col);
        memset(z, 0, sizeof z);
        state->k->add_products(z[0], AWQ__STRIP, rows, wide, d, n, 1, block + col, n, col + wide);
        for (r = 0; r < rows; r++) {
            float sum[AWQ__TILE] = { 0 };
            for (i = 0; i + AWQ__TILE <= wide; i += AWQ__TILE)
                for (l = 0; l < AWQ__TILE; l++) sum[l] += d[r * n + col + i + l] * z[r][i + l];
            for (; i < wide; i++) sum[0] += d[r * n + col + i] * z[r][i];
            for (l = 0; l < AWQ__TILE; l++) loss[r] += (double)sum[l];
        }
    }
    for (r = 0; r < rows; r++)
        if (loss[r] < 0) loss[r] = 0; /* rounding may leave a little less */
}

/* The losses of some errors d of a group. */
static void awq__clip_losses(const awq__clip_state *state, const float *d, size_t rows,
                             size_t begin, size_t end, const float *block, double *loss) {
    size_t r, n = end - begin;
    if (block) awq__block_losses(state, d, rows, n, block, loss);
    else
        for (r = 0; r < rows; r += AWQ__ROWS)
            awq__row_losses(state->k, &state->evidence, d + r * n, awq__min(AWQ__ROWS, rows - r),
                            n, begin, end, loss + r);
}

/* block = sum over tokens of w_t x_t x_t^T, channels [begin, end) */
static void awq__clip_block(const awq__clip_state *state, size_t begin, size_t end, float *block) {
    const awq__evidence *e = &state->evidence;
    size_t n = end - begin, tile, c, t;
    memset(block, 0, n * n * sizeof *block);
    for (tile = 0; tile < e->tokens / AWQ__TILE; tile++) {
        const float *xt = e->xt + (tile * e->in_features + begin) * AWQ__TILE;
        const float *w = e->token_weight ? e->token_weight + tile * AWQ__TILE : NULL;
        float x[AWQ__TILE][AWQ__CHUNK];
        for (t = 0; t < AWQ__TILE; t++)
            for (c = 0; c < n; c++) x[t][c] = (w ? w[t] : 1) * xt[c * AWQ__TILE + t];
        state->k->add_products(block, n, n, n, xt, AWQ__TILE, 1, x[0], AWQ__CHUNK, AWQ__TILE);
    }
    for (c = 0; c < n; c++) /* d G d needs one triangle, twice */
        for (t = c + 1; t < n; t++) {
            block[c * n + t] *= 2;
            block[t * n + c] = 0;
        }
}

/* One group on its way: the row whose weights are loaded, and its range. */
typedef struct awq__clipping {
    const awq__clip_state *state;
    size_t begin, end, row;
    float u[AWQ__CHUNK], w[AWQ__CHUNK], inverse[AWQ__CHUNK]; /* w s, w, 1 / s */
    float lo, hi, peak;
} awq__clipping;

static void awq__load_clipping(awq__clipping *c, size_t col) {
    const awq__source *src = &c->state->source;
    size_t i, n = awq__min(AWQ__CHUNK, c->end - col);
    awq__load_scaled(src, c->row, col, n, c->u);
    src->k->load_scaled(awq__at(src->weight, c->row, col), src->weight.dtype, NULL, n, c->w);
    for (i = 0; i < n; i++) c->inverse[i] = src->scale ? 1 / src->scale[col + i] : 1;
}

static void awq__open_clipping(awq__clipping *c, size_t row) {
    float u[AWQ__CHUNK];
    c->row = row;
    (void)awq__group_range(&c->state->source, row, c->begin, c->end, FLT_MAX, u, &c->lo, &c->hi,
                           NULL);
    c->peak = -c->lo > c->hi ? -c->lo : c->hi;
    awq__load_clipping(c, c->begin);
}

/* The error of one bound. */
static void awq__clip_error(awq__clipping *c, float bound, float *AWQ__RESTRICT d) {
    const awq_quant *quant = &c->state->config->quant;
    const float lo = c->lo < -bound ? -bound : c->lo, hi = c->hi > bound ? bound : c->hi;
    float lowest, highest, scale;
    awq__grid grid;
    size_t col, n, i;
    (void)awq__fit_range(quant, lo, hi, &grid);
    scale = grid.scale;
    lowest = -grid.zero;
    highest = awq__levels(quant->bits) - grid.zero;
    for (col = c->begin; col < c->end; col += n, d += n) {
        n = awq__min(AWQ__CHUNK, c->end - col);
        if (c->end - c->begin > AWQ__CHUNK) awq__load_clipping(c, col);
        for (i = 0; i < n; i++) {
            float v = c->u[i] > bound ? bound : c->u[i] < -bound ? -bound : c->u[i];
            v = awq__round(v / scale);
            v = v < lowest ? lowest : v > highest ? highest : v;
            d[i] = v * scale * c->inverse[i] - c->w[i];
        }
    }
}

#define AWQ__CLIP_STEP 64 /* rows that are worth a block */

/* The best bounds of one group of rows [row_begin, row_end), all bounds of a row in turn. */
static void awq__clip_group(awq__clipping *c, size_t row_begin, size_t row_end, float *d,
                            const float *block) {
    const awq__clip_state *state = c->state;
    size_t points = (size_t)state->config->grid_points, n = c->end - c->begin, at, i, count;
    size_t groups = awq_group_count(state->source.weight.cols, state->config->quant.group_size);
    size_t group = c->begin / awq__group_size(state->source.weight.cols,
                                              state->config->quant.group_size);
    double loss[AWQ__CLIP_BATCH], least = HUGE_VAL;
    float bound[AWQ__CLIP_BATCH];
    for (at = 0; at < (row_end - row_begin) * points; at += count) {
        count = awq__min(AWQ__CLIP_BATCH, (row_end - row_begin) * points - at);
        for (i = 0; i < count; i++) {
            size_t point = (at + i) % points;
            if (point == 0) awq__open_clipping(c, row_begin + (at + i) / points);
            bound[i] = c->peak * (float)(1.0 - (double)point / state->config->grid_steps);
            awq__clip_error(c, bound[i], d + i * n);
        }
        awq__clip_losses(state, d, count, c->begin, c->end, block, loss);
        for (i = 0; i < count; i++) {
            float *best = state->clip_max + (row_begin + (at + i) / points) * groups + group;
            int is_first = (at + i) % points == 0;
            if (!is_first && !(loss[i] < least)) continue;
            least = loss[i];
            *best = bound[i];
        }
    }
}

/* Group by group, so that what is known of its inputs stays in the cache. */
static void awq__clip_rows(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__clip_state *state = (const awq__clip_state *)arg;
    size_t in = state->source.weight.cols,
           size = awq__group_size(in, state->config->quant.group_size);
    float *d = state->d + worker * AWQ__CLIP_BATCH * size;
    float *block = state->block ? state->block + worker * size * size : NULL;
    awq__clipping c;
    c.state = state;
    for (c.begin = 0; c.begin < in; c.begin = c.end) {
        c.end = awq__min(c.begin + size, in);
        if (block) awq__clip_block(state, c.begin, c.end, block);
        awq__clip_group(&c, begin, end, d, block);
    }
}

AWQDEF awq_status awq_clip_search(const awq_kernels *k, const awq_clip_config *config,
                                  const awq_inputs *inputs, awq_matrix weight, const float *scale,
                                  void *scratch, size_t scratch_size, const awq_parallel *parallel,
                                  float *clip_max, awq_where *where) {
    awq__clip_state state;
    awq__arena arena;
    size_t size;
    if (!k || !config || !scratch || !clip_max) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_weights(&weight, 1));
    AWQ__TRY(awq__check_inputs(inputs, weight.cols));
    AWQ__TRY(awq__check_parallel(parallel));
    AWQ__TRY(awq__check_quant(config->quant));
    if (inputs->loss == AWQ_LOSS_CALLBACK) return AWQ_ERR_CONFIG;
    if (config->grid_points < 1 || config->grid_steps < config->grid_points) return AWQ_ERR_CONFIG;
    size = awq_clip_scratch_size(inputs, weight, config, parallel);
    if (size == 0 || scratch_size < size) return AWQ_ERR_MEMORY;
    AWQ__TRY(awq__check_scale(scale, weight.cols, where));

    arena = awq__arena_of(scratch);
    awq__clip_layout(&state, &arena, inputs, weight, config, parallel);
    state.k = k;
    state.config = config;
    state.source.k = k;
    state.source.weight = weight;
    state.source.scale = scale;
    state.clip_max = clip_max;
    AWQ__TRY(awq__check_groups(&state.source, &config->quant, where));
    AWQ__TRY(awq__evidence_fill(&state.evidence, inputs, 1, where));
    awq__run(parallel, weight.rows, AWQ__CLIP_STEP, awq__clip_rows, &state);
    return AWQ_OK;
}

/* =================================================================================================
   >>impl-quantize
   ============================================================================================== */

static void awq__tensor_layout(awq_tensor *t, awq__arena *arena, awq_quant quant, size_t out,
                               size_t in) {
    size_t groups = awq_group_count(in, quant.group_size);
    t->q = (uint8_t *)awq__take(arena, awq__mul(out, in), 1);
    t->zeros = (uint8_t *)awq__take(arena, awq__mul(out, groups), 1);
    t->scales = awq__take(arena, awq__mul(out, groups), awq_dtype_size(quant.scale_dtype));
}

AWQDEF size_t awq_tensor_size(awq_quant quant, size_t out_features, size_t in_features) {
    awq_tensor tensor;
    awq__arena arena = { NULL, 0 };
    if (awq__check_quant(quant) != AWQ_OK || out_features == 0 || in_features == 0) return 0;
    awq__tensor_layout(&tensor, &arena, quant, out_features, in_features);
    return awq__size_or_0(arena.used);
}

AWQDEF awq_status awq_tensor_init(awq_tensor *tensor, awq_quant quant, size_t out_features,
                                  size_t in_features, void *memory, size_t memory_size) {
    size_t size = awq_tensor_size(quant, out_features, in_features);
    awq__arena arena;
    if (!tensor || !memory) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_quant(quant));
    if (out_features == 0 || in_features == 0) return AWQ_ERR_SHAPE;
    if (size == 0 || memory_size < size) return AWQ_ERR_MEMORY;
    arena.base = (unsigned char *)memory;
    arena.used = 0;
    awq__tensor_layout(tensor, &arena, quant, out_features, in_features);
    tensor->out_features = out_features;
    tensor->in_features = in_features;
    tensor->quant = quant;
    return AWQ_OK;
}

static awq_status awq__check_tensor(const awq_tensor *tensor) {
    if (!tensor || !tensor->q || !tensor->zeros || !tensor->scales) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_quant(tensor->quant));
    return awq_tensor_size(tensor->quant, tensor->out_features, tensor->in_features)
               ? AWQ_OK
               : AWQ_ERR_SHAPE;
}

static void awq__set_grid(awq_tensor *t, size_t at, awq__grid grid) {
    t->zeros[at] = (uint8_t)(int)grid.zero;
    awq__store_float((unsigned char *)t->scales + at * awq_dtype_size(t->quant.scale_dtype),
                     t->quant.scale_dtype, grid.scale);
}

static awq__grid awq__get_grid(const awq_tensor *t, size_t at) {
    awq__grid grid;
    grid.zero = (float)t->zeros[at];
    grid.scale = awq__load_float((const unsigned char *)t->scales +
                                     at * awq_dtype_size(t->quant.scale_dtype),
                                 t->quant.scale_dtype);
    return grid;
}

/* Where a quantized chunk goes: q[n] of one group, from its input k on. The first has k = 0. */
typedef void awq__emit(void *to, size_t row, size_t group, size_t k, size_t n, awq__grid grid,
                       const uint8_t *q);

static awq_status awq__quantize_rows(const awq__source *source, const awq_quant *quant,
                                     awq__emit *emit, void *to, size_t row_begin, size_t row_end,
                                     awq_where *where) {
    float u[AWQ__CHUNK];
    uint8_t q[AWQ__CHUNK];
    size_t row, group, col, in = source->weight.cols, size = awq__group_size(in, quant->group_size);
    size_t groups = awq__ceil_div(in, size);
    AWQ__TRY(awq__check_scale(source->scale, in, where));
    for (row = row_begin; row < row_end; row++)
        for (group = 0; group < groups; group++) {
            size_t begin = group * size, end = awq__min(begin + size, in);
            float clip = source->clip_max ? source->clip_max[row * groups + group] : FLT_MAX;
            awq__grid grid;
            AWQ__TRY(awq__fit_group(source, quant, row, begin, end, clip, u, &grid, where));
            for (col = begin; col < end; col += AWQ__CHUNK) {
                size_t n = awq__min(AWQ__CHUNK, end - col);
                if (size > AWQ__CHUNK) awq__load_scaled(source, row, col, n, u);
                awq__round_chunk(source, quant, n, clip, grid, u, q);
                emit(to, row, group, col - begin, n, grid, q);
            }
        }
    return AWQ_OK;
}

static void awq__emit_tensor(void *to, size_t row, size_t group, size_t k, size_t n, awq__grid grid,
                             const uint8_t *q) {
    awq_tensor *t = (awq_tensor *)to;
    size_t size = awq__group_size(t->in_features, t->quant.group_size);
    if (k == 0) awq__set_grid(t, row * awq__ceil_div(t->in_features, size) + group, grid);
    memcpy(t->q + row * t->in_features + group * size + k, q, n);
}

AWQDEF awq_status awq_quantize(const awq_kernels *k, awq_matrix weight, const float *scale,
                               const float *clip_max, awq_tensor *tensor, size_t row_begin,
                               size_t row_end, awq_where *where) {
    awq__source source;
    if (!k) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq__check_weight(weight, tensor->in_features));
    if (weight.rows != tensor->out_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, weight.rows, 1));
    source.k = k;
    source.weight = weight;
    source.scale = scale;
    source.clip_max = clip_max;
    return awq__quantize_rows(&source, &tensor->quant, awq__emit_tensor, tensor, row_begin, row_end,
                              where);
}

AWQDEF awq_status awq_dequantize(const awq_tensor *tensor, const float *scale, awq_matrix out,
                                 size_t row_begin, size_t row_end) {
    size_t row, col, in, size, groups;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq__check_weight(out, tensor->in_features));
    if (out.rows != tensor->out_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, out.rows, 1));
    AWQ__TRY(awq__check_scale(scale, out.cols, NULL));
    in = tensor->in_features;
    size = awq__group_size(in, tensor->quant.group_size);
    groups = awq__ceil_div(in, size);
    for (row = row_begin; row < row_end; row++)
        for (col = 0; col < in; col++) {
            awq__grid grid = awq__get_grid(tensor, row * groups + col / size);
            float w = ((float)tensor->q[row * in + col] - grid.zero) * grid.scale;
            awq__store_float(awq__at(out, row, col), out.dtype, scale ? w / scale[col] : w);
        }
    return AWQ_OK;
}

typedef struct awq__fake {
    awq_matrix out;
    const float *scale;
    size_t group_size;
} awq__fake;

static void awq__emit_fake(void *to, size_t row, size_t group, size_t k, size_t n, awq__grid grid,
                           const uint8_t *q) {
    const awq__fake *fake = (const awq__fake *)to;
    size_t i, col = group * fake->group_size + k;
    for (i = 0; i < n; i++) {
        float w = ((float)q[i] - grid.zero) * grid.scale;
        awq__store_float(awq__at(fake->out, row, col + i), fake->out.dtype,
                         fake->scale ? w / fake->scale[col + i] : w);
    }
}

AWQDEF awq_status awq_fake_quantize(const awq_kernels *k, awq_quant quant, awq_matrix weight,
                                    const float *scale, const float *clip_max, awq_matrix out,
                                    size_t row_begin, size_t row_end, awq_where *where) {
    awq__source source;
    awq__fake fake;
    if (!k) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_quant(quant));
    AWQ__TRY(awq__check_weights(&weight, 1));
    AWQ__TRY(awq__check_weight(out, weight.cols));
    if (out.rows != weight.rows) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, weight.rows, 1));
    source.k = k;
    source.weight = weight;
    source.scale = scale;
    source.clip_max = clip_max;
    fake.out = out;
    fake.scale = scale;
    fake.group_size = awq__group_size(weight.cols, quant.group_size);
    return awq__quantize_rows(&source, &quant, awq__emit_fake, &fake, row_begin, row_end, where);
}

/* =================================================================================================
   >>impl-improve
   ============================================================================================== */

/* sums: of h (v scale - u)^2, of h u v and of h v^2, where v = u / scale to the nearest integer in
   [-zero, levels - zero], over n inputs, a multiple of AWQ__LANES; r = sqrt(h). The same for the
   zero points after it, `count` of them, at most AWQ__ZEROS. */
#define AWQ__LANES 16
#define AWQ__ZEROS 4

static float awq__fold_lanes(float lane[AWQ__LANES]) {
    size_t i, half;
    for (half = AWQ__LANES / 2; half; half /= 2)
        for (i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

static void awq__grid_sums_portable(const float *u, const float *ru, const float *r, size_t n,
                                    float scale, float zero, float levels, size_t count,
                                    float (*sums)[3]) {
    const float inverse = 1.0f / scale;
    size_t i, l, z;
    for (z = 0; z < count; z++, zero += 1) {
        float error[AWQ__LANES] = { 0 }, uv[AWQ__LANES] = { 0 }, vv[AWQ__LANES] = { 0 };
        for (i = 0; i < n; i += AWQ__LANES)
            for (l = 0; l < AWQ__LANES; l++) {
                float v = awq__round(u[i + l] * inverse), d;
                v = v < -zero ? -zero : v > levels - zero ? levels - zero : v;
                v *= r[i + l];
                d = v * scale - ru[i + l];
                error[l] += d * d;
                uv[l] += v * ru[i + l];
                vv[l] += v * v;
            }
        sums[z][0] = awq__fold_lanes(error);
        sums[z][1] = awq__fold_lanes(uv);
        sums[z][2] = awq__fold_lanes(vv);
    }
}

/* One group of a row on its way to a grid; a group of at most AWQ__CHUNK inputs is loaded once. */
typedef struct awq__fitting {
    const awq__source *source;
    const awq_quant *quant;
    const float *importance; /* or NULL */
    size_t row, begin, end;
    size_t loaded; /* the column that stands in u, ru and r, or SIZE_MAX */
    float u[AWQ__CHUNK], ru[AWQ__CHUNK], r[AWQ__CHUNK]; /* r u; r = sqrt(h); then zeros */
} awq__fitting;

/* A grid that was tried: the sums of its group; its error with the best scale for its q. */
typedef struct awq__trial {
    awq__grid grid;
    double error, uv, vv, best_error;
} awq__trial;

static size_t awq__load_fitting(awq__fitting *f, size_t col) {
    size_t n = awq__min(AWQ__CHUNK, f->end - col), i;
    const float *s = f->source->scale ? f->source->scale + col : NULL;
    if (f->loaded == col) return n;
    awq__load_scaled(f->source, f->row, col, n, f->u);
    for (i = 0; i < n; i++) f->r[i] = f->importance ? sqrtf(f->importance[col + i]) : 1.0f;
    for (i = 0; s && i < n; i++) f->r[i] /= s[i];
    for (i = 0; i < n; i++) f->ru[i] = f->r[i] * f->u[i];
    for (i = n; i % AWQ__LANES; i++) f->u[i] = f->ru[i] = f->r[i] = 0;
    f->loaded = col;
    return n;
}

/* A grid, and those of the zero points after it. */
static void awq__try_grids(awq__fitting *f, awq__grid grid, size_t count, awq__trial *trials) {
    float sums[AWQ__ZEROS][3];
    size_t col, n, z;
    memset(trials, 0, count * sizeof *trials);
    for (col = f->begin; col < f->end; col += n) {
        n = awq__load_fitting(f, col);
        f->source->k->grid_sums(f->u, f->ru, f->r, awq__align(n, AWQ__LANES), grid.scale,
                                grid.zero, awq__levels(f->quant->bits), count, sums);
        for (z = 0; z < count; z++) {
            trials[z].error += (double)sums[z][0];
            trials[z].uv += (double)sums[z][1];
            trials[z].vv += (double)sums[z][2];
        }
    }
    for (z = 0; z < count; z++, grid.zero += 1) {
        awq__trial *t = trials + z;
        double off = t->uv - (double)grid.scale * t->vv;
        t->grid = grid;
        t->best_error = t->vv > 0 ? t->error - off * off / t->vv : t->error;
    }
}

/* As it will be stored, or 0 if that is no scale. */
static float awq__stored_scale(const awq_quant *quant, double scale) {
    float s;
    if (!(scale >= (double)awq__least_scale(quant->scale_dtype) && scale <= (double)FLT_MAX))
        return 0;
    s = awq__to_dtype((float)scale, quant->scale_dtype);
    return awq__is_finite(s * awq__levels(quant->bits)) ? s : 0;
}

#define AWQ__FIT_STEPS 16 /* scales tried, from the range's down to about half of it */

/* The trial that promises most: best, or one of scale number `step` and every zero point that keeps
   an end of the range or lies between. */
static awq__trial awq__try_scale(awq__fitting *f, float lo, float hi, float top, int step,
                                 awq__trial best) {
    const float levels = awq__levels(f->quant->bits);
    awq__grid grid;
    float last;
    grid.scale = top * (1.0f - (float)step / (2 * AWQ__FIT_STEPS));
    grid.zero = levels - awq__round(hi / grid.scale); /* keeps the upper end ... */
    last = awq__round(-lo / grid.scale);              /* ... the lower one */
    if (f->quant->symmetric) grid.zero = last = best.grid.zero;
    grid.zero = grid.zero < 0 ? 0 : grid.zero;
    last = last > levels ? levels : last;
    for (; grid.zero <= last; grid.zero += AWQ__ZEROS) {
        awq__trial trials[AWQ__ZEROS];
        size_t count = awq__min((size_t)(last - grid.zero) + 1, AWQ__ZEROS), z;
        awq__try_grids(f, grid, count, trials);
        for (z = 0; z < count; z++)
            if (trials[z].best_error < best.best_error) best = trials[z];
    }
    return best;
}

/* Every other scale, then those beside the best of them. */
static awq__trial awq__most_promising(awq__fitting *f, float lo, float hi, awq__trial best) {
    const float top = best.grid.scale;
    int step, middle = 0;
    for (step = 0; step < AWQ__FIT_STEPS; step += 2) {
        awq__trial trial = awq__try_scale(f, lo, hi, top, step, best);
        if (trial.best_error < best.best_error) middle = step;
        best = trial;
    }
    if (middle > 0) best = awq__try_scale(f, lo, hi, top, middle - 1, best);
    return awq__try_scale(f, lo, hi, top, middle + 1, best);
}

#define AWQ__REFITS 4 /* scale to q, q to scale: at most so often */

/* grid: the range's own; becomes the best one found. */
static void awq__fit_grid(awq__fitting *f, float lo, float hi, awq__grid *grid) {
    awq__trial now;
    double least;
    int i;
    awq__try_grids(f, *grid, 1, &now);
    least = now.error;
    now = awq__most_promising(f, lo, hi, now);
    for (i = 0; i < AWQ__REFITS; i++) {
        awq__grid next = now.grid;
        next.scale = awq__stored_scale(f->quant, now.vv > 0 ? now.uv / now.vv : 0);
        if (!(next.scale > 0)) return;
        awq__try_grids(f, next, 1, &now);
        if (!(now.error < least)) return;
        least = now.error;
        *grid = next;
    }
}

/* One group: its grid, and its integers on it. */
static awq_status awq__fit_one(awq__fitting *f, awq_tensor *t, size_t group, awq_where *where) {
    size_t in = t->in_features, size = awq__group_size(in, t->quant.group_size), col, n;
    float lo, hi;
    awq__grid grid;
    f->begin = group * size;
    f->end = awq__min(f->begin + size, in);
    f->loaded = SIZE_MAX;
    AWQ__TRY(awq__group_range(f->source, f->row, f->begin, f->end, FLT_MAX, f->u, &lo, &hi, where));
    if (awq__fit_range(f->quant, lo, hi, &grid) != AWQ_OK)
        return awq__fail(where, AWQ_ERR_SCALE, 0, f->row, f->begin);
    awq__fit_grid(f, lo, hi, &grid);
    awq__set_grid(t, f->row * awq__ceil_div(in, size) + group, grid);
    for (col = f->begin; col < f->end; col += n) {
        n = awq__load_fitting(f, col);
        f->source->k->round_weights(f->u, n, grid.scale, grid.zero, awq__levels(t->quant.bits),
                                    t->q + f->row * in + col);
    }
    return AWQ_OK;
}

/* n values >= 0 and finite. NULL stands for all 1. */
static awq_status awq__check_importance(const float *importance, size_t n, awq_where *where) {
    size_t i;
    for (i = 0; importance && i < n; i++)
        if (!(importance[i] >= 0) || !awq__is_finite(importance[i]))
            return awq__fail(where, AWQ_ERR_DATA, 1, 0, i);
    return AWQ_OK;
}

AWQDEF awq_status awq_fit(const awq_kernels *k, awq_matrix weight, const float *scale,
                          const float *importance, awq_tensor *tensor, size_t row_begin,
                          size_t row_end, awq_where *where) {
    awq__source source;
    awq__fitting f;
    size_t group, groups;
    if (!k) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq__check_weight(weight, tensor->in_features));
    if (weight.rows != tensor->out_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, weight.rows, 1));
    AWQ__TRY(awq__check_scale(scale, weight.cols, where));
    AWQ__TRY(awq__check_importance(importance, weight.cols, where));
    source.k = k;
    source.weight = weight;
    source.scale = scale;
    source.clip_max = NULL;
    f.source = &source;
    f.quant = &tensor->quant;
    f.importance = importance;
    groups = awq_group_count(weight.cols, tensor->quant.group_size);
    for (f.row = row_begin; f.row < row_end; f.row++)
        for (group = 0; group < groups; group++)
            AWQ__TRY(awq__fit_one(&f, tensor, group, where));
    return AWQ_OK;
}

/* ---- the factor of H: blocked Cholesky, AWQ__CHUNK columns at a time ------------------------- */

typedef struct awq__factoring {
    const awq_kernels *k;
    size_t in, begin, n; /* columns [begin, begin + n) are being eliminated */
    float *gram;         /* L comes to stand below the blocks on the diagonal; the rest is read */
    float *corners;      /* [blocks][AWQ__CHUNK][AWQ__CHUNK] L in those blocks */
    float *turned;       /* the block at work, transposed and negated */
    float *panel;        /* [strips][AWQ__CHUNK][AWQ__STRIP] what stands below it, too */
    uint32_t *order;
    uint32_t *place;     /* [in] the row of a channel */
    float *innovation;   /* [in] */
    const float *scale;
    double damping; /* in units of s^2 */
    float floor_of_pivot;
} awq__factoring;

static void awq__factor_layout(awq__factoring *f, awq__arena *arena, size_t in) {
    size_t wide = awq__align(in, AWQ__STRIP);
    f->in = in;
    f->corners = (float *)awq__take(arena, awq__mul(awq__ceil_div(in, AWQ__CHUNK), AWQ__SQUARE),
                                    sizeof(float));
    f->panel = (float *)awq__take(arena, awq__mul(wide, AWQ__CHUNK), sizeof(float));
    f->turned = (float *)awq__take(arena, AWQ__SQUARE, sizeof(float));
    f->order = (uint32_t *)awq__take(arena, in, sizeof(uint32_t));
    f->place = (uint32_t *)awq__take(arena, in, sizeof(uint32_t));
    f->innovation = (float *)awq__take(arena, in, sizeof(float));
}

/* The block on the diagonal, in place. */
static void awq__factor_corner(awq__factoring *f) {
    float *corner = f->corners + f->begin * AWQ__CHUNK;
    size_t i, j, c;
    for (j = 0; j < f->n; j++) {
        float *row = corner + j * AWQ__CHUNK;
        double pivot = (double)row[j], least = (double)f->floor_of_pivot;
        for (c = 0; c < j; c++) pivot -= (double)row[c] * (double)row[c];
        row[j] = (float)sqrt(pivot > least ? pivot : least);
        for (i = j + 1; i < f->n; i++) {
            float *below = corner + i * AWQ__CHUNK;
            double sum = (double)below[j];
            for (c = 0; c < j; c++) sum -= (double)below[c] * (double)row[c];
            below[j] = (float)(sum / (double)row[j]);
        }
    }
    for (j = 0; j < f->n; j++)
        for (i = j; i < f->n; i++) f->turned[j * AWQ__CHUNK + i] = -corner[i * AWQ__CHUNK + j];
}

/* Rows below the block, counted from its end. */
static void awq__factor_panel(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__factoring *f = (const awq__factoring *)arg;
    size_t i, j, r, rows;
    (void)worker;
    for (i = begin; i < end; i += rows) {
        float *row = f->gram + (f->begin + f->n + i) * f->in + f->begin;
        rows = awq__min(AWQ__ROWS, end - i);
        for (j = 0; j < f->n; j++) {
            const float *column = f->turned + j * AWQ__CHUNK;
            float *strip = f->panel + (i / AWQ__STRIP * AWQ__CHUNK + j) * AWQ__STRIP;
            for (r = 0; r < rows; r++) {
                row[r * f->in + j] /= -column[j];
                strip[i % AWQ__STRIP + r] = -row[r * f->in + j];
            }
            f->k->add_products(row + j + 1, f->in, rows, f->n - j - 1, row + j, f->in, 0,
                               column + j + 1, 0, 1);
        }
    }
}

/* What is left: AWQ__CHUNK rows, up to the block on the diagonal and with it. */
static void awq__factor_rest_rows(const awq__factoring *f, size_t block, size_t left) {
    size_t first = block * AWQ__CHUNK, rows = awq__min(AWQ__CHUNK, left - first), col;
    float *row = f->gram + (f->begin + f->n + first) * f->in + f->begin;
    float *corner = f->corners + (f->begin + f->n + first) * AWQ__CHUNK;
    for (col = 0; col < first + rows; col += AWQ__STRIP) {
        int apart = col >= first;
        f->k->add_products(apart ? corner + (col - first) : row + f->n + col,
                           apart ? AWQ__CHUNK : f->in, rows, awq__min(AWQ__STRIP, left - col), row,
                           f->in, 1, f->panel + col * AWQ__CHUNK, AWQ__STRIP, f->n);
    }
}

/* Blocks p from the top and from the bottom, so that every index costs the same. */
static void awq__factor_rest(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__factoring *f = (const awq__factoring *)arg;
    size_t left = f->in - f->begin - f->n, blocks = awq__ceil_div(left, AWQ__CHUNK), p;
    (void)worker;
    for (p = begin; p < end; p++) {
        awq__factor_rest_rows(f, p, left);
        if (blocks - 1 - p > p) awq__factor_rest_rows(f, blocks - 1 - p, left);
    }
}

static void awq__factor(awq__factoring *f, const awq_parallel *parallel) {
    size_t left;
    for (f->begin = 0; f->begin < f->in; f->begin += f->n) {
        f->n = awq__min(AWQ__CHUNK, f->in - f->begin);
        left = f->in - f->begin - f->n;
        awq__factor_corner(f);
        awq__run(parallel, left, AWQ__ROWS, awq__factor_panel, f);
        awq__run(parallel, awq__ceil_div(awq__ceil_div(left, AWQ__CHUNK), 2), 1, awq__factor_rest,
                 f);
    }
}

/* Channels by rising activation, so that the last row has the largest: a heap sort. */
static int awq__rises(const float *diagonal, uint32_t a, uint32_t b) {
    return diagonal[a] < diagonal[b] ||
           (diagonal[a] <= diagonal[b] && a > b); /* of equals the first comes last */
}

static void awq__sink(uint32_t *order, size_t root, size_t count, const float *diagonal) {
    size_t child;
    for (; (child = 2 * root + 1) < count; root = child) {
        uint32_t swap;
        if (child + 1 < count && awq__rises(diagonal, order[child], order[child + 1])) child++;
        if (!awq__rises(diagonal, order[root], order[child])) return;
        swap = order[root];
        order[root] = order[child];
        order[child] = swap;
    }
}

static void awq__sort_channels(uint32_t *order, size_t count, const float *diagonal) {
    size_t i;
    for (i = count / 2; i-- > 0;) awq__sink(order, i, count, diagonal);
    for (i = count; i-- > 1;) {
        uint32_t largest = order[0];
        order[0] = order[i];
        order[i] = largest;
        awq__sink(order, 0, i, diagonal);
    }
}

AWQDEF size_t awq_hessian_size(size_t in_features) {
    awq__factoring f;
    awq__arena arena = { NULL, 0 };
    if (in_features == 0 || in_features > UINT32_MAX) return 0;
    awq__factor_layout(&f, &arena, in_features);
    return awq__size_or_0(awq__add(arena.used, 64));
}

/* mean_c of H_cc / s_c^2, and those in diagonal; 1 where nothing was seen: plain rounding then */
static double awq__mean_diagonal(const awq__factoring *f, float *diagonal) {
    double mean = 0;
    size_t i;
    for (i = 0; i < f->in; i++) {
        double s = f->scale ? (double)f->scale[i] : 1, h = (double)f->gram[i * f->in + i] / (s * s);
        diagonal[i] = (float)h;
        mean += h / (double)f->in;
    }
    return mean > 0 ? mean : 1;
}

/* What is added to H_cc. */
static float awq__extra(const awq__factoring *f, size_t c) {
    double s = f->scale ? (double)f->scale[c] : 1;
    return (float)(f->damping * s * s);
}

static awq_status awq__check_damping(awq__factoring *f, awq_where *where) {
    size_t c;
    f->floor_of_pivot = FLT_MAX;
    for (c = 0; c < f->in; c++) {
        float extra = awq__extra(f, c);
        if (!awq__is_finite(extra + f->gram[c * f->in + c]) || !(extra > 0))
            return awq__fail(where, AWQ_ERR_DATA, 0, 0, c);
        if (extra < f->floor_of_pivot) f->floor_of_pivot = extra;
    }
    return AWQ_OK;
}

/* Rows of P (H + damping) P^T, to be factored in place: those of AWQ__TILE channels that stand
   together, because a line of H holds them all. */
static void awq__permute_tile(const awq__factoring *f, size_t first, size_t last) {
    size_t in = f->in, i, j, c;
    for (j = 0; j < in; j++) {
        size_t other = f->order[j];
        for (c = first; c < last; c++) {
            float h = other < c ? f->gram[other * in + c] : f->gram[c * in + other];
            i = f->place[c];
            if (i / AWQ__CHUNK > j / AWQ__CHUNK) f->gram[i * in + j] = h;
            else if (i >= j)
                f->corners[i * AWQ__CHUNK + j % AWQ__CHUNK] = i > j ? h : h + awq__extra(f, c);
        }
    }
}

static void awq__permute_gram(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__factoring *f = (const awq__factoring *)arg;
    (void)worker;
    for (; begin < end; begin += AWQ__TILE)
        awq__permute_tile(f, begin, awq__min(begin + AWQ__TILE, end));
}

AWQDEF awq_status awq_hessian_init(const awq_kernels *k, awq_stats *stats, const float *scale,
                                   double damping, awq_order order, void *memory,
                                   size_t memory_size, const awq_parallel *parallel,
                                   awq_hessian *hessian, awq_where *where) {
    awq__factoring f;
    awq__arena arena;
    size_t in, i, size;
    if (!k || !stats || !stats->gram || !memory || !hessian) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_parallel(parallel));
    if (!(damping > 0 && damping <= 1)) return AWQ_ERR_CONFIG;
    if (order != AWQ_ORDER_ACTIVATION && order != AWQ_ORDER_COLUMN) return AWQ_ERR_CONFIG;
    in = stats->in_features;
    size = awq_hessian_size(in);
    if (size == 0 || memory_size < size) return AWQ_ERR_MEMORY;
    AWQ__TRY(awq__check_scale(scale, in, where));

    arena = awq__arena_of(memory);
    awq__factor_layout(&f, &arena, in);
    f.k = k;
    f.gram = stats->gram;
    f.scale = scale;
    f.damping = damping * awq__mean_diagonal(&f, f.panel); /* the panel is not in use yet */
    AWQ__TRY(awq__check_damping(&f, where));
    for (i = 0; i < in; i++) f.order[i] = (uint32_t)i;
    if (order == AWQ_ORDER_ACTIVATION) awq__sort_channels(f.order, in, f.panel);
    for (i = 0; i < in; i++) f.place[f.order[i]] = (uint32_t)i;
    awq__run(parallel, in, AWQ__TILE, awq__permute_gram, &f);
    awq__factor(&f, parallel);
    for (i = 0; i < in; i++) {
        float pivot = f.corners[i * AWQ__CHUNK + i % AWQ__CHUNK];
        f.innovation[f.order[i]] = pivot * pivot;
    }
    hessian->in_features = in;
    hessian->gram = stats->gram;
    hessian->corners = f.corners;
    hessian->order = f.order;
    hessian->innovation = f.innovation;
    return AWQ_OK;
}

/* ---- scales that balance ranges and noise ---------------------------------------------------- */

#define AWQ__SHARDS 16  /* of the rows of all weights; each has sums of its own */
#define AWQ__NORM 16    /* p; four squares or square roots */
#define AWQ__BALANCES 20
#define AWQ__ROUGHLY 0.05  /* changes of a scale: what some of the rows say is used up, ... */
#define AWQ__BALANCED 0.01 /* ... and what is not worth another iteration */
#define AWQ__LEAST_SHARE 1e-4 /* of noise and strain: silent channels stay near the others */

typedef struct awq__balancing {
    const awq_kernels *k;
    const awq_matrix *weights;
    size_t weight_count, rows, in, group_size, groups;
    int symmetric;
    const float *importance;
    float *scale;
    size_t every;  /* n-th row is read */
    size_t padded; /* inputs, and AWQ__LANES */
    float *u;      /* [AWQ__SHARDS][padded] a group of a row, times s */
    float *strain; /* [AWQ__SHARDS][padded] sum over rows of R dR / dlog s */
    double *range; /* [AWQ__SHARDS][groups] sum over rows of R^2 */
    double *noise; /* [in] h / s^2 sum R^2 */
    double *pull;  /* [in] strain sum h / s^2 */
} awq__balancing;

static void awq__balance_layout(awq__balancing *b, awq__arena *arena, size_t in, size_t groups) {
    b->padded = in + AWQ__LANES;
    b->noise = (double *)awq__take(arena, in, sizeof(double));
    b->pull = (double *)awq__take(arena, in, sizeof(double));
    b->range = (double *)awq__take(arena, awq__mul(groups, AWQ__SHARDS), sizeof(double));
    b->u = (float *)awq__take(arena, awq__mul(b->padded, AWQ__SHARDS), sizeof(float));
    b->strain = (float *)awq__take(arena, awq__mul(b->padded, AWQ__SHARDS), sizeof(float));
}

/* The weights of a group above zero and those below: a p-norm each. */
typedef struct awq__sides {
    float extreme[2]; /* the largest |u| */
    float inverse[2]; /* powers are of u * inverse; 0: a side without weights */
    float pull[2];    /* R dR / dlog s, for a power of 1 */
} awq__sides;

/* The largest power is 2^64: those that are subnormal, and slow, are rare then, and weights of 1e-8
   still pull. */
#define AWQ__POWER_BASE 16.0f

static awq__sides awq__sides_of(float lo, float hi, int symmetric) {
    awq__sides s;
    int i;
    s.extreme[0] = symmetric && -lo > hi ? -lo : hi;
    s.extreme[1] = symmetric ? s.extreme[0] : -lo;
    for (i = 0; i < 2; i++) {
        s.inverse[i] = s.extreme[i] > 1e-30f ? AWQ__POWER_BASE / s.extreme[i] : 0;
        s.pull[i] = 0;
    }
    return s;
}

/* R dR/dlog s_c = R |u|_p share_c, where share_c is c's part of the p-th powers on its side.
   Returns R. */
static float awq__pull_sides(awq__sides *s, float up, float down, int symmetric) {
    float sums[2], norm[2], r;
    int i;
    sums[0] = symmetric ? up + down : up;
    sums[1] = symmetric ? up + down : down;
    for (i = 0; i < 2; i++)
        norm[i] = s->extreme[i] / AWQ__POWER_BASE * sqrtf(sqrtf(sqrtf(sqrtf(sums[i]))));
    r = norm[0] + norm[1];
    for (i = 0; i < 2; i++)
        if (sums[i] > 0) s->pull[i] = r * (symmetric ? r : norm[i]) / sums[i];
    return r;
}

/* The least and the largest of n inputs, a multiple of AWQ__LANES, and of those given. */
static void awq__widen_lanes(const float *u, size_t n, float *lo, float *hi) {
    float low[AWQ__LANES] = { 0 }, high[AWQ__LANES] = { 0 };
    size_t i, l;
    for (i = 0; i < n; i += AWQ__LANES)
        for (l = 0; l < AWQ__LANES; l++) {
            low[l] = u[i + l] < low[l] ? u[i + l] : low[l];
            high[l] = u[i + l] > high[l] ? u[i + l] : high[l];
        }
    for (l = 0; l < AWQ__LANES; l++) {
        *lo = low[l] < *lo ? low[l] : *lo;
        *hi = high[l] > *hi ? high[l] : *hi;
    }
}

/* (2 v)^16 for v > 0, or 0; a choice here would become a branch. */
static float awq__power_above(float v) {
    v += awq__abs(v);
    v *= v;
    v *= v;
    v *= v;
    return v * v;
}

/* strain += R dR / dlog s of a group of n inputs, a multiple of AWQ__LANES. Returns R. */
static float awq__add_strain_portable(const float *AWQ__RESTRICT u, size_t n, int symmetric,
                                      float *AWQ__RESTRICT strain) {
    float up[AWQ__LANES] = { 0 }, down[AWQ__LANES] = { 0 }, lo = 0, hi = 0, above, below, r;
    awq__sides s;
    size_t i, l;
    awq__widen_lanes(u, n, &lo, &hi);
    s = awq__sides_of(lo, hi, symmetric);
    above = s.inverse[0] / 2;
    below = s.inverse[1] / -2;
    for (i = 0; i < n; i += AWQ__LANES)
        for (l = 0; l < AWQ__LANES; l++) {
            up[l] += awq__power_above(u[i + l] * above);
            down[l] += awq__power_above(u[i + l] * below);
        }
    r = awq__pull_sides(&s, awq__fold_lanes(up), awq__fold_lanes(down), symmetric);
    for (i = 0; i < n; i += AWQ__LANES)
        for (l = 0; l < AWQ__LANES; l++)
            strain[i + l] += awq__power_above(u[i + l] * above) * s.pull[0]
                             + awq__power_above(u[i + l] * below) * s.pull[1];
    return r;
}

static void awq__strain_row(const awq__balancing *b, size_t shard, size_t row) {
    float *u = b->u + shard * b->padded, *strain = b->strain + shard * b->padded;
    double *range = b->range + shard * b->groups;
    size_t m = 0, c, n, i;
    for (; row >= b->weights[m].rows; m++) row -= b->weights[m].rows;
    for (c = 0; c < b->in; c += n, range++) {
        double r;
        n = awq__min(b->group_size, b->in - c);
        b->k->load_scaled(awq__at(b->weights[m], row, c), b->weights[m].dtype, b->scale + c, n, u);
        for (i = n; i % AWQ__LANES; i++) u[i] = 0; /* which strain no one */
        r = (double)b->k->add_strain(u, i, b->symmetric, strain + c);
        *range += r * r;
    }
}

static void awq__strain_shards(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__balancing *b = (const awq__balancing *)arg;
    size_t rows = awq__ceil_div(b->rows, b->every);
    (void)worker;
    for (; begin < end; begin++) {
        size_t row = rows * begin / AWQ__SHARDS, last = rows * (begin + 1) / AWQ__SHARDS;
        memset(b->strain + begin * b->padded, 0, b->padded * sizeof *b->strain);
        memset(b->range + begin * b->groups, 0, b->groups * sizeof *b->range);
        for (; row < last; row++) awq__strain_row(b, begin, row * b->every);
    }
}

static double awq__noise_of(const awq__balancing *b, size_t c) {
    double s = (double)b->scale[c];
    return (b->importance ? (double)b->importance[c] : 1) / (s * s);
}

/* Both sides of the equation of one group, from the sums of all shards. Both add up to the loss. */
static void awq__balance_group(awq__balancing *b, size_t group) {
    size_t begin = group * b->group_size, end = awq__min(begin + b->group_size, b->in), c, i;
    double noise = 0, range = 0, least;
    for (i = 0; i < AWQ__SHARDS; i++) range += b->range[i * b->groups + group];
    for (c = begin; c < end; c++) noise += awq__noise_of(b, c);
    least = AWQ__LEAST_SHARE * noise * range / (double)(end - begin);
    for (c = begin; c < end; c++) {
        double strain = 0;
        for (i = 0; i < AWQ__SHARDS; i++) strain += (double)b->strain[i * b->padded + c];
        b->noise[c] = awq__noise_of(b, c) * range + least;
        b->pull[c] = strain * noise + least;
    }
}

/* Tied channels have one s: what pulls at one pulls at all. */
static void awq__share_pulls(awq__balancing *b, awq_tie tie) {
    size_t block = tie.repeat * tie.head_dim, base, d, r;
    for (base = 0; block && base < b->in; base += block)
        for (d = base; d < base + tie.head_dim; d++) {
            double noise = 0, pull = 0;
            for (r = 0; r < tie.repeat; r++) {
                noise += b->noise[d + r * tie.head_dim];
                pull += b->pull[d + r * tie.head_dim];
            }
            for (r = 0; r < tie.repeat; r++) {
                b->noise[d + r * tie.head_dim] = noise;
                b->pull[d + r * tie.head_dim] = pull;
            }
        }
}

/* The largest change of a scale, as a part of it. */
static double awq__balance_step(awq__balancing *b) {
    double largest = 0;
    size_t c;
    for (c = 0; c < b->in; c++) {
        double ratio = b->noise[c] > 0 && b->pull[c] > 0 ? b->noise[c] / b->pull[c] : 1;
        /* its logarithm changes with that of s by 4 to p + 2, mostly */
        double step = pow(ratio, 1.0 / (AWQ__NORM / 2 + 3));
        double change = step > 1 ? step - 1 : 1 - step;
        b->scale[c] *= (float)step;
        largest = change > largest ? change : largest;
    }
    return largest;
}

static void awq__centre_scale(float *scale, size_t in) {
    double mean = 1;
    size_t c;
    for (c = 0; c < in; c++) mean *= pow((double)scale[c], 1 / (double)in);
    for (c = 0; c < in; c++) scale[c] = (float)((double)scale[c] / mean);
}

AWQDEF size_t awq_balance_scratch_size(size_t in_features) {
    awq__balancing b;
    awq__arena arena = { NULL, 0 };
    awq__balance_layout(&b, &arena, in_features, in_features);
    return awq__size_or_0(arena.used);
}

AWQDEF awq_status awq_balance(const awq_kernels *k, awq_quant quant, awq_tie tie,
                              const float *importance, const awq_matrix *weights,
                              size_t weight_count, void *scratch, size_t scratch_size,
                              const awq_parallel *parallel, float *scale, awq_where *where) {
    awq__balancing b;
    awq__arena arena;
    size_t m, c, i, size;
    double change = HUGE_VAL;
    if (!k || !scratch || !scale) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_quant(quant));
    AWQ__TRY(awq__check_weights(weights, weight_count));
    AWQ__TRY(awq__check_parallel(parallel));
    b.in = weights[0].cols;
    AWQ__TRY(awq__check_tie(tie, b.in));
    size = awq_balance_scratch_size(b.in);
    if (size == 0 || scratch_size < size || !awq__is_aligned(scratch, sizeof(double)))
        return AWQ_ERR_MEMORY;
    if (awq__check_importance(importance, b.in, where) != AWQ_OK)
        return awq__fail(where, AWQ_ERR_DATA, weight_count, 0, where ? where->col : 0);
    for (m = 0, b.rows = 0; m < weight_count; m++) {
        AWQ__TRY(awq__check_finite(weights[m], m, where));
        b.rows += weights[m].rows;
    }
    b.k = k;
    b.weights = weights;
    b.weight_count = weight_count;
    b.group_size = awq__group_size(b.in, quant.group_size);
    b.groups = awq_group_count(b.in, quant.group_size);
    b.symmetric = quant.symmetric;
    b.importance = importance;
    b.scale = scale;
    arena = awq__arena_of(scratch);
    awq__balance_layout(&b, &arena, b.in, b.groups);
    for (c = 0; c < b.in; c++) scale[c] = 1;
    b.every = b.rows / AWQ__ENOUGH | 1; /* odd: sees all places of heads of 2^n rows */
    for (i = 0; i < AWQ__BALANCES && (b.every > 1 || change > AWQ__BALANCED); i++) {
        if (change < AWQ__ROUGHLY || i == AWQ__BALANCES / 2) b.every = 1;
        awq__run(parallel, AWQ__SHARDS, 1, awq__strain_shards, &b);
        for (c = 0; c < b.groups; c++) awq__balance_group(&b, c);
        awq__share_pulls(&b, tie);
        change = awq__balance_step(&b);
    }
    awq__centre_scale(scale, b.in);
    return AWQ_OK;
}

/* ---- rounding -------------------------------------------------------------------------------- */

#define AWQ__ROUND_ROWS 512 /* that read H together, at most */
#define AWQ__ROUND_STEP 16  /* ranges of rows begin at multiples of this */
#define AWQ__SOON 16        /* columns beside it that see a change at once; the others later */

typedef struct awq__rounding {
    const awq_kernels *k;
    const awq_round_config *config;
    const awq_hessian *hessian;
    awq__source source;
    awq_tensor *tensor;
    size_t group_size;
    unsigned char *work; /* [workers][work_size] */
    size_t work_size;
} awq__rounding;

/* Rows of one worker, turned: a column of all of them is contiguous, one lane each, filled up to
   whole vectors; a stride of a few more is one that caches do not fold up. e = W - What / s. */
typedef struct awq__round_rows {
    const awq__rounding *task;
    size_t most, stride;      /* rows at a time; lanes from one column to the next */
    size_t row, rows, lanes;  /* the rows at work */
    float *error;             /* [in][stride] e; in the hessian's order at first, then W before e */
    float *product;           /* [in][stride] e H, the side of the diagonal that was known last */
    uint8_t *q;               /* [in][stride] */
    float *v;                 /* [in or AWQ__CHUNK][stride] (q - zero) / s, for refits */
    float *beside;            /* [in][stride] v H in the group, side visited; or NULL: one block */
    float *block;             /* [AWQ__CHUNK][stride] e L, then e H of the columns at work */
    float *block_v;           /* the same: v H */
    float *change;            /* [AWQ__SOON][stride] of e */
    float *scale, *zero;      /* [stride] grids of the group at work */
    double *ev, *vv;          /* [stride] e H v and v H v of that group */
    float *split;             /* [in / AWQ__CHUNK][AWQ__CHUNK][stride] e as add_part likes it */
    float *corner;            /* [AWQ__CHUNK][AWQ__CHUNK] of H */
    float *part;              /* the same of L or H, and room for more */
} awq__round_rows;

/* wide: groups of several blocks are refitted, which takes more memory per row: fewer rows. */
static void awq__round_layout(awq__round_rows *r, awq__arena *arena, size_t in, int wide) {
    size_t block, all;
    r->most = wide ? AWQ__ROUND_ROWS / 2 : AWQ__ROUND_ROWS;
    r->stride = r->most + AWQ__ROUND_STEP;
    block = AWQ__CHUNK * r->stride;
    all = awq__mul(in, r->stride);
    r->error = (float *)awq__take(arena, all, sizeof(float));
    r->product = (float *)awq__take(arena, all, sizeof(float));
    r->split = (float *)awq__take(arena, awq__mul(awq__ceil_div(in, AWQ__CHUNK), block),
                                  sizeof(float));
    r->q = (uint8_t *)awq__take(arena, all, 1);
    r->v = (float *)awq__take(arena, wide ? all : block, sizeof(float));
    r->beside = wide ? (float *)awq__take(arena, all, sizeof(float)) : NULL;
    r->block = (float *)awq__take(arena, block, sizeof(float));
    r->block_v = (float *)awq__take(arena, block, sizeof(float));
    r->change = (float *)awq__take(arena, AWQ__SOON * r->stride, sizeof(float));
    r->scale = (float *)awq__take(arena, r->stride, sizeof(float));
    r->zero = (float *)awq__take(arena, r->stride, sizeof(float));
    r->ev = (double *)awq__take(arena, r->stride, sizeof(double));
    r->vv = (double *)awq__take(arena, r->stride, sizeof(double));
    r->corner = (float *)awq__take(arena, AWQ__SQUARE, sizeof(float));
    r->part = (float *)awq__take(arena, AWQ__SQUARE + 40 * AWQ__CHUNK, sizeof(float));
}

static size_t awq__round_work(size_t in) {
    awq__round_rows r;
    awq__arena narrow = { NULL, 0 }, wide = { NULL, 0 };
    awq__round_layout(&r, &narrow, in, 0);
    awq__round_layout(&r, &wide, in, 1);
    return awq__align(narrow.used > wide.used ? narrow.used : wide.used, 64);
}

AWQDEF size_t awq_round_scratch_size(size_t in_features, const awq_parallel *parallel) {
    return awq__size_or_0(
        awq__add(awq__mul(awq__workers(parallel), awq__round_work(in_features)), 64));
}

/* y (n, lanes) += A (n, count) X (count, lanes) */
static void awq__add_lanes(const awq__round_rows *r, float *y, size_t n, const float *a,
                           size_t a_stride, size_t a_step, const float *x, size_t count) {
    size_t lane;
    for (lane = 0; lane < r->lanes; lane += AWQ__STRIP)
        r->task->k->add_products(y + lane, r->stride, n, awq__min(AWQ__STRIP, r->lanes - lane), a,
                                 a_stride, a_step, x + lane, r->stride, count);
}

/* Columns [begin, end) of e have changed. */
static void awq__split_errors(const awq__round_rows *r, size_t begin, size_t end) {
    size_t in = r->task->hessian->in_features, block = begin / AWQ__CHUNK;
    for (; r->task->k->split_part && block * AWQ__CHUNK < end; block++)
        r->task->k->split_part(r->error + block * AWQ__CHUNK * r->stride, r->stride, r->lanes,
                               awq__min(AWQ__CHUNK, in - block * AWQ__CHUNK),
                               r->split + block * AWQ__CHUNK * r->stride);
}

/* x as it was split, if it is a whole block of e; or NULL */
static const float *awq__split_of(const awq__round_rows *r, const float *x, size_t count) {
    size_t in = r->task->hessian->in_features, column = r->stride * sizeof *x;
    size_t col = (size_t)((uintptr_t)x - (uintptr_t)r->error) / column; /* or beyond all */
    if (col >= in || col % AWQ__CHUNK || count != awq__min(AWQ__CHUNK, in - col)) return NULL;
    return r->split + col * r->stride;
}

/* The same for a part of a large matrix, n and count at most AWQ__CHUNK, a_stride or a_step 1: read
   from a dense copy. */
static void awq__add_part(const awq__round_rows *r, float *y, size_t n, const float *a,
                          size_t a_stride, size_t a_step, const float *x, size_t count) {
    size_t i, lines = a_step == 1 ? n : count, length = a_step == 1 ? count : n;
    if (r->task->k->add_part) {
        r->task->k->add_part(y, r->stride, n, r->lanes, a, a_stride, a_step, x, r->stride, count,
                             awq__split_of(r, x, count), r->part);
        return;
    }
    for (i = 0; i < lines; i++)
        memcpy(r->part + i * length, a + i * (a_step == 1 ? a_stride : a_step), length * sizeof *a);
    awq__add_lanes(r, y, n, r->part, a_step == 1 ? length : 1, a_step == 1 ? 1 : length, x, count);
}

/* y (columns [begin, begin + n)) += M^T x, rows [first, last) of M, which stand above or below:
   those of H above the diagonal, those of L below it. */
static void awq__add_rows_of(awq__round_rows *r, float *y, size_t begin, size_t n, const float *x,
                             size_t first, size_t last) {
    const awq_hessian *h = r->task->hessian;
    size_t in = h->in_features, j, count;
    for (j = first; j < last; j += count) {
        count = awq__min(AWQ__CHUNK - j % AWQ__CHUNK, last - j);
        awq__add_part(r, y, n, h->gram + j * in + begin, 1, in, x + j * r->stride, count);
    }
}

/* y (columns [begin, begin + n)) += H x, columns [first, last) of H, which stand to the right. */
static void awq__add_columns_of(awq__round_rows *r, float *y, size_t begin, size_t n,
                                const float *x, size_t first, size_t last) {
    const awq_hessian *h = r->task->hessian;
    size_t in = h->in_features, j, count;
    for (j = first; j < last; j += count) {
        count = awq__min(AWQ__CHUNK - j % AWQ__CHUNK, last - j);
        awq__add_part(r, y, n, h->gram + begin * in + j, in, 1, x + j * r->stride, count);
    }
}

static void awq__clear_lanes(const awq__round_rows *r, float *y, size_t n) {
    memset(y, 0, n * r->stride * sizeof *y);
}

/* The grids of a group of all rows; lanes that are no rows get one that does no harm. */
static void awq__load_grids(awq__round_rows *r, size_t group) {
    const awq_tensor *t = r->task->tensor;
    size_t groups = awq__ceil_div(t->in_features, r->task->group_size), lane;
    for (lane = 0; lane < r->lanes; lane++) {
        awq__grid grid = { 1, 0 };
        if (lane < r->rows) grid = awq__get_grid(t, (r->row + lane) * groups + group);
        r->scale[lane] = grid.scale;
        r->zero[lane] = grid.zero;
    }
}

/* Weights, turned, into product; then in the hessian's order into error. */
static void awq__load_weights(awq__round_rows *r) {
    const awq_hessian *h = r->task->hessian;
    const awq_matrix weight = r->task->source.weight;
    size_t in = h->in_features, lane, col, n, i, l;
    float w[AWQ__TILE][AWQ__CHUNK];
    for (lane = 0; lane < r->lanes; lane += AWQ__TILE)
        for (col = 0; col < in; col += n) {
            n = awq__min(AWQ__CHUNK, in - col);
            for (l = 0; l < AWQ__TILE; l++)
                if (lane + l < r->rows)
                    r->task->k->load_scaled(awq__at(weight, r->row + lane + l, col), weight.dtype,
                                            NULL, n, w[l]);
                else memset(w[l], 0, n * sizeof w[l][0]);
            for (i = 0; i < n; i++)
                for (l = 0; l < AWQ__TILE; l++)
                    r->product[(col + i) * r->stride + lane + l] = w[l][i];
        }
    for (i = 0; i < in; i++)
        memcpy(r->error + i * r->stride, r->product + h->order[i] * r->stride,
               r->lanes * sizeof *r->error);
}

/* Column i of L, number c of its block, for all rows: what the errors so far do to it is taken back
   by its own rounding. */
static void awq__round_column(awq__round_rows *r, size_t i, size_t c, float pivot) {
    size_t col = r->task->hessian->order[i], lane;
    float s = r->task->source.scale ? r->task->source.scale[col] : 1, inverse = 1 / pivot;
    float levels = awq__levels(r->task->tensor->quant.bits);
    const float *AWQ__RESTRICT carried = r->block + c * r->stride;
    const float *AWQ__RESTRICT scale = r->scale, *AWQ__RESTRICT zero = r->zero;
    float *AWQ__RESTRICT e = r->error + i * r->stride;
    uint8_t *AWQ__RESTRICT q = r->q + col * r->stride;
    awq__load_grids(r, col / r->task->group_size);
    for (lane = 0; lane < r->lanes; lane++) {
        float w = e[lane], v = (w + carried[lane] * inverse) * s / scale[lane];
        v = v < -zero[lane] ? -zero[lane] : v;
        v = awq__round(v > levels - zero[lane] ? levels - zero[lane] : v);
        e[lane] = w - v * scale[lane] / s;
        q[lane] = (uint8_t)(int)(v + zero[lane]);
    }
}

/* Columns [begin, begin + n), the last first. block: what later ones do to them. */
static void awq__round_block(awq__round_rows *r, size_t begin, size_t n) {
    const float *corner = r->task->hessian->corners + begin * AWQ__CHUNK;
    float *error = r->error + begin * r->stride;
    size_t first, last, i;
    for (last = n; last > 0; last = first) {
        first = (last - 1) / AWQ__SOON * AWQ__SOON;
        for (i = last; i-- > first;) {
            const float *row = corner + i * AWQ__CHUNK;
            awq__round_column(r, begin + i, i, row[i]);
            r->task->k->add_products(r->block + first * r->stride, r->stride, i - first, r->lanes,
                                     row + first, 1, 0, error + i * r->stride, 0, 1);
        }
        awq__add_lanes(r, r->block, first, corner + first * AWQ__CHUNK, 1, AWQ__CHUNK,
                       error + first * r->stride, last - first);
    }
}

/* Columns from the last row of L to the first; then error in the plain order. */
static void awq__round_in_order(awq__round_rows *r) {
    const awq_hessian *h = r->task->hessian;
    size_t in = h->in_features, begin, end, i;
    float *error = r->error;
    for (end = in; end > 0; end = begin) {
        begin = (end - 1) / AWQ__CHUNK * AWQ__CHUNK;
        awq__clear_lanes(r, r->block, end - begin);
        awq__add_rows_of(r, r->block, begin, end - begin, r->error, end, in);
        awq__round_block(r, begin, end - begin);
        awq__split_errors(r, begin, end);
    }
    for (i = 0; i < in; i++)
        memcpy(r->product + h->order[i] * r->stride, error + i * r->stride,
               r->lanes * sizeof *error);
    r->error = r->product;
    r->product = error;
}

/* Every q of column c of the block to where the loss is least, the others fixed. change: of e */
static void awq__descend_column(awq__round_rows *r, size_t begin, size_t c, float diagonal,
                                float *AWQ__RESTRICT change) {
    const float s = r->task->source.scale ? r->task->source.scale[begin + c] : 1;
    const float levels = awq__levels(r->task->tensor->quant.bits);
    const float unit = diagonal > 0 ? s / diagonal : 0; /* 0: a silent channel */
    const float *AWQ__RESTRICT product = r->block + c * r->stride, *AWQ__RESTRICT scale = r->scale;
    float *AWQ__RESTRICT e = r->error + (begin + c) * r->stride;
    uint8_t *AWQ__RESTRICT q = r->q + (begin + c) * r->stride;
    size_t lane;
    for (lane = 0; lane < r->lanes; lane++) {
        float now = (float)q[lane], best = now + product[lane] * unit / scale[lane];
        best = awq__round(best < 0 ? 0 : best > levels ? levels : best);
        q[lane] = (uint8_t)(int)best;
        change[lane] = (now - best) * scale[lane] / s;
        e[lane] += change[lane];
    }
}

/* The columns of the block, in turn; e H of all of them follows. */
static void awq__descend(awq__round_rows *r, size_t begin, size_t n) {
    size_t first, last, c, lane, size = r->task->group_size;
    for (first = 0; first < n; first = last) {
        last = awq__min(first + AWQ__SOON, n);
        for (c = first; c < last; c++) {
            float *change = r->change + (c - first) * r->stride;
            const float *beside = r->beside ? r->beside + (begin + c) * r->stride : NULL;
            if (c == 0 || (begin + c) % size == 0) awq__load_grids(r, (begin + c) / size);
            awq__descend_column(r, begin, c, r->corner[c * n + c], change);
            r->task->k->add_products(r->block + first * r->stride, r->stride, last - first,
                                     r->lanes, r->corner + c * n + first, 1, 0, change, 0, 1);
            for (lane = 0; beside && lane < r->lanes; lane++)
                r->ev[lane] += (double)change[lane] * (double)beside[lane];
        }
        awq__add_lanes(r, r->block, first, r->corner + first * n, 1, n, r->change, last - first);
        awq__add_lanes(r, r->block + last * r->stride, n - last, r->corner + first * n + last, 1, n,
                       r->change, last - first);
    }
}

/* The best scales of a group for its q, the other groups fixed; change: of the scales. */
static void awq__refit_scales(awq__round_rows *r, size_t group, float *change) {
    awq_tensor *t = r->task->tensor;
    size_t groups = awq__ceil_div(t->in_features, r->task->group_size), lane;
    memset(change, 0, r->lanes * sizeof *change);
    for (lane = 0; lane < r->rows; lane++) {
        size_t at = (r->row + lane) * groups + group;
        awq__grid grid = awq__get_grid(t, at);
        double step = r->vv[lane] > 0 ? r->ev[lane] / r->vv[lane] : 0;
        float scale = awq__stored_scale(&t->quant, (double)grid.scale + step);
        if (!(scale > 0)) continue;
        change[lane] = scale - grid.scale;
        grid.scale = scale;
        awq__set_grid(t, at, grid);
    }
}

/* y -= factor x, n columns */
static void awq__subtract(const awq__round_rows *r, float *y, const float *x, size_t n,
                          const float *factor) {
    size_t c, lane;
    for (c = 0; c < n; c++)
        for (lane = 0; lane < r->lanes; lane++)
            y[c * r->stride + lane] -= factor[lane] * x[c * r->stride + lane];
}

/* v of columns [begin, begin + n) of a group, whose grids are loaded */
static void awq__load_steps(const awq__round_rows *r, size_t begin, size_t n, float *v) {
    const float *scale = r->task->source.scale;
    size_t c, lane;
    for (c = 0; c < n; c++) {
        const uint8_t *q = r->q + (begin + c) * r->stride;
        float inverse = scale ? 1 / scale[begin + c] : 1;
        for (lane = 0; lane < r->lanes; lane++)
            v[c * r->stride + lane] = ((float)q[lane] - r->zero[lane]) * inverse;
    }
}

/* ev += e H v, vv += v (v H + 2 beside), n columns; product: e H; beside may be NULL */
static void awq__add_refit_sums(awq__round_rows *r, const float *product, const float *v,
                                const float *vh, const float *beside, size_t n) {
    size_t c, lane;
    for (c = 0; c < n; c++, product += r->stride, v += r->stride, vh += r->stride)
        for (lane = 0; lane < r->lanes; lane++) {
            double both = (double)vh[lane];
            if (beside) both += 2 * (double)beside[c * r->stride + lane];
            r->ev[lane] += (double)product[lane] * (double)v[lane];
            r->vv[lane] += (double)v[lane] * both;
        }
}

static void awq__clear_refit_sums(awq__round_rows *r) {
    memset(r->ev, 0, r->lanes * sizeof *r->ev);
    memset(r->vv, 0, r->lanes * sizeof *r->vv);
}

/* Groups that a block holds whole, one after the other. */
static void awq__refit_block(awq__round_rows *r, size_t begin, size_t n) {
    size_t size = r->task->group_size, first, count;
    for (first = 0; first < n; first += count) {
        float *rest = r->block + first * r->stride, *vh = r->block_v;
        count = awq__min(size, n - first);
        awq__load_grids(r, (begin + first) / size);
        awq__load_steps(r, begin + first, count, r->v);
        awq__clear_lanes(r, vh, n - first);
        awq__add_part(r, vh, n - first, r->corner + first * n + first, 1, n, r->v, count);
        awq__clear_refit_sums(r);
        awq__add_refit_sums(r, rest, r->v, vh, NULL, count);
        awq__refit_scales(r, (begin + first) / size, r->change);
        awq__subtract(r, r->error + (begin + first) * r->stride, r->v, count, r->change);
        awq__subtract(r, rest + count * r->stride, vh + count * r->stride, n - first - count,
                      r->change);
    }
}

/* A block of a group that has others: it is refitted with the last of them. */
static void awq__refit_part(awq__round_rows *r, size_t begin, size_t n, int is_last) {
    size_t size = r->task->group_size, group = begin / size, first = group * size;
    size_t count = awq__min(size, r->task->hessian->in_features - first);
    float *v = r->v + begin * r->stride;
    awq__load_grids(r, group);
    awq__load_steps(r, begin, n, v);
    awq__clear_lanes(r, r->block_v, n);
    awq__add_part(r, r->block_v, n, r->corner, 1, n, v, n);
    awq__add_refit_sums(r, r->block, v, r->block_v, r->beside + begin * r->stride, n);
    if (!is_last) return;
    awq__refit_scales(r, group, r->change);
    awq__subtract(r, r->error + first * r->stride, r->v + first * r->stride, count, r->change);
    awq__subtract(r, r->product + first * r->stride, r->beside + first * r->stride, count,
                  r->change);
}

/* The block of H on the diagonal, both triangles. */
static void awq__load_corner(awq__round_rows *r, size_t begin, size_t n) {
    const awq_hessian *h = r->task->hessian;
    size_t in = h->in_features, i, j;
    for (i = 0; i < n; i++)
        for (j = i; j < n; j++)
            r->corner[i * n + j] = r->corner[j * n + i] = h->gram[(begin + i) * in + begin + j];
}

/* y (columns [begin, begin + n)) = x H, columns that are `back`: right of them, up to `end`; else
   left of them, from `start` on */
static void awq__one_side(awq__round_rows *r, float *y, size_t begin, size_t n, const float *x,
                          size_t start, size_t end, int back) {
    awq__clear_lanes(r, y, n);
    if (back) awq__add_columns_of(r, y, begin, n, x, begin + n, end);
    else awq__add_rows_of(r, y, begin, n, x, start, begin);
}

static void awq__add_to(const awq__round_rows *r, float *y, const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n * r->stride; i++) y[i] += x[i];
}

/* One block of columns of a pass to the right, or back. One side of e H is known from the pass
   before, as nothing has changed there since; the other one is made, and is known to the next. */
static void awq__visit(awq__round_rows *r, size_t begin, size_t n, int back) {
    size_t in = r->task->hessian->in_features, size = r->task->group_size;
    size_t start = begin / size * size, end = awq__min(start + size, in);
    int is_last = back ? begin == start : begin + n == end; /* of a group of several blocks */
    float *product = r->product + begin * r->stride;
    memcpy(r->block, product, n * r->stride * sizeof *product);
    awq__one_side(r, product, begin, n, r->error, 0, in, back);
    awq__load_corner(r, begin, n);
    awq__add_part(r, r->block, n, r->corner, 1, n, r->error + begin * r->stride, n);
    awq__add_to(r, r->block, product, n);
    if (r->beside)
        awq__one_side(r, r->beside + begin * r->stride, begin, n, r->v, start, end, back);
    if (r->beside && begin + (back ? n : 0) == (back ? end : start)) awq__clear_refit_sums(r);
    awq__descend(r, begin, n);
    if (r->beside) awq__refit_part(r, begin, n, is_last);
    else if (r->task->config->refit) awq__refit_block(r, begin, n);
    if (r->beside && is_last) awq__split_errors(r, start, end);
    else awq__split_errors(r, begin, begin + n);
}

/* Blocks of columns hold whole groups, or groups whole blocks: the width of the block at `begin`,
   and where the block of a column begins. */
static size_t awq__block_width(const awq__round_rows *r, size_t begin) {
    size_t size = r->task->group_size, in = r->task->hessian->in_features, width;
    if (size <= AWQ__CHUNK) width = AWQ__CHUNK / size * size;
    else width = awq__min(AWQ__CHUNK, size - begin % size);
    return awq__min(width, in - begin);
}

static size_t awq__block_begin(const awq__round_rows *r, size_t col) {
    size_t size = r->task->group_size, width = AWQ__CHUNK / size * size;
    if (size <= AWQ__CHUNK) return col / width * width;
    return col - col % size % AWQ__CHUNK;
}

/* The side of e H that the first pass does not make. */
static void awq__begin_passes(awq__round_rows *r) {
    size_t in = r->task->hessian->in_features, begin, n;
    awq__split_errors(r, 0, in);
    for (begin = 0; begin < in; begin += n) {
        n = awq__block_width(r, begin);
        awq__one_side(r, r->product + begin * r->stride, begin, n, r->error, 0, in, 1);
    }
}

static void awq__pass(awq__round_rows *r, int back) {
    size_t in = r->task->hessian->in_features, begin, end;
    for (begin = 0; !back && begin < in; begin = end) {
        end = begin + awq__block_width(r, begin);
        awq__visit(r, begin, end - begin, back);
    }
    for (end = in; back && end > 0; end = begin) {
        begin = awq__block_begin(r, end - 1);
        awq__visit(r, begin, end - begin, back);
    }
}

/* q to the tensor, some columns of all rows at a time. */
static void awq__store_integers(const awq__round_rows *r) {
    size_t in = r->task->hessian->in_features, col, c, lane;
    for (col = 0; col < in; col += AWQ__STRIP)
        for (lane = 0; lane < r->rows; lane++) {
            uint8_t *q = r->task->tensor->q + (r->row + lane) * in;
            for (c = col; c < awq__min(col + AWQ__STRIP, in); c++)
                q[c] = r->q[c * r->stride + lane];
        }
}

static void awq__round_tile(awq__round_rows *r) {
    int pass, passes = r->task->config->passes;
    awq__load_weights(r);
    awq__round_in_order(r);
    if (passes) awq__begin_passes(r);
    for (pass = 0; pass < passes; pass++) awq__pass(r, pass % 2);
    awq__store_integers(r);
}

static void awq__round_range(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__rounding *task = (const awq__rounding *)arg;
    awq__arena arena = { NULL, 0 };
    awq__round_rows r;
    int wide = task->config->refit && task->group_size > AWQ__CHUNK;
    arena.base = task->work + worker * task->work_size;
    awq__round_layout(&r, &arena, task->hessian->in_features, wide);
    r.task = task;
    for (r.row = begin; r.row < end; r.row += r.rows) {
        r.rows = awq__min(r.most, end - r.row);
        r.lanes = awq__align(r.rows, AWQ__ROUND_STEP);
        awq__round_tile(&r);
    }
}

static awq_status awq__check_grids(const awq_tensor *t, awq_where *where) {
    size_t row, group, groups = awq_group_count(t->in_features, t->quant.group_size);
    for (row = 0; row < t->out_features; row++)
        for (group = 0; group < groups; group++) {
            awq__grid grid = awq__get_grid(t, row * groups + group);
            if (!awq__is_scale(grid.scale) || grid.zero > awq__levels(t->quant.bits))
                return awq__fail(where, AWQ_ERR_DATA, 1, row, group);
        }
    return AWQ_OK;
}

AWQDEF awq_status awq_round(const awq_kernels *k, const awq_round_config *config,
                            const awq_hessian *hessian, awq_matrix weight, const float *scale,
                            awq_tensor *tensor, void *scratch, size_t scratch_size,
                            const awq_parallel *parallel, awq_where *where) {
    awq__rounding task;
    size_t size;
    if (!k || !config || !hessian || !hessian->corners || !scratch) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq__check_weight(weight, tensor->in_features));
    AWQ__TRY(awq__check_parallel(parallel));
    if (weight.rows != tensor->out_features || hessian->in_features != weight.cols)
        return AWQ_ERR_SHAPE;
    if (config->passes < 0) return AWQ_ERR_CONFIG;
    size = awq_round_scratch_size(weight.cols, parallel);
    if (size == 0 || scratch_size < size) return AWQ_ERR_MEMORY;
    AWQ__TRY(awq__check_scale(scale, weight.cols, where));
    AWQ__TRY(awq__check_finite(weight, 0, where));
    AWQ__TRY(awq__check_grids(tensor, where));
    task.k = k;
    task.config = config;
    task.hessian = hessian;
    task.source.k = k;
    task.source.weight = weight;
    task.source.scale = scale;
    task.source.clip_max = NULL;
    task.tensor = tensor;
    task.group_size = awq__group_size(weight.cols, tensor->quant.group_size);
    task.work = awq__arena_of(scratch).base;
    task.work_size = awq__round_work(weight.cols);
    awq__run(parallel, weight.rows, AWQ__ROUND_STEP, awq__round_range, &task);
    return AWQ_OK;
}

/* ---- biases ---------------------------------------------------------------------------------- */

/* sum_c (w - What) mean[c] of one row; NaN or infinite where something read is. */
static double awq__mean_error(awq_matrix weight, const float *scale, const float *mean,
                              const awq_tensor *t, size_t row) {
    size_t in = weight.cols, size = awq__group_size(in, t->quant.group_size), col, n, i;
    size_t groups = awq__ceil_div(in, size);
    float w[AWQ__CHUNK];
    double sum = 0;
    for (col = 0; col < in; col += n) {
        awq__grid grid = awq__get_grid(t, row * groups + col / size);
        n = awq__min(awq__min(AWQ__CHUNK, in - col), size - col % size);
        awq__load_row(weight, row, col, n, w);
        for (i = 0; i < n; i++) {
            float u = ((float)t->q[row * in + col + i] - grid.zero) * grid.scale;
            double what = scale ? (double)u / (double)scale[col + i] : (double)u;
            sum += ((double)w[i] - what) * (double)mean[col + i];
        }
    }
    return sum;
}

static awq_status awq__check_shift(awq_matrix weight, const float *scale, const float *mean,
                                   const awq_tensor *tensor, const float *bias, size_t row_begin,
                                   size_t row_end, awq_where *where) {
    size_t i;
    if (!mean || !bias) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq__check_weight(weight, tensor->in_features));
    if (weight.rows != tensor->out_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, weight.rows, 1));
    for (i = 0; i < weight.cols; i++)
        if (!awq__is_finite(mean[i]) || (scale && !awq__is_scale(scale[i])))
            return awq__fail(where, AWQ_ERR_DATA, 1, 0, i);
    for (i = row_begin; i < row_end; i++)
        if (!awq__is_finite(bias[i])) return awq__fail(where, AWQ_ERR_DATA, 1, i, 0);
    return AWQ_OK;
}

AWQDEF awq_status awq_shift_bias(awq_matrix weight, const float *scale, const float *mean,
                                 const awq_tensor *tensor, float *bias, size_t row_begin,
                                 size_t row_end, awq_where *where) {
    size_t row;
    AWQ__TRY(awq__check_shift(weight, scale, mean, tensor, bias, row_begin, row_end, where));
    for (row = row_begin; row < row_end; row++)
        if (!awq__is_finite((float)((double)bias[row] +
                                    awq__mean_error(weight, scale, mean, tensor, row))))
            return awq__fail(where, AWQ_ERR_DATA, 0, row, 0);
    for (row = row_begin; row < row_end; row++)
        bias[row] = (float)((double)bias[row] +
                            awq__mean_error(weight, scale, mean, tensor, row));
    return AWQ_OK;
}

/* ---- formats within a budget ----------------------------------------------------------------- */

/* From a linear's choice to the offer that saves most error per byte; slope 0: there is none. */
typedef struct awq__step {
    double slope;
    size_t linear, offer;
} awq__step;

static awq__step awq__best_step(const awq_offer *offers, size_t formats, size_t linear,
                                size_t from) {
    const awq_offer *of = offers + linear * formats;
    awq__step best;
    size_t i;
    best.slope = 0;
    best.linear = linear;
    best.offer = from;
    for (i = 0; i < formats; i++) {
        double saved = of[from].error - of[i].error, slope;
        if (of[i].bytes <= of[from].bytes || !(saved > 0)) continue;
        slope = saved / (double)(of[i].bytes - of[from].bytes);
        if (slope < best.slope) continue;
        if (slope > best.slope || of[i].bytes < of[best.offer].bytes) best.offer = i;
        best.slope = slope;
    }
    return best;
}

static int awq__comes_before(awq__step a, awq__step b) {
    return a.slope > b.slope || (!(a.slope < b.slope) && a.linear < b.linear);
}

/* Lets heap[at] sink to where it belongs; the best step is heap[0]. */
static void awq__let_sink(awq__step *heap, size_t count, size_t at) {
    awq__step sinking = heap[at];
    size_t child;
    for (; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && awq__comes_before(heap[child + 1], heap[child])) child++;
        if (!awq__comes_before(heap[child], sinking)) break;
        heap[at] = heap[child];
    }
    heap[at] = sinking;
}

/* The smallest offer, of equals the one that loses least; `formats` if all errors are infinite. */
static size_t awq__smallest_offer(const awq_offer *of, size_t formats) {
    size_t best = formats, i;
    for (i = 0; i < formats; i++) {
        if (of[i].error > DBL_MAX) continue;
        if (best == formats || of[i].bytes < of[best].bytes ||
            (of[i].bytes == of[best].bytes && of[i].error < of[best].error))
            best = i;
    }
    return best;
}

/* The offer that loses least of those that take at most `left` more than `from`. */
static size_t awq__largest_offer(const awq_offer *of, size_t formats, size_t from, uint64_t left) {
    size_t best = from, i;
    for (i = 0; i < formats; i++)
        if (of[i].error < of[best].error &&
            (of[i].bytes <= of[from].bytes || of[i].bytes - of[from].bytes <= left))
            best = i;
    return best;
}

static awq_status awq__check_offers(const awq_offer *offers, size_t linears, size_t formats,
                                    uint64_t budget, awq_where *where) {
    size_t i, j;
    int fits = 1;
    for (i = 0; i < linears; i++) {
        const awq_offer *of = offers + i * formats;
        for (j = 0; j < formats; j++)
            if (!(of[j].error >= 0)) return awq__fail(where, AWQ_ERR_DATA, 0, i, j);
        j = awq__smallest_offer(of, formats);
        if (j == formats) return awq__fail(where, AWQ_ERR_DATA, 0, i, 0);
        fits = fits && of[j].bytes <= budget;
        if (fits) budget -= of[j].bytes;
    }
    return fits ? AWQ_OK : AWQ_ERR_RANGE;
}

/* Takes the best steps while there are any that fit; returns what is left of the budget. *bound: no
   choice has less error, by the part of the first step that fits; huge: all steps do. */
static uint64_t awq__take_steps(const awq_offer *offers, size_t linears, size_t formats,
                                awq__step *heap, uint64_t left, size_t *choice, double error,
                                double *bound) {
    *bound = DBL_MAX;
    while (heap[0].slope > 0) {
        awq__step step = heap[0];
        const awq_offer *of = offers + step.linear * formats, *from = of + choice[step.linear];
        uint64_t more = of[step.offer].bytes - from->bytes;
        if (more <= left) {
            left -= more;
            error -= from->error - of[step.offer].error;
            choice[step.linear] = step.offer;
            heap[0] = awq__best_step(offers, formats, step.linear, step.offer);
        } else {
            if (*bound >= DBL_MAX) *bound = error - step.slope * (double)left;
            heap[0].slope = 0;
        }
        awq__let_sink(heap, linears, 0);
    }
    return left;
}

AWQDEF size_t awq_allot_scratch_size(size_t linears) {
    return awq__size_or_0(awq__mul(linears, sizeof(awq__step)));
}

AWQDEF awq_status awq_allot(const awq_offer *offers, size_t linears, size_t formats,
                            uint64_t budget, void *scratch, size_t scratch_size, size_t *choice,
                            awq_allotment *result, awq_where *where) {
    awq__step *heap = (awq__step *)scratch;
    uint64_t left = budget;
    double error = 0;
    size_t size = awq_allot_scratch_size(linears), i;
    if (!offers || !scratch || !choice || !result) return AWQ_ERR_NULL;
    if (linears == 0 || formats == 0) return AWQ_ERR_SHAPE;
    if (size == 0 || scratch_size < size || !awq__is_aligned(scratch, sizeof(double)))
        return AWQ_ERR_MEMORY;
    AWQ__TRY(awq__check_offers(offers, linears, formats, budget, where));
    for (i = 0; i < linears; i++) {
        choice[i] = awq__smallest_offer(offers + i * formats, formats);
        left -= offers[i * formats + choice[i]].bytes;
        error += offers[i * formats + choice[i]].error;
        heap[i] = awq__best_step(offers, formats, i, choice[i]);
    }
    for (i = linears / 2; i-- > 0;) awq__let_sink(heap, linears, i);
    left = awq__take_steps(offers, linears, formats, heap, left, choice, error, &result->bound);
    for (i = 0, error = 0; i < linears; i++) {
        const awq_offer *of = offers + i * formats;
        size_t better = awq__largest_offer(of, formats, choice[i], left);
        left -= of[better].bytes - of[choice[i]].bytes;
        choice[i] = better;
        error += of[better].error;
    }
    result->bytes = budget - left;
    result->error = error;
    if (result->bound > error) result->bound = error;
    return AWQ_OK;
}

#endif /* AWQ_INFERENCE_ONLY */
/* =================================================================================================
   >>impl-pack   layout ROWS16: see FORMAT
   ============================================================================================== */

#define AWQ__HEADER 64         /* bytes; sections start at multiples of it, too */
#define AWQ__MAGIC 0x31515741u /* "AWQ1" */

/* 32-bit words that n inputs of one group take in one row. */
static size_t awq__words(int bits, size_t n) {
    return bits == 3 ? awq__mul(awq__ceil_div(n, 32), 3) : awq__ceil_div(n, 32u / (unsigned)bits);
}

static size_t awq__row_words(awq_quant quant, size_t in) {
    size_t size = awq__group_size(in, quant.group_size), whole = in / size;
    return awq__add(awq__mul(whole, awq__words(quant.bits, size)),
                    awq__words(quant.bits, in % size));
}

/* Bytes of the zero points of one group of AWQ_ROW_STEP rows: nibbles if they fit. */
static size_t awq__zero_bytes(int bits) { return bits <= 4 ? AWQ_ROW_STEP / 2 : AWQ_ROW_STEP; }

/* All of a view but its data; AWQ_ERR_MEMORY if the size overflows. */
static awq_status awq__packed_shape(awq_packed *p, awq_quant quant, size_t out, size_t in) {
    size_t blocks = awq__ceil_div(out, AWQ_ROW_STEP),
           groups = awq_group_count(in, quant.group_size);
    size_t cells = awq__mul(blocks, groups), end;
    p->data = NULL;
    p->out_features = out;
    p->in_features = in;
    p->quant = quant;
    p->layout = AWQ_LAYOUT_ROWS16;
    p->q_offset = AWQ__HEADER;
    end = awq__add(AWQ__HEADER,
                   awq__mul(awq__mul(blocks, awq__row_words(quant, in)), 4 * AWQ_ROW_STEP));
    p->scales_offset = awq__align(end, AWQ__HEADER);
    end = awq__add(p->scales_offset,
                   awq__mul(cells, AWQ_ROW_STEP * awq_dtype_size(quant.scale_dtype)));
    p->zeros_offset = quant.symmetric ? 0 : awq__align(end, AWQ__HEADER);
    p->size = quant.symmetric
                  ? end
                  : awq__add(p->zeros_offset, awq__mul(cells, awq__zero_bytes(quant.bits)));
    return p->size == SIZE_MAX ? AWQ_ERR_MEMORY : AWQ_OK;
}

AWQDEF size_t awq_packed_size(awq_quant quant, size_t out_features, size_t in_features) {
    awq_packed p;
    if (awq__check_quant(quant) != AWQ_OK || out_features == 0 || in_features == 0) return 0;
    return awq__packed_shape(&p, quant, out_features, in_features) == AWQ_OK ? p.size : 0;
}

static size_t awq__load_size(const unsigned char *p) {
    uint64_t n = awq__load_le64(p);
    return n > (uint64_t)SIZE_MAX ? SIZE_MAX : (size_t)n;
}

AWQDEF awq_status awq_packed_open(awq_packed *packed, const void *bytes, size_t size) {
    const unsigned char *h = (const unsigned char *)bytes;
    awq_packed p;
    awq_quant quant;
    size_t out, in, i;
    if (!packed || !bytes) return AWQ_ERR_NULL;
    if (size < AWQ__HEADER || awq__load_le32(h) != AWQ__MAGIC || awq__load_le16(h + 4) != 1)
        return AWQ_ERR_FORMAT;
    if (h[6] != AWQ_LAYOUT_ROWS16) return AWQ_ERR_FORMAT;
    quant.bits = h[7];
    quant.symmetric = h[8];
    quant.scale_dtype = h[9] == 1 ? AWQ_F16 : h[9] == 2 ? AWQ_BF16 : AWQ_F32;
    quant.group_size = (int)(awq__load_le32(h + 12) & 0x7fffffffu);
    if (awq__load_le32(h + 12) == 0xffffffffu) quant.group_size = -1;
    else if (h[15] & 0x80u) return AWQ_ERR_FORMAT;
    out = awq__load_size(h + 16);
    in = awq__load_size(h + 24);
    if (h[9] > 2 || h[10] || h[11] || awq__check_quant(quant) != AWQ_OK || out == 0 || in == 0)
        return AWQ_ERR_FORMAT;
    for (i = 40; i < AWQ__HEADER; i++)
        if (h[i]) return AWQ_ERR_FORMAT;
    if (awq__packed_shape(&p, quant, out, in) != AWQ_OK) return AWQ_ERR_FORMAT;
    if (awq__load_size(h + 32) != p.size || size < p.size) return AWQ_ERR_FORMAT;
    p.data = h;
    *packed = p;
    return AWQ_OK;
}

/* Where words, scales and zero points of a block of rows, or of one group in it, begin. */
static size_t awq__word_at(const awq_packed *p, size_t row, size_t word) {
    return p->q_offset +
           ((row / AWQ_ROW_STEP * awq__row_words(p->quant, p->in_features) + word) * AWQ_ROW_STEP +
            row % AWQ_ROW_STEP) *
               4;
}
static size_t awq__scale_at(const awq_packed *p, size_t groups, size_t row, size_t group) {
    return p->scales_offset +
           ((row / AWQ_ROW_STEP * groups + group) * AWQ_ROW_STEP + row % AWQ_ROW_STEP) *
               awq_dtype_size(p->quant.scale_dtype);
}

static float awq__packed_scale(const awq_packed *p, size_t groups, size_t row, size_t group) {
    return awq__load_le_float(p->data + awq__scale_at(p, groups, row, group), p->quant.scale_dtype);
}

/* Of one row in a cell: a block of rows and a group, counted row block by row block. */
static int awq__cell_zero(const awq_packed *p, size_t cell, size_t lane) {
    size_t bytes = awq__zero_bytes(p->quant.bits);
    const unsigned char *z = p->data + p->zeros_offset + cell * bytes;
    if (p->quant.symmetric) return 1 << (p->quant.bits - 1);
    if (bytes == AWQ_ROW_STEP) return z[lane];
    return lane < bytes ? z[lane] & 15 : z[lane - bytes] >> 4;
}

static int awq__packed_zero(const awq_packed *p, size_t groups, size_t row, size_t group) {
    return awq__cell_zero(p, row / AWQ_ROW_STEP * groups + group, row % AWQ_ROW_STEP);
}

/* A word is 8 / width layers of 4 inputs, one per byte: layer f is bits width * f of every byte. No
   bit leaves its byte on the way, so words are moved in the host's own byte order. */
static void awq__split_word(uint32_t word, unsigned width, uint32_t *layers) {
    uint32_t mask = 0x01010101u * ((1u << width) - 1);
    unsigned f;
    for (f = 0; f < 8 / width; f++) layers[f] = (word >> width * f) & mask;
}

static uint32_t awq__load_word(const unsigned char *at, size_t word) {
    uint32_t v;
    memcpy(&v, at + word * 4 * AWQ_ROW_STEP, sizeof v);
    return v;
}

/* q of n <= AWQ__CHUNK inputs of a row, and of the padding after them, from input k (a multiple of
   AWQ__CHUNK) of the group whose first word is `word`. */
static void awq__unpack_chunk(const awq_packed *p, size_t row, size_t word, size_t k, size_t n,
                              uint8_t q[AWQ__CHUNK]) {
    unsigned bits = (unsigned)p->quant.bits;
    const unsigned char *at =
        p->data + awq__word_at(p, row, word + awq__words(p->quant.bits, k));
    uint32_t layers[AWQ__CHUNK / 4], high[8];
    size_t words = awq__words(p->quant.bits, n), per_word = bits == 3 ? 0 : 8 / bits, i, f;
    if (bits == 4) /* the constant lets compilers unroll */
        for (i = 0; i < words; i++) awq__split_word(awq__load_word(at, i), 4, layers + 2 * i);
    else if (bits != 3)
        for (i = 0; i < words; i++)
            awq__split_word(awq__load_word(at, i), bits, layers + per_word * i);
    else /* two words of low bits, one of high bits */
        for (i = 0; i < words / 3; i++) {
            awq__split_word(awq__load_word(at, 3 * i), 2, layers + 8 * i);
            awq__split_word(awq__load_word(at, 3 * i + 1), 2, layers + 8 * i + 4);
            awq__split_word(awq__load_word(at, 3 * i + 2), 1, high);
            for (f = 0; f < 8; f++) layers[8 * i + f] |= high[f] << 2;
        }
    memcpy(q, layers, bits == 3 ? words / 3 * 32 : words * per_word * 4);
}

/* out = columns [begin, begin + n) of a row; the columns are one group's, `word` its first word */
static void awq__dequantize_group(const awq_packed *p, size_t groups, size_t row, size_t group,
                                  size_t begin, size_t n, const float *scale, awq_matrix out,
                                  size_t out_row) {
    size_t word = group * awq__words(p->quant.bits,
                                     awq__group_size(p->in_features, p->quant.group_size));
    float step = awq__packed_scale(p, groups, row, group);
    int zero = awq__packed_zero(p, groups, row, group);
    uint8_t q[AWQ__CHUNK];
    size_t k, i;
    for (k = 0; k < n; k += AWQ__CHUNK) {
        size_t count = awq__min(AWQ__CHUNK, n - k);
        awq__unpack_chunk(p, row, word, k, count, q);
        for (i = 0; i < count; i++) {
            float w = (float)((int)q[i] - zero) * step;
            size_t col = begin + k + i;
            awq__store_float(awq__at(out, out_row, col), out.dtype, scale ? w / scale[col] : w);
        }
    }
}

AWQDEF awq_status awq_packed_dequantize(const awq_packed *packed, const float *scale,
                                        awq_matrix out, size_t row_begin, size_t row_end) {
    size_t row, group, groups, size, i;
    if (!packed || !packed->data) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_matrix(out));
    AWQ__TRY(awq__check_range(row_begin, row_end, packed->out_features, 1));
    if (out.rows != row_end - row_begin || out.cols != packed->in_features) return AWQ_ERR_SHAPE;
    for (i = 0; scale && i < packed->in_features; i++)
        if (!awq__is_scale(scale[i])) return AWQ_ERR_DATA;
    size = awq__group_size(packed->in_features, packed->quant.group_size);
    groups = awq__ceil_div(packed->in_features, size);
    for (row = row_begin; row < row_end; row++)
        for (group = 0; group < groups; group++)
            awq__dequantize_group(packed, groups, row, group, group * size,
                                  awq__min(size, packed->in_features - group * size), scale, out,
                                  row - row_begin);
    return AWQ_OK;
}

/* The fields of a group's last word that no input uses are 0. */
static int awq__padding_is_zero(const awq_packed *p, size_t row, size_t word, size_t n) {
    uint8_t q[AWQ__CHUNK];
    size_t per = p->quant.bits == 3 ? 32 : 32u / (unsigned)p->quant.bits, used = n % per, i;
    if (used == 0) return 1;
    awq__unpack_chunk(p, row, word + awq__words(p->quant.bits, n - used), 0, used, q);
    for (i = used; i < per; i++)
        if (q[i]) return 0;
    return 1;
}

static int awq__group_is_sane(const awq_packed *p, size_t groups, size_t row, size_t group,
                              size_t word, size_t n) {
    size_t i, bytes = awq_dtype_size(p->quant.scale_dtype);
    if (row < p->out_features)
        return awq__is_scale(awq__packed_scale(p, groups, row, group)) &&
               awq__packed_zero(p, groups, row, group) < 1 << p->quant.bits &&
               awq__padding_is_zero(p, row, word, n);
    for (i = 0; i < bytes; i++)
        if (p->data[awq__scale_at(p, groups, row, group) + i]) return 0;
    for (i = 0; i < awq__words(p->quant.bits, n); i++)
        if (awq__load_le32(p->data + awq__word_at(p, row, word + i))) return 0;
    return p->quant.symmetric || awq__packed_zero(p, groups, row, group) == 0;
}

static int awq__is_zero(const unsigned char *bytes, size_t begin, size_t end) {
    for (; begin < end; begin++)
        if (bytes[begin]) return 0;
    return 1;
}

/* The bytes that bring scales and zeros to the next multiple of 64. */
static int awq__gaps_are_zero(const awq_packed *p, size_t blocks, size_t groups) {
    size_t q_bytes = blocks * awq__row_words(p->quant, p->in_features) * 4 * AWQ_ROW_STEP;
    size_t scale_bytes = blocks * groups * AWQ_ROW_STEP * awq_dtype_size(p->quant.scale_dtype);
    return awq__is_zero(p->data, p->q_offset + q_bytes, p->scales_offset) &&
           awq__is_zero(p->data, p->scales_offset + scale_bytes, p->zeros_offset);
}

AWQDEF awq_status awq_packed_check(const awq_packed *packed, awq_where *where) {
    size_t row, group, groups, size, rows, words;
    if (!packed || !packed->data) return AWQ_ERR_NULL;
    size = awq__group_size(packed->in_features, packed->quant.group_size);
    groups = awq__ceil_div(packed->in_features, size);
    rows = awq__ceil_div(packed->out_features, AWQ_ROW_STEP) * AWQ_ROW_STEP;
    words = awq__words(packed->quant.bits, size);
    for (row = 0; row < rows; row++)
        for (group = 0; group < groups; group++) {
            size_t n = awq__min(size, packed->in_features - group * size);
            if (!awq__group_is_sane(packed, groups, row, group, group * words, n))
                return awq__fail(where, AWQ_ERR_FORMAT, 0, row, group);
        }
    if (!awq__gaps_are_zero(packed, rows / AWQ_ROW_STEP, groups))
        return awq__fail(where, AWQ_ERR_FORMAT, 0, rows, 0);
    return AWQ_OK;
}

#ifndef AWQ_INFERENCE_ONLY

AWQDEF awq_status awq_packed_spans(const awq_packed *packed, size_t row_begin, size_t row_end,
                                   awq_span *spans) {
    size_t first, blocks, groups, bytes[3], begin[3], i;
    if (!packed || !spans) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_range(row_begin, row_end, packed->out_features, AWQ_ROW_STEP));
    first = row_begin / AWQ_ROW_STEP;
    blocks = awq__ceil_div(row_end - row_begin, AWQ_ROW_STEP);
    groups = awq_group_count(packed->in_features, packed->quant.group_size);
    begin[0] = packed->q_offset;
    begin[1] = packed->scales_offset;
    begin[2] = packed->zeros_offset;
    bytes[0] = awq__row_words(packed->quant, packed->in_features) * 4 * AWQ_ROW_STEP;
    bytes[1] = groups * AWQ_ROW_STEP * awq_dtype_size(packed->quant.scale_dtype);
    bytes[2] = packed->quant.symmetric ? 0 : groups * awq__zero_bytes(packed->quant.bits);
    for (i = 0; i < 3; i++) {
        spans[i].offset = begin[i] + first * bytes[i];
        spans[i].size = blocks * bytes[i];
    }
    return AWQ_OK;
}

static void awq__store_le(unsigned char *p, uint64_t v, int bytes) {
    int i;
    for (i = 0; i < bytes; i++) p[i] = (unsigned char)(v >> 8 * i);
}

AWQDEF awq_status awq_packed_init(awq_quant quant, size_t out_features, size_t in_features,
                                  void *memory, size_t memory_size) {
    unsigned char *h = (unsigned char *)memory;
    awq_packed p;
    if (!memory) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_quant(quant));
    if (out_features == 0 || in_features == 0) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__packed_shape(&p, quant, out_features, in_features));
    if (memory_size < p.size) return AWQ_ERR_MEMORY;
    memset(h, 0, p.size);
    awq__store_le(h, AWQ__MAGIC, 4);
    awq__store_le(h + 4, 1, 2);
    h[6] = AWQ_LAYOUT_ROWS16;
    h[7] = (unsigned char)quant.bits;
    h[8] = (unsigned char)quant.symmetric;
    h[9] = (unsigned char)quant.scale_dtype;
    awq__store_le(h + 12, (uint32_t)quant.group_size, 4);
    awq__store_le(h + 16, out_features, 8);
    awq__store_le(h + 24, in_features, 8);
    awq__store_le(h + 32, p.size, 8);
    return AWQ_OK;
}

static void awq__pack_grid(const awq_packed *p, unsigned char *memory, size_t groups, size_t row,
                           size_t group, float scale, unsigned zero) {
    unsigned char *at = memory + awq__scale_at(p, groups, row, group), *z;
    size_t bytes = awq__zero_bytes(p->quant.bits), lane = row % AWQ_ROW_STEP;
    if (p->quant.scale_dtype == AWQ_F32) awq__store_le(at, awq__float_bits(scale), 4);
    else
        awq__store_le(at,
                      p->quant.scale_dtype == AWQ_F16 ? awq__float_to_half(scale)
                                                      : awq__float_to_bf16(scale),
                      2);
    if (p->quant.symmetric) return;
    z = memory + p->zeros_offset + (row / AWQ_ROW_STEP * groups + group) * bytes;
    if (bytes == AWQ_ROW_STEP) z[lane] = (unsigned char)zero;
    else if (lane < bytes) z[lane] = (unsigned char)((z[lane] & 0xf0u) | zero);
    else z[lane - bytes] = (unsigned char)((z[lane - bytes] & 0x0fu) | zero << 4);
}

/* Where input k of a group, a multiple of AWQ__CHUNK, stands after the group's first. */
static size_t awq__chunk_at(int bits, size_t k) { return k / 32 * (size_t)bits * 4 * AWQ_ROW_STEP; }

static uint32_t awq__join_word(const uint32_t *layers, unsigned width) {
    uint32_t word = 0;
    unsigned f;
    for (f = 0; f < 8 / width; f++) word |= layers[f] << width * f;
    return word;
}

/* Word `part` of the three that hold 32 inputs of 3 bits. */
static uint32_t awq__join_3(const uint8_t *q, size_t part) {
    unsigned drop = part < 2 ? 0 : 2, f;
    uint32_t mask = part < 2 ? 0x03030303u : 0x01010101u, bits[8];
    memcpy(bits, q, sizeof bits);
    for (f = 0; f < 8; f++) bits[f] = (bits[f] >> drop) & mask;
    return part < 2 ? awq__join_word(bits + 4 * part, 2) : awq__join_word(bits, 1);
}

/* One word of `width` bits per input. */
static uint32_t awq__join(const uint8_t *q, unsigned width) {
    uint32_t layers[4];
    memcpy(layers, q, 32 / width);
    return awq__join_word(layers, width);
}

/* The opposite of awq__unpack_chunk: n <= AWQ__CHUNK inputs to the words of a row from `at` on. */
static void awq__pack_chunk(int bits, unsigned char *at, size_t n, const uint8_t *q) {
    uint8_t padded[AWQ__CHUNK];
    size_t words = awq__words(bits, n), i;
    if (n % 32) {
        memset(padded, 0, sizeof padded);
        q = (const uint8_t *)memcpy(padded, q, n);
    }
    for (i = 0; i < words; i++, at += 4 * AWQ_ROW_STEP) {
        uint32_t v = bits == 4   ? awq__join(q + 8 * i, 4)
                     : bits == 8 ? awq__join(q + 4 * i, 8)
                     : bits == 2 ? awq__join(q + 16 * i, 2)
                                 : awq__join_3(q + i / 3 * 32, i % 3);
        memcpy(at, &v, sizeof v);
    }
}

static int awq__same_quant(awq_quant a, awq_quant b) {
    return a.bits == b.bits && a.group_size == b.group_size && a.symmetric == b.symmetric &&
           a.scale_dtype == b.scale_dtype;
}

/* The header in `memory` describes this tensor, and the rows of the range fit in their bits. */
static awq_status awq__check_packing(const awq_packed *p, const awq_tensor *t, size_t row_begin,
                                     size_t row_end) {
    if (p->out_features != t->out_features || p->in_features != t->in_features)
        return AWQ_ERR_SHAPE;
    if (!awq__same_quant(p->quant, t->quant)) return AWQ_ERR_CONFIG;
    return awq__check_range(row_begin, row_end, p->out_features, AWQ_ROW_STEP);
}

static awq_status awq__check_fields(const awq_tensor *t, size_t row_begin, size_t row_end,
                                    awq_where *where) {
    unsigned limit = 1u << t->quant.bits;
    size_t row, c, groups = awq_group_count(t->in_features, t->quant.group_size), size;
    size = awq__group_size(t->in_features, t->quant.group_size);
    for (row = row_begin; row < row_end; row++) {
        for (c = 0; c < t->in_features; c++)
            if (t->q[row * t->in_features + c] >= limit)
                return awq__fail(where, AWQ_ERR_DATA, 0, row, c);
        for (c = 0; c < groups; c++) {
            unsigned zero = t->zeros[row * groups + c];
            if (zero >= limit || (t->quant.symmetric && zero != limit / 2))
                return awq__fail(where, AWQ_ERR_DATA, 0, row, c * size);
        }
    }
    return AWQ_OK;
}

AWQDEF awq_status awq_pack(const awq_kernels *k, const awq_tensor *tensor, void *memory,
                           size_t memory_size, size_t row_begin, size_t row_end, awq_where *where) {
    unsigned char *bytes = (unsigned char *)memory;
    awq_packed p;
    size_t row, group, groups, size, in, col, words;
    if (!k) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq_packed_open(&p, memory, memory_size));
    AWQ__TRY(awq__check_packing(&p, tensor, row_begin, row_end));
    AWQ__TRY(awq__check_fields(tensor, row_begin, row_end, where));
    in = p.in_features;
    size = awq__group_size(in, p.quant.group_size);
    groups = awq__ceil_div(in, size);
    words = awq__words(p.quant.bits, size);
    for (row = row_begin; row < row_end; row++)
        for (group = 0; group < groups; group++) {
            size_t at = row * groups + group, begin = group * size,
                   end = awq__min(begin + size, in);
            awq__pack_grid(&p, bytes, groups, row, group, awq__get_grid(tensor, at).scale,
                           tensor->zeros[at]);
            for (col = begin; col < end; col += AWQ__CHUNK)
                awq__pack_chunk(p.quant.bits,
                                bytes + awq__word_at(&p, row, group * words) +
                                    awq__chunk_at(p.quant.bits, col - begin),
                                awq__min(AWQ__CHUNK, end - col), tensor->q + row * in + col);
        }
    return AWQ_OK;
}

AWQDEF awq_status awq_unpack(const awq_kernels *k, const awq_packed *packed, awq_tensor *tensor,
                             size_t row_begin, size_t row_end) {
    uint8_t q[AWQ__CHUNK];
    size_t row, group, groups, size, in, col, words;
    if (!k || !packed || !packed->data) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_tensor(tensor));
    AWQ__TRY(awq__check_packing(packed, tensor, row_begin, row_end));
    in = packed->in_features;
    size = awq__group_size(in, packed->quant.group_size);
    groups = awq__ceil_div(in, size);
    words = awq__words(packed->quant.bits, size);
    for (row = row_begin; row < row_end; row++)
        for (group = 0; group < groups; group++) {
            size_t begin = group * size, end = awq__min(begin + size, in);
            awq__grid grid;
            grid.scale = awq__packed_scale(packed, groups, row, group);
            grid.zero = (float)awq__packed_zero(packed, groups, row, group);
            awq__set_grid(tensor, row * groups + group, grid);
            for (col = begin; col < end; col += AWQ__CHUNK) {
                size_t n = awq__min(AWQ__CHUNK, end - col);
                awq__unpack_chunk(packed, row, group * words, col - begin, n, q);
                memcpy(tensor->q + row * in + col, q, n);
            }
        }
    return AWQ_OK;
}

typedef struct awq__packing {
    awq_packed shape;
    unsigned char *memory, *at; /* where the words of the present row begin */
    size_t groups, group_step;  /* of a row, and bytes from one to the next */
} awq__packing;

static void awq__emit_packed(void *to, size_t row, size_t group, size_t k, size_t n, awq__grid grid,
                             const uint8_t *q) {
    awq__packing *packing = (awq__packing *)to;
    const awq_packed *p = &packing->shape;
    if (k == 0 && group == 0) packing->at = packing->memory + awq__word_at(p, row, 0);
    if (k == 0)
        awq__pack_grid(p, packing->memory, packing->groups, row, group, grid.scale,
                       (unsigned)(int)grid.zero);
    awq__pack_chunk(p->quant.bits,
                    packing->at + group * packing->group_step + awq__chunk_at(p->quant.bits, k), n,
                    q);
}

AWQDEF awq_status awq_quantize_packed(const awq_kernels *k, awq_matrix weight, const float *scale,
                                      const float *clip_max, void *memory, size_t memory_size,
                                      size_t row_begin, size_t row_end, awq_where *where) {
    awq__source source;
    awq__packing packing;
    if (!k) return AWQ_ERR_NULL;
    AWQ__TRY(awq_packed_open(&packing.shape, memory, memory_size));
    AWQ__TRY(awq__check_weight(weight, packing.shape.in_features));
    if (weight.rows != packing.shape.out_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, weight.rows, AWQ_ROW_STEP));
    packing.memory = packing.at = (unsigned char *)memory;
    packing.groups = awq_group_count(weight.cols, packing.shape.quant.group_size);
    packing.group_step =
        awq__words(packing.shape.quant.bits,
                   awq__group_size(weight.cols, packing.shape.quant.group_size)) *
        4 * AWQ_ROW_STEP;
    source.k = k;
    source.weight = weight;
    source.scale = scale;
    source.clip_max = clip_max;
    return awq__quantize_rows(&source, &packing.shape.quant, awq__emit_packed, &packing, row_begin,
                              row_end, where);
}

/* =================================================================================================
   >>impl-layouts   one table of places, one driver

   In every layout, the packed one too, the place of a nibble is a sum: each bit of its row n and of
   its input k adds a move of its own. So a layout is a row of numbers, 16 x 64 nibbles of it are a
   permutation of ten bits, and any two layouts differ by at most three exchanges of bits.
   ============================================================================================== */

/* The low `bits` bits of an index move it by move[]; what is above them, by `step` each, or, where
   step is 0, by the plane's stride. In nibbles; in elements where scales are meant. */
typedef struct awq__axis {
    unsigned char bits;
    unsigned short move[6], step;
} awq__axis;
typedef struct awq__map {
    unsigned char first;
    awq__axis n, k; /* zeros and scales: k counts groups */
} awq__map;

typedef enum awq__zero_kind {
    AWQ__ZERO_IS_8,
    AWQ__ZERO_NIBBLE,
    AWQ__ZERO_LESS_1, /* GPTQ v1 */
    AWQ__ZERO_SCALED  /* -zero * scale, in the type of the scales */
} awq__zero_kind;

typedef struct awq__layout {
    char name[16];
    unsigned short out_multiple, in_multiple;
    short group_sizes[4], group_from;
    signed char short_group, symmetric;
    unsigned char scale_dtypes, zero_kind, padded /* to AutoAWQ's Z words of groups */;
    unsigned char element;  /* bytes of an element of the weights */
    unsigned char lane;     /* tiles go along bits lane, lane + 1 of n */
    awq__map weights, zeros, scales;
} awq__layout;

#define AWQ__ROW       { 0, { 0 }, 0 }
#define AWQ__STEP(step) { 0, { 0 }, step }
#define AWQ__NO_MAP    { 0, AWQ__ROW, AWQ__ROW }
#define AWQ__F16_ONLY  (1 << AWQ_F16)
#define AWQ__F16_BF16  (1 << AWQ_F16 | 1 << AWQ_BF16)
#define AWQ__F16_F32   (1 << AWQ_F16 | 1 << AWQ_F32)

/* The first is the packed layout, whose planes are its sections. */
static const awq__layout *awq__find_layout(int layout) {
    static const awq__layout layouts[AWQ_LAYOUT_END] = {
        { "rows16", 1, 1, { -1 }, 8, 1, -1, AWQ__F16_BF16 | AWQ__F16_F32, AWQ__ZERO_NIBBLE, 0, 4, 0,
          { 0, { 4, { 8, 16, 32, 64 }, 0 }, { 3, { 2, 4, 1 }, 128 } },
          { 0, { 4, { 2, 4, 8, 1 }, 0 }, AWQ__STEP(16) },
          { 0, { 4, { 1, 2, 4, 8 }, 0 }, AWQ__STEP(16) } },
        { "gemm", 32, 8, { -1 }, 8, 0, 0, AWQ__F16_BF16, AWQ__ZERO_NIBBLE, 0, 4, 3,
          { 0, { 3, { 4, 1, 2 }, 8 }, AWQ__ROW },
          { 0, { 3, { 4, 1, 2 }, 8 }, AWQ__ROW },
          { 0, AWQ__STEP(1), AWQ__ROW } },
        { "gemv", 8, 8, { 32, 64 }, 128, 0, 0, AWQ__F16_ONLY, AWQ__ZERO_NIBBLE, 1, 4, 0,
          { 0, AWQ__ROW, { 3, { 1, 2, 4 }, 8 } },
          { 0, AWQ__ROW, AWQ__STEP(1) },
          { 0, AWQ__ROW, AWQ__STEP(1) } },
        { "gemv_fast", 8, 64, { 32, 64 }, 128, 0, 0, AWQ__F16_BF16, AWQ__ZERO_SCALED, 1, 2, 0,
          { 0, { 2, { 64, 128 }, 0 }, { 6, { 4, 8, 16, 1, 2, 32 }, 256 } },
          { 0, AWQ__STEP(1), AWQ__ROW },
          { 0, AWQ__STEP(1), AWQ__ROW } },
        { "marlin", 256, 128, { 128, -1 }, 0, 0, 1, AWQ__F16_ONLY, AWQ__ZERO_IS_8, 0, 4, 4,
          { 0, { 6, { 128, 256, 512, 2, 8, 16 }, 1024 }, { 4, { 4, 32, 64, 1 }, 0 } },
          AWQ__NO_MAP,
          { 0, { 6, { 8, 16, 32, 1, 2, 4 }, 64 }, AWQ__ROW } },
        { "awq_marlin", 64, 128, { 32, 64, 128, -1 }, 0, 0, 0, AWQ__F16_BF16, AWQ__ZERO_NIBBLE, 0,
          4, 4,
          { 0, { 6, { 128, 256, 512, 2, 8, 16 }, 1024 }, { 4, { 4, 32, 64, 1 }, 0 } },
          { 0, { 6, { 8, 16, 32, 4, 1, 2 }, 64 }, AWQ__ROW },
          { 0, { 6, { 8, 16, 32, 1, 2, 4 }, 64 }, AWQ__ROW } },
        { "gptq", 32, 32, { -1 }, 8, 1, 0, AWQ__F16_BF16, AWQ__ZERO_LESS_1, 0, 4, 0,
          { 0, AWQ__STEP(8), { 3, { 1, 2, 4 }, 0 } },
          { 0, AWQ__STEP(1), AWQ__ROW },
          { 0, AWQ__STEP(1), AWQ__ROW } },
        { "gptq_v2", 32, 32, { -1 }, 8, 1, 0, AWQ__F16_BF16, AWQ__ZERO_NIBBLE, 0, 4, 0,
          { 0, AWQ__STEP(8), { 3, { 1, 2, 4 }, 0 } },
          { 0, AWQ__STEP(1), AWQ__ROW },
          { 0, AWQ__STEP(1), AWQ__ROW } },
        { "compressed", 1, 1, { -1 }, 8, 0, -1, AWQ__F16_BF16 | AWQ__F16_F32, AWQ__ZERO_NIBBLE, 0,
          4, 0,
          { 0, AWQ__ROW, { 3, { 1, 2, 4 }, 8 } },
          { 0, { 3, { 1, 2, 4 }, 0 }, AWQ__STEP(8) },
          { 0, AWQ__ROW, AWQ__STEP(1) } },
        { "q4_3", 1, 64, { 32 }, 0, 0, 1, AWQ__F16_F32, AWQ__ZERO_IS_8, 0, 1, 0,
          { 0, AWQ__ROW, { 6, { 2, 4, 8, 16, 32, 1 }, 64 } },
          AWQ__NO_MAP,
          { 0, AWQ__ROW, AWQ__STEP(1) } },
        { "q4_4", 1, 32, { 32 }, 0, 0, 1, AWQ__F16_F32, AWQ__ZERO_IS_8, 0, 1, 0,
          { 0, AWQ__ROW, { 5, { 2, 4, 8, 16, 1 }, 32 } },
          AWQ__NO_MAP,
          { 0, AWQ__ROW, AWQ__STEP(1) } },
        { "q4_6", 1, 128, { 128 }, 0, 0, 1, AWQ__F16_F32, AWQ__ZERO_NIBBLE, 1, 4, 0,
          { 0, AWQ__ROW, { 3, { 1, 2, 4 }, 8 } },
          { 0, AWQ__ROW, AWQ__STEP(1) },
          { 0, AWQ__ROW, AWQ__STEP(1) } },
        { "q4_0", 1, 32, { 32 }, 0, 0, 1, AWQ__F16_ONLY, AWQ__ZERO_IS_8, 0, 18, 0,
          { 4, AWQ__ROW, { 5, { 2, 4, 8, 16, 1 }, 36 } },
          AWQ__NO_MAP,
          { 0, AWQ__ROW, AWQ__STEP(9) } },
        { "q4_1", 1, 32, { 32 }, 0, 0, 0, AWQ__F16_ONLY, AWQ__ZERO_SCALED, 0, 20, 0,
          { 8, AWQ__ROW, { 5, { 2, 4, 8, 16, 1 }, 40 } },
          { 1, AWQ__ROW, AWQ__STEP(10) },
          { 0, AWQ__ROW, AWQ__STEP(10) } }
    };
    return layout > 0 && layout < AWQ_LAYOUT_END ? &layouts[layout] : &layouts[0];
}

/* IST-DASLab's order of the scales of whole rows. */
static const awq__map *awq__scale_map(const awq__layout *layout, size_t groups) {
    static const awq__map whole_rows = { 0, { 5, { 1, 8, 16, 2, 4 }, 32 }, AWQ__ROW };
    return layout->lane == 4 && groups == 1 ? &whole_rows : &layout->scales;
}

AWQDEF awq_layout_rules awq_layout_rules_of(awq_layout layout) {
    const awq__layout *from = awq__find_layout((int)layout);
    awq_layout_rules rules;
    size_t i;
    memset(&rules, 0, sizeof rules);
    rules.name = "";
    if (from == awq__find_layout(0)) return rules;
    rules.name = from->name;
    rules.out_multiple = from->out_multiple;
    rules.in_multiple = from->in_multiple;
    for (i = 0; i < 4; i++) rules.group_sizes[i] = from->group_sizes[i];
    rules.group_from = from->group_from;
    rules.short_group = from->short_group;
    rules.symmetric = from->symmetric;
    rules.scale_dtypes = from->scale_dtypes;
    return rules;
}

/* ---- planes ---------------------------------------------------------------------------------- */

AWQDEF size_t awq_plane_size(const awq_plane *plane) {
    if (!plane || plane->rows == 0 || plane->cols == 0) return 0;
    return awq__size_or_0(awq__add(awq__mul(plane->rows - 1, plane->stride),
                                   awq__mul(plane->cols, plane->element_size)));
}

/* A plane for n_count rows and k_count inputs or groups, dense; `unit`: nibbles of a map's move. */
static awq_plane awq__dense_plane(const awq__map *map, size_t unit, size_t element, size_t n_count,
                                  size_t k_count) {
    int by_row = map->n.step == 0;
    const awq__axis *row = by_row ? &map->n : &map->k, *col = by_row ? &map->k : &map->n;
    size_t rows = by_row ? n_count : k_count, cols = by_row ? k_count : n_count;
    awq_plane plane;
    plane.data = NULL;
    plane.rows = awq__ceil_div(rows, (size_t)1 << row->bits);
    cols = awq__mul(awq__ceil_div(cols, (size_t)1 << col->bits), col->step * unit);
    plane.cols = awq__ceil_div(cols, 2 * element);
    plane.element_size = element;
    plane.stride = awq__mul(plane.cols, element);
    return plane;
}

/* AutoAWQ's 8 Z. */
static size_t awq__padded_groups(size_t groups, size_t group_size) {
    return awq__align(groups, group_size >= 128 ? 8 : group_size == 64 ? 16 : 32);
}

static awq_status awq__check_group_size(const awq__layout *layout, int group_size, size_t in) {
    size_t size = group_size == -1 ? in : (size_t)group_size;
    int known = layout->group_from && size >= (size_t)layout->group_from && size % 8 == 0, i;
    for (i = 0; i < 4; i++)
        known |= layout->group_sizes[i] == -1 ? size == in : size == (size_t)layout->group_sizes[i];
    if (!known) return AWQ_ERR_GROUP_SIZE;
    return in % size && !layout->short_group ? AWQ_ERR_SHORT_GROUP : AWQ_OK;
}

static awq_status awq__check_layout(const awq__layout *layout, awq_quant quant, size_t out,
                                    size_t in) {
    if (layout == awq__find_layout(0) || quant.bits != 4) return AWQ_ERR_CONFIG;
    AWQ__TRY(awq__check_quant(quant));
    if (!(layout->scale_dtypes >> quant.scale_dtype & 1)) return AWQ_ERR_DTYPE;
    if (out == 0 || in == 0) return AWQ_ERR_SHAPE;
    if (out % layout->out_multiple) return AWQ_ERR_OUT_FEATURES;
    if (in % layout->in_multiple) return AWQ_ERR_IN_FEATURES;
    return awq__check_group_size(layout, quant.group_size, in);
}

/* Twice its size is an offset in nibbles, so it must fit, too. */
static int awq__plane_fits(const awq_plane *plane) {
    return plane->rows == 0 || (awq_plane_size(plane) && awq_plane_size(plane) <= SIZE_MAX / 2);
}

AWQDEF awq_status awq_foreign_init(awq_foreign *foreign, awq_layout layout, awq_quant quant,
                                   size_t out_features, size_t in_features) {
    const awq__layout *l = awq__find_layout((int)layout);
    size_t groups, bytes = awq_dtype_size(quant.scale_dtype), unit;
    awq_foreign f;
    if (!foreign) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_layout(l, quant, out_features, in_features));
    memset(&f, 0, sizeof f);
    f.layout = layout;
    f.out_features = out_features;
    f.in_features = in_features;
    f.quant = quant;
    if (l->symmetric >= 0) f.quant.symmetric = l->symmetric;
    groups = awq_group_count(in_features, quant.group_size);
    if (l->padded)
        groups = awq__padded_groups(groups, awq__group_size(in_features, quant.group_size));
    f.weights = awq__dense_plane(&l->weights, 1, l->element, out_features, in_features);
    if (l->element <= 4)
        f.scales = awq__dense_plane(awq__scale_map(l, groups), 2 * bytes, bytes, out_features,
                                    groups);
    unit = l->zero_kind == AWQ__ZERO_SCALED ? bytes : 4;
    if (l->element <= 4 && l->zero_kind != AWQ__ZERO_IS_8 &&
        !(l->symmetric < 0 && quant.symmetric))
        f.zeros = awq__dense_plane(&l->zeros, l->zero_kind == AWQ__ZERO_SCALED ? 2 * unit : 1,
                                   unit, out_features, groups);
    if (!awq__plane_fits(&f.weights) || !awq__plane_fits(&f.scales) || !awq__plane_fits(&f.zeros))
        return AWQ_ERR_SHAPE;
    *foreign = f;
    return AWQ_OK;
}

static awq_status awq__check_plane(const awq_plane *plane, const awq_plane *expected) {
    if (plane->rows != expected->rows) return AWQ_ERR_SHAPE;
    if (plane->rows == 0) return AWQ_OK;
    if (plane->cols != expected->cols || plane->element_size != expected->element_size)
        return AWQ_ERR_SHAPE;
    if (plane->rows > 1 && plane->stride < expected->stride) return AWQ_ERR_SHAPE;
    if (!awq__plane_fits(plane)) return AWQ_ERR_SHAPE;
    return plane->data ? AWQ_OK : AWQ_ERR_NULL;
}

static awq_status awq__check_foreign(const awq_foreign *f) {
    awq_foreign expected;
    AWQ__TRY(awq_foreign_init(&expected, f->layout, f->quant, f->out_features, f->in_features));
    AWQ__TRY(awq__check_plane(&f->weights, &expected.weights));
    AWQ__TRY(awq__check_plane(&f->scales, &expected.scales));
    return awq__check_plane(&f->zeros, &expected.zeros);
}

static awq_status awq__check_group_index(const awq_foreign *f, awq_where *where) {
    const unsigned char *index = (const unsigned char *)f->group_index;
    size_t size = awq__group_size(f->in_features, f->quant.group_size), k;
    for (k = 0; index && k < f->in_features; k++)
        if (awq__load_le32(index + 4 * k) != k / size)
            return awq__fail(where, AWQ_ERR_ACT_ORDER, 3, 0, k);
    return AWQ_OK;
}

/* ---- one side of an exchange ----------------------------------------------------------------- */

/* A map laid over memory. Offsets are in nibbles, low nibble of a byte first. */
typedef struct awq__field {
    unsigned char *data;
    const awq__map *map;
    size_t unit, stride;
} awq__field;

typedef struct awq__side {
    const awq__layout *layout;
    awq__field weights, zeros, scales;
    size_t in_features, group_size, groups;
    awq_quant quant;
    awq__zero_kind zero_kind;
    int is_packed;
} awq__side;

static awq__field awq__make_field(void *data, const awq__map *map, size_t unit, size_t stride) {
    awq__field field;
    field.data = (unsigned char *)data;
    field.map = map;
    field.unit = unit;
    field.stride = 2 * stride;
    return field;
}

static size_t awq__axis_at(const awq__field *field, const awq__axis *axis, size_t index) {
    size_t step = axis->step ? axis->step * field->unit : field->stride, b;
    size_t at = (index >> axis->bits) * step;
    for (b = 0; b < axis->bits; b++)
        if (index >> b & 1) at += axis->move[b] * field->unit;
    return at;
}
static size_t awq__n_at(const awq__field *f, size_t n) { return awq__axis_at(f, &f->map->n, n); }
static size_t awq__k_at(const awq__field *f, size_t k) {
    return f->map->first * f->unit + awq__axis_at(f, &f->map->k, k);
}

static unsigned awq__get_nibble(const unsigned char *data, size_t at) {
    return (unsigned)data[at / 2] >> at % 2 * 4 & 15u;
}
static void awq__set_nibble(unsigned char *data, size_t at, unsigned q) {
    unsigned shift = (unsigned)(at % 2) * 4;
    data[at / 2] = (unsigned char)((data[at / 2] & ~(15u << shift)) | q << shift);
}

static void awq__set_side(awq__side *side, int layout, awq_quant quant, size_t in) {
    side->layout = awq__find_layout(layout);
    side->in_features = in;
    side->group_size = awq__group_size(in, quant.group_size);
    side->groups = awq__ceil_div(in, side->group_size);
    side->quant = quant;
    side->zero_kind = (awq__zero_kind)side->layout->zero_kind;
    if (side->layout->symmetric < 0 && quant.symmetric) side->zero_kind = AWQ__ZERO_IS_8;
    side->is_packed = layout == 0;
}

static awq__side awq__foreign_side(const awq_foreign *f) {
    awq__side side;
    const awq_plane *scales = f->scales.rows ? &f->scales : &f->weights;
    const awq_plane *zeros = f->zeros.rows ? &f->zeros : &f->weights;
    size_t unit = 2 * awq_dtype_size(f->quant.scale_dtype);
    awq__set_side(&side, (int)f->layout, f->quant, f->in_features);
    side.weights = awq__make_field(f->weights.data, &side.layout->weights, 1, f->weights.stride);
    side.scales = awq__make_field(scales->data, awq__scale_map(side.layout, side.groups), unit,
                                  scales->stride);
    side.zeros = awq__make_field(zeros->data, &side.layout->zeros,
                                 side.zero_kind == AWQ__ZERO_SCALED ? unit : 1, zeros->stride);
    return side;
}

static awq__side awq__packed_side(const awq_packed *p, unsigned char *bytes) {
    awq__side side;
    size_t dtype = awq_dtype_size(p->quant.scale_dtype);
    awq__set_side(&side, 0, p->quant, p->in_features);
    side.weights = awq__make_field(bytes + p->q_offset, &side.layout->weights, 1,
                                   awq__row_words(p->quant, p->in_features) * 4 * AWQ_ROW_STEP);
    side.scales = awq__make_field(bytes + p->scales_offset, &side.layout->scales, 2 * dtype,
                                  side.groups * AWQ_ROW_STEP * dtype);
    side.zeros = awq__make_field(bytes + p->zeros_offset, &side.layout->zeros, 1,
                                 side.groups * awq__zero_bytes(4));
    return side;
}

/* ---- scales and zero points ------------------------------------------------------------------ */

/* Where the scales and zero points of AWQ_ROW_STEP rows stand, but for the group. */
typedef struct awq__rows {
    size_t scale[AWQ_ROW_STEP], zero[AWQ_ROW_STEP];
    int scales_follow, zeros_follow; /* one another; the zeros in any order in 8 bytes */
} awq__rows;

static void awq__find_rows(const awq__side *s, size_t n, size_t count, awq__rows *rows) {
    size_t l;
    rows->scales_follow = rows->zeros_follow = count == AWQ_ROW_STEP;
    for (l = 0; l < count; l++) {
        rows->scale[l] = awq__n_at(&s->scales, n + l);
        rows->zero[l] = awq__n_at(&s->zeros, n + l);
        rows->scales_follow &= rows->scale[l] == rows->scale[0] + l * s->scales.unit;
        rows->zeros_follow &= rows->zero[l] - rows->zero[0] < AWQ_ROW_STEP;
    }
}

/* The grid of a group, and what becomes of the group's words: (word & keep) ^ flip. */
typedef struct awq__cell {
    float scale;
    int zero;
    uint32_t keep, flip;
} awq__cell;

static awq_status awq__bad_cell(size_t *matrix, size_t which, awq_status status) {
    *matrix = which;
    return status;
}

/* offset = -zero * scale as another project rounded it. */
static awq_status awq__find_zero(float offset, float scale, awq_dtype dtype, int *zero) {
    float z = -offset / scale;
    if (!(z > -0.5f && z < 15.5f)) return AWQ_ERR_ZERO_POINT;
    *zero = (int)awq__round(z);
    return awq__to_dtype(-(float)*zero * scale, dtype) == offset ? AWQ_OK : AWQ_ERR_ROUNDING;
}

/* All weights of a group are `value`. */
static void awq__set_constant(awq__cell *cell, float value, awq_dtype dtype) {
    cell->zero = 8;
    cell->keep = 0;
    cell->flip = value > 0 ? 0x99999999u : value < 0 ? 0x77777777u : 0x88888888u;
    cell->scale = awq__abs(value) > 0 ? awq__abs(value) : awq__least_scale(dtype);
}

static awq_status awq__read_zero(const awq__side *s, size_t at, awq__cell *cell, float *offset) {
    *offset = 0;
    cell->zero = 8;
    if (s->zero_kind == AWQ__ZERO_IS_8) return AWQ_OK;
    if (s->zero_kind == AWQ__ZERO_SCALED) {
        *offset = awq__load_le_float(s->zeros.data + at / 2, s->quant.scale_dtype);
        if (!awq__is_finite(*offset)) return AWQ_ERR_DATA;
        return cell->scale == 0 ? AWQ_OK : awq__find_zero(*offset, cell->scale,
                                                          s->quant.scale_dtype, &cell->zero);
    }
    cell->zero = (int)awq__get_nibble(s->zeros.data, at) + (s->zero_kind == AWQ__ZERO_LESS_1);
    return cell->zero > 15 ? AWQ_ERR_ZERO_POINT : AWQ_OK;
}

static awq_status awq__read_cell(const awq__side *s, awq_dtype to, const awq__rows *rows,
                                 size_t lane, size_t g, awq__cell *cell, size_t *matrix) {
    size_t at = rows->scale[lane] + awq__k_at(&s->scales, g);
    float offset;
    awq_status status;
    cell->scale = awq__load_le_float(s->scales.data + at / 2, s->quant.scale_dtype);
    cell->keep = 0xffffffffu;
    cell->flip = 0;
    if (!awq__is_finite(cell->scale) || (s->is_packed && !(cell->scale > 0)))
        return awq__bad_cell(matrix, 1, AWQ_ERR_DATA);
    status = awq__read_zero(s, rows->zero[lane] + awq__k_at(&s->zeros, g), cell, &offset);
    if (status != AWQ_OK) return awq__bad_cell(matrix, 2, status);
    if (cell->scale < 0) { /* (q - z) s = ((15 - q) - (15 - z)) |s| */
        cell->scale = -cell->scale;
        cell->zero = 15 - cell->zero;
        cell->flip = 0xffffffffu;
    } else if (cell->scale == 0) awq__set_constant(cell, offset, to);
    return AWQ_OK;
}

/* What the other side can hold: the scale in its type, the zero point as it stores it. */
static awq_status awq__fit_cell(const awq__side *s, int allow_rounding, awq__cell *cell,
                                size_t *matrix) {
    awq_dtype dtype = s->quant.scale_dtype;
    float scale = awq__to_dtype(cell->scale, dtype), offset = -(float)cell->zero * scale;
    if (!awq__is_scale(scale) || (scale != cell->scale && !allow_rounding))
        return awq__bad_cell(matrix, 1, AWQ_ERR_ROUNDING);
    cell->scale = scale;
    if (s->quant.symmetric && cell->zero != 8) return awq__bad_cell(matrix, 2, AWQ_ERR_ASYMMETRIC);
    if (s->zero_kind == AWQ__ZERO_LESS_1 && cell->zero == 0)
        return awq__bad_cell(matrix, 2, AWQ_ERR_ZERO_POINT);
    if (s->zero_kind != AWQ__ZERO_SCALED) return AWQ_OK;
    scale = awq__to_dtype(offset, dtype);
    /* gemv_fast is read by its scales, which give the zero points back; ggml adds what stands */
    if (!awq__is_finite(scale) || (scale != offset && s->layout->element > 4 && !allow_rounding))
        return awq__bad_cell(matrix, 2, AWQ_ERR_ROUNDING);
    return AWQ_OK;
}

static void awq__store_le_float(unsigned char *p, awq_dtype dtype, float x) {
    if (dtype == AWQ_F32) awq__store_le(p, awq__float_bits(x), 4);
    else awq__store_le(p, dtype == AWQ_F16 ? awq__float_to_half(x) : awq__float_to_bf16(x), 2);
}

static void awq__write_cell(const awq__side *s, const awq__rows *rows, size_t lane, size_t g,
                            const awq__cell *cell) {
    size_t at = rows->scale[lane] + awq__k_at(&s->scales, g);
    awq__store_le_float(s->scales.data + at / 2, s->quant.scale_dtype, cell->scale);
    if (s->zero_kind == AWQ__ZERO_IS_8) return;
    at = rows->zero[lane] + awq__k_at(&s->zeros, g);
    if (s->zero_kind == AWQ__ZERO_SCALED)
        awq__store_le_float(s->zeros.data + at / 2, s->quant.scale_dtype,
                            -(float)cell->zero * cell->scale);
    else
        awq__set_nibble(s->zeros.data, at,
                        (unsigned)(cell->zero - (s->zero_kind == AWQ__ZERO_LESS_1)));
}

/* ---- words ----------------------------------------------------------------------------------- */

#define AWQ__WORDS       128 /* words: 1024 nibbles, ten bits of n and k */
#define AWQ__PLACES (AWQ__WORDS / 4)
#define AWQ__RUN 512 /* inputs of a block: a page of packed words */

/* How a tile's words stand on one side, in bytes: 4 lanes from each of 32 places. */
typedef struct awq__places {
    size_t part[AWQ__PLACES], lane[4];
} awq__places;

/* Exchanges a bit of the nibble's number in its word with a bit, of value `step`, of the word's
   number in the tile, or, where step is 0, with another bit of its own. */
typedef struct awq__stage {
    unsigned shift, step;
    uint32_t mask;
} awq__stage;

typedef struct awq__tile {
    unsigned n_bits, k_bits, stages;
    int transposes; /* all three bits of the nibbles: gemm */
    awq__stage stage[3];
    awq__places from, to;
} awq__tile;

/* Bits of n are 0 .. 5, of k 8 .. 13. */
static size_t awq__bit_move(const awq__field *f, unsigned bit) {
    const awq__axis *axis = bit < 8 ? &f->map->n : &f->map->k;
    unsigned b = bit % 8;
    if (b < axis->bits) return axis->move[b] * f->unit;
    return (axis->step ? axis->step * f->unit : f->stride) << (b - axis->bits);
}

/* The three bits that choose a nibble in a word. */
static void awq__nibble_bits(const awq__field *f, unsigned bits[3]) {
    unsigned i, bit;
    bits[0] = bits[1] = bits[2] = 0;
    for (bit = 0; bit < 14; bit = bit == 5 ? 8 : bit + 1)
        for (i = 0; i < 3; i++)
            if (awq__bit_move(f, bit) == (size_t)1 << i) bits[i] = bit;
}

static unsigned awq__find_bit(const unsigned *bits, unsigned count, unsigned bit) {
    unsigned i;
    for (i = 0; i < count && bits[i] != bit; i++) continue;
    return i;
}

static void awq__set_places(awq__places *places, const awq__field *f, const unsigned word[7]) {
    unsigned i, b;
    for (i = 0; i < AWQ__WORDS; i++) {
        size_t at = 0;
        for (b = 0; b < 7; b++)
            if (i >> b & 1) at += awq__bit_move(f, word[b]) / 2;
        if (i < 4) places->lane[i] = at;
        if (i % 4 == 0) places->part[i / 4] = at;
    }
}

/* Nibbles whose number has this bit (1, 2 or 4) set, and those that have not. */
static uint32_t awq__nibbles_with(unsigned bit) {
    return bit == 1 ? 0xf0f0f0f0u : bit == 2 ? 0xff00ff00u : 0xffff0000u;
}

static awq__stage awq__word_stage(unsigned nibble, unsigned word) {
    awq__stage stage;
    stage.shift = 4u << nibble;
    stage.step = 1u << word;
    stage.mask = ~awq__nibbles_with(1u << nibble);
    return stage;
}
static awq__stage awq__nibble_stage(unsigned low, unsigned high) {
    awq__stage stage;
    stage.shift = (4u << high) - (4u << low);
    stage.step = 0;
    stage.mask = awq__nibbles_with(1u << low) & ~awq__nibbles_with(1u << high);
    return stage;
}

/* Bits of the number of a word in a tile: the lanes, what stays, what goes into the nibbles. */
static unsigned awq__order_bits(const awq__tile *tile, unsigned lane, const unsigned from[3],
                                const unsigned to[3], unsigned word[7]) {
    unsigned count = 2, going = 0, i, bit, goes[3];
    word[0] = lane;
    word[1] = lane + 1;
    for (i = 0; i < tile->n_bits + tile->k_bits; i++) {
        bit = i < tile->n_bits ? i : 8 + i - tile->n_bits;
        if (awq__find_bit(from, 3, bit) < 3 || awq__find_bit(word, 2, bit) < 2) continue;
        if (awq__find_bit(to, 3, bit) < 3) goes[going++] = bit;
        else word[count++] = bit;
    }
    memcpy(word + count, goes, going * sizeof *goes);
    return going;
}

/* Where all three bits of the nibbles are exchanged, the packed side's words are to stand in the
   order of its rows: those of `to` that go where the lowest bits of `from` come from, first. */
static void awq__order_transposed(const unsigned from[3], const unsigned to[3], unsigned word[7]) {
    unsigned bit, p, count = 4;
    for (bit = 0; bit < 8; bit++) {
        p = awq__find_bit(from, 3, bit);
        if (p < 3) word[count++] = to[p];
    }
}

static void awq__plan_tile(awq__tile *tile, const awq__field *from, const awq__field *to,
                           unsigned lane) {
    unsigned nibble[3], wanted[3], word[7], p, at;
    tile->n_bits = lane + 2 < 4 ? 4 : lane + 2;
    tile->k_bits = 10 - tile->n_bits;
    tile->stages = 0;
    awq__nibble_bits(from, nibble);
    awq__nibble_bits(to, wanted);
    tile->transposes = awq__order_bits(tile, lane, nibble, wanted, word) == 3;
    if (tile->transposes) awq__order_transposed(nibble, wanted, word);
    awq__set_places(&tile->from, from, word);
    for (p = 0; p < 3; p++) {
        if (nibble[p] == wanted[p]) continue;
        at = awq__find_bit(nibble, 3, wanted[p]);
        if (at < 3) {
            tile->stage[tile->stages++] = awq__nibble_stage(p, at);
            nibble[at] = nibble[p];
        } else {
            at = awq__find_bit(word, 7, wanted[p]);
            tile->stage[tile->stages++] = awq__word_stage(p, at);
            word[at] = nibble[p];
        }
        nibble[p] = wanted[p];
    }
    awq__set_places(&tile->to, to, word);
}

static int awq__is_big_endian(void) {
    uint32_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 0;
}

static void awq__swap_bytes(uint32_t *x) {
    unsigned i;
    for (i = 0; i < AWQ__WORDS; i++)
        x[i] = x[i] >> 24 | (x[i] >> 8 & 0xff00u) | (x[i] << 8 & 0xff0000u) | x[i] << 24;
}

static void awq__load_tile(const unsigned char *from, const awq__places *places, uint32_t *x) {
    unsigned i, l;
    if (places->lane[1] == 4 && places->lane[2] == 8)
        for (i = 0; i < AWQ__PLACES; i++) memcpy(x + 4 * i, from + places->part[i], 16);
    else
        for (i = 0; i < AWQ__PLACES; i++)
            for (l = 0; l < 4; l++)
                memcpy(x + 4 * i + l, from + places->part[i] + places->lane[l], 4);
    if (awq__is_big_endian()) awq__swap_bytes(x);
}

static void awq__store_tile(unsigned char *to, const awq__places *places, uint32_t *x) {
    unsigned i, l;
    if (awq__is_big_endian()) awq__swap_bytes(x);
    if (places->lane[1] == 4 && places->lane[2] == 8)
        for (i = 0; i < AWQ__PLACES; i++) memcpy(to + places->part[i], x + 4 * i, 16);
    else
        for (i = 0; i < AWQ__PLACES; i++)
            for (l = 0; l < 4; l++)
                memcpy(to + places->part[i] + places->lane[l], x + 4 * i + l, 4);
}

/* Exchanges the nibbles of a under mask << shift with those of b under mask. */
#define AWQ__SWAP(a, b, shift, mask, t)                                                            \
    do {                                                                                           \
        t = ((a >> (shift)) ^ b) & (mask);                                                         \
        b ^= t;                                                                                    \
        a ^= t << (shift);                                                                         \
    } while (0)

static void awq__swap_in_words(uint32_t *x, unsigned shift, uint32_t mask) {
    unsigned i;
    for (i = 0; i < AWQ__WORDS; i++) {
        uint32_t t = ((x[i] >> shift) ^ x[i]) & mask;
        x[i] ^= t ^ (t << shift);
    }
}

static void awq__swap_words(uint32_t *AWQ__RESTRICT a, uint32_t *AWQ__RESTRICT b, unsigned shift,
                            uint32_t mask) {
    uint32_t t;
    unsigned i;
    for (i = 0; i < 16; i++) AWQ__SWAP(a[i], b[i], shift, mask, t);
}

static void awq__run_stage(const awq__stage *stage, uint32_t *x) {
    unsigned step = stage->step, i, j;
    if (step == 0) awq__swap_in_words(x, stage->shift, stage->mask);
    else
        for (i = 0; i < AWQ__WORDS; i += 2 * step)
            for (j = i; j < i + step; j += 16)
                awq__swap_words(x + j, x + j + step, stage->shift, stage->mask);
}

/* The three stages of gemm at once, on 16 columns of 8 words. */
#define AWQ__TRANSPOSE(a, t)                                                                       \
    do {                                                                                           \
        AWQ__SWAP(a[0], a[1], 16, 0x0000ffffu, t);                                                 \
        AWQ__SWAP(a[2], a[3], 16, 0x0000ffffu, t);                                                 \
        AWQ__SWAP(a[4], a[5], 16, 0x0000ffffu, t);                                                 \
        AWQ__SWAP(a[6], a[7], 16, 0x0000ffffu, t);                                                 \
        AWQ__SWAP(a[0], a[2], 4, 0x0f0f0f0fu, t);                                                  \
        AWQ__SWAP(a[1], a[3], 4, 0x0f0f0f0fu, t);                                                  \
        AWQ__SWAP(a[4], a[6], 4, 0x0f0f0f0fu, t);                                                  \
        AWQ__SWAP(a[5], a[7], 4, 0x0f0f0f0fu, t);                                                  \
        AWQ__SWAP(a[0], a[4], 8, 0x00ff00ffu, t);                                                  \
        AWQ__SWAP(a[1], a[5], 8, 0x00ff00ffu, t);                                                  \
        AWQ__SWAP(a[2], a[6], 8, 0x00ff00ffu, t);                                                  \
        AWQ__SWAP(a[3], a[7], 8, 0x00ff00ffu, t);                                                  \
    } while (0)

static void awq__transpose_in(const uint32_t *AWQ__RESTRICT x, uint32_t *AWQ__RESTRICT y) {
    unsigned j, i;
    for (j = 0; j < 16; j++) {
        uint32_t a[8], t;
        for (i = 0; i < 8; i++) a[i] = x[16 * i + j];
        AWQ__TRANSPOSE(a, t);
        for (i = 0; i < 8; i++) y[8 * j + i] = a[i];
    }
}

static void awq__transpose_out(const uint32_t *AWQ__RESTRICT y, uint32_t *AWQ__RESTRICT x) {
    unsigned j, i;
    for (j = 0; j < 16; j++) {
        uint32_t a[8], t;
        for (i = 0; i < 8; i++) a[i] = y[8 * j + i];
        AWQ__TRANSPOSE(a, t);
        for (i = 0; i < 8; i++) x[16 * i + j] = a[i];
    }
}

/* Rows [n, n_end) of inputs [k, k_end), one by one. */
static void awq__copy_nibbles(const awq__side *from, const awq__side *to, size_t n, size_t n_end,
                              size_t k_begin, size_t k_end) {
    size_t from_k[64], to_k[64], k, i, count;
    for (; n < n_end; n++) {
        size_t from_n = awq__n_at(&from->weights, n), to_n = awq__n_at(&to->weights, n);
        for (k = k_begin; k < k_end; k += count) {
            count = awq__min(64, k_end - k);
            for (i = 0; i < count; i++) {
                from_k[i] = awq__k_at(&from->weights, k + i);
                to_k[i] = awq__k_at(&to->weights, k + i);
            }
            for (i = 0; i < count; i++)
                awq__set_nibble(to->weights.data, to_n + to_k[i],
                                awq__get_nibble(from->weights.data, from_n + from_k[i]));
        }
    }
}

static void awq__load_rows(const unsigned char *from, const awq__places *places, uint32_t *y) {
    unsigned j;
    for (j = 0; j < 16; j++)
        memcpy(y + 8 * j, from + places->part[j / 4] + places->lane[j % 4], 32);
    if (awq__is_big_endian()) awq__swap_bytes(y);
}

static void awq__store_rows(unsigned char *to, const awq__places *places, uint32_t *y) {
    unsigned j;
    if (awq__is_big_endian()) awq__swap_bytes(y);
    for (j = 0; j < 16; j++)
        memcpy(to + places->part[j / 4] + places->lane[j % 4], y + 8 * j, 32);
}

static void awq__copy_tile(const awq__tile *tile, const unsigned char *from, unsigned char *to) {
    uint32_t x[AWQ__WORDS];
    unsigned s;
    awq__load_tile(from, &tile->from, x);
    for (s = 0; s < tile->stages; s++) awq__run_stage(&tile->stage[s], x);
    awq__store_tile(to, &tile->to, x);
}

static void awq__transpose_tile(const awq__tile *tile, int from_packed, const unsigned char *from,
                                unsigned char *to) {
    uint32_t x[AWQ__WORDS], y[AWQ__WORDS];
    if (from_packed) {
        awq__load_rows(from, &tile->from, y);
        awq__transpose_out(y, x);
        awq__store_tile(to, &tile->to, x);
    } else {
        awq__load_tile(from, &tile->from, x);
        awq__transpose_in(x, y);
        awq__store_rows(to, &tile->to, y);
    }
}

static unsigned char *awq__word_of(const awq__field *f, size_t n, size_t k) {
    return f->data + (awq__n_at(f, n) + awq__k_at(f, k)) / 2;
}

/* The usual checkpoint, whose sizes leave nothing over. Blocks are written in runs of 512 bytes,
   read in runs of a page. */
static void awq__copy_gemm(const awq_kernels *kernels, const awq__side *from, const awq__side *to,
                           size_t n, size_t n_end) {
    size_t k, blocks = (n_end - n) / AWQ_ROW_STEP, most = from->is_packed ? AWQ__RUN / 8 : 8, lines;
    size_t from_stride = from->weights.stride / 2, to_stride = to->weights.stride / 2;
    for (k = 0; k < from->in_features; k += 8 * lines) {
        lines = awq__min(most, (from->in_features - k) / 8);
        if (from->is_packed)
            kernels->rows16_to_gemm(awq__word_of(&from->weights, n, k), from_stride,
                                    awq__word_of(&to->weights, n, k), to_stride, blocks, lines);
        else
            kernels->gemm_to_rows16(awq__word_of(&from->weights, n, k), from_stride,
                                    awq__word_of(&to->weights, n, k), to_stride, blocks, lines);
    }
}

/* Whole tiles, then what is beside and below them. */
static void awq__copy_tiles(const awq__side *from, const awq__side *to, size_t n_begin,
                            size_t n_end) {
    const awq__side *foreign = from->is_packed ? to : from;
    awq__tile tile;
    size_t n_size, k_size, n_first, n_last, k_last, begin, n, k;
    awq__plan_tile(&tile, &from->weights, &to->weights, foreign->layout->lane);
    n_size = (size_t)1 << tile.n_bits;
    k_size = (size_t)1 << tile.k_bits;
    n_first = awq__min(awq__align(n_begin, n_size), n_end);
    n_last = n_first + (n_end - n_first) / n_size * n_size;
    k_last = from->in_features / k_size * k_size;
    for (begin = 0; begin < k_last; begin += AWQ__RUN)
        for (n = n_first; n < n_last; n += n_size)
            for (k = begin; k < awq__min(begin + AWQ__RUN, k_last); k += k_size) {
                const unsigned char *source = awq__word_of(&from->weights, n, k);
                unsigned char *target = awq__word_of(&to->weights, n, k);
                if (tile.transposes) awq__transpose_tile(&tile, from->is_packed, source, target);
                else awq__copy_tile(&tile, source, target);
            }
    awq__copy_nibbles(from, to, n_begin, n_first, 0, k_last);
    awq__copy_nibbles(from, to, n_last, n_end, 0, k_last);
    awq__copy_nibbles(from, to, n_begin, n_end, k_last, from->in_features);
}

static void awq__copy_words(const awq_kernels *kernels, const awq__side *from, const awq__side *to,
                            size_t n_begin, size_t n_end) {
    const awq__side *foreign = from->is_packed ? to : from;
    if (foreign->layout == awq__find_layout(AWQ_GEMM) && kernels->gemm_to_rows16)
        awq__copy_gemm(kernels, from, to, n_begin, n_end);
    else awq__copy_tiles(from, to, n_begin, n_end);
}

/* ---- the driver ------------------------------------------------------------------------------ */

/* The order of 16 zero points changes by exchanges of bits of their numbers. */
typedef struct awq__order {
    unsigned count, shift[3];
    uint64_t mask[3];
} awq__order;

typedef struct awq__exchange {
    const awq_kernels *kernels;
    awq__side from, to;
    awq__rows from_rows, to_rows;   /* of the AWQ_ROW_STEP rows at hand */
    awq__order zero_order;          /* if their zero points follow one another */
    int allow_rounding, mends;      /* mends: some cell changes the words of its group */
    size_t n_begin, n_end;
    awq_where *where;
} awq__exchange;

/* Bits of scales, and zero points, of the rows at hand. */
typedef struct awq__strip {
    uint32_t scale[AWQ_ROW_STEP];
    unsigned zero[AWQ_ROW_STEP];
} awq__strip;

static void awq__read_strip(const awq__side *s, const awq__rows *rows, size_t g,
                            awq__strip *strip) {
    size_t at = awq__k_at(&s->scales, g), l;
    const unsigned char *scales = s->scales.data;
    uint64_t zeros;
    if (s->quant.scale_dtype == AWQ_F32)
        for (l = 0; l < AWQ_ROW_STEP; l++)
            strip->scale[l] = awq__load_le32(scales + (rows->scale[l] + at) / 2);
    else if (rows->scales_follow)
        for (l = 0; l < AWQ_ROW_STEP; l++)
            strip->scale[l] = awq__load_le16(scales + (rows->scale[0] + at) / 2 + 2 * l);
    else
        for (l = 0; l < AWQ_ROW_STEP; l++)
            strip->scale[l] = awq__load_le16(scales + (rows->scale[l] + at) / 2);
    at = awq__k_at(&s->zeros, g);
    if (s->zero_kind == AWQ__ZERO_IS_8)
        for (l = 0; l < AWQ_ROW_STEP; l++) strip->zero[l] = 8;
    else if (rows->zeros_follow) {
        zeros = awq__load_le64(s->zeros.data + (rows->zero[0] + at) / 2);
        for (l = 0; l < AWQ_ROW_STEP; l++)
            strip->zero[l] = (unsigned)(zeros >> 4 * (rows->zero[l] - rows->zero[0])) & 15u;
    } else
        for (l = 0; l < AWQ_ROW_STEP; l++)
            strip->zero[l] = awq__get_nibble(s->zeros.data, rows->zero[l] + at);
    if (s->zero_kind == AWQ__ZERO_LESS_1)
        for (l = 0; l < AWQ_ROW_STEP; l++) strip->zero[l]++;
}

static void awq__write_strip(const awq__side *s, const awq__rows *rows, size_t g,
                             const awq__strip *strip) {
    size_t at = awq__k_at(&s->scales, g), l;
    unsigned char *scales = s->scales.data;
    unsigned less = s->zero_kind == AWQ__ZERO_LESS_1;
    uint64_t zeros = 0;
    if (s->quant.scale_dtype == AWQ_F32)
        for (l = 0; l < AWQ_ROW_STEP; l++)
            awq__store_le(scales + (rows->scale[l] + at) / 2, strip->scale[l], 4);
    else if (rows->scales_follow)
        for (l = 0; l < AWQ_ROW_STEP; l++)
            awq__store_le(scales + (rows->scale[0] + at) / 2 + 2 * l, strip->scale[l], 2);
    else
        for (l = 0; l < AWQ_ROW_STEP; l++)
            awq__store_le(scales + (rows->scale[l] + at) / 2, strip->scale[l], 2);
    at = awq__k_at(&s->zeros, g);
    if (s->zero_kind == AWQ__ZERO_IS_8) return;
    if (rows->zeros_follow) {
        for (l = 0; l < AWQ_ROW_STEP; l++)
            zeros |= (uint64_t)(strip->zero[l] - less) << 4 * (rows->zero[l] - rows->zero[0]);
        awq__store_le(s->zeros.data + (rows->zero[0] + at) / 2, zeros, 8);
    } else
        for (l = 0; l < AWQ_ROW_STEP; l++)
            awq__set_nibble(s->zeros.data, rows->zero[l] + at, strip->zero[l] - less);
}

/* The bit of n that has this move. */
static unsigned awq__zero_bit(const awq__rows *rows, size_t move) {
    unsigned b = 0;
    while (b < 3 && rows->zero[(size_t)1 << b] - rows->zero[0] != move) b++;
    return b;
}

static void awq__find_zero_order(awq__exchange *e) {
    awq__order *order = &e->zero_order;
    unsigned from[4], to[4], p, at, i;
    order->count = 0;
    for (p = 0; p < 4; p++) {
        from[p] = awq__zero_bit(&e->from_rows, (size_t)1 << p);
        to[p] = awq__zero_bit(&e->to_rows, (size_t)1 << p);
    }
    for (p = 0; p < 3; p++) {
        at = awq__find_bit(from, 4, to[p]);
        if (at == p) continue;
        order->shift[order->count] = (4u << at) - (4u << p);
        order->mask[order->count] = 0;
        for (i = 0; i < AWQ_ROW_STEP; i++)
            if ((i >> p & 1) && !(i >> at & 1))
                order->mask[order->count] |= (uint64_t)15 << 4 * i;
        order->count++;
        from[at] = from[p];
        from[p] = to[p];
    }
}

static uint64_t awq__order_zeros(const awq__order *order, uint64_t zeros) {
    unsigned i;
    for (i = 0; i < order->count; i++) {
        uint64_t t = (zeros >> order->shift[i] ^ zeros) & order->mask[i];
        zeros ^= t ^ t << order->shift[i];
    }
    return zeros;
}

/* Not 0 if some of 4 scales is negative, 0, infinite or NaN, by the highest of 16 bits of sums. */
static uint64_t awq__unusual_scales(uint64_t scales, awq_dtype dtype) {
    const uint64_t each = 0x0001000100010001u, sign = each * 0x8000u, size = scales & ~sign;
    const uint64_t beyond = each * (dtype == AWQ_F16 ? 0x8000u - 0x7c00u : 0x8000u - 0x7f80u);
    return (scales | (size + beyond) | (sign - size)) & sign;
}

/* The usual strip of a usual pair of layouts: the bytes of scales are copied, zero points change
   their order. 0 if it is not one, or has a negative scale. */
static int awq__copy_strip(const awq__exchange *e, size_t from_g, size_t to_g, int write) {
    const unsigned char *from = e->from.scales.data +
                                (e->from_rows.scale[0] + awq__k_at(&e->from.scales, from_g)) / 2;
    uint64_t bad = 0, zeros;
    size_t l;
    for (l = 0; l < 2 * AWQ_ROW_STEP; l += 8)
        bad |= awq__unusual_scales(awq__load_le64(from + l), e->to.quant.scale_dtype);
    if (bad) return 0;
    if (!write) return 1;
    memcpy(e->to.scales.data + (e->to_rows.scale[0] + awq__k_at(&e->to.scales, to_g)) / 2, from,
           2 * AWQ_ROW_STEP);
    if (e->to.zero_kind == AWQ__ZERO_IS_8) return 1;
    zeros = awq__load_le64(e->from.zeros.data +
                           (e->from_rows.zero[0] + awq__k_at(&e->from.zeros, from_g)) / 2);
    zeros = awq__order_zeros(&e->zero_order, zeros);
    awq__store_le(e->to.zeros.data + (e->to_rows.zero[0] + awq__k_at(&e->to.zeros, to_g)) / 2,
                  zeros, 8);
    return 1;
}

/* The usual strip, whose scales need no change but that of sign: numbers are not looked at. 0 if it
   is not one. */
static int awq__plain_strip(awq__exchange *e, size_t from_g, size_t to_g, int write) {
    uint32_t sign = e->to.quant.scale_dtype == AWQ_F32 ? 0x80000000u : 0x8000u, negative = 0;
    uint32_t infinity = e->to.quant.scale_dtype == AWQ_F32   ? 0x7f800000u
                        : e->to.quant.scale_dtype == AWQ_F16 ? 0x7c00u
                                                             : 0x7f80u;
    unsigned least = e->to.zero_kind == AWQ__ZERO_LESS_1, l;
    int symmetric = e->to.quant.symmetric, plain = 1;
    awq__strip strip;
    awq__read_strip(&e->from, &e->from_rows, from_g, &strip);
    for (l = 0; l < AWQ_ROW_STEP; l++) {
        uint32_t minus = strip.scale[l] & sign;
        strip.scale[l] ^= minus;
        negative |= minus;
        plain &= strip.scale[l] - 1 < infinity - 1 && strip.zero[l] <= 15;
        strip.zero[l] = minus ? 15 - strip.zero[l] : strip.zero[l];
        plain &= strip.zero[l] >= least && (!symmetric || strip.zero[l] == 8);
    }
    e->mends |= negative != 0;
    if (negative && e->from.is_packed) return 0;
    if (plain && write) awq__write_strip(&e->to, &e->to_rows, to_g, &strip);
    return plain;
}

static int awq__changes_words(const awq__cell *cell) {
    return cell->keep != 0xffffffffu || cell->flip;
}

/* The grid that a group of `to` gets: that of all groups of `from` which it meets. */
static awq_status awq__find_cell(awq__exchange *e, size_t n, size_t lane, size_t g,
                                 awq__cell *cell) {
    size_t begin = g * e->to.group_size, size = e->from.group_size, matrix = 0, h;
    size_t end = awq__min(begin + e->to.group_size, e->to.in_features);
    awq_dtype dtype = e->to.quant.scale_dtype;
    awq__cell other;
    awq_status status = awq__read_cell(&e->from, dtype, &e->from_rows, lane, begin / size, cell,
                                       &matrix);
    e->mends |= awq__changes_words(cell);
    for (h = begin / size + 1; status == AWQ_OK && h * size < end; h++) {
        begin = h * size;
        status = awq__read_cell(&e->from, dtype, &e->from_rows, lane, h, &other, &matrix);
        e->mends |= awq__changes_words(&other);
        if (status == AWQ_OK && (other.scale != cell->scale || other.zero != cell->zero))
            status = awq__bad_cell(&matrix, other.scale != cell->scale ? 1 : 2,
                                   AWQ_ERR_GROUP_SPLIT);
    }
    if (status == AWQ_OK) status = awq__fit_cell(&e->to, e->allow_rounding, cell, &matrix);
    return status == AWQ_OK ? AWQ_OK : awq__fail(e->where, status, matrix, n + lane, begin);
}

/* Scales of 2 bytes that follow one another, and zero points that do, or none, on both sides. */
static int awq__may_be_copied(const awq__exchange *e) {
    const awq__rows *from = &e->from_rows, *to = &e->to_rows;
    if (e->to.quant.scale_dtype == AWQ_F32 || !from->scales_follow || !to->scales_follow) return 0;
    if (e->to.zero_kind == AWQ__ZERO_IS_8) return e->from.zero_kind == AWQ__ZERO_IS_8;
    return e->from.zero_kind == AWQ__ZERO_NIBBLE && e->to.zero_kind == AWQ__ZERO_NIBBLE &&
           !e->to.quant.symmetric && from->zeros_follow && to->zeros_follow;
}

/* Groups of `to` that lie in one of `from`, and cells that are moved bit by bit. */
static int awq__may_be_plain(const awq__exchange *e) {
    return e->from.quant.scale_dtype == e->to.quant.scale_dtype &&
           e->from.zero_kind != AWQ__ZERO_SCALED && e->to.zero_kind != AWQ__ZERO_SCALED &&
           (e->from.group_size % e->to.group_size == 0 || e->from.groups == 1);
}

static awq_status awq__do_cells(awq__exchange *e, int write) {
    int may_be_plain = awq__may_be_plain(e), copies;
    size_t n, count, g, l;
    awq__cell cell;
    for (n = e->n_begin; n < e->n_end; n += count) {
        count = awq__min(AWQ_ROW_STEP, e->n_end - n);
        awq__find_rows(&e->from, n, count, &e->from_rows);
        awq__find_rows(&e->to, n, count, &e->to_rows);
        copies = may_be_plain && awq__may_be_copied(e);
        if (copies && e->to.zero_kind == AWQ__ZERO_NIBBLE) awq__find_zero_order(e);
        for (g = 0; g < e->to.groups; g++) {
            size_t from_g = g * e->to.group_size / e->from.group_size;
            if (copies && awq__copy_strip(e, from_g, g, write)) continue;
            if (may_be_plain && count == AWQ_ROW_STEP && awq__plain_strip(e, from_g, g, write))
                continue;
            for (l = 0; l < count; l++) {
                AWQ__TRY(awq__find_cell(e, n, l, g, &cell));
                if (write) awq__write_cell(&e->to, &e->to_rows, l, g, &cell);
            }
        }
    }
    return AWQ_OK;
}

/* Groups begin with a word; only a row's last word may be part of one. */
static void awq__mend_group(const awq__side *packed, size_t n, size_t k, size_t k_end,
                            const awq__cell *cell) {
    unsigned char *at = awq__word_of(&packed->weights, n, k);
    for (; k < k_end; k += 8, at += 4 * AWQ_ROW_STEP) {
        uint32_t used = 0xffffffffu;
        size_t i;
        for (i = k_end - k; i < 8; i++) used &= ~(15u << 4 * (i % 4 * 2 + i / 4));
        awq__store_le(at, ((awq__load_le32(at) & cell->keep) ^ cell->flip) & used, 4);
    }
}

/* Negative scales and those of 0 were told from the others by their cells: so are their words. */
static void awq__mend(awq__exchange *e) {
    size_t n, count, g, l, matrix, size = e->from.group_size;
    awq__cell cell;
    for (n = e->n_begin; n < e->n_end; n += count) {
        count = awq__min(AWQ_ROW_STEP, e->n_end - n);
        awq__find_rows(&e->from, n, count, &e->from_rows);
        for (g = 0; g < e->from.groups; g++)
            for (l = 0; l < count; l++) {
                (void)awq__read_cell(&e->from, e->to.quant.scale_dtype, &e->from_rows, l, g, &cell,
                                     &matrix);
                if (awq__changes_words(&cell))
                    awq__mend_group(&e->to, n + l, g * size,
                                    awq__min(g * size + size, e->from.in_features), &cell);
            }
    }
}

/* All cells are looked at before the first write, then once more to write them. */
static awq_status awq__run_exchange(awq__exchange *e) {
    e->mends = 0;
    AWQ__TRY(awq__do_cells(e, 0));
    awq__copy_words(e->kernels, &e->from, &e->to, e->n_begin, e->n_end);
    if (e->mends) awq__mend(e);
    return awq__do_cells(e, 1);
}

/* Words of a packed row follow each other without gaps. */
static awq_status awq__check_hub(const awq_packed *p, const awq_foreign *f) {
    int size = p->quant.group_size;
    if (p->quant.bits != 4) return AWQ_ERR_CONFIG;
    if (size % 8 && awq_group_count(p->in_features, size) > 1) return AWQ_ERR_CONFIG;
    return p->out_features == f->out_features && p->in_features == f->in_features ? AWQ_OK
                                                                                  : AWQ_ERR_SHAPE;
}

AWQDEF awq_status awq_import(const awq_kernels *k, const awq_foreign *from, void *memory,
                             size_t memory_size, size_t row_begin, size_t row_end,
                             awq_where *where) {
    awq__exchange e;
    awq_packed p;
    if (!k || !from) return AWQ_ERR_NULL;
    AWQ__TRY(awq_packed_open(&p, memory, memory_size));
    AWQ__TRY(awq__check_foreign(from));
    AWQ__TRY(awq__check_hub(&p, from));
    AWQ__TRY(awq__check_range(row_begin, row_end, p.out_features, AWQ_ROW_STEP));
    AWQ__TRY(awq__check_group_index(from, where));
    e.kernels = k;
    e.from = awq__foreign_side(from);
    e.to = awq__packed_side(&p, (unsigned char *)memory);
    e.allow_rounding = 0;
    e.n_begin = row_begin;
    e.n_end = row_end;
    e.where = where;
    return awq__run_exchange(&e);
}

/* Groups that fill AutoAWQ's words: 0, but TinyChat's zero points are 8 there, too. */
static void awq__pad_groups(const awq__side *s, size_t n_begin, size_t n_end) {
    size_t n, g, end = awq__padded_groups(s->groups, s->group_size);
    for (n = n_begin; n < n_end; n++)
        for (g = s->groups; g < end; g++) {
            size_t zero = awq__n_at(&s->zeros, n) + awq__k_at(&s->zeros, g);
            size_t scale = awq__n_at(&s->scales, n) + awq__k_at(&s->scales, g);
            awq__store_le_float(s->scales.data + scale / 2, s->quant.scale_dtype, 0);
            if (s->zero_kind == AWQ__ZERO_NIBBLE)
                awq__set_nibble(s->zeros.data, zero, s->quant.symmetric ? 8 : 0);
            else awq__store_le_float(s->zeros.data + zero / 2, s->quant.scale_dtype, 0);
        }
}

/* What is left of compressed-tensors' last words: the weights' go along k, the zeros' along n. */
static void awq__pad_words(const awq__side *s, size_t n_begin, size_t n_end, size_t out) {
    size_t n, k, in = s->in_features;
    for (n = n_begin; n < n_end; n++)
        for (k = in; k % 8; k++)
            awq__set_nibble(s->weights.data, awq__n_at(&s->weights, n) + awq__k_at(&s->weights, k),
                            0);
    for (n = n_end; n_end == out && s->zero_kind == AWQ__ZERO_NIBBLE && n % 8; n++)
        for (k = 0; k < s->groups; k++)
            awq__set_nibble(s->zeros.data, awq__n_at(&s->zeros, n) + awq__k_at(&s->zeros, k), 0);
}

AWQDEF awq_status awq_export(const awq_kernels *k, const awq_packed *from, const awq_foreign *to,
                             int allow_rounding, size_t row_begin, size_t row_end,
                             awq_where *where) {
    awq__exchange e;
    if (!k || !from || !from->data || !to) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_foreign(to));
    AWQ__TRY(awq__check_hub(from, to));
    AWQ__TRY(awq__check_range(row_begin, row_end, from->out_features, AWQ_EXPORT_STEP));
    e.kernels = k;
    e.from = awq__packed_side(from, (unsigned char *)from->data);
    e.to = awq__foreign_side(to);
    e.allow_rounding = allow_rounding;
    e.n_begin = row_begin;
    e.n_end = row_end;
    e.where = where;
    AWQ__TRY(awq__run_exchange(&e));
    if (e.to.layout->padded) awq__pad_groups(&e.to, row_begin, row_end);
    if (to->layout == AWQ_COMPRESSED)
        awq__pad_words(&e.to, row_begin, row_end, from->out_features);
    return AWQ_OK;
}

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>impl-matmul
   ============================================================================================== */

/* Blocks of a row of activations: each group is cut every AWQ__CHUNK inputs. */
static size_t awq__blocks(size_t in, int group_size) {
    size_t size = awq__group_size(in, group_size);
    return in / size * awq__ceil_div(size, AWQ__CHUNK) + awq__ceil_div(in % size, AWQ__CHUNK);
}

static awq_status awq__check_prepare(size_t in, int group_size, awq_precision precision) {
    if (precision != AWQ_A16 && precision != AWQ_A8) return AWQ_ERR_CONFIG;
    if (in == 0) return AWQ_ERR_SHAPE;
    return awq_group_count(in, group_size) ? AWQ_OK : AWQ_ERR_CONFIG;
}

AWQDEF size_t awq_prepared_size(const awq_kernels *k, size_t in_features, int group_size,
                                awq_precision precision, size_t tokens) {
    if (!k || awq__check_prepare(in_features, group_size, precision) != AWQ_OK) return 0;
    return awq__size_or_0(
        awq__mul(k->token_size(in_features, group_size, precision), tokens ? tokens : 1));
}

AWQDEF awq_status awq_prepare(const awq_kernels *k, int group_size, awq_precision precision,
                              awq_matrix x, const float *input_scale, void *memory,
                              size_t memory_size, size_t token_begin, size_t token_end,
                              awq_prepared *prepared, awq_where *where) {
    awq_prepared view;
    size_t size, i;
    if (!k || !memory || !prepared) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_matrix(x));
    AWQ__TRY(awq__check_prepare(x.cols, group_size, precision));
    AWQ__TRY(awq__check_range(token_begin, token_end, x.rows, 1));
    size = awq_prepared_size(k, x.cols, group_size, precision, x.rows);
    if (size == 0 || memory_size < size || !awq__is_aligned(memory, sizeof(float)))
        return AWQ_ERR_MEMORY;
    for (i = 0; input_scale && i < x.cols; i++)
        if (!awq__is_scale(input_scale[i])) return awq__fail(where, AWQ_ERR_DATA, 1, 0, i);
    view.data = (const unsigned char *)memory;
    view.tokens = x.rows;
    view.in_features = x.cols;
    view.group_size = group_size;
    view.precision = precision;
    view.format = k->prepared_format;
    view.token_size = k->token_size(x.cols, group_size, precision);
    view.stored = x.rows;
    view.index = NULL;
    AWQ__TRY(k->prepare(&view, x, input_scale, memory, token_begin, token_end, where));
    *prepared = view;
    return AWQ_OK;
}

AWQDEF awq_status awq_prepared_select(const awq_prepared *all, const uint32_t *index, size_t count,
                                      awq_prepared *selected) {
    size_t i;
    awq_prepared view;
    if (!all || !all->data || !selected || (count && !index)) return AWQ_ERR_NULL;
    if (all->index) return AWQ_ERR_MISMATCH;
    for (i = 0; i < count; i++)
        if (index[i] >= all->tokens) return AWQ_ERR_RANGE;
    view = *all;
    view.tokens = count;
    view.index = index;
    *selected = view;
    return AWQ_OK;
}

AWQDEF awq_status awq_matmul(const awq_kernels *k, const awq_packed *packed, const awq_prepared *x,
                             const float *bias, awq_matrix y, size_t row_begin, size_t row_end) {
    if (!k || !packed || !packed->data || !x || !x->data) return AWQ_ERR_NULL;
    AWQ__TRY(awq__check_matrix(y));
    if (x->format != k->prepared_format || x->in_features != packed->in_features)
        return AWQ_ERR_MISMATCH;
    if (awq__group_size(x->in_features, x->group_size) !=
        awq__group_size(x->in_features, packed->quant.group_size))
        return AWQ_ERR_MISMATCH;
    if (y.rows != x->tokens || y.cols != packed->out_features) return AWQ_ERR_SHAPE;
    AWQ__TRY(awq__check_range(row_begin, row_end, packed->out_features, AWQ_ROW_STEP));
    k->matmul_rows(packed, x, bias, y, row_begin, row_end);
    return AWQ_OK;
}

#ifndef AWQ_INFERENCE_ONLY

/* =================================================================================================
   >>impl-byte-loss   the losses of a large search, with errors of 8 bits

   In units of its group's scale a rounding error is at most about 0.5. 8 bits of it do where
   thousands are summed: so the errors of AWQ__BYTE_ROWS rows become a packed tensor, which is
   multiplied by x / s like any other linear.
   ============================================================================================== */

#define AWQ__BYTE_OUTPUTS 65536 /* rows times tokens, from which on 8 bits do */

static awq_quant awq__byte_quant(const awq__loss_task *task) {
    awq_quant quant = { 8, 0, 1, AWQ_F32 };
    quant.group_size = task->quant->group_size;
    return quant;
}

static awq_precision awq__byte_precision(const awq__evidence *e) {
    return e->loss == AWQ_LOSS_SKETCH ? AWQ_A8 : AWQ_A16; /* a sketch is an estimate itself */
}

/* Bytes for a tensor of AWQ__BYTE_ROWS rows whose groups are not tiny; enough for floats of
   AWQ__ROWS rows, too. */
static size_t awq__byte_room(size_t in) {
    return awq__align(awq__add(awq__mul(in, AWQ__BYTE_ROWS + AWQ__BYTE_ROWS / 8), 1024), 64);
}

/* Whether this search, of so many rows, is one for bytes. */
static int awq__fits_bytes(const awq__loss_task *task, double rows) {
    const awq__evidence *e = task->evidence;
    size_t in = e->in_features, token, tensor;
    if (!task->k->round_errors || !e->xt || rows * (double)e->tokens < AWQ__BYTE_OUTPUTS) return 0;
    token = task->k->token_size(in, task->quant->group_size, awq__byte_precision(e));
    tensor = awq_packed_size(awq__byte_quant(task), AWQ__BYTE_ROWS, in);
    return token <= in * sizeof *e->xt && tensor && tensor <= awq__byte_room(in);
}

/* x / s to integers. */
typedef struct awq__byte_inputs {
    awq__loss_task *task;
    awq__evidence *evidence;
    const float *scale;
} awq__byte_inputs;

/* A token of weight 0 is not read. What cannot be prepared is noted at the start of `work`. */
static void awq__prepare_tokens(void *arg, size_t begin, size_t end, size_t worker) {
    const awq__byte_inputs *inputs = (const awq__byte_inputs *)arg;
    awq__evidence *e = inputs->evidence;
    const awq__loss_task *task = inputs->task;
    awq_prepared prepared;
    size_t stop;
    for (; begin < end; begin = stop) {
        stop = e->token_weight ? begin + 1 : end;
        if (e->token_weight && !(e->token_weight[begin] > 0)) continue;
        if (awq_prepare(task->k, task->quant->group_size, awq__byte_precision(e), e->x,
                        inputs->scale, e->xt, e->tokens * e->in_features * sizeof *e->xt, begin,
                        stop, &prepared, NULL) != AWQ_OK)
            task->work[worker * task->work_size] = 1;
    }
}

/* 0 if an x / s is too large. */
static int awq__prepare_inputs(awq__loss_task *task, awq__evidence *e, const float *scale,
                               const awq_parallel *parallel) {
    awq__byte_inputs inputs;
    size_t i, workers = awq__workers(parallel);
    inputs.task = task;
    inputs.evidence = e;
    inputs.scale = scale;
    for (i = 0; i < workers; i++) task->work[i * task->work_size] = 0;
    awq__run(parallel, e->x.rows, 1, awq__prepare_tokens, &inputs);
    for (i = 0; i < workers; i++)
        if (task->work[i * task->work_size]) return 0;
    return awq_prepare(task->k, task->quant->group_size, awq__byte_precision(e), e->x, scale, e->xt,
                       e->tokens * e->in_features * sizeof *e->xt, 0, 0, &e->prepared,
                       NULL) == AWQ_OK;
}

/* One group of a row to bytes; returns their scale, or 0 if the group cannot be quantized. */
static float awq__pack_errors(const awq__loss_task *task, size_t row, size_t begin, size_t end,
                              unsigned char *at) {
    const awq__source *src = &task->source;
    float lo, hi, lowest, highest, inverse, reach = 0.5f, factor = 254, u[AWQ__CHUNK];
    uint8_t e[AWQ__CHUNK];
    awq__grid grid;
    size_t col;
    if (awq__group_range(src, row, begin, end, FLT_MAX, u, &lo, &hi, NULL) != AWQ_OK) return 0;
    if (awq__fit_range(task->quant, lo, hi, &grid) != AWQ_OK) return 0;
    lowest = -grid.zero;
    highest = awq__levels(task->quant->bits) - grid.zero;
    inverse = 1.0f / grid.scale;
    reach = hi * inverse - highest > reach ? hi * inverse - highest : reach;
    reach = lowest - lo * inverse > reach ? lowest - lo * inverse : reach;
    if (reach > 0.5f) factor = 127 / reach; /* a stored scale, rounded, may cut the ends off */
    for (col = begin; col < end; col += AWQ__CHUNK, at += AWQ__CHUNK * AWQ_ROW_STEP) {
        size_t n = awq__min(AWQ__CHUNK, end - col);
        if (end - begin > AWQ__CHUNK) awq__load_scaled(src, row, col, n, u);
        src->k->round_errors(u, n, inverse, lowest, highest, factor, e);
        awq__pack_chunk(8, at, n, e);
    }
    return grid.scale * (reach * (1.0f / 127));
}

/* A row of W as row `lane` of the tensor; 0 if it cannot be quantized. */
static int awq__pack_error_row(const awq__loss_task *task, size_t row, const awq_packed *p,
                               size_t lane, unsigned char *memory) {
    size_t in = p->in_features, size = awq__group_size(in, p->quant.group_size), begin, group;
    size_t groups = awq__ceil_div(in, size), step = awq__words(8, size) * 4 * AWQ_ROW_STEP;
    unsigned char *at = memory + awq__word_at(p, lane, 0);
    for (begin = group = 0; begin < in; begin += size, group++, at += step) {
        float scale = awq__pack_errors(task, row, begin, awq__min(begin + size, in), at);
        if (!(scale > 0)) return 0;
        awq__pack_grid(p, memory, groups, lane, group, scale, 128);
    }
    return 1;
}

/* sums[r] = sum over tokens of w_t y[t][r]^2 */
static void awq__sum_squares(const float *y, size_t tokens, size_t rows, const float *token_weight,
                             double *sums) {
    double sum[AWQ__BYTE_ROWS];
    size_t t, r;
    for (r = 0; r < AWQ__BYTE_ROWS; r++) sum[r] = 0;
    for (t = 0; t < tokens; t++, y += AWQ__BYTE_ROWS) {
        double w = token_weight ? (double)token_weight[t] : 1.0;
        for (r = 0; r < AWQ__BYTE_ROWS; r++) sum[r] += w * ((double)y[r] * (double)y[r]);
    }
    memcpy(sums, sum, rows * sizeof *sums);
}

/* Losses of rows [row, row + rows), at most AWQ__BYTE_ROWS of them. */
static void awq__byte_rows(const awq__loss_task *task, size_t row, size_t rows,
                           unsigned char *memory) {
    const awq__evidence *e = task->evidence;
    size_t in = e->in_features, r;
    float *y = (float *)(void *)(memory + awq__byte_room(in));
    awq_matrix products = awq_matrix_view(y, AWQ_F32, e->prepared.tokens, rows);
    int usable[AWQ__BYTE_ROWS];
    awq_packed p;
    (void)awq__packed_shape(&p, awq__byte_quant(task), rows, in);
    p.data = memory;
    for (r = 0; r < rows; r++) usable[r] = awq__pack_error_row(task, row + r, &p, r, memory);
    products.stride = AWQ__BYTE_ROWS;
    task->k->matmul_rows(&p, &e->prepared, NULL, products, 0, rows);
    awq__sum_squares(y, e->prepared.tokens, rows, e->token_weight, task->row_loss + row);
    for (r = 0; r < rows; r++)
        if (!usable[r]) task->row_loss[row + r] = HUGE_VAL;
}

static void awq__byte_losses(const awq__loss_task *task, size_t begin, size_t end, size_t worker) {
    unsigned char *memory = task->work + worker * task->work_size;
    awq__byte_rows(task, begin, end - begin, memory);
}

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>impl-portable   the specification of prepare and matmul
   ============================================================================================== */

/* A prepared token: float sx[blocks], then int16_t xi[in_features], for either precision. */
#define AWQ__FORMAT_PORTABLE 1

static size_t awq__token_size_portable(size_t in, int group_size, awq_precision precision) {
    (void)precision;
    return awq__align(awq__add(awq__mul(awq__blocks(in, group_size), sizeof(float)),
                               awq__mul(in, sizeof(int16_t))),
                      sizeof(float));
}

#define AWQ__A16_MAX 32639.0f
#define AWQ__LARGEST 1.2980742e33f /* 2^110: what an activation may be, so that no sum overflows */

/* n inputs of a token, divided by input_scale. Returns the index of the first that is NaN or too
   large, or n. */
static size_t awq__load_activations(awq_matrix x, const float *input_scale, size_t token,
                                    size_t col, size_t n, float *out) {
    size_t i, bad = n;
    awq__load_row(x, token, col, n, out);
    if (input_scale)
        for (i = 0; i < n; i++) out[i] /= input_scale[col + i];
    for (i = n; i-- > 0;)
        if (!(awq__abs(out[i]) <= AWQ__LARGEST)) bad = i;
    return bad;
}

/* sx: normal, and with 22 significant bits, so that kernels may multiply it by 3 without rounding;
   rounded up, so that no xi gets larger. */
static float awq__activation_scale(float sx) {
    if (sx < FLT_MIN) sx = FLT_MIN; /* keeps 1/sx finite; what is smaller rounds to 0 */
    return awq__bits_float((awq__float_bits(sx) + 3u) & ~3u);
}

/* A8: the scale and zero point m of a block that spans [lo, hi], which includes 0. */
static awq__grid awq__activation_grid(float lo, float hi) {
    awq__grid grid;
    grid.scale = awq__activation_scale((hi - lo) / 255.0f);
    grid.zero = awq__round(-lo * (1.0f / grid.scale));
    return grid;
}

/* n inputs to integers; returns sx. */
static float awq__round_a16(const float *x, size_t n, int16_t *xi) {
    float largest = 0, sx, inverse;
    size_t i;
    for (i = 0; i < n; i++) largest = awq__abs(x[i]) > largest ? awq__abs(x[i]) : largest;
    sx = awq__activation_scale(largest / AWQ__A16_MAX);
    inverse = 1.0f / sx;
    for (i = 0; i < n; i++) xi[i] = (int16_t)awq__round(x[i] * inverse);
    return sx;
}

static awq__grid awq__round_a8(const float *x, size_t n, int16_t *xi) {
    float lo = 0, hi = 0, inverse;
    awq__grid grid;
    size_t i;
    for (i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    grid = awq__activation_grid(lo, hi);
    inverse = 1.0f / grid.scale;
    for (i = 0; i < n; i++) {
        float u = awq__round(x[i] * inverse) + grid.zero;
        xi[i] = (int16_t)((u < 0 ? 0 : u > 255 ? 255 : u) - grid.zero);
    }
    return grid;
}

static awq_status awq__prepare_portable(const awq_prepared *shape, awq_matrix x,
                                        const float *input_scale, void *memory, size_t token_begin,
                                        size_t token_end, awq_where *where) {
    float block[AWQ__CHUNK];
    size_t in = shape->in_features, size = awq__group_size(in, shape->group_size);
    size_t t, begin, col, blocks = awq__blocks(in, shape->group_size);
    for (t = token_begin; t < token_end; t++) {
        float *sx = (float *)(void *)((unsigned char *)memory + t * shape->token_size);
        int16_t *xi = (int16_t *)(void *)(sx + blocks);
        for (begin = 0; begin < in; begin += size)
            for (col = begin; col < awq__min(begin + size, in); col += AWQ__CHUNK) {
                size_t n = awq__min(AWQ__CHUNK, awq__min(begin + size, in) - col);
                size_t bad = awq__load_activations(x, input_scale, t, col, n, block);
                if (bad < n) return awq__fail(where, AWQ_ERR_DATA, 0, t, col + bad);
                *sx++ = shape->precision == AWQ_A8 ? awq__round_a8(block, n, xi + col).scale
                                                   : awq__round_a16(block, n, xi + col);
            }
    }
    return AWQ_OK;
}

/* |w| <= 255, |xi| <= 32639, n <= 128: fits in 32 bits. */
static int32_t awq__dot_block(const int16_t *w, const int16_t *xi, size_t n) {
    int32_t sum = 0;
    size_t i;
    for (i = 0; i < n; i++) sum += (int32_t)w[i] * (int32_t)xi[i];
    return sum;
}

#define AWQ__TOKENS 16 /* tokens that share one unpacking of a row */

/* y of one row for up to AWQ__TOKENS tokens, in block order */
static void awq__row_portable(const awq_packed *p, const awq_prepared *x, size_t row, size_t token,
                              size_t tokens, float *y) {
    size_t in = p->in_features, size = awq__group_size(in, p->quant.group_size),
           groups = awq__ceil_div(in, size);
    size_t words = awq__words(p->quant.bits, size), blocks = awq__blocks(in, p->quant.group_size),
           block = 0, group, k, t, i;
    int16_t w[AWQ__CHUNK];
    uint8_t q[AWQ__CHUNK];
    for (t = 0; t < tokens; t++) y[t] = 0;
    for (group = 0; group < groups; group++) {
        float scale = awq__packed_scale(p, groups, row, group);
        int zero = awq__packed_zero(p, groups, row, group);
        size_t begin = group * size, length = awq__min(size, in - begin);
        for (k = 0; k < length; k += AWQ__CHUNK, block++) {
            size_t n = awq__min(AWQ__CHUNK, length - k);
            awq__unpack_chunk(p, row, group * words, k, n, q);
            for (i = 0; i < n; i++) w[i] = (int16_t)((int)q[i] - zero);
            for (t = 0; t < tokens; t++) {
                size_t at = x->index ? x->index[token + t] : token + t;
                const float *sx = (const float *)(const void *)(x->data + at * x->token_size);
                const int16_t *xi = (const int16_t *)(const void *)(sx + blocks);
                y[t] += scale * sx[block] * (float)awq__dot_block(w, xi + begin + k, n);
            }
        }
    }
}

static void awq__matmul_portable(const awq_packed *packed, const awq_prepared *x, const float *bias,
                                 awq_matrix y, size_t row_begin, size_t row_end) {
    float sum[AWQ__TOKENS];
    size_t row, token, t;
    for (row = row_begin; row < row_end; row++)
        for (token = 0; token < x->tokens; token += AWQ__TOKENS) {
            size_t tokens = awq__min(AWQ__TOKENS, x->tokens - token);
            awq__row_portable(packed, x, row, token, tokens, sum);
            for (t = 0; t < tokens; t++)
                awq__store_float(awq__at(y, token + t, row), y.dtype,
                                 bias ? sum[t] + bias[row] : sum[t]);
        }
}

/* =================================================================================================
   >>impl-kernels
   ============================================================================================== */

#define AWQ__SIMD_SETS 8 /* at most */

#ifdef __cplusplus
}
#endif
#ifndef AWQ_NO_SIMD
#include "awq_simd.h"
#endif
#ifdef __cplusplus
extern "C" {
#endif

#ifndef AWQ__SIMD /* not wanted, or not there for this target */
AWQDEF uint32_t awq_cpu_features(void) { return 0; }
static size_t awq__simd_kernels(uint32_t features, awq_kernels out[AWQ__SIMD_SETS]) {
    (void)features;
    (void)out;
    return 0;
}
#endif

AWQDEF awq_kernels awq_kernels_portable(void) {
    awq_kernels k;
    k.name = "portable";
    k.prepared_format = AWQ__FORMAT_PORTABLE;
    k.token_size = awq__token_size_portable;
    k.prepare = awq__prepare_portable;
    k.matmul_rows = awq__matmul_portable;
#ifdef AWQ_INFERENCE_ONLY
    k.load_scaled = NULL;
    k.widen_range = NULL;
    k.round_weights = NULL;
    k.grid_sums = NULL;
    k.add_strain = NULL;
    k.add_products = NULL;
    k.squared_errors = NULL;
#else
    k.load_scaled = awq__load_scaled_portable;
    k.widen_range = awq__widen_range_portable;
    k.round_weights = awq__round_weights_portable;
    k.grid_sums = awq__grid_sums_portable;
    k.add_strain = awq__add_strain_portable;
    k.add_products = awq__add_products_portable;
    k.squared_errors = awq__squared_errors_portable;
#endif
    k.round_errors = NULL;
    k.add_part = NULL;
    k.split_part = NULL;
    k.gemm_to_rows16 = NULL;
    k.rows16_to_gemm = NULL;
    return k;
}

AWQDEF size_t awq_kernels_for(uint32_t features, awq_kernels *out, size_t capacity) {
    awq_kernels sets[AWQ__SIMD_SETS + 1];
    size_t i, count = awq__simd_kernels(features, sets);
    sets[count++] = awq_kernels_portable();
    for (i = 0; out && i < count && i < capacity; i++) out[i] = sets[i];
    return count;
}

AWQDEF size_t awq_kernels_list(awq_kernels *out, size_t capacity) {
    return awq_kernels_for(awq_cpu_features(), out, capacity);
}

AWQDEF awq_kernels awq_kernels_best(void) {
    awq_kernels k;
    awq_kernels_list(&k, 1);
    return k;
}

#undef AWQ__TRY
#undef AWQ__F16_BF16
#undef AWQ__F16_F32
#undef AWQ__F16_ONLY
#undef AWQ__NO_MAP
#undef AWQ__PLACES
#undef AWQ__ROW
#undef AWQ__RUN
#undef AWQ__STEP
#undef AWQ__SWAP
#undef AWQ__TRANSPOSE
#undef AWQ__WORDS
#undef AWQ__CHUNK
#undef AWQ__CLIP_STEP
#undef AWQ__BLOCK
#undef AWQ__TILE
#undef AWQ__COARSE
#undef AWQ__FIT_STEPS
#undef AWQ__LANES
#undef AWQ__REFITS
#undef AWQ__SOON
#undef AWQ__ROUND_ROWS
#undef AWQ__ROUND_STEP
#undef AWQ__SQUARE
#undef AWQ__CLIP_BATCH
#undef AWQ__ZEROS
#undef AWQ__SHARDS
#undef AWQ__NORM
#undef AWQ__BALANCES
#undef AWQ__BALANCED
#undef AWQ__ROUGHLY
#undef AWQ__POWER_BASE
#undef AWQ__LEAST_SHARE
#undef AWQ__STRIP
#undef AWQ__SHORTLIST
#undef AWQ__ENOUGH
#undef AWQ__ROWS
#undef AWQ__BYTE_ROWS
#undef AWQ__BYTE_OUTPUTS
#undef AWQ__HEADER
#undef AWQ__MAGIC
#undef AWQ__TOKENS
#undef AWQ__FORMAT_PORTABLE
#undef AWQ__A16_MAX
#undef AWQ__LARGEST
#undef AWQ__SIMD
#undef AWQ__SIMD_SETS
#undef AWQ__RESTRICT

#ifdef __cplusplus
}
#endif

#endif /* AWQ_IMPLEMENTATION */

/*
    MIT License

    Copyright (c) 2026 the awq.h authors

    Permission is hereby granted, free of charge, to any person obtaining a copy
    of this software and associated documentation files (the "Software"), to deal
    in the Software without restriction, including without limitation the rights
    to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
    copies of the Software, and to permit persons to whom the Software is
    furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all
    copies or substantial portions of the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
    IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
    FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
    AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
    LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
    OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
    SOFTWARE.
*/
