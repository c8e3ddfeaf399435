// Functions of floats and of vectors of floats (simd.h): halves, and exponentials that are good to a
// few units of the last place.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

inline uint16_t half_at(const void* data, size_t place = 0) {
    uint16_t bits;
    std::memcpy(&bits, static_cast<const uint8_t*>(data) + 2 * place, 2);
    return bits;
}

inline float half_to_float(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff, word;
    if (rest >= 0x7c00) word = sign | 0x7f800000 | ((rest & 0x3ff) << 13);
    else if (rest >= 0x400) word = sign | ((rest << 13) + 0x38000000);
    else {
        float small = float(rest) * 0x1p-24f;
        std::memcpy(&word, &small, 4);
        word |= sign;
    }
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

inline uint16_t float_to_half(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    uint32_t sign = (word >> 16) & 0x8000, rest = word & 0x7fffffff;
    if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (rest < 0x38800000) {
        float magnitude;
        std::memcpy(&magnitude, &rest, 4);
        return uint16_t(sign | uint32_t(std::nearbyintf(magnitude * 0x1p24f)));
    }
    rest += 0xfff + ((rest >> 13) & 1);
    return uint16_t(sign | ((rest - 0x38000000) >> 13));
}

inline float bfloat_to_float(uint16_t bits) {
    uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

// The smallest that is no smaller than a positive float.
inline uint16_t bfloat_above(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return uint16_t((word + 0xffff) >> 16);
}

template <class F>
struct WordsOf {
    typedef int32_t type __attribute__((vector_size(sizeof(F))));
};
template <>
struct WordsOf<float> {
    typedef int32_t type;
};

template <class F>
inline F limited(F x, float least, float most) {
    F low = F{} + least, high = F{} + most;
    x = x < low ? low : x;
    return x > high ? high : x;
}

template <class F>
inline F fast_exp(F x) {
    constexpr float kMagic = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
    constexpr int32_t kMagicBits = 0x4b400000;
    x = limited(x, -87.f, 88.f);
    F shifted = x * 1.44269504f + kMagic;
    F whole = shifted - kMagic;
    F rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    F value = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    value = value * rest + 8.3334519073e-3f;
    value = value * rest + 4.1665795894e-2f;
    value = value * rest + 1.6666665459e-1f;
    value = value * rest + 5.0000001201e-1f;
    value = value * rest * rest + rest + 1.f;
    typename WordsOf<F>::type bits;
    std::memcpy(&bits, &shifted, sizeof(F));
    bits = (bits - kMagicBits + 127) << 23;
    F power;
    std::memcpy(&power, &bits, sizeof(F));
    return value * power;
}

template <class F>
inline F fast_tanh(F x) {
    F power = fast_exp(limited(x, -15.f, 15.f) * 2.f);
    return (power - 1.f) / (power + 1.f);
}

inline float silu(float x) { return x / (1.f + fast_exp(-x)); }

inline float gelu(float x) {
    return 0.5f * x * (1.f + fast_tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

inline void axpy(float factor, const float* from, float* to, int size) {
    for (int i = 0; i < size; ++i) to[i] += factor * from[i];
}
