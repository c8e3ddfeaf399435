// How matrices are held: groups of kLanes rows side by side and blocks of 32 columns, so that a
// vector takes four columns of a group and nothing is summed across lanes.
//
// A group is its blocks one after the other, each of them its values, then its scales: so a row of
// inputs reads memory from one end to the other, as processors do best. A block's values are planes of 4,
// 2 or 1 bits, whichever add up: value k of a row is in byte (k % 4) of its lane, and k / 4 says which
// vector and which bits. Its scales are a half for each row, twice if there is one for 16 columns, then as
// many offsets if it has those.
#pragma once
#include "core.h"
#include "simd.h"

constexpr int kBlock = 32;
constexpr int kQuads = kBlock / 4;
constexpr int kVector = 4 * kLanes;  // bytes

// A weight is (value - bias) * scale + offset.
template <int bits, int columns, bool offset, int bias>
struct Quants {
    static constexpr int kBits = bits, kColumns = columns, kBiased = bias;
    static constexpr bool kIsFloat = false;
    static constexpr int kScales = kBlock / columns;
    static constexpr int kValueBytes = bits * kVector;
    static constexpr int kHalves = 2 * kLanes;  // bytes of a half for each row
    static constexpr int kScaleBytes = (offset ? 2 : 1) * kScales * kHalves;
    static constexpr int kBytes = kValueBytes + kScaleBytes;
};

using Two = Quants<2, 16, true, 0>;
using Three = Quants<3, 16, false, 4>;
using Four = Quants<4, 32, true, 0>;
using Five = Quants<5, 32, true, 0>;
using Six = Quants<6, 16, false, 32>;
using Eight = Quants<8, 32, false, kBias>;

template <int kind>
struct FloatsOf {
    static constexpr bool kIsFloat = true;
    static constexpr int kBytes = kind == F32 ? 4 * kLanes : 2 * kLanes;  // of a column
    static Floats column(const uint8_t* data) {
        if (kind == F32) return load<Floats>(data);
        return kind == F16 ? load_halves(data) : load_bfloats(data);
    }
    static float value(const uint8_t* data, int i) {
        if (kind == F16) return half_to_float(half_at(data, i));
        if (kind == BF16) return bfloat_to_float(half_at(data, i));
        float value;
        std::memcpy(&value, data + 4 * size_t(i), 4);
        return value;
    }
};

// Calls body(K()) with the type that describes `kind`.
template <class Body>
inline void with_kind(int kind, const Body& body) {
    switch (kind) {
        case Q2: return body(Two());
        case Q3: return body(Three());
        case Q4: return body(Four());
        case Q5: return body(Five());
        case Q6: return body(Six());
        case Q8: return body(Eight());
        case F16: return body(FloatsOf<F16>());
        case BF16: return body(FloatsOf<BF16>());
        default: return body(FloatsOf<F32>());
    }
}

inline bool is_quantized(int kind) { return kind <= Q8; }

inline size_t group_bytes(int kind, int columns) {
    size_t bytes = 0;
    with_kind(kind, [&](auto k) { bytes = size_t(decltype(k)::kBytes); });
    return is_quantized(kind) ? bytes * (columns / kBlock) : bytes * columns;
}

// The vector of values 4 * i to 4 * i + 3 of each row of a block; `i` is known when this is compiled.
template <int kBits>
inline Words quad_of(const uint8_t* block, int i) {
    if (kBits == 8) return load<Words>(block + i * kVector);
    Words values{};
    if (kBits & 4) {
        Words both = load<Words>(block + i % 4 * kVector);
        values = (i < 4 ? both : both >> 4) & spread_bytes(15);
    }
    constexpr int kAt = kBits & 4;  // the bit where the others go on
    if (kBits & 2) {
        Words all = load<Words>(block + (kAt + i % 2) * kVector);
        int shift = i / 2 * 2 - kAt;
        values |= (shift > 0 ? all >> shift : all << -shift) & spread_bytes(3 << kAt);
    }
    if (kBits & 1) {
        Words all = load<Words>(block + (kBits - 1) * kVector);
        int shift = i - (kBits - 1);
        values |= (shift > 0 ? all >> shift : all << -shift) & spread_bytes(1 << (kBits - 1));
    }
    return values;
}

template <int kBits>
inline int value_at(const uint8_t* block, int lane, int k) {
    const uint8_t* byte = block + lane * 4 + k % 4;
    int i = k / 4, value = 0;
    if (kBits == 8) return byte[i * kVector];
    constexpr int kAt = kBits & 4;
    if (kBits & 4) value = byte[i % 4 * kVector] >> (i < 4 ? 0 : 4) & 15;
    if (kBits & 2) value |= (byte[(kAt + i % 2) * kVector] >> i / 2 * 2 & 3) << kAt;
    if (kBits & 1) value |= (byte[(kBits - 1) * kVector] >> i & 1) << (kBits - 1);
    return value;
}

// Puts a row's values into a block, four at a time.
template <int kBits>
inline void set_values(uint8_t* block, int lane, const int8_t* values) {
    uint32_t quads[kQuads], planes[kQuads] = {};
    std::memcpy(quads, values, sizeof quads);
    constexpr int kAt = kBits & 4;
    for (int i = 0; i < kQuads; ++i) {
        if (kBits == 8) planes[i] = quads[i];
        if (kBits & 4) planes[i % 4] |= (quads[i] & 0x0f0f0f0f) << (i < 4 ? 0 : 4);
        if (kBits & 2) planes[kAt + i % 2] |= (quads[i] >> kAt & 0x03030303) << i / 2 * 2;
        if (kBits & 1) planes[kBits - 1] |= (quads[i] >> (kBits - 1) & 0x01010101) << i;
    }
    for (int plane = 0; plane < kBits; ++plane)
        std::memcpy(block + plane * kVector + lane * 4, &planes[plane], 4);
}

template <int kBits, int columns, bool offset, int bias>
inline float weight_in(Quants<kBits, columns, offset, bias>, const uint8_t* data, int lane, int column) {
    using K = Quants<kBits, columns, offset, bias>;
    const uint8_t* block = data + size_t(column / kBlock) * K::kBytes;
    int k = column % kBlock, value = value_at<kBits>(block, lane, k);
    const uint8_t* scales = block + K::kValueBytes + k / columns * K::kHalves;
    if (kBits == 8 && !bias) value = int8_t(value);
    float weight = float(value - bias) * half_to_float(half_at(scales, lane));
    return offset ? weight + half_to_float(half_at(scales + K::kScales * K::kHalves, lane)) : weight;
}

template <int kind>
inline float weight_in(FloatsOf<kind>, const uint8_t* data, int lane, int column) {
    return FloatsOf<kind>::value(data + size_t(column) * FloatsOf<kind>::kBytes, lane);
}

// One row of a matrix, as floats.
inline void matrix_row(const Linear& matrix, int number, float* out) {
    const Part* part = matrix.parts;
    while (number >= part->rows) number -= part++->rows;
    const uint8_t* data = part->data + group_bytes(part->kind, matrix.columns) * (number / kLanes);
    with_kind(part->kind, [&](auto kind) {
        for (int column = 0; column < matrix.columns; ++column)
            out[column] = weight_in(kind, data, number % kLanes, column);
    });
}
