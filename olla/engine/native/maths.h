// Functions that compilers turn into vector code: exponentials good to a few units of the last place.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

inline float fast_exp(float x) {
    x = std::min(std::max(x, -87.f), 88.f);
    float whole = std::nearbyintf(x * 1.44269504f);
    float rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    float value = 1.9875691500e-4f;
    value = value * rest + 1.3981999507e-3f;
    value = value * rest + 8.3334519073e-3f;
    value = value * rest + 4.1665795894e-2f;
    value = value * rest + 1.6666665459e-1f;
    value = value * rest + 5.0000001201e-1f;
    value = value * rest * rest + rest + 1.f;
    int32_t bits = (int32_t(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return value * power;
}

inline float fast_tanh(float x) {
    float power = fast_exp(2.f * std::min(std::max(x, -15.f), 15.f));
    return (power - 1.f) / (power + 1.f);
}

inline float silu(float x) { return x / (1.f + fast_exp(-x)); }

inline float gelu(float x) {
    return 0.5f * x * (1.f + fast_tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

inline void axpy(float factor, const float* from, float* to, int size) {
    for (int i = 0; i < size; ++i) to[i] += factor * from[i];
}
