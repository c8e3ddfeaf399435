// The vectors that all kernels are written with: kLanes floats, as many integers, or four bytes for
// each lane. GCC's vector types do the arithmetic; what they lack is here, once for each instruction
// set. Without one of those the same code runs on plain loops, and is the reference of the tests.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "maths.h"

#if defined(__AVX512VNNI__)
#define OLLA_AVX512 1
constexpr int kLanes = 16;
#elif defined(__AVX2__)
#define OLLA_AVX2 1
constexpr int kLanes = 8;
#elif defined(__ARM_FEATURE_DOTPROD)
#define OLLA_NEON 1
constexpr int kLanes = 4;
#else
constexpr int kLanes = 8;
#endif

#if OLLA_AVX512 || OLLA_AVX2
#include <immintrin.h>
#elif OLLA_NEON
#include <arm_neon.h>
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef uint16_t Words __attribute__((vector_size(4 * kLanes)));  // bytes, as pairs that can be shifted

template <class V>
inline V load(const void* from) {
    V values;
    std::memcpy(&values, from, sizeof(V));
    return values;
}

template <class V>
inline void store(void* to, V values) {
    std::memcpy(to, &values, sizeof(V));
}

// Minus zero changes nothing, not even the sign of a zero, so it costs nothing.
inline Floats spread(float value) { return value - Floats{}; }
inline Ints spread(int32_t value) { return Ints{} + value; }
inline Words spread_bytes(uint8_t value) { return Words{} + uint16_t(value * 257); }
inline Floats to_floats(Ints values) { return __builtin_convertvector(values, Floats); }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Four signed bytes, the same for each lane.
inline Words spread_quad(const int8_t* values) {
    int32_t word;
    std::memcpy(&word, values, 4);
    Ints words = spread(word);
    return load<Words>(&words);
}

inline Floats load_halves(const void* from) {
#if OLLA_AVX512
    return Floats(_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(from))));
#elif OLLA_AVX2
    return Floats(_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from))));
#elif OLLA_NEON
    return Floats(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(from)))));
#else
    Floats values;
    for (int i = 0; i < kLanes; ++i) values[i] = half_to_float(half_at(from, i));
    return values;
#endif
}

inline void store_halves(uint16_t* to, Floats values) {
#if OLLA_AVX512
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(__m512(values), 0));
#elif OLLA_AVX2
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(__m256(values), 0));
#elif OLLA_NEON
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(float32x4_t(values))));
#else
    for (int i = 0; i < kLanes; ++i) to[i] = float_to_half(values[i]);
#endif
}

inline Floats load_bytes(const int8_t* from) {
#if OLLA_AVX512
    return to_floats(Ints(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))));
#elif OLLA_AVX2
    return to_floats(Ints(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))));
#else
    Ints values;
    for (int i = 0; i < kLanes; ++i) values[i] = from[i];
    return to_floats(values);
#endif
}

inline Floats load_bfloats(const void* from) {
    Bits bits = __builtin_convertvector(load<Halves>(from), Bits) << 16;
    return load<Floats>(&bits);
}

inline float sum_of(Floats values) {
#if OLLA_AVX512
    return _mm512_reduce_add_ps(__m512(values));
#elif OLLA_AVX2
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#elif OLLA_NEON
    return vaddvq_f32(float32x4_t(values));
#else
    float lanes[kLanes], sum = 0;
    store(lanes, values);
    for (int step = kLanes / 2; step; step /= 2)
        for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
    return sum + lanes[0];
#endif
}

inline float largest_of(Floats values) {
#if OLLA_AVX512
    return _mm512_reduce_max_ps(__m512(values));
#else
    float lanes[kLanes], largest;
    store(lanes, values);
    largest = lanes[0];
    for (float lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
#endif
}

// 0, 1, 2 and so on.
inline Ints ascending() {
    Ints numbers;
    for (int i = 0; i < kLanes; ++i) numbers[i] = i;
    return numbers;
}

inline float dot(const float* a, const float* b, int size) {
    Floats sums{};
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) sums += load<Floats>(a + i) * load<Floats>(b + i);
    float sum = sum_of(sums);
    for (; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

// Sums of products of four bytes a lane: unsigned weights below 2^kBits with signed inputs. Eight
// bits are signed weights, for which instructions that take unsigned ones want kBias added.
#if OLLA_AVX512 || defined(__AVXVNNI__)

constexpr int kBias = 128;

template <int kBits>
class Dots {
  public:
    void add(Words weights, Words inputs) {
#if OLLA_AVX512
        sums_ = Ints(_mm512_dpbusd_epi32(__m512i(sums_), __m512i(weights), __m512i(inputs)));
#else
        sums_ = Ints(_mm256_dpbusd_avx_epi32(__m256i(sums_), __m256i(weights), __m256i(inputs)));
#endif
    }
    Ints total() const { return sums_; }

  private:
    Ints sums_{};
};

#elif OLLA_AVX2

constexpr int kBias = 0;

template <int kBits>
class Dots {
  public:
    void add(Words weights, Words inputs) {
        __m256i w = __m256i(weights), x = __m256i(inputs);
        if (kBits == 8) x = _mm256_sign_epi8(x, w), w = _mm256_abs_epi8(w);
        __m256i pairs = _mm256_maddubs_epi16(w, x);
        // 15 * 127 * 2 * 8 stays below 2^15.
        sums_ = kBits <= 4 ? _mm256_add_epi16(sums_, pairs) : _mm256_add_epi32(sums_, summed(pairs));
    }
    Ints total() const { return Ints(kBits <= 4 ? summed(sums_) : sums_); }

  private:
    static __m256i summed(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
    __m256i sums_ = _mm256_setzero_si256();
};

#else

constexpr int kBias = 0;

template <int kBits>
class Dots {
  public:
    void add(Words weights, Words inputs) {
#if OLLA_NEON
        sums_ = Ints(vdotq_s32(int32x4_t(sums_), int8x16_t(weights), int8x16_t(inputs)));
#else
        int8_t w[4 * kLanes], x[4 * kLanes];
        store(w, weights), store(x, inputs);
        for (int i = 0; i < 4 * kLanes; ++i) sums_[i / 4] += w[i] * x[i];
#endif
    }
    Ints total() const { return sums_; }

  private:
    Ints sums_{};
};

#endif
