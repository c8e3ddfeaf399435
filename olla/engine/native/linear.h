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
constexpr int kTile = 4;     // activations that share the decoding of weights
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

// out[m] = 8 rows of the group `data` times activation row `first + m`.
template <int M>
inline void group_q4(const uint8_t* data, const Activations& x, int first, __m256* out) {
    int blocks = x.columns / kBlock;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 sums[M];
    for (int m = 0; m < M; ++m) sums[m] = _mm256_setzero_ps();
    for (int block = 0; block < blocks; ++block, data += kQ4Bytes) {
        __m256i weights[8];
        for (int i = 0; i < 4; ++i) {
            __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data) + i);
            weights[i] = _mm256_and_si256(bytes, low);
            weights[i + 4] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
        }
        __m256 scale = load_halves(data + 128), offset = load_halves(data + 144);
        for (int m = 0; m < M; ++m) {
            const int8_t* values = x.values.data() + size_t(first + m) * x.columns + block * kBlock;
            // 15 * 127 * 2 * 8 stays below 2^15.
            __m256i pairs = _mm256_maddubs_epi16(weights[0], quad(values));
            for (int i = 1; i < 8; ++i)
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(weights[i], quad(values + 4 * i)));
            __m256 exact = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            size_t at = size_t(first + m) * blocks + block;
            sums[m] = _mm256_fmadd_ps(exact, _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[at])), sums[m]);
            sums[m] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.sums[at]), sums[m]);
        }
    }
    for (int m = 0; m < M; ++m) out[m] = sums[m];
}

template <int M>
inline void group_q8(const uint8_t* data, const Activations& x, int first, __m256* out) {
    int blocks = x.columns / kBlock;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 sums[M];
    for (int m = 0; m < M; ++m) sums[m] = _mm256_setzero_ps();
    for (int block = 0; block < blocks; ++block, data += kQ8Bytes) {
        __m256i totals[M];
        for (int m = 0; m < M; ++m) totals[m] = _mm256_setzero_si256();
        for (int i = 0; i < 8; ++i) {
            __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data) + i);
            __m256i sizes = _mm256_abs_epi8(weights);
            for (int m = 0; m < M; ++m) {
                const int8_t* values =
                    x.values.data() + size_t(first + m) * x.columns + block * kBlock + 4 * i;
                __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(quad(values), weights));
                totals[m] = _mm256_add_epi32(totals[m], _mm256_madd_epi16(pairs, ones));
            }
        }
        __m256 scale = load_halves(data + 256);
        for (int m = 0; m < M; ++m) {
            size_t at = size_t(first + m) * blocks + block;
            sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[m]),
                                      _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[at])), sums[m]);
        }
    }
    for (int m = 0; m < M; ++m) out[m] = sums[m];
}

template <int K>
inline __m256 load_floats(const uint8_t* data, int column) {
    if (K == F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(data) + size_t(column) * 8);
    const __m128i* halves = reinterpret_cast<const __m128i*>(data) + column;
    if (K == F16) return _mm256_cvtph_ps(_mm_loadu_si128(halves));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves)), 16));
}

template <int M, int K>
inline void group_float(const uint8_t* data, const Activations& x, int first, __m256* out) {
    __m256 even[M], odd[M];
    for (int m = 0; m < M; ++m) even[m] = odd[m] = _mm256_setzero_ps();
    const float* rows = x.rows + size_t(first) * x.columns;
    int column = 0;
    for (; column + 1 < x.columns; column += 2) {
        __m256 one = load_floats<K>(data, column), two = load_floats<K>(data, column + 1);
        for (int m = 0; m < M; ++m) {
            const float* at = rows + size_t(m) * x.columns + column;
            even[m] = _mm256_fmadd_ps(one, _mm256_set1_ps(at[0]), even[m]);
            odd[m] = _mm256_fmadd_ps(two, _mm256_set1_ps(at[1]), odd[m]);
        }
    }
    for (int m = 0; m < M; ++m) {
        if (column < x.columns) {
            float last = rows[size_t(m) * x.columns + column];
            even[m] = _mm256_fmadd_ps(load_floats<K>(data, column), _mm256_set1_ps(last), even[m]);
        }
        out[m] = _mm256_add_ps(even[m], odd[m]);
    }
}

template <int M>
inline void group_product(int kind, const uint8_t* data, const Activations& x, int first, float* out) {
    __m256 sums[M];
    if (kind == Q4) group_q4<M>(data, x, first, sums);
    else if (kind == Q8) group_q8<M>(data, x, first, sums);
    else if (kind == F16) group_float<M, F16>(data, x, first, sums);
    else if (kind == BF16) group_float<M, BF16>(data, x, first, sums);
    else group_float<M, F32>(data, x, first, sums);
    for (int m = 0; m < M; ++m) _mm256_storeu_ps(out + m * kGroup, sums[m]);
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

template <int M>
inline void group_product(int kind, const uint8_t* data, const Activations& x, int first, float* out) {
    for (int m = 0; m < M; ++m)
        for (int lane = 0; lane < kGroup; ++lane)
            out[m * kGroup + lane] = lane_product(kind, data, x, first + m, lane);
}

#endif

// Rows [first, last) of activations times one group, to `out` (num_rows, stride).
inline void group_times_rows(int kind, const uint8_t* data, const Activations& x, int first, int last,
                             int num_lanes, float* out, size_t stride) {
    float sums[kTile * kGroup];
    for (int row = first; row < last;) {
        int count = std::min(kTile, last - row);
        switch (count) {
            case 1: group_product<1>(kind, data, x, row, sums); break;
            case 2: group_product<2>(kind, data, x, row, sums); break;
            case 3: group_product<3>(kind, data, x, row, sums); break;
            default: group_product<4>(kind, data, x, row, sums); break;
        }
        for (int m = 0; m < count; ++m)
            std::memcpy(out + size_t(row + m) * stride, sums + m * kGroup, sizeof(float) * num_lanes);
        row += count;
    }
}

constexpr int kRowsAtOnce = 64;  // activations that stay in the second-level cache

inline void part_product(Pool& pool, const Part& part, const Activations& x, float* out, size_t stride) {
    int groups = (part.rows + kGroup - 1) / kGroup;
    int chunk = std::max(1, std::min(16, groups / (4 * pool.num_threads())));
    size_t bytes = group_bytes(part.kind, x.columns);
    pool.run((groups + chunk - 1) / chunk, [&](int number) {
        int end = std::min(groups, (number + 1) * chunk);
        for (int first = 0; first < x.num_rows; first += kRowsAtOnce)
            for (int group = number * chunk; group < end; ++group)
                group_times_rows(part.kind, part.data + bytes * group, x, first,
                                 std::min(x.num_rows, first + kRowsAtOnce),
                                 std::min(kGroup, part.rows - group * kGroup), out + group * kGroup, stride);
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

// What the rows' adapters add to a linear's outputs.
inline void add_deltas(Pool& pool, const Linear& layer, const Activations& x, const int32_t* adapters,
                       float* out) {
    if (!layer.num_deltas) return;
    pool.run(x.num_rows, [&](int row) {
        std::vector<float> low;
        const float* inputs = x.rows + size_t(row) * x.columns;
        for (int i = 0; i < layer.num_deltas; ++i) {
            const Delta& delta = layer.deltas[i];
            if (delta.adapter != adapters[row]) continue;
            low.resize(delta.rank);
            for (int r = 0; r < delta.rank; ++r)
                low[r] = dot(delta.a + size_t(r) * x.columns, inputs, x.columns);
            float* to = out + size_t(row) * layer.rows + delta.start;
            for (int o = 0; o < delta.end - delta.start; ++o)
                to[o] += dot(delta.b + size_t(o) * delta.rank, low.data(), delta.rank);
        }
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
