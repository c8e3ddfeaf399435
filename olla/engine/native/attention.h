// Causal grouped-query attention of a ragged batch over the cache, with a running softmax so that
// no row of scores is ever longer than a chunk.
#pragma once
#include <algorithm>
#include <vector>

#include "linear.h"
#include "maths.h"

constexpr int kChunk = 128;        // keys at a time
constexpr int kQueriesAtOnce = 8;  // tokens of a task
constexpr int kHeadsAtOnce = 4;    // heads that share the reading of keys

struct AttentionShape {
    int num_heads, num_kv_heads, head_dim, num_slots, window;
    float scale, softcap;
};

// Keys or values of one head, by their place in a sequence.
struct CacheRows {
    const uint16_t* cache;
    const int32_t* slots;
    int size;
    const uint16_t* operator[](int place) const { return cache + size_t(slots[place]) * size; }
};

// Heads of one token that share a key head, and what they have seen so far.
struct Heads {
    const float* queries;  // (H, size)
    float* out;            // (H, size), not yet divided by the sums
    float *tops, *sums;    // (H,)
    int size;
};

#if defined(__AVX2__)

inline float sum_of(__m256 values) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

inline __m256 load_row(const uint16_t* row) { return load_halves(reinterpret_cast<const uint8_t*>(row)); }

// scores[h * kChunk + i] = queries[h] . keys[first + i]
template <int H>
inline void dot_keys(const Heads& heads, const CacheRows& keys, int first, int count, float* scores) {
    for (int i = 0; i < count; ++i) {
        const uint16_t* key = keys[first + i];
        __m256 sums[H];
        for (int h = 0; h < H; ++h) sums[h] = _mm256_setzero_ps();
        int d = 0;
        for (; d + 8 <= heads.size; d += 8) {
            __m256 part = load_row(key + d);
            for (int h = 0; h < H; ++h)
                sums[h] = _mm256_fmadd_ps(part, _mm256_loadu_ps(heads.queries + h * heads.size + d), sums[h]);
        }
        for (int h = 0; h < H; ++h) {
            float total = sum_of(sums[h]);
            for (int rest = d; rest < heads.size; ++rest)
                total += heads.queries[h * heads.size + rest] * half_to_float(key[rest]);
            scores[h * kChunk + i] = total;
        }
    }
}

// out[h] = out[h] * shrink[h] + sum of scores[h][i] * values[first + i]
template <int H>
inline void add_values(const Heads& heads, const CacheRows& values, int first, int count,
                       const float* scores, const float* shrink) {
    int d = 0;
    for (; d + 16 <= heads.size; d += 16) {
        __m256 left[H], right[H];
        for (int h = 0; h < H; ++h) {
            float* out = heads.out + h * heads.size + d;
            left[h] = _mm256_mul_ps(_mm256_loadu_ps(out), _mm256_set1_ps(shrink[h]));
            right[h] = _mm256_mul_ps(_mm256_loadu_ps(out + 8), _mm256_set1_ps(shrink[h]));
        }
        for (int i = 0; i < count; ++i) {
            const uint16_t* value = values[first + i] + d;
            __m256 one = load_row(value), two = load_row(value + 8);
            for (int h = 0; h < H; ++h) {
                __m256 score = _mm256_set1_ps(scores[h * kChunk + i]);
                left[h] = _mm256_fmadd_ps(one, score, left[h]);
                right[h] = _mm256_fmadd_ps(two, score, right[h]);
            }
        }
        for (int h = 0; h < H; ++h) {
            _mm256_storeu_ps(heads.out + h * heads.size + d, left[h]);
            _mm256_storeu_ps(heads.out + h * heads.size + d + 8, right[h]);
        }
    }
    for (; d < heads.size; ++d)
        for (int h = 0; h < H; ++h) {
            float& out = heads.out[h * heads.size + d];
            out *= shrink[h];
            for (int i = 0; i < count; ++i)
                out += scores[h * kChunk + i] * half_to_float(values[first + i][d]);
        }
}

#else

template <int H>
inline void dot_keys(const Heads& heads, const CacheRows& keys, int first, int count, float* scores) {
    for (int i = 0; i < count; ++i)
        for (int h = 0; h < H; ++h) {
            float total = 0;
            for (int d = 0; d < heads.size; ++d)
                total += heads.queries[h * heads.size + d] * half_to_float(keys[first + i][d]);
            scores[h * kChunk + i] = total;
        }
}

template <int H>
inline void add_values(const Heads& heads, const CacheRows& values, int first, int count,
                       const float* scores, const float* shrink) {
    for (int h = 0; h < H; ++h) {
        float* out = heads.out + h * heads.size;
        for (int d = 0; d < heads.size; ++d) out[d] *= shrink[h];
        for (int i = 0; i < count; ++i)
            for (int d = 0; d < heads.size; ++d)
                out[d] += scores[h * kChunk + i] * half_to_float(values[first + i][d]);
    }
}

#endif

// Take the keys and values [first, first + count), a chunk at most, into the running softmax.
template <int H>
inline void take_chunk(const Heads& heads, const AttentionShape& shape, const CacheRows& keys,
                       const CacheRows& values, int first, int count) {
    float scores[H * kChunk], shrink[H];
    dot_keys<H>(heads, keys, first, count, scores);
    for (int h = 0; h < H; ++h) {
        float *row = scores + h * kChunk, top = heads.tops[h], sum = 0;
        for (int i = 0; i < count; ++i) row[i] *= shape.scale;
        if (shape.softcap > 0)
            for (int i = 0; i < count; ++i) row[i] = shape.softcap * fast_tanh(row[i] / shape.softcap);
        for (int i = 0; i < count; ++i) top = std::max(top, row[i]);
        for (int i = 0; i < count; ++i) row[i] = fast_exp(row[i] - top);
        for (int i = 0; i < count; ++i) sum += row[i];
        shrink[h] = fast_exp(heads.tops[h] - top);
        heads.sums[h] = heads.sums[h] * shrink[h] + sum;
        heads.tops[h] = top;
    }
    add_values<H>(heads, values, first, count, scores, shrink);
}

template <int H>
inline void attend_heads(const AttentionShape& shape, const float* queries, float* out,
                         const CacheRows& keys, const CacheRows& values, int low, int high) {
    float tops[H], sums[H];
    std::fill(tops, tops + H, -1e30f);
    std::fill(sums, sums + H, 0.f);
    std::fill(out, out + H * shape.head_dim, 0.f);
    Heads heads{queries, out, tops, sums, shape.head_dim};
    for (int first = low; first < high; first += kChunk)
        take_chunk<H>(heads, shape, keys, values, first, std::min(kChunk, high - first));
    for (int h = 0; h < H; ++h) {
        float inverse = 1.f / sums[h];
        for (int d = 0; d < shape.head_dim; ++d) out[h * shape.head_dim + d] *= inverse;
    }
}

// Tokens [begin, end) of the step, all of `span`, for the heads that share key head `head`.
// queries: (num_tokens, stride) with the heads first; out: (num_tokens, num_heads * head_dim).
inline void attend(const AttentionShape& shape, const Span& span, int head, int begin, int end,
                   const float* queries, size_t stride, const uint16_t* keys, const uint16_t* values,
                   float* out) {
    int size = shape.head_dim, shared = shape.num_heads / shape.num_kv_heads;
    size_t start = size_t(head) * shape.num_slots * size;
    CacheRows key_rows{keys + start, span.slots, size}, value_rows{values + start, span.slots, size};
    for (int token = begin; token < end; ++token) {
        int high = span.length - (span.end - token) + 1;
        int low = shape.window ? std::max(0, high - shape.window) : 0;
        for (int i = 0; i < shared; i += kHeadsAtOnce) {
            const float* from = queries + token * stride + size_t(head * shared + i) * size;
            float* to = out + (size_t(token) * shape.num_heads + head * shared + i) * size;
            switch (std::min(kHeadsAtOnce, shared - i)) {
                case 1: attend_heads<1>(shape, from, to, key_rows, value_rows, low, high); break;
                case 2: attend_heads<2>(shape, from, to, key_rows, value_rows, low, high); break;
                case 3: attend_heads<3>(shape, from, to, key_rows, value_rows, low, high); break;
                default: attend_heads<4>(shape, from, to, key_rows, value_rows, low, high); break;
            }
        }
    }
}
