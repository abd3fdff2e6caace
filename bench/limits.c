#include "limits.h"

#include "common.h"

#include <string.h>

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <cpuid.h>
#include <immintrin.h>
#define X86 1
#define TARGET(features) __attribute__((target(features)))
#else
#define X86 0
#endif

/*  All loops return something made of what they did, so that it has to be done.                  */
#define INLINE  static inline __attribute__((always_inline))
#define STREAMS 8    /* at most                                                                   */
#define LINE    64
#define AHEAD   2048 /* bytes that software prefetch runs ahead of a stream                       */

/* ---- reading: one function per vector width, then its eight variants ------------------------- */

INLINE uint64_t read_c(const unsigned char *bytes, size_t size, size_t streams, int prefetch)
{
    size_t part = size / streams / LINE * LINE, i, s, j;
    uint64_t sum[LINE / 8] = { 0 }, line[LINE / 8];
    for (i = 0; i < part; i += LINE)
        for (s = 0; s < streams; s++) {
            if (prefetch) __builtin_prefetch(bytes + s * part + i + AHEAD);
            memcpy(line, bytes + s * part + i, LINE);
            for (j = 0; j < LINE / 8; j++) sum[j] += line[j];
        }
    for (j = 1; j < LINE / 8; j++) sum[0] += sum[j];
    return sum[0];
}

#if X86
TARGET("avx2")
INLINE uint64_t read_avx2(const unsigned char *bytes, size_t size, size_t streams, int prefetch)
{
    size_t part = size / streams / LINE * LINE, i, s;
    __m256i sum = _mm256_setzero_si256(), other = sum;
    for (i = 0; i < part; i += LINE)
        for (s = 0; s < streams; s++) {
            const unsigned char *p = bytes + s * part + i;
            if (prefetch) __builtin_prefetch(p + AHEAD);
            sum = _mm256_add_epi64(sum, _mm256_loadu_si256((const __m256i *)(const void *)p));
            p += LINE / 2;
            other = _mm256_add_epi64(other, _mm256_loadu_si256((const __m256i *)(const void *)p));
        }
    return (uint64_t)_mm256_extract_epi64(_mm256_add_epi64(sum, other), 0);
}

TARGET("avx512f")
INLINE uint64_t read_avx512(const unsigned char *bytes, size_t size, size_t streams, int prefetch)
{
    size_t part = size / streams / LINE * LINE, i, s;
    __m512i sum[STREAMS];
    for (s = 0; s < STREAMS; s++) sum[s] = _mm512_setzero_si512();
    for (i = 0; i < part; i += LINE)
        for (s = 0; s < streams; s++) {
            const unsigned char *p = bytes + s * part + i;
            if (prefetch) __builtin_prefetch(p + AHEAD);
            sum[s] = _mm512_add_epi64(sum[s], _mm512_loadu_si512(p));
        }
    for (s = 1; s < STREAMS; s++) sum[0] = _mm512_add_epi64(sum[0], sum[s]);
    return (uint64_t)_mm512_reduce_or_epi64(sum[0]);
}
#endif

#define READER(target, width, streams, prefetch)                                                   \
    target static uint64_t read_##width##_##streams##_##prefetch(const unsigned char *bytes,       \
                                                                 size_t size)                      \
    {                                                                                              \
        return read_##width(bytes, size, streams, prefetch);                                       \
    }
#define READERS(target, width)                                                                     \
    READER(target, width, 1, 0) READER(target, width, 2, 0)                                        \
    READER(target, width, 4, 0) READER(target, width, 8, 0)                                        \
    READER(target, width, 1, 1) READER(target, width, 2, 1)                                        \
    READER(target, width, 4, 1) READER(target, width, 8, 1)
#define ROW(width, streams)                                                                        \
    { #width " streams:" #streams, read_##width##_##streams##_0 },                                 \
    { #width " streams:" #streams " prefetch", read_##width##_##streams##_1 }
#define ROWS(width) { ROW(width, 1), ROW(width, 2), ROW(width, 4), ROW(width, 8) }

#define NO_TARGET
READERS(NO_TARGET, c)
static const reader c_readers[] = ROWS(c);
#if X86
READERS(TARGET("avx2"), avx2)
READERS(TARGET("avx512f"), avx512)
static const reader avx2_readers[] = ROWS(avx2);
static const reader avx512_readers[] = ROWS(avx512);
#endif

/* ---- multiplying: twelve accumulators hide the latency of any of these ----------------------- */

#if X86
#define CHAINS   12
#define EACH(f)                                                                                    \
    f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
/*  Hides from the compiler that all chains are alike, and that only one is looked at.            */
#define HIDE(j)  __asm__ volatile("" : "+v"(s##j));
#define PEAK(function, features, vector, zero, one, step, low)                                     \
    TARGET(features) static uint64_t function(size_t steps)                                        \
    {                                                                                              \
        vector s0 = zero, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0;  \
        vector s9 = s0, s10 = s0, s11 = s0, a = one, b = one;                                      \
        size_t i;                                                                                  \
        EACH(HIDE)                                                                                 \
        for (i = 0; i < steps; i++) {                                                              \
            step(s0, a, b);                                                                        \
            step(s1, a, b);                                                                        \
            step(s2, a, b);                                                                        \
            step(s3, a, b);                                                                        \
            step(s4, a, b);                                                                        \
            step(s5, a, b);                                                                        \
            step(s6, a, b);                                                                        \
            step(s7, a, b);                                                                        \
            step(s8, a, b);                                                                        \
            step(s9, a, b);                                                                        \
            step(s10, a, b);                                                                       \
            step(s11, a, b);                                                                       \
        }                                                                                          \
        EACH(HIDE)                                                                                 \
        return (uint64_t)low(s0);                                                                  \
    }
#define DOT512(sum, a, b)  sum = _mm512_dpbusd_epi32(sum, a, b)
#define DOT256(sum, a, b)  sum = _mm256_dpbusd_epi32(sum, a, b)
#define DOTAVX(sum, a, b)  sum = _mm256_dpbusd_avx_epi32(sum, a, b)
#define MADD256(sum, a, b) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b))
#define FMA512(sum, a, b)  sum = _mm512_fmadd_ps(a, b, sum)
#define FMA256(sum, a, b)  sum = _mm256_fmadd_ps(a, b, sum)
#define LOW512(x)          _mm_cvtsi128_si32(_mm512_castsi512_si128(x))
#define LOW256(x)          _mm_cvtsi128_si32(_mm256_castsi256_si128(x))
#define LOW512F(x)         _mm_cvttss_si32(_mm512_castps512_ps128(x))
#define LOW256F(x)         _mm_cvttss_si32(_mm256_castps256_ps128(x))

PEAK(dot512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1), DOT512,
     LOW512)
PEAK(dot256, "avx512f,avx512vl,avx512vnni", __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1),
     DOT256, LOW256)
PEAK(dotavx, "avxvnni", __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1), DOTAVX, LOW256)
PEAK(madd256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1), MADD256, LOW256)
PEAK(fma512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_set1_ps(1e-9f), FMA512, LOW512F)
PEAK(fma256, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_set1_ps(1e-9f), FMA256, LOW256F)

/* ---- what runs here -------------------------------------------------------------------------- */

static int has_avx_vnni(void)
{
    unsigned a = 0, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d)
           && (a >> 4 & 1);
}

size_t limit_peaks(peak_kind kind, peak *out)
{
    const int vnni = __builtin_cpu_supports("avx512vnni"), avx2 = __builtin_cpu_supports("avx2");
    const struct { int runs; peak peak; } all[] = {
        { vnni, { "vpdpbusd-512", PEAK_INT8, CHAINS * 128.0, dot512 } },
        { vnni, { "vpdpbusd-256", PEAK_INT8, CHAINS * 64.0, dot256 } },
        { !vnni && has_avx_vnni(), { "vpdpbusd-256", PEAK_INT8, CHAINS * 64.0, dotavx } },
        { avx2 && !vnni && !has_avx_vnni(),
          { "vpmaddubsw-256", PEAK_INT8, CHAINS * 64.0, madd256 } },
        { __builtin_cpu_supports("avx512f"), { "fma-512", PEAK_FP32, CHAINS * 32.0, fma512 } },
        { avx2 && __builtin_cpu_supports("fma"), { "fma-256", PEAK_FP32, CHAINS * 16.0, fma256 } },
    };
    size_t i, count = 0;
    for (i = 0; i < COUNT(all); i++)
        if (all[i].runs && all[i].peak.kind == kind) out[count++] = all[i].peak;
    return count;
}

size_t limit_readers(reader *out)
{
    size_t count = 0;
    if (__builtin_cpu_supports("avx512f")) {
        memcpy(out, avx512_readers, sizeof avx512_readers);
        count = COUNT(avx512_readers);
    }
    if (__builtin_cpu_supports("avx2")) {
        memcpy(out + count, avx2_readers, sizeof avx2_readers);
        count += COUNT(avx2_readers);
    }
    memcpy(out + count, c_readers, count ? 0 : sizeof c_readers);
    return count ? count : COUNT(c_readers);
}

#else

size_t limit_peaks(peak_kind kind, peak *out)
{
    (void)kind, (void)out;
    return 0;
}

size_t limit_readers(reader *out)
{
    memcpy(out, c_readers, sizeof c_readers);
    return COUNT(c_readers);
}
#endif
