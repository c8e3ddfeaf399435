// Products of packed matrices with rows of activations.
//
// Quantized weights meet activations quantized to 8 bits in blocks of 32, as in llama.cpp; sums of
// a block are exact integers. Eight rows of weights fill the lanes of a vector, so nothing is
// summed across lanes. Without AVX2 plain loops over the same layout compute the same.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core.h"
#include "threads.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

constexpr int kGroup = 8;    // rows side by side
constexpr int kBlock = 32;   // columns with one scale
constexpr int kQ4Bytes = 160, kQ8Bytes = 272;

inline float half_to_float(uint16_t bits) {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff, word;
    if (rest >= 0x7c00) word = sign | 0x7f800000 | ((rest & 0x3ff) << 13);
    else if (rest >= 0x400) word = sign | ((rest << 13) + 0x38000000);
    else {
        float small = std::ldexp(float(rest), -24);
        std::memcpy(&word, &small, 4);
        word |= sign;
    }
    float value;
    std::memcpy(&value, &word, 4);
    return value;
#endif
}

inline uint16_t float_to_half(float value) {
#if defined(__F16C__)
    return uint16_t(_cvtss_sh(value, 0));
#else
    uint32_t word;
    std::memcpy(&word, &value, 4);
    uint32_t sign = (word >> 16) & 0x8000, rest = word & 0x7fffffff;
    if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (rest < 0x38800000) {
        float magnitude;
        std::memcpy(&magnitude, &rest, 4);
        return uint16_t(sign | uint32_t(std::nearbyint(std::ldexp(magnitude, 24))));
    }
    rest += 0xfff + ((rest >> 13) & 1);
    return uint16_t(sign | ((rest - 0x38000000) >> 13));
#endif
}

inline float bfloat_to_float(uint16_t bits) {
    uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

// Activations, and their 8-bit form once a quantized part asks for it.
struct Activations {
    const float* rows;
    int num_rows, columns;
    std::vector<int8_t> values;
    std::vector<float> scales, sums;  // a block's scale, and its scale times its sum

    void set(const float* inputs, int count, int width) {
        rows = inputs, num_rows = count, columns = width;
    }

    void quantize(Pool& pool) {
        int blocks = columns / kBlock;
        values.resize(size_t(num_rows) * columns);
        scales.resize(size_t(num_rows) * blocks);
        sums.resize(size_t(num_rows) * blocks);
        int chunk = 8;
        pool.run((num_rows + chunk - 1) / chunk, [&](int i) {
            for (int row = i * chunk; row < std::min(num_rows, (i + 1) * chunk); ++row)
                for (int block = 0; block < blocks; ++block) quantize_block(row, block, blocks);
        });
    }

  private:
    void quantize_block(int row, int block, int blocks) {
        size_t start = size_t(row) * columns + size_t(block) * kBlock;
        const float* from = rows + start;
        int8_t* to = values.data() + start;
        float largest = 0;
        for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(from[i]));
        float scale = largest / 127.f, inverse = largest > 0 ? 127.f / largest : 0.f;
        int sum = 0;
        for (int i = 0; i < kBlock; ++i) {
            int value = int(std::nearbyintf(from[i] * inverse));
            to[i] = int8_t(value);
            sum += value;
        }
        scales[size_t(row) * blocks + block] = scale;
        sums[size_t(row) * blocks + block] = scale * float(sum);
    }
};

#if defined(__AVX2__)

inline __m256 load_halves(const uint8_t* data) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
}

inline __m256i quad(const int8_t* values) {
    int32_t word;
    std::memcpy(&word, values, 4);
    return _mm256_set1_epi32(word);
}

// G groups, `bytes` apart, times M activation rows from `first` on: out[g * M + m] has 8 sums.
template <int G, int M>
inline void tile_q4(const uint8_t* data, size_t bytes, const Activations& x, int first, __m256* out) {
    int blocks = x.columns / kBlock;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const int8_t* values = x.values.data() + size_t(first) * x.columns;
    size_t at = size_t(first) * blocks;
    for (int i = 0; i < G * M; ++i) out[i] = _mm256_setzero_ps();
    for (int block = 0; block < blocks; ++block, data += kQ4Bytes, values += kBlock, ++at) {
        // 15 * 127 * 2 * 8 stays below 2^15.
        __m256i pairs[G * M];
        for (int i = 0; i < G * M; ++i) pairs[i] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            __m256i near[M], far[M];
            for (int m = 0; m < M; ++m) {
                near[m] = quad(values + size_t(m) * x.columns + 4 * i);
                far[m] = quad(values + size_t(m) * x.columns + 16 + 4 * i);
            }
            for (int g = 0; g < G; ++g) {
                __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + g * bytes) + i);
                __m256i one = _mm256_and_si256(both, low);
                __m256i two = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                for (int m = 0; m < M; ++m) {
                    __m256i& sum = pairs[g * M + m];
                    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(one, near[m]));
                    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(two, far[m]));
                }
            }
        }
        for (int g = 0; g < G; ++g) {
            __m256 scale = load_halves(data + g * bytes + 128);
            __m256 offset = load_halves(data + g * bytes + 144);
            for (int m = 0; m < M; ++m) {
                size_t place = at + size_t(m) * blocks;
                __m256 exact = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[g * M + m], ones));
                __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[place]));
                __m256 sum = _mm256_fmadd_ps(exact, factor, out[g * M + m]);
                out[g * M + m] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.sums[place]), sum);
            }
        }
    }
}

template <int G, int M>
inline void tile_q8(const uint8_t* data, size_t bytes, const Activations& x, int first, __m256* out) {
    int blocks = x.columns / kBlock;
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t* values = x.values.data() + size_t(first) * x.columns;
    size_t at = size_t(first) * blocks;
    for (int i = 0; i < G * M; ++i) out[i] = _mm256_setzero_ps();
    for (int block = 0; block < blocks; ++block, data += kQ8Bytes, values += kBlock, ++at) {
        __m256i totals[G * M];
        for (int i = 0; i < G * M; ++i) totals[i] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            __m256i inputs[M];
            for (int m = 0; m < M; ++m) inputs[m] = quad(values + size_t(m) * x.columns + 4 * i);
            for (int g = 0; g < G; ++g) {
                __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + g * bytes) + i);
                __m256i sizes = _mm256_abs_epi8(weights);
                for (int m = 0; m < M; ++m) {
                    __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(inputs[m], weights));
                    totals[g * M + m] = _mm256_add_epi32(totals[g * M + m], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (int g = 0; g < G; ++g) {
            __m256 scale = load_halves(data + g * bytes + 256);
            for (int m = 0; m < M; ++m) {
                __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[at + size_t(m) * blocks]));
                out[g * M + m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[g * M + m]), factor, out[g * M + m]);
            }
        }
    }
}

template <int K>
inline __m256 load_floats(const uint8_t* data, int column) {
    if (K == F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(data) + size_t(column) * 8);
    const __m128i* halves = reinterpret_cast<const __m128i*>(data) + column;
    if (K == F16) return _mm256_cvtph_ps(_mm_loadu_si128(halves));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves)), 16));
}

template <int G, int M, int K>
inline void tile_float(const uint8_t* data, size_t bytes, const Activations& x, int first, __m256* out) {
    for (int i = 0; i < G * M; ++i) out[i] = _mm256_setzero_ps();
    const float* rows = x.rows + size_t(first) * x.columns;
    for (int column = 0; column < x.columns; ++column)
        for (int g = 0; g < G; ++g) {
            __m256 weights = load_floats<K>(data + g * bytes, column);
            for (int m = 0; m < M; ++m) {
                __m256 input = _mm256_set1_ps(rows[size_t(m) * x.columns + column]);
                out[g * M + m] = _mm256_fmadd_ps(weights, input, out[g * M + m]);
            }
        }
}

template <int G, int M>
inline void tile_product(int kind, const uint8_t* data, size_t bytes, const Activations& x, int first,
                         float* out) {
    __m256 sums[G * M];
    if (kind == Q4) tile_q4<G, M>(data, bytes, x, first, sums);
    else if (kind == Q8) tile_q8<G, M>(data, bytes, x, first, sums);
    else if (kind == F16) tile_float<G, M, F16>(data, bytes, x, first, sums);
    else if (kind == BF16) tile_float<G, M, BF16>(data, bytes, x, first, sums);
    else tile_float<G, M, F32>(data, bytes, x, first, sums);
    for (int i = 0; i < G * M; ++i) _mm256_storeu_ps(out + i * kGroup, sums[i]);
}

#endif

inline size_t group_bytes(int kind, int columns) {
    if (kind == Q4) return size_t(columns / kBlock) * kQ4Bytes;
    if (kind == Q8) return size_t(columns / kBlock) * kQ8Bytes;
    return size_t(columns) * kGroup * (kind == F32 ? 4 : 2);
}

inline uint16_t half_at(const uint8_t* data) {
    uint16_t bits;
    std::memcpy(&bits, data, 2);
    return bits;
}

// The weight at `column` of row `lane` of a group, as a float.
inline float weight_at(int kind, const uint8_t* data, int lane, int column) {
    int block = column / kBlock, k = column % kBlock;
    if (kind == Q4) {
        data += size_t(block) * kQ4Bytes;
        int byte = data[(k % 16) / 4 * 32 + lane * 4 + k % 4];
        float scale = half_to_float(half_at(data + 128 + 2 * lane));
        return float(k < 16 ? byte & 15 : byte >> 4) * scale + half_to_float(half_at(data + 144 + 2 * lane));
    }
    if (kind == Q8) {
        data += size_t(block) * kQ8Bytes;
        float scale = half_to_float(half_at(data + 256 + 2 * lane));
        return float(int8_t(data[k / 4 * 32 + lane * 4 + k % 4])) * scale;
    }
    size_t at = size_t(column) * kGroup + lane;
    if (kind == F16) return half_to_float(half_at(data + 2 * at));
    if (kind == BF16) return bfloat_to_float(half_at(data + 2 * at));
    float value;
    std::memcpy(&value, data + 4 * at, 4);
    return value;
}

#if !defined(__AVX2__)

// The reference of the vector code: the same integers, block by block.
inline float lane_product(int kind, const uint8_t* data, const Activations& x, int row, int lane) {
    float total = 0;
    if (kind > Q8) {
        const float* inputs = x.rows + size_t(row) * x.columns;
        for (int column = 0; column < x.columns; ++column)
            total += weight_at(kind, data, lane, column) * inputs[column];
        return total;
    }
    int blocks = x.columns / kBlock, bytes = kind == Q4 ? kQ4Bytes : kQ8Bytes;
    for (int block = 0; block < blocks; ++block, data += bytes) {
        const int8_t* values = x.values.data() + size_t(row) * x.columns + block * kBlock;
        int sum = 0;
        for (int k = 0; k < kBlock; ++k) {
            int byte = data[(kind == Q4 ? k % 16 : k) / 4 * 32 + lane * 4 + k % 4];
            int weight = kind == Q8 ? int8_t(byte) : k < 16 ? byte & 15 : byte >> 4;
            sum += weight * values[k];
        }
        size_t at = size_t(row) * blocks + block;
        const uint8_t* scale = data + (kind == Q4 ? 128 : 256) + 2 * lane;
        total += float(sum) * (half_to_float(half_at(scale)) * x.scales[at]);
        if (kind == Q4) total += half_to_float(half_at(data + 144 + 2 * lane)) * x.sums[at];
    }
    return total;
}

template <int G, int M>
inline void tile_product(int kind, const uint8_t* data, size_t bytes, const Activations& x, int first,
                         float* out) {
    for (int g = 0; g < G; ++g)
        for (int m = 0; m < M; ++m)
            for (int lane = 0; lane < kGroup; ++lane)
                out[(g * M + m) * kGroup + lane] = lane_product(kind, data + g * bytes, x, first + m, lane);
}

#endif

// A part of a product: groups of rows of weights, and where their sums go.
struct Target {
    int kind, rows;
    const uint8_t* data;
    size_t bytes;  // of a group
    float* out;    // (num_rows, stride)
    size_t stride;
};

template <int G, int M>
inline void tile(const Target& target, const Activations& x, int group, int first) {
    float sums[G * M * kGroup];
    tile_product<G, M>(target.kind, target.data + target.bytes * group, target.bytes, x, first, sums);
    for (int g = 0; g < G; ++g) {
        int row = (group + g) * kGroup, count = std::min(kGroup, target.rows - row);
        for (int m = 0; m < M; ++m)
            std::memcpy(target.out + size_t(first + m) * target.stride + row,
                        sums + (g * M + m) * kGroup, sizeof(float) * count);
    }
}

// Two groups and two rows of activations at a time, or four groups and one row, share what they load
// and just fit into sixteen registers.
inline void four_groups(const Target& target, const Activations& x, int group, int first, int last) {
    for (; first + 2 <= last; first += 2) {
        tile<2, 2>(target, x, group, first);
        tile<2, 2>(target, x, group + 2, first);
    }
    if (first < last) tile<4, 1>(target, x, group, first);
}

inline void one_group(const Target& target, const Activations& x, int group, int first, int last) {
    for (; first + 2 <= last; first += 2) tile<1, 2>(target, x, group, first);
    if (first < last) tile<1, 1>(target, x, group, first);
}

constexpr int kRowsAtOnce = 64;  // activations that stay in the second-level cache

inline void part_product(Pool& pool, const Part& part, const Activations& x, float* out, size_t stride) {
    Target target{part.kind, part.rows, part.data, group_bytes(part.kind, x.columns), out, stride};
    int groups = (part.rows + kGroup - 1) / kGroup;
    int chunk = std::max(1, std::min(4, groups / (16 * pool.num_threads()))) * 4;
    pool.run((groups + chunk - 1) / chunk, [&](int number) {
        int end = std::min(groups, (number + 1) * chunk);
        for (int first = 0; first < x.num_rows; first += kRowsAtOnce) {
            int last = std::min(x.num_rows, first + kRowsAtOnce), group = number * chunk;
            for (; group + 4 <= end; group += 4) four_groups(target, x, group, first, last);
            for (; group < end; ++group) one_group(target, x, group, first, last);
        }
    });
}

inline void add_bias(const float* bias, int num_rows, int width, float* out) {
    for (int row = 0; row < num_rows; ++row)
        for (int i = 0; i < width; ++i) out[size_t(row) * width + i] += bias[i];
}

inline void linear(Pool& pool, const Linear& layer, Activations& x, float* out) {
    bool is_quantized = false;
    for (int i = 0; i < layer.num_parts; ++i) is_quantized |= layer.parts[i].kind <= Q8;
    if (is_quantized) x.quantize(pool);
    int done = 0;
    for (int i = 0; i < layer.num_parts; done += layer.parts[i++].rows)
        part_product(pool, layer.parts[i], x, out + done, layer.rows);
    if (layer.bias) add_bias(layer.bias, x.num_rows, layer.rows, out);
}

inline float dot(const float* a, const float* b, int size) {
    float sum = 0;
    for (int i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

inline void widen(const uint16_t* halves, int kind, int size, float* out) {
    int i = 0;
#if defined(__F16C__)
    for (; kind == F16 && i + 8 <= size; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i))));
#endif
    if (kind == F16)
        for (; i < size; ++i) out[i] = half_to_float(halves[i]);
    else
        for (; i < size; ++i) out[i] = bfloat_to_float(halves[i]);
}

// The dot product of one row of a delta's matrix, whose rows are as long as `other`.
inline float dot_row(const void* matrix, int kind, int row, const float* other, int size) {
    if (kind == F32) return dot(static_cast<const float*>(matrix) + size_t(row) * size, other, size);
    constexpr int kAtOnce = 512;
    float wide[kAtOnce], sum = 0;
    const uint16_t* halves = static_cast<const uint16_t*>(matrix) + size_t(row) * size;
    for (int first = 0; first < size; first += kAtOnce) {
        int count = std::min(kAtOnce, size - first);
        widen(halves + first, kind, count, wide);
        sum += dot(wide, other + first, count);
    }
    return sum;
}

// A delta of one row, and what it has of its low-rank product so far.
struct RowDelta {
    const Delta* delta;
    int row;
    size_t low;
};

constexpr int kColumnsAtOnce = 256;  // of a row's outputs, for one thread

// Add the deltas of a row to its outputs [first, last).
inline void add_to_columns(const std::vector<RowDelta>& found, const float* low, int row, int first, int last,
                           float* out) {
    float before[kColumnsAtOnce];
    std::memcpy(before, out + first, sizeof(float) * (last - first));
    auto begin = std::lower_bound(found.begin(), found.end(), row,
                                  [](const RowDelta& item, int number) { return item.row < number; });
    for (auto item = begin; item != found.end() && item->row == row; ++item) {
        const Delta& delta = *item->delta;
        const float* product = low + item->low;
        for (int at = std::max(first, delta.start); at < std::min(last, delta.end); ++at) {
            int o = at - delta.start;
            if (delta.b) out[at] += dot_row(delta.b, delta.kind, o, product, delta.rank);
            else if (delta.a) out[at] += product[o];
            if (delta.keep) out[at] += delta.keep[o] * before[at - first];
            if (delta.constant) out[at] += delta.constant[o];
        }
    }
}

// What the rows' adapters add to a linear's outputs.
inline void add_deltas(Pool& pool, const Linear& layer, const Activations& x, const int32_t* adapters,
                       float* out) {
    if (!layer.num_deltas) return;
    std::vector<RowDelta> found;
    size_t lows = 0;
    for (int row = 0; row < x.num_rows; ++row) {
        if (!adapters[row]) continue;
        for (int i = 0; i < layer.num_deltas; ++i) {
            const Delta& delta = layer.deltas[i];
            if (delta.adapter != adapters[row]) continue;
            found.push_back({&delta, row, lows});
            lows += delta.rank;
        }
    }
    if (found.empty()) return;
    std::vector<float> low(lows);
    // Half the ranks for each task, so that even a single delta is work for two threads.
    pool.run(2 * int(found.size()), [&](int task) {
        const RowDelta& item = found[task / 2];
        const float* inputs = x.rows + size_t(item.row) * x.columns;
        int rank = item.delta->rank, half = (rank + 1) / 2;
        int last = task % 2 ? rank : half;
        for (int r = task % 2 ? half : 0; r < last; ++r)
            low[item.low + r] = dot_row(item.delta->a, item.delta->kind, r, inputs, x.columns);
    });
    // All deltas of a row are of the same outputs, so a row's are added up before they count.
    int chunks = (layer.rows + kColumnsAtOnce - 1) / kColumnsAtOnce;
    pool.run(x.num_rows * chunks, [&](int task) {
        int row = task / chunks, first = task % chunks * kColumnsAtOnce;
        int last = std::min(layer.rows, first + kColumnsAtOnce);
        if (adapters[row]) add_to_columns(found, low.data(), row, first, last, out + size_t(row) * layer.rows);
    });
}

// One row of a matrix, as floats.
inline void matrix_row(const Linear& matrix, int number, float* out) {
    const Part* part = matrix.parts;
    while (number >= part->rows) number -= part++->rows;
    const uint8_t* data = part->data + group_bytes(part->kind, matrix.columns) * (number / kGroup);
    for (int column = 0; column < matrix.columns; ++column)
        out[column] = weight_at(part->kind, data, number % kGroup, column);
}
