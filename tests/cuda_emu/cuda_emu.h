/*  cuda_emu.h - what awq_cuda.cuh uses of CUDA, for a CPU; include it first (see README.md).

    Types and names are CUDA's. Everything that waits for other threads, and every check, is in
    cuda_emu.cc; what a test says to the emulator is in emulator.h. */
#ifndef CUDA_EMU_H
#define CUDA_EMU_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>

#ifndef AWQ_CUDA_EMULATED
#  define AWQ_CUDA_EMULATED
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline __attribute__((always_inline))

/* ---- vectors --------------------------------------------------------------------------------- */

#define CUDA_EMU_VECTOR2(name, type, alignment)                                                    \
    struct alignas(alignment) name##2 { type x, y; };                                              \
    static inline name##2 make_##name##2(type x, type y) { return { x, y }; }
#define CUDA_EMU_VECTOR4(name, type, alignment)                                                    \
    struct alignas(alignment) name##4 { type x, y, z, w; };                                        \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return { x, y, z, w }; }
CUDA_EMU_VECTOR2(int, int, 8)
CUDA_EMU_VECTOR4(int, int, 16)
CUDA_EMU_VECTOR2(uint, unsigned, 8)
CUDA_EMU_VECTOR4(uint, unsigned, 16)
CUDA_EMU_VECTOR2(float, float, 8)
CUDA_EMU_VECTOR4(float, float, 16)
CUDA_EMU_VECTOR2(ushort, unsigned short, 4)
CUDA_EMU_VECTOR4(ushort, unsigned short, 8)
CUDA_EMU_VECTOR4(uchar, unsigned char, 4)

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) { }
};

/* ---- the host's side ------------------------------------------------------------------------- */

typedef struct CUstream_st *cudaStream_t;

enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101, cudaErrorNoKernelImageForDevice = 209,
    cudaErrorLaunchFailure = 719, cudaErrorNotSupported = 801
};
enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlock = 8, cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39, cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA;
    int maxDynamicSharedSizeBytes, preferredShmemCarveout;
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream);

namespace cuda_emu {

cudaError_t set_function_attribute(const void *kernel, cudaFuncAttribute attribute, int value);
cudaError_t function_attributes(cudaFuncAttributes *attributes);
cudaError_t occupancy(int *blocks, int threads, size_t shared_bytes);

/*  run(closure) is what each thread does; closure is in memory that kernels may read.            */
struct work { void (*run)(void *closure); void *closure; size_t closure_size; const void *kernel; };
void launch(const work &what, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream);

template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Arguments... arguments)
{
    struct call { void (*kernel)(Parameters...); std::tuple<Parameters...> parameters; };
    call c = { kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...) };
    void (*run)(void *) = [](void *closure) {
        const call *what = static_cast<const call *>(closure);
        std::apply(what->kernel, what->parameters);
    };
    launch({ run, &c, sizeof c, reinterpret_cast<const void *>(kernel) }, grid, block, shared_bytes,
           stream);
}

}   /* namespace cuda_emu */

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute attribute, int value)
{
    return cuda_emu::set_function_attribute(reinterpret_cast<const void *>(kernel), attribute,
                                            value);
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, Kernel *)
{
    return cuda_emu::function_attributes(attributes);
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Kernel *, int threads,
                                                          size_t shared_bytes)
{
    return cuda_emu::occupancy(blocks, threads, shared_bytes);
}

#define AWQ_CUDA__LAUNCH(...) ::cuda_emu::launch_kernel(__VA_ARGS__)
#define AWQ_CUDA__SHARED(name) unsigned char *name = ::cuda_emu::registers.shared

/* ---- a thread's place ------------------------------------------------------------------------ */

namespace cuda_emu {

struct special_registers {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    unsigned char *shared;
};
extern special_registers registers;     /* of the thread that runs now */

}   /* namespace cuda_emu */

#define threadIdx (::cuda_emu::registers.thread)
#define blockIdx  (::cuda_emu::registers.block)
#define blockDim  (::cuda_emu::registers.block_dim)
#define gridDim   (::cuda_emu::registers.grid_dim)
static constexpr int warpSize = 32;

/* ---- waiting for others; `line` is the caller's ---------------------------------------------- */

void __syncthreads(int line = __builtin_LINE());
void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE());
void __threadfence(int line = __builtin_LINE());
void __threadfence_block();
unsigned __activemask();

namespace cuda_emu {

enum shuffle { INDEX, UP, DOWN, XOR };
uint64_t exchange(shuffle how, unsigned mask, uint64_t value, int operand, int width, int line);
unsigned vote(unsigned mask, bool predicate, int line);

template <class T>
T exchange_as(shuffle how, unsigned mask, T value, int operand, int width, int line)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move 8 bytes at most");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange(how, mask, bits, operand, width, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

}   /* namespace cuda_emu */

#define CUDA_EMU_SHUFFLE(name, how)                                                                \
    template <class T>                                                                             \
    T name(unsigned mask, T value, int operand, int width = 32, int line = __builtin_LINE())       \
    {                                                                                              \
        return cuda_emu::exchange_as(how, mask, value, operand, width, line);                      \
    }
CUDA_EMU_SHUFFLE(__shfl_sync, cuda_emu::INDEX)
CUDA_EMU_SHUFFLE(__shfl_up_sync, cuda_emu::UP)
CUDA_EMU_SHUFFLE(__shfl_down_sync, cuda_emu::DOWN)
CUDA_EMU_SHUFFLE(__shfl_xor_sync, cuda_emu::XOR)

static inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return cuda_emu::vote(mask, predicate != 0, line);
}
static inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return cuda_emu::vote(mask, predicate != 0, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return cuda_emu::vote(mask, predicate != 0, line) == mask;
}
int __syncthreads_or(int predicate, int line = __builtin_LINE());

/* ---- atomics --------------------------------------------------------------------------------- */

namespace cuda_emu {

/*  Between the two, accesses are part of the atomic operation, which is checked at its begin.     */
void atomic_begin(const void *address, size_t size, const void *caller);
void atomic_end();

template <class T> struct same { typedef T type; };

}   /* namespace cuda_emu */

#define CUDA_EMU_ATOMIC(name, expression)                                                          \
    template <class T>                                                                             \
    __attribute__((noinline)) T name(T *address, typename cuda_emu::same<T>::type value)           \
    {                                                                                              \
        cuda_emu::atomic_begin(address, sizeof(T), __builtin_return_address(0));                   \
        const T old = *address;                                                                    \
        *address = (expression);                                                                   \
        cuda_emu::atomic_end();                                                                    \
        return old;                                                                                \
    }
CUDA_EMU_ATOMIC(atomicAdd, T(old + value))
CUDA_EMU_ATOMIC(atomicSub, T(old - value))
CUDA_EMU_ATOMIC(atomicMax, old > value ? old : value)
CUDA_EMU_ATOMIC(atomicMin, old < value ? old : value)
CUDA_EMU_ATOMIC(atomicOr, T(old | value))
CUDA_EMU_ATOMIC(atomicExch, value)
CUDA_EMU_ATOMIC(atomicInc, old >= value ? T(0) : T(old + 1))
template <class T>
__attribute__((noinline)) T atomicCAS(T *address, typename cuda_emu::same<T>::type expected,
                                      typename cuda_emu::same<T>::type value)
{
    cuda_emu::atomic_begin(address, sizeof(T), __builtin_return_address(0));
    const T old = *address;
    if (old == expected) *address = value;
    cuda_emu::atomic_end();
    return old;
}

/* ---- loads and stores with a hint: here like any other --------------------------------------- */

#define CUDA_EMU_LOAD(name) template <class T> T name(const T *from) { return *from; }
#define CUDA_EMU_STORE(name) template <class T> void name(T *to, T value) { *to = value; }
CUDA_EMU_LOAD(__ldg)
CUDA_EMU_LOAD(__ldcs)
CUDA_EMU_LOAD(__ldcg)
CUDA_EMU_LOAD(__ldca)
CUDA_EMU_STORE(__stcs)
CUDA_EMU_STORE(__stcg)

/* ---- bits and fp32 --------------------------------------------------------------------------- */

static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
static inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
static inline float __int_as_float(int i) { return __uint_as_float(unsigned(i)); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selector >> (4 * i) & 15;
        unsigned byte = unsigned(bytes >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << (8 * i);
    }
    return r;
}
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline int __float2int_rn(float a) { return int(rintf(a)); }
static inline int __float2int_rz(float a) { return int(a); }
static inline float __int2float_rn(int a) { return float(a); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }

/* ---- fp16 and bf16: one template, results rounded once --------------------------------------- */

namespace cuda_emu {

struct f16 {
    static float widen(uint16_t bits);
    static uint16_t narrow(double value);
};
struct bf16 {
    static float widen(uint16_t bits) { return __uint_as_float(unsigned(bits) << 16); }
    static uint16_t narrow(double value);
};

template <class Format> struct number {
    uint16_t bits;
    number() = default;
    number(float value) : bits(Format::narrow(double(value))) { }
    operator float() const { return Format::widen(bits); }
};
template <class Format> struct alignas(4) pair {
    number<Format> x, y;
    pair() = default;
    pair(number<Format> x_, number<Format> y_) : x(x_), y(y_) { }
};
template <class Format> number<Format> from_bits(uint16_t bits)
{
    number<Format> n;
    n.bits = bits;
    return n;
}
template <class Format> number<Format> rounded(double value)
{
    return from_bits<Format>(Format::narrow(value));
}
template <class Format> double wide(number<Format> n) { return double(Format::widen(n.bits)); }

}   /* namespace cuda_emu */

typedef cuda_emu::number<cuda_emu::f16> __half;
typedef cuda_emu::pair<cuda_emu::f16> __half2;
typedef cuda_emu::number<cuda_emu::bf16> __nv_bfloat16;
typedef cuda_emu::pair<cuda_emu::bf16> __nv_bfloat162;
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

#define CUDA_EMU_BINARY(name, expression)                                                          \
    template <class F>                                                                             \
    cuda_emu::number<F> name(cuda_emu::number<F> left, cuda_emu::number<F> right)                  \
    {                                                                                              \
        const double a = wide(left), b = wide(right);                                              \
        return cuda_emu::rounded<F>(expression);                                                   \
    }                                                                                              \
    template <class F>                                                                             \
    cuda_emu::pair<F> name##2(cuda_emu::pair<F> left, cuda_emu::pair<F> right)                     \
    {                                                                                              \
        return { name(left.x, right.x), name(left.y, right.y) };                                   \
    }
CUDA_EMU_BINARY(__hadd, a + b)
CUDA_EMU_BINARY(__hsub, a - b)
CUDA_EMU_BINARY(__hmul, a * b)
CUDA_EMU_BINARY(__hmax, a > b || b != b ? a : b)
CUDA_EMU_BINARY(__hmin, a < b || b != b ? a : b)

template <class F>
cuda_emu::number<F> __hfma(cuda_emu::number<F> a, cuda_emu::number<F> b, cuda_emu::number<F> c)
{
    return cuda_emu::rounded<F>(wide(a) * wide(b) + wide(c));
}
template <class F>
cuda_emu::pair<F> __hfma2(cuda_emu::pair<F> a, cuda_emu::pair<F> b, cuda_emu::pair<F> c)
{
    return { __hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y) };
}
template <class F> cuda_emu::number<F> __hneg(cuda_emu::number<F> a)
{
    return cuda_emu::from_bits<F>(uint16_t(a.bits ^ 0x8000u));
}
template <class F> cuda_emu::pair<F> __hneg2(cuda_emu::pair<F> a)
{
    return { __hneg(a.x), __hneg(a.y) };
}
template <class F> cuda_emu::number<F> __habs(cuda_emu::number<F> a)
{
    return cuda_emu::from_bits<F>(uint16_t(a.bits & 0x7fffu));
}

/*  The names that say their type.                                                                */
#define CUDA_EMU_CONVERSIONS(F, scalar, vector, number_name, pair_name)                            \
    static inline float __##number_name##2float(scalar a) { return a; }                            \
    static inline scalar __float2##number_name(float a) { return scalar(a); }                      \
    static inline scalar __float2##number_name##_rn(float a) { return scalar(a); }                 \
    static inline vector __floats2##pair_name##_rn(float a, float b) { return { a, b }; }          \
    static inline vector __float22##pair_name##_rn(float2 a) { return { a.x, a.y }; }              \
    static inline float2 __##pair_name##2float2(vector a) { return { a.x, a.y }; }                 \
    static inline vector __##number_name##2##pair_name(scalar a) { return { a, a }; }              \
    static inline vector __halves2##pair_name(scalar a, scalar b) { return { a, b }; }             \
    static inline scalar __low2##number_name(vector a) { return a.x; }                             \
    static inline scalar __high2##number_name(vector a) { return a.y; }                            \
    static inline float __low2float(vector a) { return a.x; }                                      \
    static inline float __high2float(vector a) { return a.y; }                                     \
    static inline unsigned short __##number_name##_as_ushort(scalar a) { return a.bits; }          \
    static inline scalar __ushort_as_##number_name(unsigned short a)                               \
    {                                                                                              \
        return cuda_emu::from_bits<F>(a);                                                          \
    }
CUDA_EMU_CONVERSIONS(cuda_emu::f16, __half, __half2, half, half2)
CUDA_EMU_CONVERSIONS(cuda_emu::bf16, __nv_bfloat16, __nv_bfloat162, bfloat16, bfloat162)

/* ---- section >>ptx of awq_cuda.cuh ----------------------------------------------------------- */

namespace cuda_emu {

void copy_async(void *shared, const void *global, unsigned valid_bytes, const void *caller);
void copy_async_commit();
void copy_async_wait(int left_pending, int line);
void load_matrices(unsigned *r, const void *row, int count, bool transposed, int line,
                   const void *caller);
enum mma_shape { M16N8K16, M16N8K8 };
void multiply(mma_shape shape, float (*widen)(uint16_t), float *d, const unsigned *a,
              const unsigned *b, int line);
unsigned shared_address(const void *shared);
void barrier(unsigned id, unsigned threads, int line);
void mbarrier_init(uint64_t *barrier, unsigned count, const void *caller);
void mbarrier_arrive(uint64_t *barrier, int line, const void *caller);
void mbarrier_wait(uint64_t *barrier, unsigned parity, int line, const void *caller);
void proxy_fence(int line);
void wgmma(unsigned columns, float (*widen)(uint16_t), float *d, const unsigned *a,
           uint64_t descriptor, int line);
void wgmma_fence(int line);
void wgmma_commit(int line);
void wgmma_wait(int left_pending, int line);
unsigned load_acquire(const unsigned *from, const void *caller);
void store_release(unsigned *to, unsigned value, const void *caller);

}   /* namespace cuda_emu */

#define CUDA_EMU_HERE __builtin_return_address(0)

__attribute__((noinline)) static inline
void awq_cuda__cp_async16(void *shared, const void *global, unsigned valid_bytes)
{
    cuda_emu::copy_async(shared, global, valid_bytes, CUDA_EMU_HERE);
}
static inline void awq_cuda__cp_async_commit() { cuda_emu::copy_async_commit(); }
template <int N> void awq_cuda__cp_async_wait(int line = __builtin_LINE())
{
    cuda_emu::copy_async_wait(N, line);
}

#define CUDA_EMU_LDMATRIX(name, count, transposed)                                                 \
    __attribute__((noinline)) static inline                                                        \
    void name(unsigned *r, const void *row, int line = __builtin_LINE())                           \
    {                                                                                              \
        cuda_emu::load_matrices(r, row, count, transposed, line, CUDA_EMU_HERE);                   \
    }
CUDA_EMU_LDMATRIX(awq_cuda__ldmatrix_x1, 1, false)
CUDA_EMU_LDMATRIX(awq_cuda__ldmatrix_x2, 2, false)
CUDA_EMU_LDMATRIX(awq_cuda__ldmatrix_x4, 4, false)
CUDA_EMU_LDMATRIX(awq_cuda__ldmatrix_x1_trans, 1, true)
CUDA_EMU_LDMATRIX(awq_cuda__ldmatrix_x2_trans, 2, true)
CUDA_EMU_LDMATRIX(awq_cuda__ldmatrix_x4_trans, 4, true)

#define CUDA_EMU_MMA(name, shape, format)                                                          \
    static inline void name(float *d, const unsigned *a, const unsigned *b,                        \
                            int line = __builtin_LINE())                                           \
    {                                                                                              \
        cuda_emu::multiply(cuda_emu::shape, cuda_emu::format::widen, d, a, b, line);               \
    }
CUDA_EMU_MMA(awq_cuda__mma_m16n8k16_f16, M16N8K16, f16)
CUDA_EMU_MMA(awq_cuda__mma_m16n8k16_bf16, M16N8K16, bf16)
CUDA_EMU_MMA(awq_cuda__mma_m16n8k8_f16, M16N8K8, f16)

static inline unsigned awq_cuda__address(const void *shared)
{
    return cuda_emu::shared_address(shared);
}
static inline void awq_cuda__barrier(unsigned id, unsigned threads, int line = __builtin_LINE())
{
    cuda_emu::barrier(id, threads, line);
}
template <int N> void awq_cuda__registers_up() { }
template <int N> void awq_cuda__registers_down() { }
__attribute__((noinline)) static inline
void awq_cuda__mbarrier_init(uint64_t *barrier, unsigned count)
{
    cuda_emu::mbarrier_init(barrier, count, CUDA_EMU_HERE);
}
__attribute__((noinline)) static inline
void awq_cuda__mbarrier_arrive(uint64_t *barrier, int line = __builtin_LINE())
{
    cuda_emu::mbarrier_arrive(barrier, line, CUDA_EMU_HERE);
}
__attribute__((noinline)) static inline
void awq_cuda__mbarrier_wait(uint64_t *barrier, unsigned parity, int line = __builtin_LINE())
{
    cuda_emu::mbarrier_wait(barrier, parity, line, CUDA_EMU_HERE);
}
static inline void awq_cuda__fence_proxy(int line = __builtin_LINE())
{
    cuda_emu::proxy_fence(line);
}
static inline void awq_cuda__wgmma_fence(int line = __builtin_LINE())
{
    cuda_emu::wgmma_fence(line);
}
static inline void awq_cuda__wgmma_commit(int line = __builtin_LINE())
{
    cuda_emu::wgmma_commit(line);
}
template <int N> void awq_cuda__wgmma_wait(int line = __builtin_LINE())
{
    cuda_emu::wgmma_wait(N, line);
}

#define CUDA_EMU_WGMMA(name, columns, format)                                                      \
    static inline void name(float (&d)[columns / 2], const unsigned *a, uint64_t descriptor,       \
                            int line = __builtin_LINE())                                           \
    {                                                                                              \
        cuda_emu::wgmma(columns, cuda_emu::format::widen, d, a, descriptor, line);                 \
    }
CUDA_EMU_WGMMA(awq_cuda__wgmma_m64n128k16_f16, 128, f16)
CUDA_EMU_WGMMA(awq_cuda__wgmma_m64n128k16_bf16, 128, bf16)
CUDA_EMU_WGMMA(awq_cuda__wgmma_m64n8k16_f16, 8, f16)

template <int LUT> unsigned awq_cuda__lop3(unsigned a, unsigned b, unsigned c)
{
    unsigned r = 0;
    if (LUT & 0x80) r |= a & b & c;
    if (LUT & 0x40) r |= a & b & ~c;
    if (LUT & 0x20) r |= a & ~b & c;
    if (LUT & 0x10) r |= a & ~b & ~c;
    if (LUT & 0x08) r |= ~a & b & c;
    if (LUT & 0x04) r |= ~a & b & ~c;
    if (LUT & 0x02) r |= ~a & ~b & c;
    if (LUT & 0x01) r |= ~a & ~b & ~c;
    return r;
}
template <class T> T awq_cuda__load_stream(const T *from) { return *from; }
__attribute__((noinline)) static inline unsigned awq_cuda__load_acquire(const unsigned *from)
{
    return cuda_emu::load_acquire(from, CUDA_EMU_HERE);
}
__attribute__((noinline)) static inline
void awq_cuda__store_release(unsigned *to, unsigned value)
{
    cuda_emu::store_release(to, value, CUDA_EMU_HERE);
}

#endif
