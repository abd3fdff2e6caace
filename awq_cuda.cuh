/*  awq_cuda.cuh - v0.1.0 - AWQ on GPUs: an optional header beside awq.h

    Do this in exactly one .cu file, then include awq_cuda.cuh plainly wherever you need it:

        #define AWQ_IMPLEMENTATION          unless another file of the program has it
        #define AWQ_CUDA_IMPLEMENTATION     needs awq.h beside this file, and the CUDA runtime:
        #include "awq_cuda.cuh"             no torch, no cuBLAS

    QUICK EXAMPLE   a complete program is examples/cuda/linear.cu; this is its spine

        awq_cuda cuda;
        awq_cuda_init(&cuda, device, stream);                       what this GPU can do

        size = awq_cuda_tensor_size(&packed, AWQ_F16);              packed: of awq_packed_open
        awq_cuda_tensor_init(&linear, &packed, AWQ_F16, host_memory, size);
        awq_cuda_repack_host(&packed, &linear, 0, out_features);    once; or on the device:
        awq_cuda_repack(&cuda, &packed_on_device, &linear_on_device);

        cuda.workspace_size = awq_cuda_workspace_size(&cuda, &linear, max_tokens);
        cudaMalloc(&cuda.workspace, cuda.workspace_size);           and cudaMemset to 0, once
        awq_cuda_matmul(&cuda, &linear, x, bias, residual, y);      every token, on the stream

    CONTENTS   search for the tag
        >>config >>types >>device
        >>cuda-calibrate >>cuda-repack >>cuda-dequantize >>cuda-matmul

    FORMAT   strips of 64 rows, blocks of 128 inputs, three sections: q, scales, zeros
        q       for each strip, for each block: 4 tiles of 16 rows, for each 2 halves of 64 inputs,
                for each 32 lanes of 16 bytes: 4 words, one for every 16 inputs (a k-step).
                A word is one lane's share of the A operand of mma.m16n8k16, 16 rows x 16 inputs:
                  bit    31..28 27..24 23..20 19..16 15..12 11..8   7..4   3..0
                  row      g+8    g     g+8     g     g+8    g     g+8     g       g = lane / 4
                  input  2t+9   2t+9   2t+1   2t+1   2t+8   2t+8   2t     2t       t = lane % 4
        scales  for each strip, for each group: for g = 0..7, for each tile: rows g and g+8
        zeros   for each strip, for each group: for g = 0..7, a byte per tile: row g low, g+8 high
        Value   w = (q - zero) * scale; rows, inputs and groups are filled up with zero bytes.
        A lane's weights are 16-byte loads, a warp's are 512 bytes in a row, and nothing has to be
        exchanged between lanes before the tensor core: docs/cuda.md has the picture.

    RULES
        Stream     everything is queued on cuda.stream; nothing waits, allocates, prints or exits.
                   All calls but awq_cuda_init may be captured into a CUDA graph.
        Memory     the caller's, on the device unless a function says host. x and the rows of W begin
                   at multiples of 16 bytes, so their strides are multiples of 8 elements.
        Errors     a status, before anything is queued. AWQ_ERR_DEVICE: this GPU, or the code in
                   this binary, cannot do it: cuda.needs says which capability would do.
                   AWQ_ERR_CUDA: the runtime failed at the launch: cuda.error says how.
        Data       is not read on the host, so NaN is not found there: it spreads as in any GEMM.
        Repeat     the same call gives the same bits, whatever else runs: sums that several blocks
                   share are added in a fixed order. There is no faster mode that does not.
        Threads    a struct awq_cuda, and its workspace, belong to one thread and stream at a time.

    CONFIGURATION
        AWQ_CUDA_IMPLEMENTATION   off   emit the code here, in one file that nvcc or hipcc compiles
        AWQ_STATIC, AWQDEF              as in awq.h

    LIMITATIONS
        4 bits. Groups of 32, 64, 128 or the whole row; in_features a multiple of 8. Tensor cores from
        sm_80 on; below that, and on AMD, the portable kernels do everything.

    Licence: MIT, see the end of awq.h.
*/

#ifndef AWQ_CUDA_CUH
#define AWQ_CUDA_CUH

/* =================================================================================================
   >>config
   ============================================================================================== */

#include "awq.h"

#if defined(__HIPCC__) || defined(__HIP_PLATFORM_AMD__)
#  include <hip/hip_runtime.h>
#  define AWQ_CUDA_API(name) hip##name
#elif defined(AWQ_CUDA_EMULATED)
#  define AWQ_CUDA_API(name) cuda##name
#else
#  include <cuda_runtime.h>
#  define AWQ_CUDA_API(name) cuda##name
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* =================================================================================================
   >>types
   ============================================================================================== */

/*  Where work goes, and what the device there can do. A value: copy it per stream.               */
typedef struct awq_cuda {
    int    sm;              /* compute capability, 90 for 9.0; 0: not an NVIDIA device            */
    int    code_sm;         /* of the code in this binary that the device runs                    */
    int    has_wgmma;       /* and it is sm_90a code                                              */
    int    processors;
    size_t shared_size;     /* of one block                                                       */
    AWQ_CUDA_API(Stream_t) stream;
    void  *workspace;       /* awq_cuda_workspace_size() bytes of device memory; NULL: none       */
    size_t workspace_size;
    int    needs;           /* set with AWQ_ERR_DEVICE: the compute capability that would do      */
    AWQ_CUDA_API(Error_t) error;    /* set with AWQ_ERR_CUDA                                      */
} awq_cuda;

/*  A quantized linear as the kernels read it: see FORMAT.                                        */
typedef struct awq_cuda_tensor {
    void     *data;         /* multiple of 16 bytes                                               */
    size_t    size;
    size_t    out_features, in_features;
    int       group_size;   /* 32, 64, 128 or -1                                                  */
    int       symmetric;    /* no zeros are stored                                                */
    awq_dtype dtype;        /* AWQ_F16 or AWQ_BF16: of the scales, and of x, bias, residual and y */
    size_t    scales_offset, zeros_offset;      /* zeros_offset = 0 if symmetric                  */
} awq_cuda_tensor;

/* =================================================================================================
   >>device
   ============================================================================================== */

/*  awq_cuda_init  -  ask the runtime what a device is, once

    Errors    NULL, CUDA; DEVICE: none, or the binary has no code for it
    Threads   any; nothing is cached                                                              */
AWQDEF awq_status awq_cuda_init(awq_cuda *cuda, int device, AWQ_CUDA_API(Stream_t) stream);

/* =================================================================================================
   >>cuda-repack   packed tensors and AutoAWQ's layouts to the kernels' layout
   ============================================================================================== */

/*  awq_cuda_tensor_init  -  lay a linear out in awq_cuda_tensor_size() bytes

    Shapes    any out_features; in_features a multiple of 8
    Memory    host or device, aligned to 16 bytes (128 is fastest); not touched. The size is 0
              where init would fail.
    Errors    NULL, SHAPE (0, or beyond 2^31 tiles), CONFIG (bits is not 4), DTYPE (dtype is not
              fp16 or bf16), IN_FEATURES, GROUP_SIZE, MEMORY                                      */
AWQDEF size_t     awq_cuda_tensor_size(awq_quant quant, size_t out_features, size_t in_features,
                                       awq_dtype dtype);
AWQDEF awq_status awq_cuda_tensor_init(awq_cuda_tensor *tensor, awq_quant quant,
                                       size_t out_features, size_t in_features, awq_dtype dtype,
                                       void *memory, size_t memory_size);

/*  awq_cuda_repack  -  fill a tensor from a packed one

    Formula   q and zeros as stored; scales rounded to tensor->dtype, and kept within its finite
              numbers > 0 (exact if the dtypes are the same)
    Shapes    as the tensor was laid out, and the same symmetric
    Memory    host: from->data and to->data on the host, row_begin a multiple of 64, row_end too or
              = out_features. device: both on the device (awq_packed_open reads the host's copy of
              the header; then let packed.data point to the device's copy)
    Errors    NULL, SHAPE, CONFIG, RANGE, CUDA
    Threads   host: disjoint ranges may run at once                                               */
AWQDEF awq_status awq_cuda_repack(awq_cuda *cuda, const awq_packed *from, awq_cuda_tensor *to);
AWQDEF awq_status awq_cuda_repack_host(const awq_packed *from, awq_cuda_tensor *to,
                                       size_t row_begin, size_t row_end);

#ifndef AWQ_INFERENCE_ONLY

/*  awq_cuda_repack_foreign  -  the same from planes of AWQ_GEMM, AWQ_GEMV or AWQ_GEMV_FAST

    Formula   GEMV_FAST: zero = clamp(round(-scaled_zero / scale), 0, 15). Scales are kept within
              the finite numbers > 0 of tensor->dtype. awq_import() looks at every value and says
              what is wrong; this does not.
    Errors    as awq_cuda_repack; CONFIG also: another layout                                     */
AWQDEF awq_status awq_cuda_repack_foreign(awq_cuda *cuda, const awq_foreign *from,
                                          awq_cuda_tensor *to);
AWQDEF awq_status awq_cuda_repack_foreign_host(const awq_foreign *from, awq_cuda_tensor *to,
                                               size_t row_begin, size_t row_end);

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>cuda-dequantize
   ============================================================================================== */

/*  awq_cuda_dequantize  -  out[r][c] = (q - zero) * scale, for a GEMM of the host's own

    Shapes    out (out_features, in_features) of the tensor's dtype
    Memory    out.data a multiple of 16 bytes, its stride of 8 elements
    Errors    NULL, SHAPE, DTYPE, MEMORY, DEVICE, CUDA
    Numerics  one rounding: the bits of awq_packed_dequantize (if the scales were not rounded)    */
AWQDEF awq_status awq_cuda_dequantize(awq_cuda *cuda, const awq_cuda_tensor *tensor,
                                      awq_matrix out);

/* =================================================================================================
   >>cuda-matmul   y = x What^T + bias + residual
   ============================================================================================== */

/*  The kernels. awq_cuda_matmul picks; each can be asked for.                                    */
typedef enum awq_cuda_kernel {
    AWQ_CUDA_PORTABLE = 0,  /* any tokens; every device, AMD too                                  */
    AWQ_CUDA_GEMV     = 1,  /* 1 .. 8 tokens, sm_80: a stream of weights, warps share the inputs  */
    AWQ_CUDA_GEMM     = 2,  /* any tokens, sm_80: tensor cores, tiles of 16 .. 128 tokens         */
    AWQ_CUDA_WGMMA    = 3   /* any tokens, sm_90a: a warpgroup's tensor cores                     */
} awq_cuda_kernel;

/*  What awq_cuda_matmul runs for this many tokens.                                               */
AWQDEF awq_cuda_kernel awq_cuda_pick(const awq_cuda *cuda, const awq_cuda_tensor *tensor,
                                     size_t tokens);

/*  Bytes of workspace for every call with this tensor and 1 .. max_tokens tokens, whichever kernel.
    Zero it once; every call leaves its counters at zero. Calls on one stream may share it (the
    largest of their sizes).                                                                      */
AWQDEF size_t awq_cuda_workspace_size(const awq_cuda *cuda, const awq_cuda_tensor *tensor,
                                      size_t max_tokens);

/*  awq_cuda_matmul, awq_cuda_matmul_with  -  apply a linear to a batch of tokens

    Formula   y[t][r] = sum_c x[t][c] (q[r][c] - zero) scale + bias[r] + residual[t][r]
    Shapes    x (tokens, in_features), y and residual (tokens, out_features), bias [out_features];
              all of tensor->dtype. bias NULL, residual.data NULL: none.
    Memory    x.data a multiple of 16 bytes, its stride of 8 elements; y may be the residual
    Errors    NULL, SHAPE, DTYPE, MEMORY (alignment, workspace), CONFIG (no such kernel), RANGE (too
              many tokens for the kernel), DEVICE, CUDA
    Numerics  fp32 sums in an order that depends on shape, kernel and device only. GEMV and portable:
              (q - zero) is exact, a group's sum is scaled in fp32: as from float64 but for fp32
              sums and the rounding of y. GEMM, WGMMA: What is rounded to dtype first, as
              awq_cuda_dequantize and a GEMM would do.                                            */
AWQDEF awq_status awq_cuda_matmul(awq_cuda *cuda, const awq_cuda_tensor *tensor, awq_matrix x,
                                  const void *bias, awq_matrix residual, awq_matrix y);
AWQDEF awq_status awq_cuda_matmul_with(awq_cuda *cuda, awq_cuda_kernel kernel,
                                       const awq_cuda_tensor *tensor, awq_matrix x,
                                       const void *bias, awq_matrix residual, awq_matrix y);

#ifdef __cplusplus
}
#endif

#endif /* AWQ_CUDA_CUH */

/* Stop here if you only want the API. */

/* =================================================================================================
   IMPLEMENTATION
   ============================================================================================== */

#if defined(AWQ_CUDA_IMPLEMENTATION) && !defined(AWQ_CUDA__IMPLEMENTED)
#define AWQ_CUDA__IMPLEMENTED

#include <string.h>

#if defined(__HIPCC__) || defined(__HIP_PLATFORM_AMD__)
#  include <hip/hip_fp16.h>
#  define AWQ_CUDA__HIP 1
#else
#  define AWQ_CUDA__HIP 0
#  ifndef AWQ_CUDA_EMULATED
#    include <cuda_bf16.h>
#    include <cuda_fp16.h>
#  endif
#endif

/* Kernels for tensor cores: their bodies are empty in code for less than sm_80, which awq_cuda_init
   notices. */
#if AWQ_CUDA__HIP || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
#  define AWQ_CUDA__TENSOR 0
#else
#  define AWQ_CUDA__TENSOR 1
#endif

#define AWQ_CUDA__DEVICE static __device__ __forceinline__
#define AWQ_CUDA__BOTH   static __host__ __device__ __forceinline__

#ifndef AWQ_CUDA_EMULATED
#  if AWQ_CUDA__HIP
#    define AWQ_CUDA__SHARED(name)                                                                 \
        HIP_DYNAMIC_SHARED(uint4, awq_cuda__shared)                                                \
        unsigned char *name = reinterpret_cast<unsigned char *>(awq_cuda__shared)
#  else
#    define AWQ_CUDA__SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#  endif
#  define AWQ_CUDA__LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                         \
      kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#endif

#define AWQ_CUDA__STRIP 64  /* rows                                                               */
#define AWQ_CUDA__BLOCK 128 /* inputs                                                             */
#define AWQ_CUDA__TILE  4096 /* bytes of q of a strip in a block                                  */

#define AWQ_CUDA__TRY(call)                                                                        \
    do {                                                                                           \
        awq_status awq_cuda__status = (call);                                                      \
        if (awq_cuda__status != AWQ_OK) return awq_cuda__status;                                   \
    } while (0)

/* =================================================================================================
   >>ptx   what C++ has no words for; a test on the CPU brings its own
   ============================================================================================== */

#if AWQ_CUDA__TENSOR && !defined(AWQ_CUDA_EMULATED)

AWQ_CUDA__DEVICE unsigned awq_cuda__address(const void *shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

/* 16 bytes from global to shared memory, of which the first valid_bytes are read and the rest 0. */
AWQ_CUDA__DEVICE void awq_cuda__cp_async16(void *shared, const void *global, unsigned valid_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(awq_cuda__address(shared)), "l"(global), "r"(valid_bytes) : "memory");
}
AWQ_CUDA__DEVICE void awq_cuda__cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until at most N of this thread's groups are on their way. */
template <int N> AWQ_CUDA__DEVICE void awq_cuda__cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* Four 8 x 8 matrices of 16-bit numbers; lane l brings the address of row l % 8 of matrix l / 8, and
   gets elements 2 (l % 4), + 1 of row l / 4 of each. */
AWQ_CUDA__DEVICE void awq_cuda__ldmatrix_x4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(awq_cuda__address(row)) : "memory");
}

/* d += a b: 16 x 16 times 16 x 8 */
AWQ_CUDA__DEVICE void awq_cuda__mma_m16n8k16_f16(float *d, const unsigned *a, const unsigned *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
AWQ_CUDA__DEVICE void awq_cuda__mma_m16n8k16_bf16(float *d, const unsigned *a, const unsigned *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Any function of three bits, in every bit: LUT = f(0xf0, 0xcc, 0xaa). */
template <int LUT>
AWQ_CUDA__DEVICE unsigned awq_cuda__lop3(unsigned a, unsigned b, unsigned c) {
    unsigned d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(LUT));
    return d;
}

#endif

/* Read once: past the L1 cache, first to leave the L2. */
#ifndef AWQ_CUDA_EMULATED
AWQ_CUDA__DEVICE uint4 awq_cuda__load_stream(const uint4 *p) {
#if AWQ_CUDA__HIP
    return *p;
#else
    return __ldcs(p);
#endif
}
#endif

/* =================================================================================================
   >>numbers   fp16 and bf16 as bits, alone and in pairs
   ============================================================================================== */

template <typename To, typename From> AWQ_CUDA__BOTH To awq_cuda__bits(const From &from) {
    To to;
    static_assert(sizeof to == sizeof from, "a cast of bits");
    memcpy(&to, &from, sizeof to);
    return to;
}

struct awq_cuda__f16 {
    static __device__ __forceinline__ float to_float(uint16_t h) {
        return __half2float(awq_cuda__bits<__half>(h));
    }
    static __device__ __forceinline__ uint16_t from_float(float x) {
        return awq_cuda__bits<uint16_t>(__float2half_rn(x));
    }
};

/* Not by cuda_bf16.h: the same on every device. */
struct awq_cuda__bf16 {
    static __device__ __forceinline__ float to_float(uint16_t h) {
        return __uint_as_float(static_cast<unsigned>(h) << 16);
    }
    static __device__ __forceinline__ uint16_t from_float(float x) {
        unsigned u = __float_as_uint(x);
        if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
        return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    }
};

/* =================================================================================================
   >>layout   where everything is
   ============================================================================================== */

static size_t awq_cuda__ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
static size_t awq_cuda__min(size_t a, size_t b) { return a < b ? a : b; }
static size_t awq_cuda__max(size_t a, size_t b) { return a > b ? a : b; }

/* A tensor as kernels see it. */
struct awq_cuda__weights {
    const uint4 *q;
    const uint16_t *scales;
    const uint32_t *zeros; /* NULL: 8 */
    unsigned out_features, in_features;
    unsigned strips, blocks;
    unsigned block_groups; /* groups that begin in a block: 4, 2, 1 */
    unsigned strip_groups; /* 1: the whole row; else blocks * block_groups */
};

static awq_cuda__weights awq_cuda__view(const awq_cuda_tensor *t) {
    const unsigned char *data = static_cast<const unsigned char *>(t->data);
    awq_cuda__weights w;
    w.q = reinterpret_cast<const uint4 *>(data);
    w.scales = reinterpret_cast<const uint16_t *>(data + t->scales_offset);
    w.zeros = t->symmetric ? NULL : reinterpret_cast<const uint32_t *>(data + t->zeros_offset);
    w.out_features = static_cast<unsigned>(t->out_features);
    w.in_features = static_cast<unsigned>(t->in_features);
    w.strips = static_cast<unsigned>(awq_cuda__ceil_div(t->out_features, AWQ_CUDA__STRIP));
    w.blocks = static_cast<unsigned>(awq_cuda__ceil_div(t->in_features, AWQ_CUDA__BLOCK));
    w.block_groups = t->group_size == 32 ? 4 : t->group_size == 64 ? 2 : 1;
    w.strip_groups = t->group_size == -1 ? 1 : w.blocks * w.block_groups;
    return w;
}

/* The number, over all strips, of the first group of a block. */
AWQ_CUDA__BOTH size_t awq_cuda__group_at(const awq_cuda__weights &w, unsigned strip,
                                         unsigned block) {
    return static_cast<size_t>(strip) * w.strip_groups +
           (w.strip_groups == 1 ? 0 : block * w.block_groups);
}
AWQ_CUDA__BOTH const uint4 *awq_cuda__tile_at(const awq_cuda__weights &w, unsigned strip,
                                              unsigned block) {
    return w.q + (static_cast<size_t>(strip) * w.blocks + block) * (AWQ_CUDA__TILE / 16);
}

/* Row and input, within strip and block, of nibble n of word j of a lane's half h of tile i. */
AWQ_CUDA__BOTH unsigned awq_cuda__row_of(unsigned tile, unsigned lane, unsigned nibble) {
    return 16 * tile + lane / 4 + nibble % 2 * 8;
}
AWQ_CUDA__BOTH unsigned awq_cuda__input_of(unsigned half, unsigned word, unsigned lane,
                                           unsigned nibble) {
    return 64 * half + 16 * word + nibble / 2 % 2 * 8 + lane % 4 * 2 + nibble / 4;
}

/* Zero points of rows g (low nibble) and g + 8 of a tile, from a group's 8 words. */
AWQ_CUDA__BOTH unsigned awq_cuda__zero_byte(const uint32_t *zeros, size_t group, unsigned g,
                                            unsigned tile) {
    return zeros ? zeros[group * 8 + g] >> 8 * tile & 255u : 0x88u;
}

static awq_status awq_cuda__lay_out(awq_cuda_tensor *t, awq_quant quant, size_t out, size_t in,
                                    awq_dtype dtype) {
    size_t strips = awq_cuda__ceil_div(out, AWQ_CUDA__STRIP);
    size_t blocks = awq_cuda__ceil_div(in, AWQ_CUDA__BLOCK), groups;
    if (quant.bits != 4) return AWQ_ERR_CONFIG;
    if (dtype != AWQ_F16 && dtype != AWQ_BF16) return AWQ_ERR_DTYPE;
    if (out == 0 || in == 0) return AWQ_ERR_SHAPE;
    if (in % 8) return AWQ_ERR_IN_FEATURES;
    if (quant.group_size != 32 && quant.group_size != 64 && quant.group_size != 128 &&
        quant.group_size != -1)
        return AWQ_ERR_GROUP_SIZE;
    if (strips > 0x7fffffffu / blocks) return AWQ_ERR_SHAPE;
    groups = quant.group_size == -1
                 ? strips
                 : strips * blocks * static_cast<size_t>(AWQ_CUDA__BLOCK / quant.group_size);
    memset(t, 0, sizeof *t);
    t->out_features = out;
    t->in_features = in;
    t->group_size = quant.group_size;
    t->symmetric = quant.symmetric;
    t->dtype = dtype;
    t->scales_offset = strips * blocks * AWQ_CUDA__TILE;
    t->size = t->scales_offset + groups * AWQ_CUDA__STRIP * 2;
    if (quant.symmetric) return AWQ_OK;
    t->zeros_offset = t->size;
    t->size += groups * AWQ_CUDA__STRIP / 2;
    return AWQ_OK;
}

/* A tensor as awq_cuda_tensor_init left it. */
static awq_status awq_cuda__check_tensor(const awq_cuda_tensor *t) {
    awq_cuda_tensor expected;
    awq_quant quant;
    if (!t || !t->data) return AWQ_ERR_NULL;
    quant.bits = 4;
    quant.group_size = t->group_size;
    quant.symmetric = t->symmetric;
    quant.scale_dtype = t->dtype;
    AWQ_CUDA__TRY(awq_cuda__lay_out(&expected, quant, t->out_features, t->in_features, t->dtype));
    if (t->size != expected.size || t->scales_offset != expected.scales_offset ||
        t->zeros_offset != expected.zeros_offset)
        return AWQ_ERR_SHAPE;
    return reinterpret_cast<uintptr_t>(t->data) % 16 ? AWQ_ERR_MEMORY : AWQ_OK;
}

AWQDEF size_t awq_cuda_tensor_size(awq_quant quant, size_t out_features, size_t in_features,
                                   awq_dtype dtype) {
    awq_cuda_tensor t;
    return awq_cuda__lay_out(&t, quant, out_features, in_features, dtype) == AWQ_OK ? t.size : 0;
}

AWQDEF awq_status awq_cuda_tensor_init(awq_cuda_tensor *tensor, awq_quant quant,
                                       size_t out_features, size_t in_features, awq_dtype dtype,
                                       void *memory, size_t memory_size) {
    awq_cuda_tensor t;
    if (!tensor || !memory) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__lay_out(&t, quant, out_features, in_features, dtype));
    if (memory_size < t.size || reinterpret_cast<uintptr_t>(memory) % 16) return AWQ_ERR_MEMORY;
    t.data = memory;
    *tensor = t;
    return AWQ_OK;
}

/* =================================================================================================
   >>launch
   ============================================================================================== */

/* What the runtime says about the launch before; does not wait for it. */
static awq_status awq_cuda__launched(awq_cuda *cuda) {
    AWQ_CUDA_API(Error_t) error = AWQ_CUDA_API(GetLastError)();
    if (error == AWQ_CUDA_API(Success)) return AWQ_OK;
    cuda->error = error;
    return AWQ_ERR_CUDA;
}

static awq_status awq_cuda__device(awq_cuda *cuda, int needs) {
    if (cuda->code_sm >= needs) return AWQ_OK;
    cuda->needs = needs;
    return AWQ_ERR_DEVICE;
}

/* A dense or strided view whose rows begin at multiples of 16 bytes. */
static awq_status awq_cuda__check_rows(awq_matrix m, size_t rows, size_t cols, awq_dtype dtype) {
    if (!m.data && rows) return AWQ_ERR_NULL;
    if (m.dtype != dtype) return AWQ_ERR_DTYPE;
    if (m.rows != rows || m.cols != cols || m.stride < cols) return AWQ_ERR_SHAPE;
    return AWQ_OK;
}
static awq_status awq_cuda__check_aligned(awq_matrix m) {
    return reinterpret_cast<uintptr_t>(m.data) % 16 || m.stride % 8 ? AWQ_ERR_MEMORY : AWQ_OK;
}

/* =================================================================================================
   >>dequantize
   ============================================================================================== */

#define AWQ_CUDA__DEQUANTIZE_STRIDE (AWQ_CUDA__BLOCK + 8) /* so that no two lanes share a bank */

struct awq_cuda__dequantize_job {
    awq_cuda__weights w;
    uint16_t *out;
    size_t stride;
};

/* A block of 4 warps does 64 rows x 128 inputs, a warp one tile of 16 rows. Lanes hold pairs of two
   rows; through shared memory they become rows of 16-byte stores. */
template <typename T>
static __global__ void __launch_bounds__(128) awq_cuda__dequantize(awq_cuda__dequantize_job job) {
    AWQ_CUDA__SHARED(shared);
    const awq_cuda__weights &w = job.w;
    unsigned tile = threadIdx.x / 32, lane = threadIdx.x % 32, block = blockIdx.x;
    unsigned strip = blockIdx.y, step = 8 / w.block_groups;
    size_t group = awq_cuda__group_at(w, strip, block);
    uint16_t *rows = reinterpret_cast<uint16_t *>(shared) + tile * 16 * AWQ_CUDA__DEQUANTIZE_STRIDE;
    for (unsigned k = 0; k < 8; k++) {
        const uint4 *q = awq_cuda__tile_at(w, strip, block) + (tile * 2 + k / 4) * 32 + lane;
        unsigned word = reinterpret_cast<const unsigned *>(q)[k % 4];
        const uint16_t *scale = w.scales + ((group + k / step) * 8 + lane / 4) * 8 + tile * 2;
        unsigned zero = awq_cuda__zero_byte(w.zeros, group + k / step, lane / 4, tile);
        for (unsigned n = 0; n < 8; n++) {
            int u = static_cast<int>(word >> 4 * n & 15u) - static_cast<int>(zero >> n % 2 * 4 & 15u);
            rows[(awq_cuda__row_of(0, lane, n)) * AWQ_CUDA__DEQUANTIZE_STRIDE +
                 awq_cuda__input_of(k / 4, k % 4, lane, n)] =
                T::from_float(static_cast<float>(u) * T::to_float(scale[n % 2]));
        }
    }
    __syncthreads();
    for (unsigned c = lane; c < 16 * 16; c += 32) {
        unsigned row = strip * AWQ_CUDA__STRIP + tile * 16 + c / 16;
        unsigned col = block * AWQ_CUDA__BLOCK + c % 16 * 8;
        if (row < w.out_features && col < w.in_features)
            *reinterpret_cast<uint4 *>(job.out + row * job.stride + col) =
                *reinterpret_cast<const uint4 *>(rows + c / 16 * AWQ_CUDA__DEQUANTIZE_STRIDE +
                                                 c % 16 * 8);
    }
}

AWQDEF awq_status awq_cuda_dequantize(awq_cuda *cuda, const awq_cuda_tensor *tensor,
                                      awq_matrix out) {
    awq_cuda__dequantize_job job;
    if (!cuda) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__check_tensor(tensor));
    AWQ_CUDA__TRY(awq_cuda__check_rows(out, tensor->out_features, tensor->in_features,
                                       tensor->dtype));
    AWQ_CUDA__TRY(awq_cuda__check_aligned(out));
    job.w = awq_cuda__view(tensor);
    job.out = static_cast<uint16_t *>(out.data);
    job.stride = out.stride;
    if (job.w.strips > 65535) return AWQ_ERR_SHAPE;
    dim3 grid(job.w.blocks, job.w.strips);
    const unsigned shared = AWQ_CUDA__STRIP * AWQ_CUDA__DEQUANTIZE_STRIDE * 2;
    if (tensor->dtype == AWQ_F16)
        AWQ_CUDA__LAUNCH(awq_cuda__dequantize<awq_cuda__f16>, grid, 128, shared, cuda->stream, job);
    else
        AWQ_CUDA__LAUNCH(awq_cuda__dequantize<awq_cuda__bf16>, grid, 128, shared, cuda->stream,
                         job);
    return awq_cuda__launched(cuda);
}

/* =================================================================================================
   >>portable   the linear without tensor cores: every device
   ============================================================================================== */

struct awq_cuda__matmul_job {
    awq_cuda__weights w;
    const uint16_t *x, *bias, *residual; /* the last two may be NULL */
    uint16_t *y;
    size_t x_stride, residual_stride, y_stride;
    unsigned tokens;
    unsigned units;         /* tiles of y * blocks, for a thread block */
    unsigned token_tiles;
    unsigned *counters;     /* [tiles of y] blocks that have left their part */
    float *partials;        /* [2 * thread blocks][tile of y] */
};

/* y of one row and token: sum + bias + residual. */
template <typename T>
AWQ_CUDA__DEVICE void awq_cuda__store(const awq_cuda__matmul_job &job, unsigned token, unsigned row,
                                      float sum) {
    if (token >= job.tokens || row >= job.w.out_features) return;
    if (job.bias) sum += T::to_float(job.bias[row]);
    if (job.residual) sum += T::to_float(job.residual[token * job.residual_stride + row]);
    job.y[token * job.y_stride + row] = T::from_float(sum);
}

#define AWQ_CUDA__PORTABLE_WARPS  4
#define AWQ_CUDA__PORTABLE_TOKENS 4

/* One strip and 4 tokens; 4 sets of 32 threads take every fourth block of inputs. A thread reads the
   weights of one lane: 8 rows, of which it keeps the sums of its inputs. */
template <typename T>
static __global__ void __launch_bounds__(32 * AWQ_CUDA__PORTABLE_WARPS)
awq_cuda__portable(awq_cuda__matmul_job job) {
    AWQ_CUDA__SHARED(shared);
    float *sums = reinterpret_cast<float *>(shared); /* [warps * 4][tokens][strip] */
    const awq_cuda__weights &w = job.w;
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, strip = blockIdx.x;
    unsigned first = blockIdx.y * AWQ_CUDA__PORTABLE_TOKENS, step = 8 / w.block_groups;
    for (unsigned tile = 0; tile < 4; tile++) {
        float sum[2][AWQ_CUDA__PORTABLE_TOKENS] = { { 0 } };
        for (unsigned block = warp; block < w.blocks; block += AWQ_CUDA__PORTABLE_WARPS) {
            size_t group = awq_cuda__group_at(w, strip, block);
            for (unsigned k = 0; k < 8; k++) {
                const uint4 *q = awq_cuda__tile_at(w, strip, block) + (tile * 2 + k / 4) * 32 + lane;
                unsigned word = reinterpret_cast<const unsigned *>(q)[k % 4];
                const uint16_t *s = w.scales + ((group + k / step) * 8 + lane / 4) * 8 + tile * 2;
                unsigned zero = awq_cuda__zero_byte(w.zeros, group + k / step, lane / 4, tile);
                float scale[2] = { T::to_float(s[0]), T::to_float(s[1]) };
#pragma unroll
                for (unsigned n = 0; n < 8; n++) {
                    unsigned c = block * AWQ_CUDA__BLOCK + awq_cuda__input_of(k / 4, k % 4, lane, n);
                    float v = static_cast<float>(static_cast<int>(word >> 4 * n & 15u) -
                                                 static_cast<int>(zero >> n % 2 * 4 & 15u)) *
                              scale[n % 2];
                    for (unsigned t = 0; t < AWQ_CUDA__PORTABLE_TOKENS; t++)
                        if (c < w.in_features && first + t < job.tokens)
                            sum[n % 2][t] += v * T::to_float(job.x[(first + t) * job.x_stride + c]);
                }
            }
        }
        for (unsigned n = 0; n < 2; n++)
            for (unsigned t = 0; t < AWQ_CUDA__PORTABLE_TOKENS; t++)
                sums[((warp * 4 + lane % 4) * AWQ_CUDA__PORTABLE_TOKENS + t) * AWQ_CUDA__STRIP +
                     awq_cuda__row_of(tile, lane, n)] = sum[n][t];
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < AWQ_CUDA__PORTABLE_TOKENS * AWQ_CUDA__STRIP; i += blockDim.x) {
        float sum = 0;
        for (unsigned p = 0; p < AWQ_CUDA__PORTABLE_WARPS * 4; p++)
            sum += sums[p * AWQ_CUDA__PORTABLE_TOKENS * AWQ_CUDA__STRIP + i];
        awq_cuda__store<T>(job, first + i / AWQ_CUDA__STRIP,
                           strip * AWQ_CUDA__STRIP + i % AWQ_CUDA__STRIP, sum);
    }
}

static awq_status awq_cuda__run_portable(awq_cuda *cuda, awq_dtype dtype,
                                         const awq_cuda__matmul_job *job) {
    const unsigned shared =
        AWQ_CUDA__PORTABLE_WARPS * 4 * AWQ_CUDA__PORTABLE_TOKENS * AWQ_CUDA__STRIP * 4;
    void (*kernel)(awq_cuda__matmul_job) =
        dtype == AWQ_F16 ? awq_cuda__portable<awq_cuda__f16> : awq_cuda__portable<awq_cuda__bf16>;
    dim3 grid(job->w.strips,
              static_cast<unsigned>(awq_cuda__ceil_div(job->tokens, AWQ_CUDA__PORTABLE_TOKENS)));
    if (grid.y > 65535) return AWQ_ERR_RANGE;
    AWQ_CUDA__LAUNCH(kernel, grid, 32 * AWQ_CUDA__PORTABLE_WARPS, shared, cuda->stream, *job);
    return awq_cuda__launched(cuda);
}

#endif /* AWQ_CUDA_IMPLEMENTATION */
