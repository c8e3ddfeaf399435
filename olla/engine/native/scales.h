// The search for the scales of groups of values that are to be held in few bits: 16 groups at once,
// one in each lane. olla/engine/conversion/quants.py has the same search for machines without a core.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "threads.h"

namespace scales {

constexpr int kGroups = 16, kTriesAffine = 9, kTriesSymmetric = 4;
constexpr float kFlat = 1e-5f;

using Wide = float __attribute__((vector_size(4 * kGroups)));

inline Wide all(float value) { return Wide{} + value; }
inline Wide smaller(Wide a, Wide b) { return a < b ? a : b; }
inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }
inline Wide absolute(Wide a) { return larger(a, -a); }
inline Wide rounded(Wide a) { return (a + 12582912.f) - 12582912.f; }  // 1.5 * 2^23: whole from there on

// 0 where that is no number.
inline Wide divided(Wide a, Wide b) {
    Wide quotient = a / b;
    return absolute(quotient) < all(INFINITY) ? quotient : Wide{};
}

template <int kSize>
struct Turned {
    Wide values[kSize];
    Turned(const float* groups, int count) {
        for (int i = 0; i < kSize; ++i)
            for (int g = 0; g < kGroups; ++g) values[i][g] = g < count ? groups[g * kSize + i] : 0.f;
    }
};

inline void store(Wide from, int count, float* to) {
    for (int g = 0; g < count; ++g) to[g] = from[g];
}

// Values are about code * scale - least, with codes from 0 to `most` and leasts from 0 on.
template <int kSize>
void affine(const float* groups, int count, int most, float* scales, float* leasts) {
    Turned<kSize> turned(groups, count);
    const Wide* values = turned.values;
    Wide weights[kSize], weighted[kSize], shifted[kSize], total{}, by_value{}, squares{}, low{}, high = values[0];
    for (int i = 0; i < kSize; ++i) {
        squares += values[i] * values[i];
        low = smaller(low, values[i]);
        high = larger(high, values[i]);
    }
    for (int g = 0; g < kGroups; ++g) squares[g] = std::sqrt(squares[g] / kSize);
    Wide span = high - low;
    for (int i = 0; i < kSize; ++i) {
        weights[i] = squares + absolute(values[i]);
        weighted[i] = weights[i] * values[i];
        total += weights[i];
        by_value += weighted[i];
        shifted[i] = divided(values[i] - low, span);
    }
    Wide best = all(INFINITY), best_scale = span / float(most), best_low = low;
    for (int attempt = 0; attempt < kTriesAffine; ++attempt) {
        Wide by_code{}, by_square{}, by_both{};
        float factor = float(most - 1) + 2.f * float(attempt) / kTriesAffine;
        for (int i = 0; i < kSize; ++i) {
            Wide code = smaller(rounded(shifted[i] * factor), all(float(most)));
            Wide weighted_code = weights[i] * code;
            by_code += weighted_code;
            by_square += weighted_code * code;
            by_both += weighted[i] * code;
        }
        // The line that fits best, through zero where the offset would be above it.
        Wide determinant = total * by_square - by_code * by_code;
        auto is_flat = determinant <= kFlat * total * by_square;
        Wide offset = is_flat ? Wide{} : divided(by_square * by_value - by_code * by_both, determinant);
        offset = by_square == Wide{} ? divided(by_value, total) : offset;
        Wide scale = divided(total * by_both - by_value * by_code, determinant);
        scale = (is_flat | (offset > Wide{})) ? divided(by_both, by_square) : scale;
        scale = larger(scale, Wide{}), offset = smaller(offset, Wide{});
        Wide error = (scale * by_square + 2.f * (offset * by_code - by_both)) * scale +
                     (offset * total - 2.f * by_value) * offset;
        auto is_better = error < best;
        best = is_better ? error : best;
        best_scale = is_better ? scale : best_scale;
        best_low = is_better ? offset : best_low;
    }
    store(best_scale, count, scales);
    store(-best_low, count, leasts);
}

// Values are about code * scale, with codes from -half to half - 1.
template <int kSize>
void symmetric(const float* groups, int count, int half, float* scales) {
    Turned<kSize> turned(groups, count);
    const Wide* values = turned.values;
    Wide weights[kSize], weighted[kSize], shares[kSize], extreme = values[0];
    for (int i = 1; i < kSize; ++i)
        extreme = absolute(values[i]) > absolute(extreme) ? values[i] : extreme;
    for (int i = 0; i < kSize; ++i) {
        weights[i] = values[i] * values[i];
        weighted[i] = weights[i] * values[i];
        shares[i] = divided(values[i], extreme);
    }
    Wide best = all(-1.f), best_scale{};
    for (int attempt = -kTriesSymmetric; attempt <= kTriesSymmetric; ++attempt) {
        Wide by_square{}, by_both{};
        float factor = -(float(half) + 0.2f * float(attempt));
        for (int i = 0; i < kSize; ++i) {
            Wide code = rounded(shares[i] * factor);
            code = smaller(larger(code, all(float(-half))), all(float(half - 1)));
            by_both += weighted[i] * code;
            by_square += weights[i] * code * code;
        }
        Wide gain = divided(by_both * by_both, by_square);
        auto is_better = gain > best;
        best = is_better ? gain : best;
        best_scale = is_better ? divided(by_both, by_square) : best_scale;
    }
    store(best_scale, count, scales);
}

// Call body(first, count) for 16 groups each, the last time for as many as there are.
template <class Body>
void for_groups(Pool& pool, int num_groups, const Body& body) {
    pool.share((num_groups + kGroups - 1) / kGroups, 1, 64, [&](int first, int last) {
        for (int i = first; i < last; ++i) body(i * kGroups, std::min(kGroups, num_groups - i * kGroups));
    });
}

}  // namespace scales
