// Causal grouped-query attention of a ragged batch over the block cache, with a running softmax so
// that no row of scores is ever longer than a chunk.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "linear.h"
#include "maths.h"

constexpr int kChunk = 128;        // keys at a time
constexpr int kQueriesAtOnce = 8;  // tokens that share the reading of keys

struct AttentionShape {
    int num_heads, num_kv_heads, head_dim, block_size, window;
    float scale, softcap;
};

struct AttentionScratch {
    std::vector<float> keys, values, scores, sums, tops;
};

// Keys or values [first, first + count) of one head, as floats.
inline void read_cache(const uint16_t* cache, const Span& span, const AttentionShape& shape, int head,
                       int first, int count, float* out) {
    for (int i = 0; i < count; ++i) {
        int at = first + i;
        size_t slot = size_t(span.blocks[at / shape.block_size]) * shape.block_size + at % shape.block_size;
        const uint16_t* from = cache + (slot * shape.num_kv_heads + head) * shape.head_dim;
        float* to = out + size_t(i) * shape.head_dim;
        int d = 0;
#if defined(__F16C__)
        for (; d + 8 <= shape.head_dim; d += 8)
            _mm256_storeu_ps(to + d, load_halves(reinterpret_cast<const uint8_t*>(from + d)));
#endif
        for (; d < shape.head_dim; ++d) to[d] = half_to_float(from[d]);
    }
}

// Take the keys [low, high) of a chunk into one query's running softmax.
inline void take_keys(const float* query, const AttentionShape& shape, int low, int high,
                      AttentionScratch& scratch, float& top, float& sum, float* out) {
    int size = shape.head_dim;
    float* scores = scratch.scores.data();
    float largest = top;
    for (int i = low; i < high; ++i) {
        float score = dot(query, scratch.keys.data() + size_t(i) * size, size) * shape.scale;
        if (shape.softcap > 0) score = shape.softcap * fast_tanh(score / shape.softcap);
        scores[i] = score;
        largest = std::max(largest, score);
    }
    float shrink = fast_exp(top - largest);
    for (int i = low; i < high; ++i) scores[i] = fast_exp(scores[i] - largest);
    float added = 0;
    for (int i = low; i < high; ++i) added += scores[i];
    sum = sum * shrink + added;
    top = largest;
    if (shrink != 1.f)
        for (int d = 0; d < size; ++d) out[d] *= shrink;
    for (int i = low; i < high; ++i) axpy(scores[i], scratch.values.data() + size_t(i) * size, out, size);
}

// Tokens [begin, end) of the step, all of `span`, for the heads that share key head `head`.
// queries: (num_tokens, stride) with the heads first; out: (num_tokens, num_heads * head_dim).
inline void attend(const AttentionShape& shape, const Span& span, int head, int begin, int end,
                   const float* queries, size_t stride, const uint16_t* keys, const uint16_t* values,
                   float* out) {
    thread_local AttentionScratch scratch;
    int size = shape.head_dim, shared = shape.num_heads / shape.num_kv_heads;
    int num_queries = (end - begin) * shared;
    scratch.keys.resize(size_t(kChunk) * size);
    scratch.values.resize(size_t(kChunk) * size);
    scratch.scores.resize(kChunk);
    scratch.sums.assign(num_queries, 0.f);
    scratch.tops.assign(num_queries, -1e30f);
    auto position = [&](int token) { return span.length - (span.end - token); };
    auto target = [&](int token, int i) {
        return out + (size_t(token) * shape.num_heads + head * shared + i) * size;
    };
    for (int token = begin; token < end; ++token)
        std::fill(target(token, 0), target(token, shared), 0.f);
    int start = shape.window ? std::max(0, position(begin) - shape.window + 1) : 0;
    for (int first = start; first <= position(end - 1); first += kChunk) {
        int count = std::min(kChunk, position(end - 1) + 1 - first);
        read_cache(keys, span, shape, head, first, count, scratch.keys.data());
        read_cache(values, span, shape, head, first, count, scratch.values.data());
        for (int token = begin; token < end; ++token) {
            int high = std::min(count, position(token) + 1 - first);
            int low = shape.window ? std::max(0, position(token) - shape.window + 1 - first) : 0;
            if (low >= high) continue;
            for (int i = 0; i < shared; ++i) {
                int number = (token - begin) * shared + i;
                take_keys(queries + token * stride + size_t(head * shared + i) * size, shape, low, high,
                          scratch, scratch.tops[number], scratch.sums[number], target(token, i));
            }
        }
    }
    for (int token = begin; token < end; ++token)
        for (int i = 0; i < shared; ++i) {
            float inverse = 1.f / scratch.sums[(token - begin) * shared + i];
            float* to = target(token, i);
            for (int d = 0; d < size; ++d) to[d] *= inverse;
        }
}
