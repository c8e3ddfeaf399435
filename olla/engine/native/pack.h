// GGUF blocks -> the groups of 8 rows that linear.h multiplies (ggml-common.h has the blocks).
#pragma once
#include <cstring>

#include "linear.h"

enum GgmlType : int32_t { kGgmlQ4_0 = 2, kGgmlQ4_1 = 3, kGgmlQ8_0 = 8, kGgmlQ4_K = 12 };

// 32 values of one row.
struct RowBlock {
    uint8_t values[kBlock];
    uint16_t scale, offset;
};

inline void unpack_nibbles(const uint8_t* bytes, RowBlock& out) {
    for (int i = 0; i < 16; ++i) {
        out.values[i] = bytes[i] & 15;
        out.values[i + 16] = bytes[i] >> 4;
    }
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes.
inline void read_q4_k(const uint8_t* super, int number, RowBlock& out) {
    const uint8_t* packed = super + 4;
    int scale, least;
    if (number < 4) {
        scale = packed[number] & 63, least = packed[number + 4] & 63;
    } else {
        scale = (packed[number + 4] & 15) | (packed[number - 4] >> 6 << 4);
        least = (packed[number + 4] >> 4) | (packed[number] >> 6 << 4);
    }
    out.scale = float_to_half(half_to_float(half_at(super)) * float(scale));
    out.offset = float_to_half(-half_to_float(half_at(super + 2)) * float(least));
    const uint8_t* bytes = super + 16 + number / 2 * kBlock;
    for (int i = 0; i < kBlock; ++i) out.values[i] = number % 2 ? bytes[i] >> 4 : bytes[i] & 15;
}

inline void read_block(int type, const uint8_t* row, int block, RowBlock& out) {
    if (type == kGgmlQ4_K) return read_q4_k(row + size_t(block / 8) * 144, block % 8, out);
    const uint8_t* from = row + size_t(block) * (type == kGgmlQ8_0 ? 34 : type == kGgmlQ4_1 ? 20 : 18);
    out.scale = half_at(from);
    if (type == kGgmlQ8_0) {
        std::memcpy(out.values, from + 2, kBlock);
    } else if (type == kGgmlQ4_1) {
        out.offset = half_at(from + 2);
        unpack_nibbles(from + 4, out);
    } else {
        out.offset = float_to_half(-8.f * half_to_float(out.scale));
        unpack_nibbles(from + 2, out);
    }
}

inline void write_block(bool is_q8, const RowBlock& from, int lane, uint8_t* to) {
    for (int k = 0; k < (is_q8 ? kBlock : kBlock / 2); ++k)
        to[k / 4 * 32 + lane * 4 + k % 4] =
            is_q8 ? from.values[k] : uint8_t(from.values[k] | from.values[k + 16] << 4);
    std::memcpy(to + (is_q8 ? 256 : 128) + 2 * lane, &from.scale, 2);
    if (!is_q8) std::memcpy(to + 144 + 2 * lane, &from.offset, 2);
}

inline size_t row_bytes(int type, int columns) {
    if (type == kGgmlQ4_K) return size_t(columns / 256) * 144;
    return size_t(columns / kBlock) * (type == kGgmlQ8_0 ? 34 : type == kGgmlQ4_1 ? 20 : 18);
}

inline void pack(Pool& pool, int type, const uint8_t* blocks, const int32_t* order, int rows, int columns,
                 uint8_t* data) {
    bool is_q8 = type == kGgmlQ8_0;
    size_t from_bytes = row_bytes(type, columns), to_bytes = group_bytes(is_q8 ? Q8 : Q4, columns);
    pool.run((rows + kGroup - 1) / kGroup, [&](int group) {
        uint8_t* to = data + to_bytes * group;
        std::memset(to, 0, to_bytes);
        for (int lane = 0; lane < kGroup && group * kGroup + lane < rows; ++lane) {
            int row = group * kGroup + lane;
            const uint8_t* from = blocks + from_bytes * (order ? order[row] : row);
            for (int block = 0; block < columns / kBlock; ++block) {
                RowBlock values;
                read_block(type, from, block, values);
                write_block(is_q8, values, lane, to + size_t(block) * (is_q8 ? kQ8Bytes : kQ4Bytes));
            }
        }
    });
}
