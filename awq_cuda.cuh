/*  awq_cuda.cuh - v0.1.0 - AWQ on GPUs: an optional header beside awq.h

    Do this in exactly one .cu file, then include awq_cuda.cuh plainly wherever you need it:

        #define AWQ_IMPLEMENTATION          unless another file of the program has it
        #define AWQ_CUDA_IMPLEMENTATION     needs awq.h beside this file, and the CUDA runtime:
        #include "awq_cuda.cuh"             no torch, no cuBLAS

    QUICK EXAMPLE   a complete program is examples/cuda/linear.cu; this is its spine

        awq_cuda cuda;
        awq_cuda_init(&cuda, device, stream);                       what this GPU can do

        size = awq_cuda_tensor_size(packed.quant, out_features, in_features, AWQ_F16);
        awq_cuda_tensor_init(&linear, packed.quant, out_features, in_features, AWQ_F16,
                             device_memory, size);
        packed.data = packed_bytes_on_device;                       opened on the host before
        awq_cuda_repack(&cuda, &packed, &linear);                   once

        cuda.workspace_size = awq_cuda_workspace_size(&cuda, max_tokens);
        cudaMalloc(&cuda.workspace, cuda.workspace_size);           and cudaMemset to 0, once
        awq_cuda_matmul(&cuda, &linear, x, bias, residual, y);      every token, on the stream

    CONTENTS   search for the tag
        >>config >>types >>device
        >>cuda-calibrate                  statistics, sketch and loss, where activations are
        >>cuda-repack >>cuda-dequantize >>cuda-matmul

    FORMAT   strips of 64 rows, blocks of 128 inputs, three sections: q, scales, zeros
        q       for each strip, for each block: 4 tiles of 16 rows, for each 2 halves of 64 inputs,
                for each 32 lanes of 16 bytes: 4 words, one for every 16 inputs (a k-step).
                A word is one lane's share of the A operand of mma.m16n8k16, 16 rows x 16 inputs,
                nibble n from bit 4 n + 2 on (7: bits 30, 31, 0, 1), g = lane / 4, t = lane % 4:
                  nibble    7      6      5      4      3      2      1      0
                  row      g+8    g      g+8    g      g+8    g      g+8    g
                  input    2t+9   2t+9   2t+1   2t+1   2t+8   2t+8   2t     2t
        scales  for each strip, for each group: for g = 0..7, for each tile: rows g and g+8
        zeros   for each strip, for each group: for g = 0..7, a byte per tile: row g low, g+8 high
        Value   w = (q - zero) * scale; rows, inputs and groups are filled up with zero bytes.
        A lane's weights are 16-byte loads, a warp's are 512 bytes in a row, and nothing has to be
        exchanged between lanes before the tensor core: docs/cuda.md has the picture.

    RULES
        Stream     everything is queued on cuda.stream; nothing waits, allocates, prints or exits.
                   All calls but awq_cuda_init may be captured into a CUDA graph.
        Memory     the caller's, on the device unless a function says host. The rows of x, and of a
                   dequantized W, begin at multiples of 16 bytes: strides are multiples of 8.
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
        4 bits. Groups of 32, 64, 128 or the whole row; in_features a multiple of 8. Tensor cores
        from sm_80 on; below that, and on AMD, the portable kernels do everything.

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

    Shapes    device: the current one (cudaSetDevice), else RANGE
    Errors    NULL, RANGE; CUDA: no device, or the binary has no code for it
    Threads   any; nothing is cached                                                              */
AWQDEF awq_status awq_cuda_init(awq_cuda *cuda, int device, AWQ_CUDA_API(Stream_t) stream);

#ifndef AWQ_INFERENCE_ONLY

/* =================================================================================================
   >>cuda-calibrate   the costly parts of calibration, where the activations are
   ============================================================================================== */

/*  The arrays of awq_stats (without the Gram matrix) in device memory.                           */
typedef struct awq_cuda_stats {
    size_t    in_features;
    size_t    sketch_rows;  /* 0: no sketch                                                       */
    uint64_t  sketch_seed;
    uint64_t  first_token;  /* as in awq_stats; 0, or set it before the first token               */
    uint64_t *count;        /* [1]                                                                */
    double   *weight;       /* [1]                                                                */
    double   *abs_sum, *sq_sum;     /* [in_features]                                              */
    float    *abs_max;      /* [in_features]                                                      */
    float    *sketch;       /* [sketch_rows][in_features] or NULL                                 */
    void     *tokens;       /* workspace                                                          */
} awq_cuda_stats;

/*  awq_cuda_stats_init  -  empty statistics in device memory

    Memory    awq_cuda_stats_size() bytes, aligned to 16; set to 0 on the stream
    Errors    NULL, SHAPE (in_features = 0, or 2^31 and more), MEMORY, CUDA                       */
AWQDEF size_t     awq_cuda_stats_size(size_t in_features, size_t sketch_rows);
AWQDEF awq_status awq_cuda_stats_init(awq_cuda *cuda, awq_cuda_stats *stats, size_t in_features,
                                      size_t sketch_rows, uint64_t sketch_seed, void *memory,
                                      size_t memory_size);

/*  awq_cuda_stats_add  -  awq_stats_add where x is

    Shapes    x (tokens, in_features) any dtype, token_weight [tokens] or NULL for 1, both on the
              device; a token of weight 0 (or NaN, or < 0) is not read
    Errors    NULL, SHAPE, DTYPE, CUDA. Data is not checked: a channel that saw a NaN has NaN as its
              maximum, which awq_search and awq_stats_get's readers find.
    Numerics  the bits of awq_stats_add for maxima, sums and sketch, in any cut into batches
    Source    as awq_stats_add                                                                    */
AWQDEF awq_status awq_cuda_stats_add(awq_cuda *cuda, awq_cuda_stats *stats, awq_matrix x,
                                     const float *token_weight);

/*  awq_cuda_stats_copy  -  to an awq_stats of the same shape on the host, queued on the stream

    Shapes    in_features, sketch_rows, sketch_seed and first_token as of `to`, which may have no
              Gram matrix
    Errors    NULL, SHAPE, CUDA. Wait for the stream before `to` is read.                         */
AWQDEF awq_status awq_cuda_stats_copy(awq_cuda *cuda, const awq_cuda_stats *from, awq_stats *to);

/*  awq_cuda_loss  -  what a candidate s costs: the inner part of awq_search, on the device

    Formula   loss[0] = sum over rows r, tokens t of w_t (d_r . x_t)^2,  d = Q(W s) / s - W;  inf
              where awq_quantize would refuse a group. Divide by out_features and the tokens' weight
              (sketch: stats weight) for awq_search's.
    Shapes    weight (out_features, in_features) any dtype; scale [in_features] or NULL; x (tokens
              or sketch_rows, in_features) any dtype; token_weight [tokens] or NULL; loss [1]; all
              on the device
    Memory    scratch: awq_cuda_loss_size() bytes on the device, aligned to 16; 0 from it: overflow
    Errors    NULL, SHAPE, CONFIG, DTYPE, MEMORY, CUDA
    Numerics  d has the bits of awq_fake_quantize; dots in fp32, squares and sums in double in a
              fixed order
    Source    as awq_search                                                                       */
AWQDEF size_t     awq_cuda_loss_size(size_t out_features, size_t in_features, size_t tokens);
AWQDEF awq_status awq_cuda_loss(awq_cuda *cuda, awq_quant quant, awq_matrix weight,
                                const float *scale, awq_matrix x, const float *token_weight,
                                void *scratch, size_t scratch_size, double *loss);

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>cuda-repack   packed tensors and AutoAWQ's layouts to the kernels' layout
   ============================================================================================== */

/*  awq_cuda_tensor_init  -  lay a linear out in awq_cuda_tensor_size() bytes

    Shapes    any out_features; in_features a multiple of 8
    Memory    host or device, aligned to 16 bytes (128 is fastest); not touched. The size is 0
              where init would fail.
    Errors    NULL, SHAPE (0, 2^31, or beyond 2^31 tiles), CONFIG (bits is not 4), DTYPE (dtype is
              not fp16 or bf16), IN_FEATURES, GROUP_SIZE, MEMORY                                  */
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
    Errors    as awq_cuda_repack; CONFIG also: another layout; SHAPE also: an odd stride          */
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

/*  What awq_cuda_matmul runs for this many tokens: up to 8 GEMV, from 65 on WGMMA where the device
    has it, else GEMM. docs/cuda.md says why.                                                     */
AWQDEF awq_cuda_kernel awq_cuda_pick(const awq_cuda *cuda, const awq_cuda_tensor *tensor,
                                     size_t tokens);

/*  Bytes of workspace for every call with 1 .. max_tokens tokens, whatever the tensor. Zero it
    once; every call leaves its counters, the first bytes of it, at zero. Calls on one stream share
    it. It may be NULL where this is 0, and is not touched where tiles need not be cut.           */
AWQDEF size_t awq_cuda_workspace_size(const awq_cuda *cuda, size_t max_tokens);

/*  awq_cuda_matmul, awq_cuda_matmul_with  -  apply a linear to a batch of tokens

    Formula   y[t][r] = sum_c x[t][c] (q[r][c] - zero) scale + bias[r] + residual[t][r]
    Shapes    x (tokens, in_features), y and residual (tokens, out_features), bias [out_features];
              all of tensor->dtype. bias NULL, residual.data NULL: none.
    Memory    x.data a multiple of 16 bytes, its stride of 8 elements; y may be the residual
    Errors    NULL, SHAPE, DTYPE, MEMORY (alignment, workspace), CONFIG (no such kernel), RANGE (too
              many tokens for the kernel), DEVICE, CUDA
    Numerics  fp32 sums in an order that depends on shape, kernel and device only. Portable: What is
              exact. GEMV, and GEMM up to 16 tokens: so it is, but its sums carry offset * (sum of
              x of a group), offset = 256 for half of the rows, 16 for the other (bf16: 32), until
              the group ends. GEMM for more tokens, WGMMA: What is rounded to dtype first, as
              awq_cuda_dequantize and a GEMM of the host would do. docs/cuda.md has the bounds.   */
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

/* wgmma is of sm_90a alone. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#  define AWQ_CUDA__WGMMA 1
#else
#  define AWQ_CUDA__WGMMA 0
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

/* Four 8 x 8 matrices of 16-bit numbers; lane l brings the address of row l % 8 of matrix l / 8,
   and gets elements 2 (l % 4), + 1 of row l / 4 of each. */
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

/* Until `threads` threads, whole warps, have come to barrier `id`; 0 is that of __syncthreads. */
AWQ_CUDA__DEVICE void awq_cuda__barrier(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

/* Any function of three bits, in every bit: LUT = f(0xf0, 0xcc, 0xaa). */
template <int LUT>
AWQ_CUDA__DEVICE unsigned awq_cuda__lop3(unsigned a, unsigned b, unsigned c) {
    unsigned d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(LUT));
    return d;
}

#if AWQ_CUDA__WGMMA

/* Between what a warpgroup wrote to registers and the wgmma that read them. */
AWQ_CUDA__DEVICE void awq_cuda__wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
AWQ_CUDA__DEVICE void awq_cuda__wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> AWQ_CUDA__DEVICE void awq_cuda__wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}
/* Shared memory that this thread wrote may be read by wgmma after the next barrier. */
AWQ_CUDA__DEVICE void awq_cuda__fence_proxy() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* How many registers a thread of this warpgroup has from here on: what one leaves another takes. */
template <int N> AWQ_CUDA__DEVICE void awq_cuda__registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}
template <int N> AWQ_CUDA__DEVICE void awq_cuda__registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}

/* A barrier in shared memory, whose phases, of parity 0, 1, 0 ..., take `count` arrivals each. */
AWQ_CUDA__DEVICE void awq_cuda__mbarrier_init(uint64_t *barrier, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                 :: "r"(awq_cuda__address(barrier)), "r"(count) : "memory");
}
AWQ_CUDA__DEVICE void awq_cuda__mbarrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
                 :: "r"(awq_cuda__address(barrier)) : "memory");
}
/* Until the last phase of this parity is complete; of parity 1, at first, it is. */
AWQ_CUDA__DEVICE void awq_cuda__mbarrier_wait(uint64_t *barrier, unsigned parity) {
    unsigned done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(awq_cuda__address(barrier)), "r"(parity) : "memory");
    } while (!done);
}

/* d += a b: 64 x 16, a tile of 16 rows in each warp's registers, times 16 x 128 in shared memory */
#define AWQ_CUDA__WGMMA_OF(type)                                                                   \
    AWQ_CUDA__DEVICE void awq_cuda__wgmma_m64n128k16_##type(float (&d)[64], const unsigned *a,     \
                                                            uint64_t b) {                          \
        asm volatile(                                                                              \
            "wgmma.mma_async.sync.aligned.m64n128k16.f32." #type "." #type " {"                    \
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "               \
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "     \
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "     \
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "    \
            "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"                                               \
            :                                                                                      \
              "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),                                      \
              "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),                                      \
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),                                    \
              "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),                                  \
              "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),                                  \
              "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),                                  \
              "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),                                  \
              "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),                                  \
              "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),                                  \
              "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),                                  \
              "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),                                  \
              "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),                                  \
              "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]),                                  \
              "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),                                  \
              "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),                                  \
              "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])                                   \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                 \
    }
AWQ_CUDA__WGMMA_OF(f16)
AWQ_CUDA__WGMMA_OF(bf16)
#undef AWQ_CUDA__WGMMA_OF

#endif

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

/* fp16 -> fp32 and back by integers, for the host and for what is not worth an intrinsic. */
AWQ_CUDA__BOTH float awq_cuda__half_to_float(uint16_t h) {
    uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = h & 0x7fffu;
    float f;
    if (rest >= 0x7c00u) return awq_cuda__bits<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    f = awq_cuda__bits<float>(rest << 13) * awq_cuda__bits<float>(0x77800000u); /* 2^112 */
    return awq_cuda__bits<float>(awq_cuda__bits<uint32_t>(f) | sign);
}
AWQ_CUDA__BOTH uint16_t awq_cuda__float_to_half(float x) { /* finite, 2^-24 .. 65504 */
    uint32_t u = awq_cuda__bits<uint32_t>(x), shift, lost;
    if (u < 0x38800000u) { /* to be subnormal: the last bit is worth 2^-24 */
        shift = 126 - (u >> 23);
        u = (u & 0x7fffffu) | 0x800000u;
    } else {
        shift = 13;
        u -= 0x38000000u;
    }
    lost = u & ((1u << shift) - 1);
    u >>= shift;
    return static_cast<uint16_t>(
        u + (lost > 1u << (shift - 1) || (lost == 1u << (shift - 1) && (u & 1u))));
}
AWQ_CUDA__BOTH uint16_t awq_cuda__float_to_bf16(float x) {
    uint32_t u = awq_cuda__bits<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
    return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

#if AWQ_CUDA__TENSOR
/* Two fields of a word, one in each half, become a pair of numbers: the mask leaves four bits of
   the mantissa, the offset brings exponents that make the lowest of them worth 1. */
AWQ_CUDA__DEVICE unsigned awq_cuda__take(unsigned word, unsigned mask, unsigned offset) {
    return awq_cuda__lop3<(0xf0 & 0xcc) | 0xaa>(word, mask, offset);
}
#endif

/* What kernels know of a dtype. Pairs are two numbers in a register, the first one low. */
struct awq_cuda__f16 {
    AWQ_CUDA__DEVICE float to_float(uint16_t h) {
        return __half2float(awq_cuda__bits<__half>(h));
    }
    AWQ_CUDA__DEVICE uint16_t from_float(float x) {
        return awq_cuda__bits<uint16_t>(__float2half_rn(x));
    }
#if AWQ_CUDA__TENSOR
    /* nibbles 0 and 4 as 256 + q, nibbles 1 and 5 as 16 + q */
    static const unsigned low_offset = 0x5c005c00u, high_offset = 0x4c004c00u;
    static const unsigned low_bits = 8, high_bits = 4;
    AWQ_CUDA__DEVICE unsigned low(unsigned w) { return awq_cuda__take(w, 0x003c003cu, low_offset); }
    AWQ_CUDA__DEVICE unsigned high(unsigned w) {
        return awq_cuda__take(w, 0x03c003c0u, high_offset);
    }
    AWQ_CUDA__DEVICE unsigned subtract(unsigned a, unsigned b) {
        return awq_cuda__bits<unsigned>(
            __hsub2(awq_cuda__bits<__half2>(a), awq_cuda__bits<__half2>(b)));
    }
    AWQ_CUDA__DEVICE unsigned multiply(unsigned a, unsigned b) {
        return awq_cuda__bits<unsigned>(
            __hmul2(awq_cuda__bits<__half2>(a), awq_cuda__bits<__half2>(b)));
    }
    AWQ_CUDA__DEVICE void mma(float *d, const unsigned *a, const unsigned *b) {
        awq_cuda__mma_m16n8k16_f16(d, a, b);
    }
#endif
#if AWQ_CUDA__WGMMA
    AWQ_CUDA__DEVICE void wgmma(float (&d)[64], const unsigned *a, uint64_t b) {
        awq_cuda__wgmma_m64n128k16_f16(d, a, b);
    }
#endif
};

/* Conversions not by cuda_bf16.h: the same on every device. */
struct awq_cuda__bf16 {
    AWQ_CUDA__DEVICE float to_float(uint16_t h) {
        return awq_cuda__bits<float>(static_cast<uint32_t>(h) << 16);
    }
    AWQ_CUDA__DEVICE uint16_t from_float(float x) { return awq_cuda__float_to_bf16(x); }
#if AWQ_CUDA__TENSOR
    /* both as 32 + q: a mantissa has no room for two fields */
    static const unsigned low_offset = 0x42004200u, high_offset = 0x42004200u;
    static const unsigned low_bits = 5, high_bits = 5;
    AWQ_CUDA__DEVICE unsigned low(unsigned w) { return awq_cuda__take(w, 0x003c003cu, low_offset); }
    AWQ_CUDA__DEVICE unsigned high(unsigned w) { return low(w >> 4); }
    AWQ_CUDA__DEVICE unsigned subtract(unsigned a, unsigned b) {
        return awq_cuda__bits<unsigned>(
            __hsub2(awq_cuda__bits<__nv_bfloat162>(a), awq_cuda__bits<__nv_bfloat162>(b)));
    }
    AWQ_CUDA__DEVICE unsigned multiply(unsigned a, unsigned b) {
        return awq_cuda__bits<unsigned>(
            __hmul2(awq_cuda__bits<__nv_bfloat162>(a), awq_cuda__bits<__nv_bfloat162>(b)));
    }
    AWQ_CUDA__DEVICE void mma(float *d, const unsigned *a, const unsigned *b) {
        awq_cuda__mma_m16n8k16_bf16(d, a, b);
    }
#endif
#if AWQ_CUDA__WGMMA
    AWQ_CUDA__DEVICE void wgmma(float (&d)[64], const unsigned *a, uint64_t b) {
        awq_cuda__wgmma_m64n128k16_bf16(d, a, b);
    }
#endif
};

/* =================================================================================================
   >>layout   where everything is
   ============================================================================================== */

static size_t awq_cuda__ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
static size_t awq_cuda__min(size_t a, size_t b) { return a < b ? a : b; }

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

/* q of nibble n of a word. */
AWQ_CUDA__BOTH unsigned awq_cuda__get(unsigned word, unsigned n) {
    return (word >> 2 | word << 30) >> 4 * n & 15u;
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
    if (out > 0x7fffffffu || in > 0x7fffffffu || strips > 0x7fffffffu / blocks)
        return AWQ_ERR_SHAPE;
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

static awq_status awq_cuda__failed(awq_cuda *cuda, AWQ_CUDA_API(Error_t) error) {
    cuda->error = error;
    return error == AWQ_CUDA_API(Success) ? AWQ_OK : AWQ_ERR_CUDA;
}

/* What the runtime says about the launch before; does not wait for it. */
static awq_status awq_cuda__launched(awq_cuda *cuda) {
    return awq_cuda__failed(cuda, AWQ_CUDA_API(GetLastError)());
}

/* A dense or strided view whose rows begin at multiples of 16 bytes. */
static awq_status awq_cuda__check_rows(awq_matrix m, size_t rows, size_t cols, awq_dtype dtype) {
    if (!m.data && rows) return AWQ_ERR_NULL;
    if (m.dtype != dtype) return AWQ_ERR_DTYPE;
    if (m.rows != rows || m.cols != cols || m.stride < cols) return AWQ_ERR_SHAPE;
    return reinterpret_cast<uintptr_t>(m.data) % 2 ? AWQ_ERR_MEMORY : AWQ_OK;
}
static awq_status awq_cuda__check_aligned(awq_matrix m) {
    return reinterpret_cast<uintptr_t>(m.data) % 16 || m.stride % 8 ? AWQ_ERR_MEMORY : AWQ_OK;
}

#ifndef AWQ_INFERENCE_ONLY

/* =================================================================================================
   >>calibrate
   ============================================================================================== */

#define AWQ_CUDA__TOKENS 1024 /* of one launch */

AWQ_CUDA__DEVICE float awq_cuda__load(const void *data, awq_dtype dtype, size_t at) {
    if (dtype == AWQ_F32) return static_cast<const float *>(data)[at];
    const uint16_t h = static_cast<const uint16_t *>(data)[at];
    return dtype == AWQ_F16 ? awq_cuda__f16::to_float(h) : awq_cuda__bf16::to_float(h);
}

/* The row of the sketch that a token is added to, and sign * sqrt(weight); factor 0: not read. */
struct awq_cuda__token { unsigned row; float root, weight, sign; };

struct awq_cuda__stats_job {
    awq_cuda_stats stats;
    const void *x;
    size_t stride;
    awq_dtype dtype;
    unsigned tokens;
    const float *token_weight;
};

/* As awq__sketch_row. */
AWQ_CUDA__DEVICE void awq_cuda__draw_row(const awq_cuda_stats &s, uint64_t number,
                                         awq_cuda__token *token) {
    uint64_t h = s.sketch_seed + number * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    h ^= h >> 31;
    token->sign = h & 1u ? -1.0f : 1.0f;
    token->row = static_cast<unsigned>((h >> 1) % s.sketch_rows);
}

/* One thread block. Tokens of weight > 0 are numbered through, over all calls. */
static __global__ void __launch_bounds__(AWQ_CUDA__TOKENS)
awq_cuda__draw_rows(awq_cuda__stats_job job) {
    AWQ_CUDA__SHARED(shared);
    unsigned *before = reinterpret_cast<unsigned *>(shared); /* [2][tokens] */
    const unsigned t = threadIdx.x;
    const uint64_t count = *job.stats.count;
    awq_cuda__token token = { 0, 0, 0, 0 };
    if (t < job.tokens) token.weight = job.token_weight ? job.token_weight[t] : 1.0f;
    if (!(token.weight > 0)) token.weight = 0;
    before[t] = token.weight > 0;
    __syncthreads();
    unsigned at = 0;
    for (unsigned step = 1; step < AWQ_CUDA__TOKENS; step *= 2, at ^= 1) {
        const unsigned *from = before + at * AWQ_CUDA__TOKENS;
        before[(at ^ 1) * AWQ_CUDA__TOKENS + t] = from[t] + (t >= step ? from[t - step] : 0);
        __syncthreads();
    }
    const unsigned *numbers = before + at * AWQ_CUDA__TOKENS;
    token.root = __fsqrt_rn(token.weight);
    if (token.weight > 0 && job.stats.sketch)
        awq_cuda__draw_row(job.stats, job.stats.first_token + count + numbers[t] - 1, &token);
    if (t < job.tokens) static_cast<awq_cuda__token *>(job.stats.tokens)[t] = token;
    if (t != 0) return;
    *job.stats.count = count + numbers[AWQ_CUDA__TOKENS - 1];
    double weight = *job.stats.weight; /* in the order of the tokens, as on the host */
    for (unsigned i = 0; i < job.tokens; i++) {
        const float w = job.token_weight ? job.token_weight[i] : 1.0f;
        if (w > 0) weight += static_cast<double>(w);
    }
    *job.stats.weight = weight;
}

/* A thread per channel, tokens in order: the sums are those of the host, bit for bit. */
static __global__ void __launch_bounds__(64) awq_cuda__add_moments(awq_cuda__stats_job job) {
    const size_t c = static_cast<size_t>(blockIdx.x) * 64 + threadIdx.x;
    const awq_cuda_stats &s = job.stats;
    const awq_cuda__token *tokens = static_cast<const awq_cuda__token *>(s.tokens);
    if (c >= s.in_features) return;
    float abs_max = s.abs_max[c];
    double abs_sum = s.abs_sum[c], sq_sum = s.sq_sum[c];
#pragma unroll 4
    for (unsigned t = 0; t < job.tokens; t++) {
        const awq_cuda__token token = tokens[t];
        if (!(token.weight > 0)) continue;
        const float x = awq_cuda__load(job.x, job.dtype, t * job.stride + c);
        const float a = x < 0 ? -x : x;
        const double w = static_cast<double>(token.weight), wide = static_cast<double>(a);
        if (!(a <= abs_max) && abs_max == abs_max) abs_max = a; /* a NaN stays */
        abs_sum = __dadd_rn(abs_sum, __dmul_rn(w, wide));
        sq_sum = __dadd_rn(sq_sum, __dmul_rn(w, __dmul_rn(wide, wide)));
        if (!s.sketch) continue;
        float *at = s.sketch + token.row * s.in_features + c;
        *at = __fadd_rn(*at, __fmul_rn(token.sign, __fmul_rn(x, token.root)));
    }
    s.abs_max[c] = abs_max;
    s.abs_sum[c] = abs_sum;
    s.sq_sum[c] = sq_sum;
}

#define AWQ_CUDA__STATS_FIXED (16 + AWQ_CUDA__TOKENS * sizeof(awq_cuda__token))

AWQDEF size_t awq_cuda_stats_size(size_t in_features, size_t sketch_rows) {
    if (in_features == 0 || in_features > 0x7fffffffu) return 0;
    if (sketch_rows > (SIZE_MAX - AWQ_CUDA__STATS_FIXED) / in_features / 4 - 5) return 0;
    return AWQ_CUDA__STATS_FIXED + in_features * (20 + 4 * sketch_rows);
}

AWQDEF awq_status awq_cuda_stats_init(awq_cuda *cuda, awq_cuda_stats *stats, size_t in_features,
                                      size_t sketch_rows, uint64_t sketch_seed, void *memory,
                                      size_t memory_size) {
    const size_t size = awq_cuda_stats_size(in_features, sketch_rows);
    unsigned char *bytes = static_cast<unsigned char *>(memory);
    if (!cuda || !stats || !memory) return AWQ_ERR_NULL;
    if (!size) return AWQ_ERR_SHAPE;
    if (memory_size < size || reinterpret_cast<uintptr_t>(memory) % 16) return AWQ_ERR_MEMORY;
    stats->in_features = in_features;
    stats->sketch_rows = sketch_rows;
    stats->sketch_seed = sketch_seed;
    stats->first_token = 0;
    stats->count = reinterpret_cast<uint64_t *>(bytes);
    stats->weight = reinterpret_cast<double *>(bytes + 8);
    stats->tokens = bytes + 16;
    stats->abs_sum = reinterpret_cast<double *>(bytes + AWQ_CUDA__STATS_FIXED);
    stats->sq_sum = stats->abs_sum + in_features;
    stats->abs_max = reinterpret_cast<float *>(stats->sq_sum + in_features);
    stats->sketch = sketch_rows ? stats->abs_max + in_features : NULL;
    return awq_cuda__failed(cuda, AWQ_CUDA_API(MemsetAsync)(memory, 0, size, cuda->stream));
}

/* A matrix on the device, of any dtype. */
static awq_status awq_cuda__check_matrix(awq_matrix m) {
    if (!awq_dtype_size(m.dtype)) return AWQ_ERR_DTYPE;
    if (!m.data && m.rows) return AWQ_ERR_NULL;
    return m.cols == 0 || m.stride < m.cols || m.rows > 0x7fffffffu ? AWQ_ERR_SHAPE : AWQ_OK;
}

AWQDEF awq_status awq_cuda_stats_add(awq_cuda *cuda, awq_cuda_stats *stats, awq_matrix x,
                                     const float *token_weight) {
    awq_cuda__stats_job job;
    size_t first;
    if (!cuda || !stats || !stats->count) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__check_matrix(x));
    if (x.cols != stats->in_features) return AWQ_ERR_SHAPE;
    const unsigned blocks = static_cast<unsigned>(awq_cuda__ceil_div(x.cols, 64));
    job.stats = *stats;
    job.stride = x.stride;
    job.dtype = x.dtype;
    for (first = 0; first < x.rows; first += AWQ_CUDA__TOKENS) {
        job.x = static_cast<const unsigned char *>(x.data) +
                first * x.stride * awq_dtype_size(x.dtype);
        job.token_weight = token_weight ? token_weight + first : NULL;
        job.tokens = static_cast<unsigned>(awq_cuda__min(x.rows - first, AWQ_CUDA__TOKENS));
        AWQ_CUDA__LAUNCH(awq_cuda__draw_rows, 1, AWQ_CUDA__TOKENS, 2 * AWQ_CUDA__TOKENS * 4,
                         cuda->stream, job);
        AWQ_CUDA__TRY(awq_cuda__launched(cuda));
        AWQ_CUDA__LAUNCH(awq_cuda__add_moments, blocks, 64, 0, cuda->stream, job);
        AWQ_CUDA__TRY(awq_cuda__launched(cuda));
    }
    return AWQ_OK;
}

AWQDEF awq_status awq_cuda_stats_copy(awq_cuda *cuda, const awq_cuda_stats *from, awq_stats *to) {
    size_t n;
    if (!cuda || !from || !from->count || !to || !to->abs_max) return AWQ_ERR_NULL;
    n = from->in_features;
    if (to->in_features != n || to->sketch_rows != from->sketch_rows ||
        to->sketch_seed != from->sketch_seed || to->first_token != from->first_token || to->gram)
        return AWQ_ERR_SHAPE;
    struct { void *to; const void *from; size_t size; } copies[6] = {
        { &to->count, from->count, 8 },
        { &to->weight, from->weight, 8 },
        { to->abs_sum, from->abs_sum, n * 8 },
        { to->sq_sum, from->sq_sum, n * 8 },
        { to->abs_max, from->abs_max, n * 4 },
        { to->sketch, from->sketch, n * from->sketch_rows * 4 }
    };
    for (int i = 0; i < (from->sketch ? 6 : 5); i++)
        AWQ_CUDA__TRY(awq_cuda__failed(
            cuda, AWQ_CUDA_API(MemcpyAsync)(copies[i].to, copies[i].from, copies[i].size,
                                            AWQ_CUDA_API(MemcpyDeviceToHost), cuda->stream)));
    return AWQ_OK;
}

/* =================================================================================================
   >>loss   of a candidate scale, exactly as the search of awq.h defines it
   ============================================================================================== */

#define AWQ_CUDA__LOSS_ROWS 1024    /* of W whose errors are held at a time */
#define AWQ_CUDA__LOSS_TILE 64      /* rows x tokens of a thread block */
#define AWQ_CUDA__LOSS_STEP 16      /* inputs at a time */

struct awq_cuda__loss_job {
    const void *weight, *x;
    const float *scale, *token_weight;
    size_t weight_stride, x_stride;
    awq_dtype weight_dtype, x_dtype;
    awq_quant quant;
    unsigned first, rows; /* of W */
    unsigned in_features, group_size, groups, tokens;
    float *errors;   /* [rows][in_features] */
    double *sums;    /* [thread blocks] */
    unsigned count;  /* of sums */
    double *loss;
};

/* As awq__to_dtype, of a number >= the dtype's smallest scale. */
AWQ_CUDA__DEVICE float awq_cuda__to_dtype(float x, awq_dtype dtype) {
    if (dtype == AWQ_F32) return x;
    if (dtype == AWQ_BF16) return awq_cuda__bf16::to_float(awq_cuda__float_to_bf16(x));
    return x >= 65520.0f ? awq_cuda__bits<float>(0x7f800000u)
                         : awq_cuda__half_to_float(awq_cuda__float_to_half(x));
}

struct awq_cuda__range { float scale, zero; };

/* As awq__fit_range; scale is infinite where that refuses. */
AWQ_CUDA__DEVICE awq_cuda__range awq_cuda__fit_range(awq_quant quant, float lo, float hi) {
    const float levels = static_cast<float>((1 << quant.bits) - 1);
    const float half = static_cast<float>(1 << (quant.bits - 1)), span = hi - lo;
    const float least = quant.scale_dtype == AWQ_F16 ? 5.9604645e-8f : 1.17549435e-38f;
    float raw;
    awq_cuda__range range;
    if (quant.symmetric) raw = __fdiv_rn(-lo > hi ? -lo : hi, half - 1);
    else raw = span <= 3.4028235e38f ? __fdiv_rn(span, levels)
                                     : __fdiv_rn(hi, levels) - __fdiv_rn(lo, levels);
    if (raw < least) raw = least;
    range.zero = quant.symmetric ? half : rintf(__fdiv_rn(-lo, raw));
    range.scale = awq_cuda__to_dtype(raw, quant.scale_dtype);
    const float reach = quant.symmetric        ? half - 1
                        : range.zero >= half ? range.zero : levels - range.zero;
    if (!(__fmul_rn(range.scale, reach) <= 3.4028235e38f))
        range.scale = awq_cuda__bits<float>(0x7f800000u);
    return range;
}

AWQ_CUDA__DEVICE float awq_cuda__scaled(const awq_cuda__loss_job &job, size_t row, unsigned c) {
    const float w = awq_cuda__load(job.weight, job.weight_dtype, row * job.weight_stride + c);
    return job.scale ? __fmul_rn(w, job.scale[c]) : w;
}

/* d = Q(W s) / s - W: 32 threads per row and group, 4 of them in a thread block. */
static __global__ void __launch_bounds__(128) awq_cuda__errors(awq_cuda__loss_job job) {
    AWQ_CUDA__SHARED(shared);
    float *low = reinterpret_cast<float *>(shared), *high = low + 128;
    const unsigned lane = threadIdx.x % 32, team = threadIdx.x / 32 * 32;
    const size_t cell = static_cast<size_t>(blockIdx.x) * 4 + threadIdx.x / 32;
    const unsigned row = static_cast<unsigned>(cell / job.groups);
    const unsigned begin = static_cast<unsigned>(cell % job.groups) * job.group_size;
    const unsigned end = job.in_features - begin < job.group_size ? job.in_features
                                                                  : begin + job.group_size;
    const bool valid = row < job.rows;
    float lo = 0, hi = 0;
    for (unsigned c = begin + lane; valid && c < end; c += 32) {
        const float u = awq_cuda__scaled(job, job.first + row, c);
        if (u < lo) lo = u;
        if (!(u <= hi) && hi == hi) hi = u; /* a NaN stays */
    }
    low[threadIdx.x] = lo;
    high[threadIdx.x] = hi;
    __syncthreads();
    if (!valid) return;
    for (unsigned i = 0; i < 32; i++) {
        lo = low[team + i] < lo ? low[team + i] : lo;
        hi = hi <= high[team + i] || high[team + i] != high[team + i] ? high[team + i] : hi;
    }
    const awq_cuda__range range = awq_cuda__fit_range(job.quant, lo, hi);
    const float levels = static_cast<float>((1 << job.quant.bits) - 1);
    for (unsigned c = begin + lane; c < end; c += 32) {
        const float w =
            awq_cuda__load(job.weight, job.weight_dtype, (job.first + row) * job.weight_stride + c);
        float v = rintf(__fdiv_rn(awq_cuda__scaled(job, job.first + row, c), range.scale)) +
                  range.zero;
        v = v < 0 ? 0 : v > levels ? levels : v;
        v = __fmul_rn(v - range.zero, range.scale);
        if (job.scale) v = __fdiv_rn(v, job.scale[c]);
        job.errors[static_cast<size_t>(row) * job.in_features + c] = v - w;
    }
}

/* 64 rows of d times 64 tokens of x, 4 x 4 of each thread; the squares are summed in double. */
static __global__ void __launch_bounds__(256) awq_cuda__squares(awq_cuda__loss_job job) {
    AWQ_CUDA__SHARED(shared);
    typedef float line[AWQ_CUDA__LOSS_TILE + 4];
    line *d = reinterpret_cast<line *>(shared), *x = d + AWQ_CUDA__LOSS_STEP;
    double *sums = reinterpret_cast<double *>(shared);
    const unsigned row = blockIdx.x * AWQ_CUDA__LOSS_TILE, token = blockIdx.y * AWQ_CUDA__LOSS_TILE;
    const unsigned r = threadIdx.x / 16 * 4, t = threadIdx.x % 16 * 4;
    float y[4][4] = { { 0 }, { 0 }, { 0 }, { 0 } };
    for (unsigned k = 0; k < job.in_features; k += AWQ_CUDA__LOSS_STEP) {
        for (unsigned i = threadIdx.x; i < AWQ_CUDA__LOSS_STEP * AWQ_CUDA__LOSS_TILE; i += 256) {
            const unsigned c = k + i % AWQ_CUDA__LOSS_STEP, n = i / AWQ_CUDA__LOSS_STEP;
            const bool has_input = c < job.in_features;
            d[i % AWQ_CUDA__LOSS_STEP][n] =
                has_input && row + n < job.rows
                    ? job.errors[static_cast<size_t>(row + n) * job.in_features + c] : 0;
            x[i % AWQ_CUDA__LOSS_STEP][n] =
                has_input && token + n < job.tokens
                    ? awq_cuda__load(job.x, job.x_dtype, (token + n) * job.x_stride + c) : 0;
        }
        __syncthreads();
#pragma unroll
        for (unsigned c = 0; c < AWQ_CUDA__LOSS_STEP; c++)
#pragma unroll
            for (unsigned i = 0; i < 16; i++) y[i / 4][i % 4] += d[c][r + i / 4] * x[c][t + i % 4];
        __syncthreads();
    }
    double sum = 0;
    for (unsigned i = 0; i < 16; i++) {
        const unsigned at = token + t + i % 4;
        const double v = static_cast<double>(y[i / 4][i % 4]);
        const float w = at < job.tokens && job.token_weight ? job.token_weight[at] : 1.0f;
        sum += static_cast<double>(w) * (v * v);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned step = 128; step > 0; step /= 2) {
        if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) job.sums[blockIdx.y * gridDim.x + blockIdx.x] = sums[0];
}

static __global__ void __launch_bounds__(256) awq_cuda__add_sums(awq_cuda__loss_job job) {
    AWQ_CUDA__SHARED(shared);
    double *sums = reinterpret_cast<double *>(shared), sum = 0;
    for (unsigned i = threadIdx.x; i < job.count; i += 256) sum += job.sums[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned step = 128; step > 0; step /= 2) {
        if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    sum = sums[0] + (job.first ? *job.loss : 0);
    *job.loss = sum == sum ? sum : static_cast<double>(awq_cuda__bits<float>(0x7f800000u));
}

static size_t awq_cuda__loss_rows(size_t out) { return awq_cuda__min(out, AWQ_CUDA__LOSS_ROWS); }
static size_t awq_cuda__loss_sums(size_t out, size_t tokens) {
    return awq_cuda__ceil_div(awq_cuda__loss_rows(out), AWQ_CUDA__LOSS_TILE) *
           awq_cuda__ceil_div(tokens, AWQ_CUDA__LOSS_TILE);
}

AWQDEF size_t awq_cuda_loss_size(size_t out_features, size_t in_features, size_t tokens) {
    if (out_features == 0 || in_features == 0 || tokens == 0 || out_features > 0x7fffffffu ||
        in_features > 0x7fffffffu || tokens > 65535 * AWQ_CUDA__LOSS_TILE)
        return 0;
    if (in_features > SIZE_MAX / 16 / AWQ_CUDA__LOSS_ROWS) return 0;
    return awq_cuda__loss_sums(out_features, tokens) * sizeof(double) +
           awq_cuda__loss_rows(out_features) * in_features * sizeof(float);
}

static awq_status awq_cuda__loss_of_rows(awq_cuda *cuda, awq_cuda__loss_job *job) {
    const unsigned cells =
        static_cast<unsigned>(awq_cuda__ceil_div(static_cast<size_t>(job->rows) * job->groups, 4));
    dim3 grid(static_cast<unsigned>(awq_cuda__ceil_div(job->rows, AWQ_CUDA__LOSS_TILE)),
              static_cast<unsigned>(awq_cuda__ceil_div(job->tokens, AWQ_CUDA__LOSS_TILE)));
    job->count = grid.x * grid.y;
    AWQ_CUDA__LAUNCH(awq_cuda__errors, cells, 128, 1024, cuda->stream, *job);
    AWQ_CUDA__TRY(awq_cuda__launched(cuda));
    AWQ_CUDA__LAUNCH(awq_cuda__squares, grid, 256,
                     2 * AWQ_CUDA__LOSS_STEP * (AWQ_CUDA__LOSS_TILE + 4) * 4, cuda->stream, *job);
    AWQ_CUDA__TRY(awq_cuda__launched(cuda));
    AWQ_CUDA__LAUNCH(awq_cuda__add_sums, 1, 256, 256 * 8, cuda->stream, *job);
    return awq_cuda__launched(cuda);
}

AWQDEF awq_status awq_cuda_loss(awq_cuda *cuda, awq_quant quant, awq_matrix weight,
                                const float *scale, awq_matrix x, const float *token_weight,
                                void *scratch, size_t scratch_size, double *loss) {
    awq_cuda__loss_job job;
    size_t size = awq_cuda_loss_size(weight.rows, weight.cols, x.rows);
    if (!cuda || !scratch || !loss) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__check_matrix(weight));
    AWQ_CUDA__TRY(awq_cuda__check_matrix(x));
    if (x.cols != weight.cols || x.rows == 0 || weight.rows == 0) return AWQ_ERR_SHAPE;
    if (awq_packed_size(quant, 1, weight.cols) == 0) return AWQ_ERR_CONFIG;
    if (!size || scratch_size < size || reinterpret_cast<uintptr_t>(scratch) % 16)
        return AWQ_ERR_MEMORY;
    memset(&job, 0, sizeof job);
    job.weight = weight.data;
    job.x = x.data;
    job.scale = scale;
    job.token_weight = token_weight;
    job.weight_stride = weight.stride;
    job.x_stride = x.stride;
    job.weight_dtype = weight.dtype;
    job.x_dtype = x.dtype;
    job.quant = quant;
    job.in_features = static_cast<unsigned>(weight.cols);
    job.group_size = quant.group_size == -1 ? job.in_features
                                            : static_cast<unsigned>(quant.group_size);
    job.groups = static_cast<unsigned>(awq_group_count(weight.cols, quant.group_size));
    job.tokens = static_cast<unsigned>(x.rows);
    job.sums = static_cast<double *>(scratch);
    job.errors = reinterpret_cast<float *>(job.sums + awq_cuda__loss_sums(weight.rows, x.rows));
    job.loss = loss;
    for (size_t first = 0; first < weight.rows; first += AWQ_CUDA__LOSS_ROWS) {
        job.first = static_cast<unsigned>(first);
        job.rows = static_cast<unsigned>(awq_cuda__min(weight.rows - first, AWQ_CUDA__LOSS_ROWS));
        AWQ_CUDA__TRY(awq_cuda__loss_of_rows(cuda, &job));
    }
    return AWQ_OK;
}

#endif /* AWQ_INFERENCE_ONLY */

/* =================================================================================================
   >>repack   from a layout that is a permutation of bits: see >>impl-layouts of awq.h
   ============================================================================================== */

/* The low `bits` bits of an index move it by move[]; what is above them, by `step` each. */
struct awq_cuda__axis {
    unsigned bits, move[6];
    size_t step;
};
struct awq_cuda__field {
    const unsigned char *data;
    awq_cuda__axis n, k;
};

enum awq_cuda__zero_kind { AWQ_CUDA__ZERO_IS_8, AWQ_CUDA__ZERO_NIBBLE, AWQ_CUDA__ZERO_SCALED };

struct awq_cuda__source {
    awq_cuda__field q, scales, zeros; /* in nibbles; scales, and scaled zeros, in elements */
    awq_dtype scale_dtype;
    awq_cuda__zero_kind zero_kind;
    unsigned groups;
};

struct awq_cuda__repack_job {
    awq_cuda__source from;
    awq_cuda__weights w;
    uint4 *q;
    uint16_t *scales;
    unsigned char *zeros;
    awq_dtype dtype;
};

AWQ_CUDA__BOTH size_t awq_cuda__axis_at(const awq_cuda__axis &axis, unsigned index) {
    size_t at = (index >> axis.bits) * axis.step;
    for (unsigned b = 0; b < axis.bits; b++)
        if (index >> b & 1u) at += axis.move[b];
    return at;
}
AWQ_CUDA__BOTH unsigned awq_cuda__nibble(const awq_cuda__field &field, unsigned n, unsigned k) {
    size_t at = awq_cuda__axis_at(field.n, n) + awq_cuda__axis_at(field.k, k);
    return static_cast<unsigned>(field.data[at / 2]) >> at % 2 * 4 & 15u;
}
AWQ_CUDA__BOTH float awq_cuda__number(const awq_cuda__field &field, awq_dtype dtype, unsigned n,
                                      unsigned k) {
    size_t at = awq_cuda__axis_at(field.n, n) + awq_cuda__axis_at(field.k, k);
    const unsigned char *p = field.data + at * (dtype == AWQ_F32 ? 4 : 2);
    uint32_t low = p[0] | static_cast<uint32_t>(p[1]) << 8;
    if (dtype == AWQ_F16) return awq_cuda__half_to_float(static_cast<uint16_t>(low));
    if (dtype == AWQ_BF16) return awq_cuda__bits<float>(low << 16);
    return awq_cuda__bits<float>(low | static_cast<uint32_t>(p[2]) << 16 |
                                 static_cast<uint32_t>(p[3]) << 24);
}

/* Rounded to dtype, within its numbers > 0; NaN stays NaN. */
AWQ_CUDA__BOTH uint16_t awq_cuda__fit_scale(float scale, awq_dtype dtype) {
    const float least = dtype == AWQ_F16 ? 5.9604645e-8f : 1.17549435e-38f;
    const float most = dtype == AWQ_F16 ? 65504.0f : 3.3895314e38f;
    if (!(scale == scale)) return 0x7fff;
    scale = scale < least ? least : scale > most ? most : scale;
    return dtype == AWQ_F16 ? awq_cuda__float_to_half(scale) : awq_cuda__float_to_bf16(scale);
}

AWQ_CUDA__BOTH unsigned awq_cuda__source_zero(const awq_cuda__source &from, unsigned row,
                                              unsigned group, float scale) {
    float z;
    if (from.zero_kind == AWQ_CUDA__ZERO_IS_8) return 8;
    if (from.zero_kind == AWQ_CUDA__ZERO_NIBBLE) return awq_cuda__nibble(from.zeros, row, group);
    z = -awq_cuda__number(from.zeros, from.scale_dtype, row, group) / scale + 0.5f;
    return z >= 15.0f ? 15 : z >= 1.0f ? static_cast<unsigned>(z) : 0;
}

/* Chunk i of q: what one lane reads of half a tile. */
AWQ_CUDA__BOTH void awq_cuda__repack_chunk(const awq_cuda__repack_job &job, size_t i) {
    unsigned lane = static_cast<unsigned>(i % 32), half = static_cast<unsigned>(i / 32 % 2);
    unsigned tile = static_cast<unsigned>(i / 64 % 4);
    size_t cell = i / 256;
    unsigned strip = static_cast<unsigned>(cell / job.w.blocks);
    unsigned block = static_cast<unsigned>(cell % job.w.blocks), word[4];
    for (unsigned j = 0; j < 4; j++) {
        word[j] = 0;
        for (unsigned n = 0; n < 8; n++) {
            unsigned row = strip * AWQ_CUDA__STRIP + awq_cuda__row_of(tile, lane, n);
            unsigned col = block * AWQ_CUDA__BLOCK + awq_cuda__input_of(half, j, lane, n);
            if (row < job.w.out_features && col < job.w.in_features)
                word[j] |= awq_cuda__nibble(job.from.q, row, col) << 4 * n;
        }
        word[j] = word[j] << 2 | word[j] >> 30;
    }
    job.q[i] = make_uint4(word[0], word[1], word[2], word[3]);
}

/* Grid i: the scales and zero points of two rows of a tile, for one group. */
AWQ_CUDA__BOTH void awq_cuda__repack_grid(const awq_cuda__repack_job &job, size_t i) {
    unsigned tile = static_cast<unsigned>(i % 4), g = static_cast<unsigned>(i / 4 % 8), byte = 0;
    size_t cell = i / 32;
    unsigned strip = static_cast<unsigned>(cell / job.w.strip_groups);
    unsigned group = static_cast<unsigned>(cell % job.w.strip_groups);
    for (unsigned n = 0; n < 2; n++) {
        unsigned row = strip * AWQ_CUDA__STRIP + tile * 16 + n * 8 + g;
        uint16_t scale = 0;
        if (row < job.w.out_features && group < job.from.groups) {
            float s = awq_cuda__number(job.from.scales, job.from.scale_dtype, row, group);
            scale = awq_cuda__fit_scale(s, job.dtype);
            byte |= awq_cuda__source_zero(job.from, row, group, s) << 4 * n;
        }
        job.scales[i * 2 + n] = scale;
    }
    if (job.zeros) job.zeros[i] = static_cast<unsigned char>(byte);
}

static __global__ void __launch_bounds__(256) awq_cuda__repack_q(awq_cuda__repack_job job) {
    size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    if (i < static_cast<size_t>(job.w.strips) * job.w.blocks * 256) awq_cuda__repack_chunk(job, i);
}
static __global__ void __launch_bounds__(256) awq_cuda__repack_grids(awq_cuda__repack_job job) {
    size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    if (i < static_cast<size_t>(job.w.strips) * job.w.strip_groups * 32)
        awq_cuda__repack_grid(job, i);
}

static awq_cuda__axis awq_cuda__step(size_t step) {
    awq_cuda__axis axis = { 0, { 0, 0, 0, 0, 0, 0 }, step };
    return axis;
}

static awq_cuda__source awq_cuda__packed_source(const awq_packed *p) {
    size_t groups = awq_group_count(p->in_features, p->quant.group_size);
    awq_cuda__axis q_n = { 4, { 8, 16, 32, 64, 0, 0 }, p->in_features * 16 };
    awq_cuda__axis q_k = { 3, { 2, 4, 1, 0, 0, 0 }, 128 };
    awq_cuda__axis scale_n = { 4, { 1, 2, 4, 8, 0, 0 }, groups * 16 };
    awq_cuda__axis zero_n = { 4, { 2, 4, 8, 1, 0, 0 }, groups * 16 };
    awq_cuda__source s = { { p->data + p->q_offset, q_n, q_k },
                           { p->data + p->scales_offset, scale_n, awq_cuda__step(16) },
                           { p->data + p->zeros_offset, zero_n, awq_cuda__step(16) },
                           p->quant.scale_dtype,
                           p->quant.symmetric ? AWQ_CUDA__ZERO_IS_8 : AWQ_CUDA__ZERO_NIBBLE,
                           static_cast<unsigned>(groups) };
    return s;
}

/* The same group size, maybe said in two ways. */
static int awq_cuda__same_groups(int a, int b, size_t in) {
    return (a == -1 ? in : static_cast<size_t>(a)) == (b == -1 ? in : static_cast<size_t>(b));
}

static awq_status awq_cuda__repack_job_of(const awq_cuda__source *from, awq_quant quant,
                                          size_t out, size_t in, const awq_cuda_tensor *to,
                                          awq_cuda__repack_job *job) {
    unsigned char *data;
    AWQ_CUDA__TRY(awq_cuda__check_tensor(to));
    if (out != to->out_features || in != to->in_features) return AWQ_ERR_SHAPE;
    if (quant.bits != 4) return AWQ_ERR_CONFIG;
    if (!awq_cuda__same_groups(quant.group_size, to->group_size, in)) return AWQ_ERR_GROUP_SIZE;
    if (!quant.symmetric && to->symmetric) return AWQ_ERR_ASYMMETRIC;
    data = static_cast<unsigned char *>(to->data);
    job->from = *from;
    job->w = awq_cuda__view(to);
    job->q = reinterpret_cast<uint4 *>(data);
    job->scales = reinterpret_cast<uint16_t *>(data + to->scales_offset);
    job->zeros = to->symmetric ? NULL : data + to->zeros_offset;
    job->dtype = to->dtype;
    return AWQ_OK;
}

static awq_status awq_cuda__run_repack(awq_cuda *cuda, const awq_cuda__repack_job *job) {
    size_t chunks = static_cast<size_t>(job->w.strips) * job->w.blocks;
    size_t grids = awq_cuda__ceil_div(static_cast<size_t>(job->w.strips) * job->w.strip_groups, 8);
    AWQ_CUDA__LAUNCH(awq_cuda__repack_q, static_cast<unsigned>(chunks), 256, 0, cuda->stream, *job);
    AWQ_CUDA__TRY(awq_cuda__launched(cuda));
    AWQ_CUDA__LAUNCH(awq_cuda__repack_grids, static_cast<unsigned>(grids), 256, 0, cuda->stream,
                     *job);
    return awq_cuda__launched(cuda);
}

static awq_status awq_cuda__repack_strips(const awq_cuda__repack_job *job, size_t row_begin,
                                          size_t row_end) {
    const size_t chunks = static_cast<size_t>(job->w.blocks) * 256;
    const size_t grids = static_cast<size_t>(job->w.strip_groups) * 32;
    size_t begin = row_begin / AWQ_CUDA__STRIP, i;
    size_t end = awq_cuda__ceil_div(row_end, AWQ_CUDA__STRIP);
    if (row_begin > row_end || row_end > job->w.out_features || row_begin % AWQ_CUDA__STRIP ||
        (row_end % AWQ_CUDA__STRIP && row_end != job->w.out_features))
        return AWQ_ERR_RANGE;
    for (i = begin * chunks; i < end * chunks; i++) awq_cuda__repack_chunk(*job, i);
    for (i = begin * grids; i < end * grids; i++) awq_cuda__repack_grid(*job, i);
    return AWQ_OK;
}

static awq_status awq_cuda__packed_job(const awq_packed *from, const awq_cuda_tensor *to,
                                       awq_cuda__repack_job *job) {
    awq_cuda__source source;
    if (!from || !from->data) return AWQ_ERR_NULL;
    source = awq_cuda__packed_source(from);
    return awq_cuda__repack_job_of(&source, from->quant, from->out_features, from->in_features, to,
                                   job);
}

AWQDEF awq_status awq_cuda_repack(awq_cuda *cuda, const awq_packed *from, awq_cuda_tensor *to) {
    awq_cuda__repack_job job;
    if (!cuda) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__packed_job(from, to, &job));
    return awq_cuda__run_repack(cuda, &job);
}

AWQDEF awq_status awq_cuda_repack_host(const awq_packed *from, awq_cuda_tensor *to,
                                       size_t row_begin, size_t row_end) {
    awq_cuda__repack_job job;
    AWQ_CUDA__TRY(awq_cuda__packed_job(from, to, &job));
    return awq_cuda__repack_strips(&job, row_begin, row_end);
}

#ifndef AWQ_INFERENCE_ONLY

static awq_cuda__source awq_cuda__foreign_source(const awq_foreign *f) {
    const awq_cuda__axis along = awq_cuda__step(1);
    const awq_cuda__axis gemm_n = { 3, { 4, 1, 2, 0, 0, 0 }, 8 };
    const awq_cuda__axis gemv_k = { 3, { 1, 2, 4, 0, 0, 0 }, 8 };
    const awq_cuda__axis fast_n = { 2, { 64, 128, 0, 0, 0, 0 }, f->weights.stride * 2 };
    const awq_cuda__axis fast_k = { 6, { 4, 8, 16, 1, 2, 32 }, 256 };
    const awq_cuda__axis q_rows = awq_cuda__step(f->weights.stride * 2);
    const awq_cuda__axis zero_rows = awq_cuda__step(f->zeros.stride * 2);
    const awq_cuda__axis scale_rows = awq_cuda__step(f->scales.stride / 2);
    const unsigned char *q = static_cast<const unsigned char *>(f->weights.data);
    const unsigned char *scales = static_cast<const unsigned char *>(f->scales.data);
    const unsigned char *zeros = static_cast<const unsigned char *>(f->zeros.data);
    const unsigned groups =
        static_cast<unsigned>(awq_group_count(f->in_features, f->quant.group_size));
    awq_cuda__source gemm = { { q, gemm_n, q_rows }, { scales, along, scale_rows },
                              { zeros, gemm_n, zero_rows }, f->quant.scale_dtype,
                              AWQ_CUDA__ZERO_NIBBLE, groups };
    awq_cuda__source gemv = { { q, q_rows, gemv_k }, { scales, scale_rows, along },
                              { zeros, zero_rows, along }, f->quant.scale_dtype,
                              AWQ_CUDA__ZERO_NIBBLE, groups };
    awq_cuda__source fast = { { q, fast_n, fast_k }, { scales, along, scale_rows },
                              { zeros, along, awq_cuda__step(f->zeros.stride / 2) },
                              f->quant.scale_dtype, AWQ_CUDA__ZERO_SCALED, groups };
    return f->layout == AWQ_GEMM ? gemm : f->layout == AWQ_GEMV ? gemv : fast;
}

static awq_status awq_cuda__foreign_job(const awq_foreign *from, const awq_cuda_tensor *to,
                                        awq_cuda__repack_job *job) {
    awq_cuda__source source;
    awq_foreign expected;
    if (!from || !from->weights.data || !from->scales.data || !from->zeros.data)
        return AWQ_ERR_NULL;
    if (from->layout != AWQ_GEMM && from->layout != AWQ_GEMV && from->layout != AWQ_GEMV_FAST)
        return AWQ_ERR_CONFIG;
    AWQ_CUDA__TRY(awq_foreign_init(&expected, from->layout, from->quant, from->out_features,
                                   from->in_features));
    if (from->weights.stride < expected.weights.stride ||
        from->scales.stride < expected.scales.stride || from->scales.stride % 2 ||
        from->zeros.stride < expected.zeros.stride || from->zeros.stride % 2)
        return AWQ_ERR_SHAPE;
    source = awq_cuda__foreign_source(from);
    return awq_cuda__repack_job_of(&source, expected.quant, from->out_features, from->in_features,
                                   to, job);
}

AWQDEF awq_status awq_cuda_repack_foreign(awq_cuda *cuda, const awq_foreign *from,
                                          awq_cuda_tensor *to) {
    awq_cuda__repack_job job;
    if (!cuda) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__foreign_job(from, to, &job));
    return awq_cuda__run_repack(cuda, &job);
}

AWQDEF awq_status awq_cuda_repack_foreign_host(const awq_foreign *from, awq_cuda_tensor *to,
                                               size_t row_begin, size_t row_end) {
    awq_cuda__repack_job job;
    AWQ_CUDA__TRY(awq_cuda__foreign_job(from, to, &job));
    return awq_cuda__repack_strips(&job, row_begin, row_end);
}

#endif /* AWQ_INFERENCE_ONLY */

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
    unsigned tile = threadIdx.x / 32, lane = threadIdx.x % 32, block = blockIdx.x % w.blocks;
    unsigned strip = blockIdx.x / w.blocks, step = 8 / w.block_groups;
    size_t group = awq_cuda__group_at(w, strip, block);
    uint16_t *rows = reinterpret_cast<uint16_t *>(shared) + tile * 16 * AWQ_CUDA__DEQUANTIZE_STRIDE;
    for (unsigned k = 0; k < 8; k++) {
        const uint4 *q = awq_cuda__tile_at(w, strip, block) + (tile * 2 + k / 4) * 32 + lane;
        unsigned word = reinterpret_cast<const unsigned *>(q)[k % 4];
        const uint16_t *scale = w.scales + ((group + k / step) * 8 + lane / 4) * 8 + tile * 2;
        unsigned zero = awq_cuda__zero_byte(w.zeros, group + k / step, lane / 4, tile);
        for (unsigned n = 0; n < 8; n++) {
            int u = static_cast<int>(awq_cuda__get(word, n)) -
                    static_cast<int>(zero >> n % 2 * 4 & 15u);
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
    const unsigned grid = job.w.strips * job.w.blocks;
    const unsigned shared = AWQ_CUDA__STRIP * AWQ_CUDA__DEQUANTIZE_STRIDE * 2;
    if (tensor->dtype == AWQ_F16)
        AWQ_CUDA__LAUNCH(awq_cuda__dequantize<awq_cuda__f16>, grid, 128, shared, cuda->stream, job);
    else
        AWQ_CUDA__LAUNCH(awq_cuda__dequantize<awq_cuda__bf16>, grid, 128, shared, cuda->stream,
                         job);
    return awq_cuda__launched(cuda);
}

/* =================================================================================================
   >>stripes   how thread blocks share the work of a matmul

   A tile of y (rows x tokens) takes all blocks of 128 inputs of its rows: units. All units in a
   row, tile after tile, are cut into equal stripes, one per thread block, so that no multiprocessor
   waits for another however many tiles there are. Where a cut falls into a tile, each thread block
   leaves its part of the sums in the workspace and counts itself; the last one adds all parts in
   the order of the blocks, whoever it is, so the result does not depend on when they ran.
   ============================================================================================== */

struct awq_cuda__matmul_job {
    awq_cuda__weights w;
    const uint16_t *x, *bias, *residual; /* the last two may be NULL */
    uint16_t *y;
    size_t x_stride, residual_stride, y_stride;
    unsigned tokens;
    unsigned row_tiles, token_tiles;
    unsigned units;         /* of one thread block */
    unsigned stages;        /* of its ring, 2 .. AWQ_CUDA__GEMM_STAGES */
    unsigned quads;         /* 4 rows of y are 8 aligned bytes */
    unsigned *counters;     /* [thread blocks][pieces] parts there are of the tile that it begins */
    float *partials;        /* [2 * thread blocks][pieces][tokens of a tile][rows of a piece] */
};

/* y of one row and token: sum + bias + residual. */
template <typename T>
AWQ_CUDA__DEVICE uint16_t awq_cuda__output(const awq_cuda__matmul_job &job, unsigned token,
                                           unsigned row, float sum) {
    if (job.bias) sum += T::to_float(job.bias[row]);
    if (job.residual) sum += T::to_float(job.residual[token * job.residual_stride + row]);
    return T::from_float(sum);
}

#if !AWQ_CUDA__HIP

#define AWQ_CUDA__SUPER 8 /* row tiles whose tokens are done together, to find x in the L2 cache */

struct awq_cuda__place { unsigned row_tile, token_tile; };

AWQ_CUDA__DEVICE awq_cuda__place awq_cuda__place_of(const awq_cuda__matmul_job &job,
                                                    unsigned tile) {
    unsigned super = tile / (AWQ_CUDA__SUPER * job.token_tiles) * AWQ_CUDA__SUPER;
    unsigned rows = job.row_tiles - super < AWQ_CUDA__SUPER ? job.row_tiles - super
                                                            : AWQ_CUDA__SUPER;
    unsigned rest = tile - super * job.token_tiles;
    awq_cuda__place place = { super + rest % rows, rest / rows };
    return place;
}

/* The end of this thread block's stripe; it begins at blockIdx.x * job.units. */
AWQ_CUDA__DEVICE unsigned awq_cuda__stripe_end(const awq_cuda__matmul_job &job) {
    unsigned all = job.row_tiles * job.token_tiles * job.w.blocks;
    unsigned begin = blockIdx.x * job.units;
    return all - begin < job.units ? all : begin + job.units;
}

/* A thread block has a part of at most two tiles, of the first and of the last of its stripe. */
AWQ_CUDA__DEVICE unsigned awq_cuda__slot(const awq_cuda__matmul_job &job, unsigned thread_block,
                                         unsigned tile) {
    return 2 * thread_block + (thread_block * job.units / job.w.blocks != tile);
}

/* Threads of a block, whole warps, that finish sums together. */
struct awq_cuda__crew { unsigned rank, size, barrier; };

/* Whether this crew is the last of `parts` to count itself; all its threads ask. */
AWQ_CUDA__DEVICE bool awq_cuda__is_last(const awq_cuda__crew &crew, unsigned *counter,
                                        unsigned parts, unsigned *shared_flag) {
    __threadfence();
    awq_cuda__barrier(crew.barrier, crew.size);
    if (crew.rank == 0) {
        *shared_flag = atomicAdd(counter, 1u) == parts - 1;
        if (*shared_flag) *counter = 0;
    }
    awq_cuda__barrier(crew.barrier, crew.size);
    bool last = *shared_flag != 0;
    __threadfence();
    return last;
}

/* y of 4 rows and a token. */
template <typename T>
AWQ_CUDA__DEVICE void awq_cuda__store4(const awq_cuda__matmul_job &job, unsigned token,
                                       unsigned row, const float4 &sum) {
    const float sums[4] = { sum.x, sum.y, sum.z, sum.w };
    uint16_t *y = job.y + token * job.y_stride + row, out[4] = { 0, 0, 0, 0 };
    if (token >= job.tokens) return;
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        if (row + i < job.w.out_features)
            out[i] = awq_cuda__output<T>(job, token, row + i, sums[i]);
    if (job.quads && row + 4 <= job.w.out_features) {
        *reinterpret_cast<uint2 *>(y) = make_uint2(out[0] | static_cast<unsigned>(out[1]) << 16,
                                                   out[2] | static_cast<unsigned>(out[3]) << 16);
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        if (row + i < job.w.out_features) y[i] = out[i];
}

AWQ_CUDA__DEVICE void awq_cuda__add4(float4 *sum, const float4 &v) {
    sum->x += v.x;
    sum->y += v.y;
    sum->z += v.z;
    sum->w += v.w;
}

/* sums [parts][tokens][ROWS + 4] in shared memory, of one of the PIECES into which the rows of a
   tile are cut, become y, or this thread block's part of it. The crew comes after a barrier. */
template <typename T, unsigned ROWS, unsigned PIECES>
AWQ_CUDA__DEVICE void awq_cuda__finish(const awq_cuda__matmul_job &job, const awq_cuda__crew &crew,
                                       unsigned tile, unsigned piece, unsigned tokens,
                                       const float *sums, unsigned parts, unsigned *shared_flag) {
    const unsigned first = tile * job.w.blocks / job.units;
    const unsigned last = ((tile + 1) * job.w.blocks - 1) / job.units;
    const awq_cuda__place place = awq_cuda__place_of(job, tile);
    const unsigned row = (place.row_tile * PIECES + piece) * ROWS;
    const unsigned token = place.token_tile * tokens;
    const size_t size = static_cast<size_t>(tokens) * ROWS;
    float *partials = job.partials + piece * size;
    float *mine = partials + awq_cuda__slot(job, blockIdx.x, tile) * PIECES * size;
    for (unsigned i = crew.rank * 4; i < size; i += crew.size * 4) {
        const float *from = sums + i / ROWS * (ROWS + 4) + i % ROWS;
        float4 sum = *reinterpret_cast<const float4 *>(from);
        for (unsigned p = 1; p < parts; p++)
            awq_cuda__add4(&sum, *reinterpret_cast<const float4 *>(from + p * tokens * (ROWS + 4)));
        if (first == last) awq_cuda__store4<T>(job, token + i / ROWS, row + i % ROWS, sum);
        else *reinterpret_cast<float4 *>(mine + i) = sum;
    }
    if (first == last) return;
    if (!awq_cuda__is_last(crew, job.counters + first * PIECES + piece, last - first + 1,
                           shared_flag))
        return;
    for (unsigned i = crew.rank * 4; i < size; i += crew.size * 4) {
        float4 sum = make_float4(0, 0, 0, 0);
        for (unsigned b = first; b <= last; b++)
            awq_cuda__add4(&sum, __ldcg(reinterpret_cast<const float4 *>(
                                     partials + awq_cuda__slot(job, b, tile) * PIECES * size + i)));
        awq_cuda__store4<T>(job, token + i / ROWS, row + i % ROWS, sum);
    }
}

/* =================================================================================================
   >>fragments   packed words to operands of the tensor cores
   ============================================================================================== */

#if AWQ_CUDA__TENSOR

/* The four registers of the A operand before anything is subtracted: offset + q. */
template <typename T> AWQ_CUDA__DEVICE void awq_cuda__spread(unsigned word, unsigned *a) {
    const unsigned rest = __byte_perm(word, 0, 0x0321); /* rotated by 8 bits */
    a[0] = T::low(word);
    a[1] = T::high(word);
    a[2] = T::low(rest);
    a[3] = T::high(rest);
}

/* What a lane knows of one group of a tile: pairs (offset + z), (s, s) of its rows g and g + 8. */
struct awq_cuda__grid { unsigned zero[2], scale[2]; };

/* scales: of both rows; zeros: a byte per tile, row g low */
template <typename T>
AWQ_CUDA__DEVICE awq_cuda__grid awq_cuda__grid_of(unsigned scales, unsigned zeros, unsigned tile) {
    const unsigned both = __byte_perm(zeros, 0, 0x4040 + tile * 0x0101) << 2;
    awq_cuda__grid grid;
    grid.zero[0] = T::low(both);
    grid.zero[1] = T::high(both);
    grid.scale[0] = __byte_perm(scales, 0, 0x1010);
    grid.scale[1] = __byte_perm(scales, 0, 0x3232);
    return grid;
}

/* (q - zero) * scale, the difference exact, the product rounded once */
template <typename T>
AWQ_CUDA__DEVICE void awq_cuda__numbers(unsigned word, const awq_cuda__grid &grid, unsigned *a) {
    awq_cuda__spread<T>(word, a);
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        a[i] = T::multiply(T::subtract(a[i], grid.zero[i % 2]), grid.scale[i % 2]);
}

/* The A operand whose product with x is offset * (sum of x), for every row of a tile. */
template <typename T> AWQ_CUDA__DEVICE void awq_cuda__offsets(unsigned *a) {
    a[0] = a[2] = T::low_offset;
    a[1] = a[3] = T::high_offset;
}

/* sum += scale * (part - (offset + zero) * (sum of x)), where `part` is of offset + q, and `base` =
   offset * (sum of x) comes from the same instruction, so that what tensor cores cut off cancels */
template <typename T>
AWQ_CUDA__DEVICE void awq_cuda__add_group(unsigned scales, unsigned zeros, const float *part,
                                          const float *base, float *sum) {
    const float low = T::to_float(static_cast<uint16_t>(scales & 0xffffu));
    const float high = T::to_float(static_cast<uint16_t>(scales >> 16));
    /* 1 + zero / offset, by bits */
    const float low_z =
        awq_cuda__bits<float>(0x3f800000u | (zeros & 15u) << (23 - T::low_bits));
    const float high_z =
        awq_cuda__bits<float>(0x3f800000u | (zeros >> 4 & 15u) << (23 - T::high_bits));
    sum[0] += low * (part[0] - low_z * base[0]);
    sum[1] += low * (part[1] - low_z * base[1]);
    sum[2] += high * (part[2] - high_z * base[2]);
    sum[3] += high * (part[3] - high_z * base[3]);
}

AWQ_CUDA__DEVICE unsigned awq_cuda__word(const uint4 &v, unsigned i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Rows of x in shared memory are 128 inputs, 16 chunks of 16 bytes, exchanged so that 8 rows of a
   chunk lie in different banks. */
AWQ_CUDA__DEVICE unsigned char *awq_cuda__x_chunk(unsigned char *x, unsigned token,
                                                  unsigned chunk) {
    return x + token * (AWQ_CUDA__BLOCK * 2) + (chunk ^ (token & 7u)) * 16;
}

/* Chunk i of the scales and zeros of a block, in the order they have in shared memory. */
AWQ_CUDA__DEVICE void awq_cuda__fetch_grid(const awq_cuda__weights &w, size_t group,
                                           unsigned groups, unsigned i, unsigned char *to) {
    if (i < groups * 8)
        awq_cuda__cp_async16(to + i * 16, w.scales + group * AWQ_CUDA__STRIP + i * 8, 16);
    else if (w.zeros)
        awq_cuda__cp_async16(to + i * 16, w.zeros + group * 8 + (i - groups * 8) * 4, 16);
}

AWQ_CUDA__DEVICE void awq_cuda__fetch_x(const awq_cuda__matmul_job &job, unsigned token,
                                        unsigned block, unsigned chunk, void *to) {
    unsigned k = block * AWQ_CUDA__BLOCK + chunk * 8;
    bool valid = token < job.tokens && k < job.w.in_features;
    awq_cuda__cp_async16(to, valid ? job.x + token * job.x_stride + k : job.x, valid ? 16 : 0);
}

#endif /* AWQ_CUDA__TENSOR */

/* =================================================================================================
   >>gemv   1 .. 8 tokens: bytes of weights per second

   A tile of y is one strip; the warps of a thread block take every so-many-th block of inputs. Each
   streams its own weights through its own ring of stages, so no warp waits for another before the
   tile ends, and has AWQ_CUDA__GEMV_STAGES - 1 blocks on their way while it works on one. The 8
   tokens are the columns of the B operand. Zero points and scales are applied to a group's sums in
   fp32: nothing is done to a weight but taking it out of its word.
   ============================================================================================== */

#define AWQ_CUDA__GEMV_STAGES 3
#define AWQ_CUDA__GEMV_WARPS  16
#define AWQ_CUDA__GEMV_ZEROS  (AWQ_CUDA__BLOCK * 2) /* bytes of a token that is not there */

/* A stage: q, then scales and zeros, then x. */
AWQ_CUDA__BOTH unsigned awq_cuda__gemv_stage_size(unsigned groups, unsigned tokens) {
    return AWQ_CUDA__TILE + groups * 160 + tokens * AWQ_CUDA__BLOCK * 2;
}

#if AWQ_CUDA__TENSOR

/* The block a warp fetches next. q, and grids of groups, follow one another from strip to strip. */
struct awq_cuda__cursor { unsigned unit, strip, block; };

AWQ_CUDA__DEVICE void awq_cuda__advance(const awq_cuda__weights &w, unsigned units,
                                        awq_cuda__cursor *at) {
    at->unit += units;
    at->block += units;
    while (at->block >= w.blocks) {
        at->block -= w.blocks;
        at->strip++;
    }
}

template <unsigned GROUPS>
AWQ_CUDA__DEVICE void awq_cuda__gemv_fetch(const awq_cuda__matmul_job &job, awq_cuda__cursor at,
                                           unsigned char *stage) {
    const unsigned lane = threadIdx.x % 32;
    const uint4 *q = job.w.q + static_cast<size_t>(at.unit) * (AWQ_CUDA__TILE / 16) + lane;
    const size_t group =
        job.w.strip_groups == 1 ? at.strip : static_cast<size_t>(at.unit) * GROUPS;
    unsigned char *x = stage + AWQ_CUDA__TILE + GROUPS * 160;
#pragma unroll
    for (unsigned i = 0; i < AWQ_CUDA__TILE / 512; i++)
        awq_cuda__cp_async16(stage + lane * 16 + i * 512, q + i * 32, 16);
    for (unsigned i = lane; i < GROUPS * 10; i += 32)
        awq_cuda__fetch_grid(job.w, group, GROUPS, i, stage + AWQ_CUDA__TILE);
    for (unsigned i = lane; i < job.tokens * 16; i += 32)
        awq_cuda__fetch_x(job, i / 16, at.block, i % 16, awq_cuda__x_chunk(x, i / 16, i % 16));
}

/* sum += one block of inputs of one strip; x_row: of the lane's token */
template <typename T, unsigned GROUPS>
AWQ_CUDA__DEVICE void awq_cuda__gemv_add(const unsigned char *stage, const unsigned char *x_row,
                                         bool symmetric, float (*sum)[4]) {
    const unsigned lane = threadIdx.x % 32;
    const uint4 *q = reinterpret_cast<const uint4 *>(stage) + lane;
    const uint4 *scales = reinterpret_cast<const uint4 *>(stage + AWQ_CUDA__TILE) + lane / 4;
    const unsigned *zeros =
        reinterpret_cast<const unsigned *>(stage + AWQ_CUDA__TILE + GROUPS * 128) + lane / 4;
    uint4 words[4];
    unsigned a[4], offsets[4], b[4];
    awq_cuda__offsets<T>(offsets);
#pragma unroll
    for (unsigned group = 0; group < GROUPS; group++) {
        float part[4][4] = { { 0 }, { 0 }, { 0 }, { 0 } }, base[4] = { 0 };
#pragma unroll
        for (unsigned k = group * 8 / GROUPS; k < (group + 1) * 8 / GROUPS; k++) {
            if (k % 4 == 0)
#pragma unroll
                for (unsigned tile = 0; tile < 4; tile++) words[tile] = q[(tile * 2 + k / 4) * 32];
            if (k % 2 == 0)
                awq_cuda__ldmatrix_x4(b, x_row + ((2 * k + lane / 8) ^ (lane & 7u)) * 16);
            T::mma(base, offsets, b + k % 2 * 2);
#pragma unroll
            for (unsigned tile = 0; tile < 4; tile++) {
                awq_cuda__spread<T>(awq_cuda__word(words[tile], k % 4), a);
                T::mma(part[tile], a, b + k % 2 * 2);
            }
        }
        const uint4 scale = scales[group * 8];
        const unsigned zero = symmetric ? 0x88888888u : zeros[group * 8];
#pragma unroll
        for (unsigned tile = 0; tile < 4; tile++)
            awq_cuda__add_group<T>(awq_cuda__word(scale, tile), zero >> 8 * tile, part[tile], base,
                                   sum[tile]);
    }
}

/* This warp's sums of a strip, tokens by rows, for awq_cuda__finish. */
AWQ_CUDA__DEVICE void awq_cuda__gemv_leave(unsigned tokens, float (*sum)[4], float *sums) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (unsigned tile = 0; tile < 4; tile++)
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            unsigned token = lane % 4 * 2 + i % 2, row = tile * 16 + lane / 4 + i / 2 * 8;
            if (token < tokens)
                sums[(warp * tokens + token) * (AWQ_CUDA__STRIP + 4) + row] = sum[tile][i];
            sum[tile][i] = 0;
        }
}

#endif /* AWQ_CUDA__TENSOR */

template <typename T, unsigned GROUPS>
static __global__ void __launch_bounds__(32 * AWQ_CUDA__GEMV_WARPS, 1)
awq_cuda__gemv(awq_cuda__matmul_job job) {
#if AWQ_CUDA__TENSOR
    /* flag | a token of zeros | sums of all warps | stages of all warps */
    AWQ_CUDA__SHARED(shared);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const unsigned stage_size = awq_cuda__gemv_stage_size(GROUPS, job.tokens);
    unsigned *flag = reinterpret_cast<unsigned *>(shared);
    unsigned char *no_token = shared + 128;
    float *sums = reinterpret_cast<float *>(no_token + AWQ_CUDA__GEMV_ZEROS);
    unsigned char *ring = reinterpret_cast<unsigned char *>(
                              sums + warps * job.tokens * (AWQ_CUDA__STRIP + 4)) +
                          warp * AWQ_CUDA__GEMV_STAGES * stage_size;
    const unsigned begin = blockIdx.x * job.units, end = awq_cuda__stripe_end(job);
    unsigned unit = begin + warp, at = 0, fetch_at = 0;
    awq_cuda__cursor next = { unit, unit / job.w.blocks, unit % job.w.blocks };
    const awq_cuda__crew crew = { threadIdx.x, blockDim.x, 0 };
    float sum[4][4] = { { 0 }, { 0 }, { 0 }, { 0 } };
    for (unsigned i = threadIdx.x; i < AWQ_CUDA__GEMV_ZEROS / 4; i += blockDim.x)
        reinterpret_cast<unsigned *>(no_token)[i] = 0;
    __syncthreads();
    for (; fetch_at < AWQ_CUDA__GEMV_STAGES - 1; fetch_at++) {
        if (next.unit < end) awq_cuda__gemv_fetch<GROUPS>(job, next, ring + fetch_at * stage_size);
        awq_cuda__cp_async_commit();
        awq_cuda__advance(job.w, warps, &next);
    }
    for (unsigned strip = begin / job.w.blocks; strip * job.w.blocks < end; strip++) {
        const unsigned strip_end =
            (strip + 1) * job.w.blocks < end ? (strip + 1) * job.w.blocks : end;
        for (; unit < strip_end; unit += warps) {
            const unsigned char *stage = ring + at * stage_size;
            const unsigned char *x = stage + AWQ_CUDA__TILE + GROUPS * 160;
            awq_cuda__cp_async_wait<AWQ_CUDA__GEMV_STAGES - 2>();
            __syncwarp(); /* all lanes' copies are here, and nobody reads the stage before */
            if (next.unit < end)
                awq_cuda__gemv_fetch<GROUPS>(job, next, ring + fetch_at * stage_size);
            awq_cuda__cp_async_commit();
            awq_cuda__advance(job.w, warps, &next);
            awq_cuda__gemv_add<T, GROUPS>(
                stage, lane % 8 < job.tokens ? x + lane % 8 * AWQ_CUDA__BLOCK * 2 : no_token,
                job.w.zeros == NULL, sum);
            at = at + 1 == AWQ_CUDA__GEMV_STAGES ? 0 : at + 1;
            fetch_at = fetch_at + 1 == AWQ_CUDA__GEMV_STAGES ? 0 : fetch_at + 1;
        }
        awq_cuda__gemv_leave(job.tokens, sum, sums);
        __syncthreads();
        awq_cuda__finish<T, AWQ_CUDA__STRIP, 1>(job, crew, strip, 0, job.tokens, sums, warps, flag);
        __syncthreads();
    }
    awq_cuda__cp_async_wait<0>();
#else
    (void)job;
#endif
}

/* =================================================================================================
   >>gemm   more tokens: tiles of 128 rows x 16 .. 128 tokens

   8 warps: 4 times 32 rows; the other half of them takes the other 64 inputs of a block (up to 64
   tokens) or the other 64 tokens. Weights go through shared memory only to be on their way early: a
   lane reads back the 16 bytes that are its own operand. x is read by ldmatrix.
   ============================================================================================== */

#define AWQ_CUDA__GEMM_ROWS    128
#define AWQ_CUDA__GEMM_THREADS 256
#define AWQ_CUDA__GEMM_STAGES  8 /* at most: what shared memory has room for */

/* A stage: q of two strips, scales and zeros of two strips, then x. */
AWQ_CUDA__BOTH unsigned awq_cuda__gemm_stage_size(unsigned groups, unsigned tokens) {
    return 2 * (AWQ_CUDA__TILE + groups * 160) + tokens * AWQ_CUDA__BLOCK * 2;
}

#if AWQ_CUDA__TENSOR

/* Until at most `pending` of this thread's groups are on their way. */
AWQ_CUDA__DEVICE void awq_cuda__wait_until(unsigned pending) {
    switch (pending) {
    case 0: awq_cuda__cp_async_wait<0>(); break;
    case 1: awq_cuda__cp_async_wait<1>(); break;
    case 2: awq_cuda__cp_async_wait<2>(); break;
    case 3: awq_cuda__cp_async_wait<3>(); break;
    case 4: awq_cuda__cp_async_wait<4>(); break;
    case 5: awq_cuda__cp_async_wait<5>(); break;
    default: awq_cuda__cp_async_wait<6>(); break;
    }
}

/* What is fetched next, and this thread's share of x there: chunk threadIdx.x % 16 of every 16th
   token from `token` on. */
struct awq_cuda__feed {
    unsigned tile, block, strip, token;
    const uint16_t *x;
};

template <unsigned TOKENS>
AWQ_CUDA__DEVICE void awq_cuda__enter_tile(const awq_cuda__matmul_job &job, awq_cuda__feed *feed) {
    const awq_cuda__place place = awq_cuda__place_of(job, feed->tile);
    feed->strip = place.row_tile * 2;
    feed->token = place.token_tile * TOKENS + threadIdx.x / 16;
    feed->x = job.x + feed->token * job.x_stride + threadIdx.x % 16 * 8;
}

/* The next unit, to a stage. */
template <unsigned TOKENS>
AWQ_CUDA__DEVICE void awq_cuda__gemm_fetch(const awq_cuda__matmul_job &job, awq_cuda__feed *feed,
                                           unsigned char *stage) {
    const unsigned groups = job.w.block_groups, chunk = threadIdx.x % 16;
    const unsigned k = feed->block * AWQ_CUDA__BLOCK, lead = threadIdx.x / 16;
    const bool has_input = k + chunk * 8 < job.w.in_features;
    unsigned char *grids = stage + 2 * AWQ_CUDA__TILE, *x = grids + 2 * groups * 160;
    if (feed->block == 0) awq_cuda__enter_tile<TOKENS>(job, feed);
#pragma unroll
    for (unsigned s = 0; s < 2; s++) { /* sums of a strip that is not there are not stored */
        const unsigned strip = feed->strip + s < job.w.strips ? feed->strip + s : feed->strip;
        awq_cuda__cp_async16(stage + s * AWQ_CUDA__TILE + threadIdx.x * 16,
                             awq_cuda__tile_at(job.w, strip, feed->block) + threadIdx.x, 16);
        if (threadIdx.x < groups * 10)
            awq_cuda__fetch_grid(job.w, awq_cuda__group_at(job.w, strip, feed->block), groups,
                                 threadIdx.x, grids + s * groups * 160);
    }
    x = awq_cuda__x_chunk(x, lead, chunk);
#pragma unroll
    for (unsigned i = 0; i < TOKENS; i += 16) {
        const bool valid = has_input && feed->token + i < job.tokens;
        awq_cuda__cp_async16(x + i * AWQ_CUDA__BLOCK * 2,
                             valid ? feed->x + i * job.x_stride + k : job.x, valid ? 16 : 0);
    }
    if (++feed->block == job.w.blocks) {
        feed->block = 0;
        feed->tile++;
    }
}

/* sum += k-steps of 16 inputs of one group: 2 tiles of 16 rows x 8 N tokens. Up to 16 tokens zero
   points and scales wait for the group's end, as in >>gemv; with more tokens it is less work to
   apply them to the weights. */
template <typename T, unsigned N, unsigned STEPS>
AWQ_CUDA__DEVICE void awq_cuda__gemm_group(const uint4 *words, unsigned first_step,
                                           const unsigned *scales, const unsigned *zeros,
                                           unsigned tile, unsigned char *x, unsigned first_token,
                                           unsigned first_chunk, float (*sum)[N][4]) {
    constexpr bool exact = N <= 2;
    const unsigned lane = threadIdx.x % 32, zero = zeros ? *zeros : 0x88888888u;
    float part[2][exact ? N : 1][4], base[exact ? N : 1][4];
    unsigned a[4], b[N][2], offsets[4];
    awq_cuda__grid grid[2];
    awq_cuda__offsets<T>(offsets);
#pragma unroll
    for (unsigned i = 0; i < 2; i++) grid[i] = awq_cuda__grid_of<T>(scales[i], zero, tile + i);
#pragma unroll
    for (unsigned i = 0; exact && i < N * 4; i++)
        part[0][i / 4][i % 4] = part[1][i / 4][i % 4] = base[i / 4][i % 4] = 0;
#pragma unroll
    for (unsigned j = 0; j < STEPS; j++) {
#pragma unroll
        for (unsigned n = 0; n < N; n += 2)
            awq_cuda__ldmatrix_x4(b[n], awq_cuda__x_chunk(x, first_token + n * 8 + lane / 16 * 8 +
                                                                 lane % 8,
                                                          first_chunk + 2 * j + lane / 8 % 2));
#pragma unroll
        for (unsigned n = 0; exact && n < N; n++) T::mma(base[n], offsets, b[n]);
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const unsigned word = awq_cuda__word(words[i], first_step + j);
            if (exact) awq_cuda__spread<T>(word, a);
            else awq_cuda__numbers<T>(word, grid[i], a);
#pragma unroll
            for (unsigned n = 0; n < N; n++) T::mma(exact ? part[i][n] : sum[i][n], a, b[n]);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 2; i++)
#pragma unroll
        for (unsigned n = 0; exact && n < N; n++)
            awq_cuda__add_group<T>(scales[i], zero >> 8 * (tile + i), part[i][n], base[n],
                                   sum[i][n]);
}

/* sum += halves [begin, end) of a block: 32 rows x 8 N tokens of this warp, whose x begins at token
   `first`. FINE: two groups in a half. */
template <typename T, unsigned N, bool FINE>
AWQ_CUDA__DEVICE void awq_cuda__gemm_add(const awq_cuda__weights &w, unsigned char *stage,
                                         unsigned first, unsigned begin, unsigned end,
                                         float (*sum)[N][4]) {
    const unsigned lane = threadIdx.x % 32, quarter = threadIdx.x / 32 % 4;
    const unsigned groups = FINE ? 4 : w.block_groups, tile = quarter % 2 * 2, g = lane / 4;
    const uint4 *q = reinterpret_cast<const uint4 *>(stage + quarter / 2 * AWQ_CUDA__TILE) + lane;
    const unsigned char *grids = stage + 2 * AWQ_CUDA__TILE + quarter / 2 * groups * 160;
    const unsigned *scales = reinterpret_cast<const unsigned *>(grids) + g * 4 + tile;
    const unsigned *zeros = reinterpret_cast<const unsigned *>(grids + groups * 128) + g;
    unsigned char *x = stage + 2 * (AWQ_CUDA__TILE + groups * 160);
#pragma unroll 1
    for (unsigned half = begin; half < end; half++) {
        const uint4 words[2] = { q[(tile * 2 + half) * 32], q[(tile * 2 + 2 + half) * 32] };
#pragma unroll
        for (unsigned sub = 0; sub < (FINE ? 2 : 1); sub++) {
            const unsigned group = FINE ? half * 2 + sub : half * groups / 2;
            awq_cuda__gemm_group<T, N, FINE ? 2 : 4>(
                words, sub * 2, scales + group * 32, w.zeros ? zeros + group * 8 : NULL, tile, x,
                first, half * 8 + sub * 4, sum);
        }
    }
}

/* This warp's sums of 32 rows become, or are added to, tokens x rows in shared memory. */
template <unsigned N>
AWQ_CUDA__DEVICE void awq_cuda__gemm_leave(unsigned first, bool add, float (*sum)[N][4],
                                           float *sums) {
    const unsigned lane = threadIdx.x % 32, quarter = threadIdx.x / 32 % 4;
#pragma unroll
    for (unsigned i = 0; i < 2; i++)
#pragma unroll
        for (unsigned n = 0; n < N; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                const unsigned token = first + n * 8 + lane % 4 * 2 + e % 2;
                float *at = sums + token * (AWQ_CUDA__GEMM_ROWS + 4) + quarter * 32 + i * 16 +
                            lane / 4 + e / 2 * 8;
                *at = add ? *at + sum[i][n][e] : sum[i][n][e];
                sum[i][n][e] = 0;
            }
}

#endif /* AWQ_CUDA__TENSOR */

template <typename T, unsigned TOKENS, bool FINE>
static __global__ void __launch_bounds__(AWQ_CUDA__GEMM_THREADS, 1)
awq_cuda__gemm(awq_cuda__matmul_job job) {
#if AWQ_CUDA__TENSOR
    /* flag | sums | stages */
    AWQ_CUDA__SHARED(shared);
    constexpr bool split = TOKENS <= 64; /* the inputs, between the two halves of the warps */
    constexpr unsigned n = (split ? TOKENS : TOKENS / 2) / 8;
    const unsigned stage_size = awq_cuda__gemm_stage_size(job.w.block_groups, TOKENS);
    const unsigned other = threadIdx.x / 128, first = split ? 0 : other * 8 * n;
    unsigned *flag = reinterpret_cast<unsigned *>(shared);
    float *sums = reinterpret_cast<float *>(shared + 128);
    unsigned char *ring =
        reinterpret_cast<unsigned char *>(sums + TOKENS * (AWQ_CUDA__GEMM_ROWS + 4));
    const unsigned begin = blockIdx.x * job.units, end = awq_cuda__stripe_end(job);
    const unsigned stages = job.stages;
    unsigned unit = begin, at = 0, fetch_at = 0;
    awq_cuda__feed feed = { begin / job.w.blocks, begin % job.w.blocks, 0, 0, NULL };
    const awq_cuda__crew crew = { threadIdx.x, blockDim.x, 0 };
    float sum[2][n][4];
#pragma unroll
    for (unsigned i = 0; i < 2 * n * 4; i++) sum[i / (n * 4)][i / 4 % n][i % 4] = 0;
    awq_cuda__enter_tile<TOKENS>(job, &feed);
    for (; fetch_at < stages - 1; fetch_at++) {
        if (begin + fetch_at < end)
            awq_cuda__gemm_fetch<TOKENS>(job, &feed, ring + fetch_at * stage_size);
        awq_cuda__cp_async_commit();
    }
    for (unsigned tile = begin / job.w.blocks; tile * job.w.blocks < end; tile++) {
        const unsigned tile_end = (tile + 1) * job.w.blocks < end ? (tile + 1) * job.w.blocks : end;
        for (; unit < tile_end; unit++) {
            awq_cuda__wait_until(stages - 2);
            __syncthreads(); /* all threads' copies are here, and nobody reads the stage before */
            if (unit + stages - 1 < end)
                awq_cuda__gemm_fetch<TOKENS>(job, &feed, ring + fetch_at * stage_size);
            awq_cuda__cp_async_commit();
            awq_cuda__gemm_add<T, n, FINE>(job.w, ring + at * stage_size, first, split ? other : 0,
                                           split ? other + 1 : 2, sum);
            at = at + 1 == stages ? 0 : at + 1;
            fetch_at = fetch_at + 1 == stages ? 0 : fetch_at + 1;
        }
        if (!split || other) awq_cuda__gemm_leave<n>(first, false, sum, sums);
        __syncthreads();
        if (split) {
            if (!other) awq_cuda__gemm_leave<n>(first, true, sum, sums);
            __syncthreads();
        }
        awq_cuda__finish<T, AWQ_CUDA__GEMM_ROWS, 1>(job, crew, tile, 0, TOKENS, sums, 1, flag);
    }
    awq_cuda__cp_async_wait<0>();
#else
    (void)job;
#endif
}

/* =================================================================================================
   >>wgmma   many tokens on sm_90a: tiles of 256 rows x 128 tokens

   Two warpgroups multiply, each two strips of 64 rows, a tile of 16 rows per warp: the words are
   the A operand of wgmma as they are of mma. Weights become numbers in registers while the tensor
   cores work on the 16 inputs before; x is read from shared memory by the tensor cores themselves.
   A third warpgroup fetches. They meet at a stage of the ring only, when it is full and when it is
   empty: while one of the two waits, or finishes its rows of a tile, the other keeps the tensor
   cores busy.
   ============================================================================================== */

#define AWQ_CUDA__WGMMA_STRIPS  4
#define AWQ_CUDA__WGMMA_ROWS    (AWQ_CUDA__WGMMA_STRIPS * AWQ_CUDA__STRIP)
#define AWQ_CUDA__WGMMA_TOKENS  128
#define AWQ_CUDA__WGMMA_STAGES  3
#define AWQ_CUDA__WGMMA_THREADS 384

/* A stage: x, two halves of 64 inputs; q of four strips; their scales and zeros. */
#define AWQ_CUDA__WGMMA_X (AWQ_CUDA__WGMMA_TOKENS * AWQ_CUDA__BLOCK * 2)
#define AWQ_CUDA__WGMMA_GRIDS (AWQ_CUDA__WGMMA_X + AWQ_CUDA__WGMMA_STRIPS * AWQ_CUDA__TILE)
AWQ_CUDA__BOTH unsigned awq_cuda__wgmma_stage_size(unsigned groups) {
    return AWQ_CUDA__WGMMA_GRIDS + (AWQ_CUDA__WGMMA_STRIPS * groups * 160 + 1023) / 1024 * 1024;
}
/* Bytes of the sums of one strip, which a warpgroup brings into the order of y. */
#define AWQ_CUDA__WGMMA_SUMS (AWQ_CUDA__WGMMA_TOKENS * (AWQ_CUDA__STRIP + 4) * 4)

#if AWQ_CUDA__WGMMA

/* What tells wgmma where 128 tokens x 16 inputs of x are: rows of 128 bytes whose 16-byte chunks
   are exchanged by chunk ^ (row % 8), 8 rows in 1024 bytes: the 128-byte swizzle (1 << 62). The
   address is a multiple of 1024, or 32, 64, 96 bytes beyond one. */
AWQ_CUDA__DEVICE uint64_t awq_cuda__wgmma_descriptor(const void *shared) {
    const uint64_t address = (awq_cuda__address(shared) & 0x3ffffu) >> 4;
    return address | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

/* One end of the ring: the stage that is its turn, and the parity of the round. */
struct awq_cuda__ring {
    unsigned char *stages;
    uint64_t *full, *empty;
    unsigned at, parity;
};

template <unsigned GROUPS>
AWQ_CUDA__DEVICE unsigned char *awq_cuda__stage(const awq_cuda__ring &r) {
    return r.stages + r.at * awq_cuda__wgmma_stage_size(GROUPS);
}
AWQ_CUDA__DEVICE void awq_cuda__turn(awq_cuda__ring *ring) {
    if (++ring->at < AWQ_CUDA__WGMMA_STAGES) return;
    ring->at = 0;
    ring->parity ^= 1u;
}

/* A unit to a stage. Warp s of the warpgroup takes the weights of strip s; of x a thread takes
   chunk threadIdx.x % 16 of every 8th token. */
template <unsigned GROUPS>
AWQ_CUDA__DEVICE void awq_cuda__wgmma_fetch(const awq_cuda__matmul_job &job, unsigned unit,
                                            unsigned char *stage) {
    const unsigned lane = threadIdx.x % 32, s = threadIdx.x / 32 % 4, block = unit % job.w.blocks;
    const unsigned chunk = threadIdx.x % 16, lead = threadIdx.x / 16 % 8;
    const awq_cuda__place place = awq_cuda__place_of(job, unit / job.w.blocks);
    const unsigned token = place.token_tile * AWQ_CUDA__WGMMA_TOKENS + lead;
    const unsigned k = block * AWQ_CUDA__BLOCK + chunk * 8;
    const unsigned valid = k < job.w.in_features ? 16 : 0;
    const uint16_t *x = job.x + token * job.x_stride + k;
    unsigned char *to = stage + chunk / 8 * (AWQ_CUDA__WGMMA_X / 2) + lead * 128 +
                        (chunk ^ lead) % 8 * 16;
    unsigned char *q_to = stage + AWQ_CUDA__WGMMA_X + s * AWQ_CUDA__TILE + lane * 16;
    unsigned strip = place.row_tile * AWQ_CUDA__WGMMA_STRIPS + s;
    if (strip >= job.w.strips) strip = job.w.strips - 1; /* its sums are not stored */
    const uint4 *q = awq_cuda__tile_at(job.w, strip, block) + lane;
#pragma unroll
    for (unsigned i = 0; i < AWQ_CUDA__TILE / 512; i++)
        awq_cuda__cp_async16(q_to + i * 512, q + i * 32, 16);
    for (unsigned i = lane; i < GROUPS * 10; i += 32)
        awq_cuda__fetch_grid(job.w, awq_cuda__group_at(job.w, strip, block), GROUPS, i,
                             stage + AWQ_CUDA__WGMMA_GRIDS + s * GROUPS * 160);
#pragma unroll
    for (unsigned i = 0; i < AWQ_CUDA__WGMMA_TOKENS; i += 8, x += 8 * job.x_stride)
        awq_cuda__cp_async16(to + i * 128, x, token + i < job.tokens ? valid : 0);
}

/* This warp is done with a stage. */
AWQ_CUDA__DEVICE void awq_cuda__pass_on(uint64_t *barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) awq_cuda__mbarrier_arrive(barrier);
}

/* The warpgroup that fetches: units [unit, end), one stage ahead of what it passes on. */
template <unsigned GROUPS>
AWQ_CUDA__DEVICE void awq_cuda__wgmma_feed(const awq_cuda__matmul_job &job, awq_cuda__ring ring,
                                           unsigned unit, unsigned end) {
    uint64_t *behind = NULL;
    for (; unit < end; unit++) {
        awq_cuda__mbarrier_wait(ring.empty + ring.at, ring.parity ^ 1u);
        awq_cuda__wgmma_fetch<GROUPS>(job, unit, awq_cuda__stage<GROUPS>(ring));
        awq_cuda__cp_async_commit();
        if (behind) {
            awq_cuda__cp_async_wait<1>();
            awq_cuda__fence_proxy();
            awq_cuda__pass_on(behind);
        }
        behind = ring.full + ring.at;
        awq_cuda__turn(&ring);
    }
    awq_cuda__cp_async_wait<0>();
    awq_cuda__fence_proxy();
    awq_cuda__pass_on(behind);
}

/* sum += one block of inputs: two strips of this warpgroup, from `strip` of the stage on. It ends
   with nothing on its way (else ptxas would let each wgmma wait for the one before); the other
   warpgroup keeps the tensor cores busy. */
template <typename T, unsigned GROUPS>
AWQ_CUDA__DEVICE void awq_cuda__wgmma_add(const unsigned char *stage, unsigned strip,
                                          bool symmetric, float (&low)[64], float (&high)[64]) {
    const unsigned lane = threadIdx.x % 32, tile = threadIdx.x / 32 % 4, g = lane / 4;
    const uint4 *q = reinterpret_cast<const uint4 *>(stage + AWQ_CUDA__WGMMA_X +
                                                     strip * AWQ_CUDA__TILE) + lane;
    uint4 words[2];
    awq_cuda__grid grid[2];
    unsigned a[2][2][4];
#pragma unroll
    for (unsigned k = 0; k < 8; k++) {
#pragma unroll
        for (unsigned s = 0; s < 2; s++) {
            const unsigned char *grids =
                stage + AWQ_CUDA__WGMMA_GRIDS + (strip + s) * GROUPS * 160;
            const unsigned *scales = reinterpret_cast<const unsigned *>(grids);
            const unsigned *zeros = reinterpret_cast<const unsigned *>(grids + GROUPS * 128);
            const unsigned at = k * GROUPS / 8 * 8 + g;
            if (k % 4 == 0) words[s] = q[s * (AWQ_CUDA__TILE / 16) + (tile * 2 + k / 4) * 32];
            if (k % (8 / GROUPS) == 0)
                grid[s] = awq_cuda__grid_of<T>(scales[at * 4 + tile],
                                               symmetric ? 0x88888888u : zeros[at], tile);
            awq_cuda__numbers<T>(awq_cuda__word(words[s], k % 4), grid[s], a[k % 2][s]);
        }
        const uint64_t b = awq_cuda__wgmma_descriptor(
            stage + k / 4 * (AWQ_CUDA__WGMMA_X / 2) + k % 4 * 32);
        awq_cuda__wgmma_fence();
        T::wgmma(low, a[k % 2][0], b);
        T::wgmma(high, a[k % 2][1], b);
        awq_cuda__wgmma_commit();
        awq_cuda__wgmma_wait<1>(); /* the registers of the step before are free */
    }
    awq_cuda__wgmma_wait<0>();
}

/* This warp's sums of 16 rows to tokens x rows in shared memory. */
AWQ_CUDA__DEVICE void awq_cuda__wgmma_leave(float (&sum)[64], float *sums) {
    const unsigned lane = threadIdx.x % 32, tile = threadIdx.x / 32 % 4;
#pragma unroll
    for (unsigned i = 0; i < 64; i++) {
        const unsigned token = i / 4 * 8 + lane % 4 * 2 + i % 2;
        sums[token * (AWQ_CUDA__STRIP + 4) + tile * 16 + lane / 4 + i / 2 % 2 * 8] = sum[i];
        sum[i] = 0;
    }
}

/* One strip of a warpgroup's sums to y, or to this thread block's part of it. */
template <typename T>
AWQ_CUDA__DEVICE void awq_cuda__wgmma_finish(const awq_cuda__matmul_job &job, unsigned tile,
                                             unsigned strip, float (&sum)[64], float *sums,
                                             unsigned *flag) {
    const awq_cuda__crew crew = { threadIdx.x % 128, 128, 1 + threadIdx.x / 128 };
    awq_cuda__wgmma_leave(sum, sums);
    awq_cuda__barrier(crew.barrier, crew.size);
    awq_cuda__finish<T, AWQ_CUDA__STRIP, AWQ_CUDA__WGMMA_STRIPS>(
        job, crew, tile, strip, AWQ_CUDA__WGMMA_TOKENS, sums, 1, flag);
    awq_cuda__barrier(crew.barrier, crew.size); /* nobody reads the sums */
}

/* A warpgroup that multiplies: units [unit, end), its strips `strip` and `strip + 1` of a tile. */
template <typename T, unsigned GROUPS>
AWQ_CUDA__DEVICE void awq_cuda__wgmma_multiply(const awq_cuda__matmul_job &job, awq_cuda__ring ring,
                                               unsigned unit, unsigned end, float *sums,
                                               unsigned *flag) {
    const unsigned strip = threadIdx.x / 128 * 2;
    float low[64], high[64];
#pragma unroll
    for (unsigned i = 0; i < 64; i++) low[i] = high[i] = 0;
    for (unsigned tile = unit / job.w.blocks; unit < end; tile++) {
        const unsigned tile_end = (tile + 1) * job.w.blocks < end ? (tile + 1) * job.w.blocks : end;
        for (; unit < tile_end; unit++) {
            awq_cuda__mbarrier_wait(ring.full + ring.at, ring.parity);
            awq_cuda__wgmma_add<T, GROUPS>(awq_cuda__stage<GROUPS>(ring), strip,
                                           job.w.zeros == NULL, low, high);
            awq_cuda__pass_on(ring.empty + ring.at);
            awq_cuda__turn(&ring);
        }
        awq_cuda__wgmma_finish<T>(job, tile, strip, low, sums, flag);
        awq_cuda__wgmma_finish<T>(job, tile, strip + 1, high, sums, flag);
    }
}

#endif

template <typename T, unsigned GROUPS>
static __global__ void __launch_bounds__(AWQ_CUDA__WGMMA_THREADS, 1)
awq_cuda__wgmma(awq_cuda__matmul_job job) {
#if AWQ_CUDA__WGMMA
    /* flags, barriers | from a multiple of 1024 on, stages | sums of both warpgroups */
    AWQ_CUDA__SHARED(shared);
    const unsigned group = threadIdx.x / 128;
    const unsigned begin = blockIdx.x * job.units, end = awq_cuda__stripe_end(job);
    unsigned *flags = reinterpret_cast<unsigned *>(shared);
    uint64_t *barriers = reinterpret_cast<uint64_t *>(shared + 16);
    unsigned char *stages = shared + 1024 - awq_cuda__address(shared) % 1024;
    unsigned char *sums = stages + AWQ_CUDA__WGMMA_STAGES * awq_cuda__wgmma_stage_size(GROUPS);
    const awq_cuda__ring ring = { stages, barriers, barriers + AWQ_CUDA__WGMMA_STAGES, 0, 0 };
    if (threadIdx.x < AWQ_CUDA__WGMMA_STAGES) {
        awq_cuda__mbarrier_init(ring.full + threadIdx.x, 4); /* warps */
        awq_cuda__mbarrier_init(ring.empty + threadIdx.x, 8);
    }
    __syncthreads();
    if (group == 2) {
        awq_cuda__registers_down<40>();
        awq_cuda__wgmma_feed<GROUPS>(job, ring, begin, end);
    } else {
        awq_cuda__registers_up<232>();
        awq_cuda__wgmma_multiply<T, GROUPS>(
            job, ring, begin, end,
            reinterpret_cast<float *>(sums + group * AWQ_CUDA__WGMMA_SUMS), flags + group);
    }
#else
    (void)job;
#endif
}

#endif /* !AWQ_CUDA__HIP */

/* =================================================================================================
   >>portable   the linear without tensor cores: every device
   ============================================================================================== */

#define AWQ_CUDA__PORTABLE_WARPS  4
#define AWQ_CUDA__PORTABLE_TOKENS 4

/* One strip and 4 tokens; 4 sets of 32 threads take every fourth block of inputs. A thread reads
   the weights of one lane: 8 rows, of which it keeps the sums of its inputs. */
template <typename T>
static __global__ void __launch_bounds__(32 * AWQ_CUDA__PORTABLE_WARPS, 1)
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
                const uint4 *q = awq_cuda__tile_at(w, strip, block) + tile * 64 + lane;
                unsigned word = reinterpret_cast<const unsigned *>(q + k / 4 * 32)[k % 4];
                const uint16_t *s = w.scales + ((group + k / step) * 8 + lane / 4) * 8 + tile * 2;
                unsigned zero = awq_cuda__zero_byte(w.zeros, group + k / step, lane / 4, tile);
                float scale[2] = { T::to_float(s[0]), T::to_float(s[1]) };
#pragma unroll
                for (unsigned n = 0; n < 8; n++) {
                    unsigned c = block * AWQ_CUDA__BLOCK +
                                 awq_cuda__input_of(k / 4, k % 4, lane, n);
                    float v = static_cast<float>(static_cast<int>(awq_cuda__get(word, n)) -
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
    for (unsigned i = threadIdx.x; i < AWQ_CUDA__PORTABLE_TOKENS * AWQ_CUDA__STRIP;
         i += blockDim.x) {
        float sum = 0;
        for (unsigned p = 0; p < AWQ_CUDA__PORTABLE_WARPS * 4; p++)
            sum += sums[p * AWQ_CUDA__PORTABLE_TOKENS * AWQ_CUDA__STRIP + i];
        const unsigned token = first + i / AWQ_CUDA__STRIP;
        const unsigned row = strip * AWQ_CUDA__STRIP + i % AWQ_CUDA__STRIP;
        if (token < job.tokens && row < w.out_features)
            job.y[token * job.y_stride + row] = awq_cuda__output<T>(job, token, row, sum);
    }
}

/* =================================================================================================
   >>pick   which kernel, how many thread blocks, how much memory
   ============================================================================================== */

typedef void awq_cuda__matmul_kernel(awq_cuda__matmul_job);

/* How a matmul is launched. */
struct awq_cuda__plan {
    awq_cuda__matmul_kernel *kernel;
    unsigned rows, tokens; /* of a tile */
    unsigned row_tiles, token_tiles;
    unsigned units, blocks; /* of one thread block; thread blocks */
    unsigned threads, shared, stages;
    size_t workspace;       /* bytes, counters included; 0: no tile is cut */
};

#if !AWQ_CUDA__HIP

/* Counters, the same bytes for every call, and two parts of a tile of y per multiprocessor. */
static size_t awq_cuda__counters_size(const awq_cuda *cuda) {
    return awq_cuda__ceil_div(static_cast<size_t>(cuda->processors) * AWQ_CUDA__WGMMA_STRIPS * 4,
                              256) * 256;
}
static size_t awq_cuda__workspace(const awq_cuda *cuda, size_t tile) {
    return awq_cuda__counters_size(cuda) + static_cast<size_t>(cuda->processors) * 2 * tile * 4;
}

/* Stripes of `blocks` units per tile for about one thread block per multiprocessor. Whole tiles,
   whose sums nobody has to add, where that is hardly longer. */
static awq_status awq_cuda__plan_stripes(const awq_cuda *cuda, const awq_cuda__weights *w,
                                         size_t tokens, awq_cuda__plan *plan) {
    const size_t processors = static_cast<size_t>(cuda->processors);
    size_t token_tiles = awq_cuda__ceil_div(tokens, plan->tokens);
    size_t row_tiles = awq_cuda__ceil_div(w->out_features, plan->rows);
    size_t tiles = row_tiles * token_tiles, units, whole;
    if (token_tiles > 0x3fffffffu / row_tiles || tiles > 0x3fffffffu / w->blocks)
        return AWQ_ERR_RANGE;
    units = awq_cuda__ceil_div(tiles * w->blocks, processors);
    whole = awq_cuda__ceil_div(tiles, processors) * w->blocks;
    if (whole * 16 <= units * 17) units = whole;
    plan->token_tiles = static_cast<unsigned>(token_tiles);
    plan->row_tiles = static_cast<unsigned>(row_tiles);
    plan->units = static_cast<unsigned>(units);
    plan->blocks = static_cast<unsigned>(awq_cuda__ceil_div(tiles * w->blocks, units));
    if (units % w->blocks == 0) return AWQ_OK;
    plan->workspace = awq_cuda__workspace(cuda, plan->rows * plan->tokens);
    return AWQ_OK;
}

template <typename T> static awq_cuda__matmul_kernel *awq_cuda__gemv_of(unsigned groups) {
    return groups == 4 ? awq_cuda__gemv<T, 4> : groups == 2 ? awq_cuda__gemv<T, 2>
                                                            : awq_cuda__gemv<T, 1>;
}

static awq_status awq_cuda__plan_gemv(const awq_cuda *cuda, awq_dtype dtype,
                                      const awq_cuda__weights *w, size_t tokens,
                                      awq_cuda__plan *plan) {
    size_t fixed = 128 + AWQ_CUDA__GEMV_ZEROS, warps;
    size_t per_warp = tokens * (AWQ_CUDA__STRIP + 4) * 4 +
                      AWQ_CUDA__GEMV_STAGES *
                          awq_cuda__gemv_stage_size(w->block_groups, static_cast<unsigned>(tokens));
    if (tokens > 8) return AWQ_ERR_RANGE;
    warps = awq_cuda__min((cuda->shared_size - fixed) / per_warp, AWQ_CUDA__GEMV_WARPS);
    plan->kernel = dtype == AWQ_F16 ? awq_cuda__gemv_of<awq_cuda__f16>(w->block_groups)
                                    : awq_cuda__gemv_of<awq_cuda__bf16>(w->block_groups);
    plan->rows = AWQ_CUDA__STRIP;
    plan->tokens = static_cast<unsigned>(tokens);
    plan->threads = static_cast<unsigned>(warps) * 32;
    plan->shared = static_cast<unsigned>(fixed + warps * per_warp);
    return awq_cuda__plan_stripes(cuda, w, tokens, plan);
}

/* Stages that fit beside the sums of a tile. */
static unsigned awq_cuda__gemm_stages(const awq_cuda *cuda, const awq_cuda__weights *w,
                                      unsigned tokens) {
    const size_t sums = 128 + tokens * (AWQ_CUDA__GEMM_ROWS + 4) * 4;
    if (cuda->shared_size < sums) return 0;
    return static_cast<unsigned>(
        awq_cuda__min((cuda->shared_size - sums) /
                          awq_cuda__gemm_stage_size(w->block_groups, tokens),
                      AWQ_CUDA__GEMM_STAGES));
}

/* The smallest tile that takes all tokens, or the largest that fits. */
template <typename T, bool FINE>
static void awq_cuda__choose_gemm(const awq_cuda *cuda, const awq_cuda__weights *w, size_t tokens,
                                  awq_cuda__plan *plan) {
    plan->tokens = tokens <= 16 ? 16 : tokens <= 32 ? 32 : tokens <= 64 ? 64 : 128;
    if (plan->tokens == 128 && awq_cuda__gemm_stages(cuda, w, 128) < 2) plan->tokens = 64;
    plan->kernel = plan->tokens == 16   ? awq_cuda__gemm<T, 16, FINE>
                   : plan->tokens == 32 ? awq_cuda__gemm<T, 32, FINE>
                   : plan->tokens == 64 ? awq_cuda__gemm<T, 64, FINE>
                                        : awq_cuda__gemm<T, 128, FINE>;
    plan->stages = awq_cuda__gemm_stages(cuda, w, plan->tokens);
    plan->shared = 128 + plan->tokens * (AWQ_CUDA__GEMM_ROWS + 4) * 4 +
                   plan->stages * awq_cuda__gemm_stage_size(w->block_groups, plan->tokens);
}

static awq_status awq_cuda__plan_gemm(const awq_cuda *cuda, awq_dtype dtype,
                                      const awq_cuda__weights *w, size_t tokens,
                                      awq_cuda__plan *plan) {
    const bool fine = w->block_groups == 4;
    void (*choose)(const awq_cuda *, const awq_cuda__weights *, size_t, awq_cuda__plan *) =
        dtype == AWQ_F16 ? fine ? awq_cuda__choose_gemm<awq_cuda__f16, true>
                                : awq_cuda__choose_gemm<awq_cuda__f16, false>
        : fine           ? awq_cuda__choose_gemm<awq_cuda__bf16, true>
                         : awq_cuda__choose_gemm<awq_cuda__bf16, false>;
    choose(cuda, w, tokens, plan);
    plan->rows = AWQ_CUDA__GEMM_ROWS;
    plan->threads = AWQ_CUDA__GEMM_THREADS;
    return awq_cuda__plan_stripes(cuda, w, tokens, plan);
}

template <typename T> static awq_cuda__matmul_kernel *awq_cuda__wgmma_of(unsigned groups) {
    return groups == 4 ? awq_cuda__wgmma<T, 4> : groups == 2 ? awq_cuda__wgmma<T, 2>
                                                             : awq_cuda__wgmma<T, 1>;
}

static awq_status awq_cuda__plan_wgmma(const awq_cuda *cuda, awq_dtype dtype,
                                       const awq_cuda__weights *w, size_t tokens,
                                       awq_cuda__plan *plan) {
    plan->kernel = dtype == AWQ_F16 ? awq_cuda__wgmma_of<awq_cuda__f16>(w->block_groups)
                                    : awq_cuda__wgmma_of<awq_cuda__bf16>(w->block_groups);
    plan->rows = AWQ_CUDA__WGMMA_ROWS;
    plan->tokens = AWQ_CUDA__WGMMA_TOKENS;
    plan->threads = AWQ_CUDA__WGMMA_THREADS;
    plan->shared = 1024 + AWQ_CUDA__WGMMA_STAGES * awq_cuda__wgmma_stage_size(w->block_groups) +
                   2 * AWQ_CUDA__WGMMA_SUMS;
    return awq_cuda__plan_stripes(cuda, w, tokens, plan);
}

#endif /* !AWQ_CUDA__HIP */

static awq_status awq_cuda__plan_portable(awq_dtype dtype, const awq_cuda__weights *w,
                                          size_t tokens, awq_cuda__plan *plan) {
    if (tokens > static_cast<size_t>(65535) * AWQ_CUDA__PORTABLE_TOKENS) return AWQ_ERR_RANGE;
    plan->kernel = dtype == AWQ_F16 ? awq_cuda__portable<awq_cuda__f16>
                                    : awq_cuda__portable<awq_cuda__bf16>;
    plan->row_tiles = w->strips;
    plan->token_tiles =
        static_cast<unsigned>(awq_cuda__ceil_div(tokens, AWQ_CUDA__PORTABLE_TOKENS));
    plan->threads = 32 * AWQ_CUDA__PORTABLE_WARPS;
    plan->shared = AWQ_CUDA__PORTABLE_WARPS * 4 * AWQ_CUDA__PORTABLE_TOKENS * AWQ_CUDA__STRIP * 4;
    return AWQ_OK;
}

static awq_status awq_cuda__plan_of(const awq_cuda *cuda, awq_cuda_kernel kernel, awq_dtype dtype,
                                    const awq_cuda__weights *w, size_t tokens,
                                    awq_cuda__plan *plan) {
    memset(plan, 0, sizeof *plan);
    (void)cuda;
    switch (kernel) {
    case AWQ_CUDA_PORTABLE: return awq_cuda__plan_portable(dtype, w, tokens, plan);
#if !AWQ_CUDA__HIP
    case AWQ_CUDA_GEMV: return awq_cuda__plan_gemv(cuda, dtype, w, tokens, plan);
    case AWQ_CUDA_GEMM: return awq_cuda__plan_gemm(cuda, dtype, w, tokens, plan);
    case AWQ_CUDA_WGMMA: return awq_cuda__plan_wgmma(cuda, dtype, w, tokens, plan);
#endif
    default: return AWQ_ERR_DEVICE;
    }
}

/* Whether the device, and the code for it in this binary, can. */
static awq_status awq_cuda__check_kernel(awq_cuda *cuda, awq_cuda_kernel kernel) {
    if (kernel < AWQ_CUDA_PORTABLE || kernel > AWQ_CUDA_WGMMA) return AWQ_ERR_CONFIG;
    if (kernel == AWQ_CUDA_PORTABLE) return AWQ_OK;
    if (kernel == AWQ_CUDA_WGMMA ? cuda->has_wgmma : cuda->code_sm >= 80) return AWQ_OK;
    cuda->needs = kernel == AWQ_CUDA_WGMMA ? 90 : 80;
    return AWQ_ERR_DEVICE;
}

AWQDEF awq_cuda_kernel awq_cuda_pick(const awq_cuda *cuda, const awq_cuda_tensor *tensor,
                                     size_t tokens) {
    (void)tensor;
    if (!cuda || cuda->code_sm < 80) return AWQ_CUDA_PORTABLE;
    if (tokens <= 8) return AWQ_CUDA_GEMV;
    return tokens > 64 && cuda->has_wgmma ? AWQ_CUDA_WGMMA : AWQ_CUDA_GEMM;
}

AWQDEF size_t awq_cuda_workspace_size(const awq_cuda *cuda, size_t max_tokens) {
    size_t tokens = max_tokens <= 16 ? 16 : max_tokens <= 32 ? 32 : max_tokens <= 64 ? 64 : 128;
    if (!cuda || cuda->code_sm < 80) return 0;
#if AWQ_CUDA__HIP
    (void)tokens;
    return 0;
#else
    return awq_cuda__workspace(
        cuda, cuda->has_wgmma ? AWQ_CUDA__WGMMA_ROWS * AWQ_CUDA__WGMMA_TOKENS
                                                : AWQ_CUDA__GEMM_ROWS * tokens);
#endif
}

/* =================================================================================================
   >>device, >>matmul   the host's side
   ============================================================================================== */

#if AWQ_CUDA__HIP
static awq_status awq_cuda__query(awq_cuda *cuda, int device) {
    int shared = 0;
    AWQ_CUDA__TRY(awq_cuda__failed(
        cuda, hipDeviceGetAttribute(&cuda->processors, hipDeviceAttributeMultiprocessorCount,
                                    device)));
    AWQ_CUDA__TRY(awq_cuda__failed(
        cuda, hipDeviceGetAttribute(&shared, hipDeviceAttributeMaxSharedMemoryPerBlock, device)));
    cuda->shared_size = static_cast<size_t>(shared);
    return AWQ_OK;
}
#else
static awq_status awq_cuda__query(awq_cuda *cuda, int device) {
    static const cudaDeviceAttr which[4] = { cudaDevAttrComputeCapabilityMajor,
                                             cudaDevAttrComputeCapabilityMinor,
                                             cudaDevAttrMultiProcessorCount,
                                             cudaDevAttrMaxSharedMemoryPerBlockOptin };
    int value[4] = { 0, 0, 0, 0 };
    cudaFuncAttributes code;
    for (int i = 0; i < 4; i++)
        AWQ_CUDA__TRY(awq_cuda__failed(cuda, cudaDeviceGetAttribute(&value[i], which[i], device)));
    cuda->sm = value[0] * 10 + value[1];
    cuda->processors = value[2];
    cuda->shared_size = static_cast<size_t>(value[3]);
    /* of the current device, so it must be this one */
    AWQ_CUDA__TRY(awq_cuda__failed(
        cuda, cudaFuncGetAttributes(&code, reinterpret_cast<const void *>(
                                               &awq_cuda__portable<awq_cuda__f16>))));
    cuda->code_sm = code.ptxVersion;
    /* without sm_90a code the kernel is empty: it has its sums in no registers */
    AWQ_CUDA__TRY(awq_cuda__failed(
        cuda, cudaFuncGetAttributes(&code, reinterpret_cast<const void *>(
                                               &awq_cuda__wgmma<awq_cuda__f16, 1>))));
    cuda->has_wgmma = cuda->sm == 90 && code.numRegs >= 128;
    return AWQ_OK;
}
#endif

AWQDEF awq_status awq_cuda_init(awq_cuda *cuda, int device, AWQ_CUDA_API(Stream_t) stream) {
    int current = -1;
    if (!cuda) return AWQ_ERR_NULL;
    memset(cuda, 0, sizeof *cuda);
    cuda->stream = stream;
    AWQ_CUDA__TRY(awq_cuda__failed(cuda, AWQ_CUDA_API(GetDevice)(&current)));
    if (device != current) return AWQ_ERR_RANGE;
    return awq_cuda__query(cuda, device);
}

static awq_status awq_cuda__check_matmul(const awq_cuda_tensor *tensor, awq_matrix x,
                                         awq_matrix residual, awq_matrix y) {
    AWQ_CUDA__TRY(awq_cuda__check_tensor(tensor));
    AWQ_CUDA__TRY(awq_cuda__check_rows(x, x.rows, tensor->in_features, tensor->dtype));
    AWQ_CUDA__TRY(awq_cuda__check_rows(y, x.rows, tensor->out_features, tensor->dtype));
    if (residual.data)
        AWQ_CUDA__TRY(
            awq_cuda__check_rows(residual, x.rows, tensor->out_features, tensor->dtype));
    return awq_cuda__check_aligned(x);
}

static awq_status awq_cuda__run(awq_cuda *cuda, const awq_cuda__plan *plan,
                                awq_cuda__matmul_job *job) {
    dim3 grid(plan->blocks);
    job->units = plan->units;
    job->stages = plan->stages;
    job->row_tiles = plan->row_tiles;
    job->token_tiles = plan->token_tiles;
    if (plan->blocks == 0) grid = dim3(plan->row_tiles, plan->token_tiles);
#if !AWQ_CUDA__HIP
    unsigned char *workspace = static_cast<unsigned char *>(cuda->workspace);
    if (plan->workspace) {
        if (!workspace || cuda->workspace_size < plan->workspace ||
            reinterpret_cast<uintptr_t>(workspace) % 16)
            return AWQ_ERR_MEMORY;
        job->counters = reinterpret_cast<unsigned *>(workspace);
        job->partials = reinterpret_cast<float *>(workspace + awq_cuda__counters_size(cuda));
    }
    if (plan->shared > 48 * 1024) /* always to the same, for threads that launch at once */
        AWQ_CUDA__TRY(awq_cuda__failed(
            cuda, cudaFuncSetAttribute(reinterpret_cast<const void *>(plan->kernel),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(cuda->shared_size))));
#endif
    AWQ_CUDA__LAUNCH(plan->kernel, grid, plan->threads, plan->shared, cuda->stream, *job);
    return awq_cuda__launched(cuda);
}

AWQDEF awq_status awq_cuda_matmul_with(awq_cuda *cuda, awq_cuda_kernel kernel,
                                       const awq_cuda_tensor *tensor, awq_matrix x,
                                       const void *bias, awq_matrix residual, awq_matrix y) {
    awq_cuda__matmul_job job;
    awq_cuda__plan plan;
    if (!cuda) return AWQ_ERR_NULL;
    AWQ_CUDA__TRY(awq_cuda__check_matmul(tensor, x, residual, y));
    AWQ_CUDA__TRY(awq_cuda__check_kernel(cuda, kernel));
    if (x.rows == 0) return AWQ_OK;
    if (x.rows > 0x7fffffffu) return AWQ_ERR_RANGE;
    memset(&job, 0, sizeof job);
    job.w = awq_cuda__view(tensor);
    AWQ_CUDA__TRY(awq_cuda__plan_of(cuda, kernel, tensor->dtype, &job.w, x.rows, &plan));
    job.x = static_cast<const uint16_t *>(x.data);
    job.x_stride = x.stride;
    job.bias = static_cast<const uint16_t *>(bias);
    job.residual = static_cast<const uint16_t *>(residual.data);
    job.residual_stride = residual.stride;
    job.y = static_cast<uint16_t *>(y.data);
    job.y_stride = y.stride;
    job.tokens = static_cast<unsigned>(x.rows);
    job.quads = reinterpret_cast<uintptr_t>(y.data) % 8 == 0 && y.stride % 4 == 0;
    return awq_cuda__run(cuda, &plan, &job);
}

AWQDEF awq_status awq_cuda_matmul(awq_cuda *cuda, const awq_cuda_tensor *tensor, awq_matrix x,
                                  const void *bias, awq_matrix residual, awq_matrix y) {
    if (!cuda || !tensor) return AWQ_ERR_NULL;
    return awq_cuda_matmul_with(cuda, awq_cuda_pick(cuda, tensor, x.rows), tensor, x, bias,
                                residual, y);
}

#endif /* AWQ_CUDA_IMPLEMENTATION */
