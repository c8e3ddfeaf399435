// Blocks of GGUF files, and floats -> the groups of rows that linear.h multiplies (ggml-common.h has
// the blocks). Scales become halves; all else is as in the file.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "layout.h"
#include "threads.h"

enum GgmlType : int32_t {
    kGgmlF32 = 0, kGgmlF16 = 1, kGgmlQ4_0 = 2, kGgmlQ4_1 = 3, kGgmlQ5_0 = 6, kGgmlQ5_1 = 7, kGgmlQ8_0 = 8,
    kGgmlQ2_K = 10, kGgmlQ3_K = 11, kGgmlQ4_K = 12, kGgmlQ5_K = 13, kGgmlQ6_K = 14, kGgmlBF16 = 30,
};

constexpr int kSuper = 256;  // values of a K block

// 32 values of one row: weights are values * scale + offset, of each 16 where there are two.
struct RowBlock {
    int8_t values[kBlock];  // as set_values takes them
    float scales[2], offsets[2];
};

inline void read_nibbles(const uint8_t* bytes, RowBlock& out) {
    for (int i = 0; i < 16; ++i) {
        out.values[i] = bytes[i] & 15;
        out.values[i + 16] = bytes[i] >> 4;
    }
}

inline void add_fifth_bits(const uint8_t* bytes, RowBlock& out) {
    for (int i = 0; i < kBlock; ++i) out.values[i] |= (bytes[i / 8] >> i % 8 & 1) << 4;
}

inline void read_q4_0(const uint8_t* from, RowBlock& out) {
    out.scales[0] = half_to_float(half_at(from));
    out.offsets[0] = -8.f * out.scales[0];
    read_nibbles(from + 2, out);
}

inline void read_q4_1(const uint8_t* from, RowBlock& out) {
    out.scales[0] = half_to_float(half_at(from));
    out.offsets[0] = half_to_float(half_at(from, 1));
    read_nibbles(from + 4, out);
}

inline void read_q5_0(const uint8_t* from, RowBlock& out) {
    out.scales[0] = half_to_float(half_at(from));
    out.offsets[0] = -16.f * out.scales[0];
    read_nibbles(from + 6, out);
    add_fifth_bits(from + 2, out);
}

inline void read_q5_1(const uint8_t* from, RowBlock& out) {
    out.scales[0] = half_to_float(half_at(from));
    out.offsets[0] = half_to_float(half_at(from, 1));
    read_nibbles(from + 8, out);
    add_fifth_bits(from + 4, out);
}

inline void read_q8_0(const uint8_t* from, RowBlock& out) {
    out.scales[0] = half_to_float(half_at(from));
    for (int i = 0; i < kBlock; ++i) out.values[i] = int8_t(from[2 + i] + kBias);
}

inline void read_q2_k(const uint8_t* super, int number, RowBlock& out) {
    const uint8_t* bytes = super + 16 + number / 4 * kBlock;
    for (int i = 0; i < kBlock; ++i) out.values[i] = bytes[i] >> 2 * (number % 4) & 3;
    for (int part = 0; part < 2; ++part) {
        uint8_t both = super[2 * number + part];
        out.scales[part] = half_to_float(half_at(super + 80)) * float(both & 15);
        out.offsets[part] = -half_to_float(half_at(super + 82)) * float(both >> 4);
    }
}

// Sixteen 6-bit scales in 12 bytes: the low nibbles of all, then the high pairs of bits.
inline void read_q3_k(const uint8_t* super, int number, RowBlock& out) {
    const uint8_t *bytes = super + kBlock + number / 4 * kBlock, *packed = super + 96;
    for (int i = 0; i < kBlock; ++i) {
        out.values[i] = bytes[i] >> 2 * (number % 4) & 3;
        out.values[i] |= (super[i] >> number & 1) << 2;
    }
    for (int part = 0; part < 2; ++part) {
        int at = 2 * number + part;
        int low = packed[at % 8] >> (at < 8 ? 0 : 4) & 15, high = packed[8 + at % 4] >> at / 4 * 2 & 3;
        out.scales[part] = half_to_float(half_at(super + 108)) * float((low | high << 4) - 32);
    }
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes, of Q4_K and Q5_K.
inline void read_pairs(const uint8_t* super, int number, RowBlock& out) {
    const uint8_t* packed = super + 4;
    int scale, least;
    if (number < 4) {
        scale = packed[number] & 63, least = packed[number + 4] & 63;
    } else {
        scale = (packed[number + 4] & 15) | (packed[number - 4] >> 6 << 4);
        least = (packed[number + 4] >> 4) | (packed[number] >> 6 << 4);
    }
    out.scales[0] = half_to_float(half_at(super)) * float(scale);
    out.offsets[0] = -half_to_float(half_at(super, 1)) * float(least);
}

inline void read_q4_k(const uint8_t* super, int number, RowBlock& out) {
    read_pairs(super, number, out);
    const uint8_t* bytes = super + 16 + number / 2 * kBlock;
    for (int i = 0; i < kBlock; ++i) out.values[i] = bytes[i] >> 4 * (number % 2) & 15;
}

inline void read_q5_k(const uint8_t* super, int number, RowBlock& out) {
    read_pairs(super, number, out);
    const uint8_t *high = super + 16, *bytes = super + 48 + number / 2 * kBlock;
    for (int i = 0; i < kBlock; ++i)
        out.values[i] = int8_t((bytes[i] >> 4 * (number % 2) & 15) | (high[i] >> number & 1) << 4);
}

inline void read_q6_k(const uint8_t* super, int number, RowBlock& out) {
    const uint8_t* low = super + number / 4 * 64 + number % 2 * kBlock;
    const uint8_t* high = super + 128 + number / 4 * kBlock;
    for (int i = 0; i < kBlock; ++i) {
        int nibble = low[i] >> (number % 4 < 2 ? 0 : 4) & 15;
        out.values[i] = int8_t(nibble | (high[i] >> 2 * (number % 4) & 3) << 4);
    }
    for (int part = 0; part < 2; ++part)
        out.scales[part] =
            half_to_float(half_at(super + 208)) * float(int8_t(super[192 + 2 * number + part]));
}

inline float float_at(int type, const uint8_t* row, size_t column) {
    if (type == kGgmlF16) return half_to_float(half_at(row, column));
    if (type == kGgmlBF16) return bfloat_to_float(half_at(row, column));
    float value;
    std::memcpy(&value, row + 4 * column, 4);
    return value;
}

// Floats, rounded to eight bits with a scale for each 32.
inline void round_floats(int type, const uint8_t* row, int block, RowBlock& out) {
    float values[kBlock], largest = 0;
    for (int i = 0; i < kBlock; ++i) {
        values[i] = float_at(type, row, size_t(block) * kBlock + i);
        largest = std::max(largest, std::fabs(values[i]));
    }
    // Rounded first, as it is kept, so that values are rounded to what they will stand for.
    float scale = half_to_float(float_to_half(std::min(largest / 127.f, 65504.f)));
    out.scales[0] = scale;
    for (int i = 0; i < kBlock; ++i) {
        float value = scale > 0 ? limited(std::nearbyintf(values[i] / scale), -127.f, 127.f) : 0.f;
        out.values[i] = int8_t(int(value) + kBias);
    }
}

inline size_t row_bytes(int type, int columns) {
    switch (type) {
        case kGgmlF32: return size_t(columns) * 4;
        case kGgmlF16: case kGgmlBF16: return size_t(columns) * 2;
        case kGgmlQ4_0: return size_t(columns / kBlock) * 18;
        case kGgmlQ4_1: return size_t(columns / kBlock) * 20;
        case kGgmlQ5_0: return size_t(columns / kBlock) * 22;
        case kGgmlQ5_1: return size_t(columns / kBlock) * 24;
        case kGgmlQ8_0: return size_t(columns / kBlock) * 34;
        case kGgmlQ2_K: return size_t(columns / kSuper) * 84;
        case kGgmlQ3_K: return size_t(columns / kSuper) * 110;
        case kGgmlQ4_K: return size_t(columns / kSuper) * 144;
        case kGgmlQ5_K: return size_t(columns / kSuper) * 176;
        default: return size_t(columns / kSuper) * 210;
    }
}

inline void read_block(int type, const uint8_t* row, int block, RowBlock& out) {
    const uint8_t *from = row + row_bytes(type, kBlock) * block, *super = row + row_bytes(type, kSuper) * (block / 8);
    switch (type) {
        case kGgmlQ4_0: return read_q4_0(from, out);
        case kGgmlQ4_1: return read_q4_1(from, out);
        case kGgmlQ5_0: return read_q5_0(from, out);
        case kGgmlQ5_1: return read_q5_1(from, out);
        case kGgmlQ8_0: return read_q8_0(from, out);
        case kGgmlQ2_K: return read_q2_k(super, block % 8, out);
        case kGgmlQ3_K: return read_q3_k(super, block % 8, out);
        case kGgmlQ4_K: return read_q4_k(super, block % 8, out);
        case kGgmlQ5_K: return read_q5_k(super, block % 8, out);
        case kGgmlQ6_K: return read_q6_k(super, block % 8, out);
        default: return round_floats(type, row, block, out);
    }
}

template <int kBits, int columns, bool has_offset, int bias>
inline void pack_row(Quants<kBits, columns, has_offset, bias>, int type, const uint8_t* from, int count, int lane,
                     uint8_t* to) {
    using K = Quants<kBits, columns, has_offset, bias>;
    for (int block = 0; block < count / kBlock; ++block, to += K::kBytes) {
        uint8_t* scales = to + K::kValueBytes + 2 * lane;
        RowBlock row;
        read_block(type, from, block, row);
        set_values<kBits>(to, lane, row.values);
        for (int part = 0; part < K::kScales; ++part) {
            uint16_t scale = float_to_half(row.scales[part]), offset = float_to_half(row.offsets[part]);
            std::memcpy(scales + part * K::kHalves, &scale, 2);
            if (has_offset) std::memcpy(scales + (K::kScales + part) * K::kHalves, &offset, 2);
        }
    }
}

// Floats keep their precision.
template <int kind>
inline void pack_row(FloatsOf<kind>, int, const uint8_t* from, int count, int lane, uint8_t* to) {
    constexpr int kSize = kind == F32 ? 4 : 2;
    for (int column = 0; column < count; ++column)
        std::memcpy(to + (size_t(column) * kLanes + lane) * kSize, from + size_t(column) * kSize, kSize);
}

// Rows of `type` in the file, `order[row]` of them for each row if there is an order, to a part.
inline void pack(Pool& pool, int type, const uint8_t* blocks, const int32_t* order, const Part& part, int columns) {
    size_t from_bytes = row_bytes(type, columns), to_bytes = group_bytes(part.kind, columns);
    with_kind(part.kind, [&](auto kind) {
        pool.run((part.rows + kLanes - 1) / kLanes, [&](int group) {
            uint8_t* to = const_cast<uint8_t*>(part.data) + to_bytes * group;
            std::memset(to, 0, to_bytes);
            for (int lane = 0; lane < kLanes && group * kLanes + lane < part.rows; ++lane) {
                int row = group * kLanes + lane;
                pack_row(kind, type, blocks + from_bytes * (order ? order[row] : row), columns, lane, to);
            }
        });
    });
}
