// Causal grouped-query attention of a ragged batch over the cache, with a running softmax so that
// no row of scores is ever longer than a chunk.
//
// Tokens take their heads one by one, with the numbers of a head in the lanes. So what a token gets is
// the same to the bit in a prompt, in a part of one, beside drafts and alone: a prompt whose beginning
// is in the cache is answered as it was the first time. Several tokens at once, a query in each lane,
// would read the keys of a long prompt less often, but round otherwise.
#pragma once
#include <algorithm>

#include "simd.h"

constexpr int kChunk = 64;       // keys at a time
constexpr int kHeadsAtOnce = 4;  // heads that share the reading of keys

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

inline void capped(const AttentionShape& shape, Floats& scores) {
    scores *= spread(shape.scale);
    if (shape.softcap > 0) scores = fast_tanh(scores / spread(shape.softcap)) * spread(shape.softcap);
}

// Heads of one token that share a key head, and what they have seen so far.
struct Heads {
    const float* queries;  // (H, size)
    float* out;            // (H, size), not yet divided by the sums
    float *tops, *sums;    // (H,)
    int size;
};

// scores[h * kChunk + i] = queries[h] . keys[first + i]
template <int H>
inline void dot_keys(const Heads& heads, const CacheRows& keys, int first, int count, float* scores) {
    for (int i = 0; i < count; ++i) {
        const uint16_t* key = keys[first + i];
        Floats sums[H] = {};
        int d = 0;
        for (; d + kLanes <= heads.size; d += kLanes) {
            Floats part = load_halves(key + d);
            for (int h = 0; h < H; ++h) sums[h] += part * load<Floats>(heads.queries + h * heads.size + d);
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
    constexpr int kWide = 2 * kLanes;
    int d = 0;
    for (; d + kWide <= heads.size; d += kWide) {
        Floats left[H], right[H];
        for (int h = 0; h < H; ++h) {
            const float* out = heads.out + h * heads.size + d;
            left[h] = load<Floats>(out) * spread(shrink[h]);
            right[h] = load<Floats>(out + kLanes) * spread(shrink[h]);
        }
        for (int i = 0; i < count; ++i) {
            const uint16_t* value = values[first + i] + d;
            Floats one = load_halves(value), two = load_halves(value + kLanes);
            for (int h = 0; h < H; ++h) {
                left[h] += one * spread(scores[h * kChunk + i]);
                right[h] += two * spread(scores[h * kChunk + i]);
            }
        }
        for (int h = 0; h < H; ++h) {
            store(heads.out + h * heads.size + d, left[h]);
            store(heads.out + h * heads.size + d + kLanes, right[h]);
        }
    }
    for (; d < heads.size; ++d)
        for (int h = 0; h < H; ++h) {
            float& out = heads.out[h * heads.size + d];
            out *= shrink[h];
            for (int i = 0; i < count; ++i) out += scores[h * kChunk + i] * half_to_float(values[first + i][d]);
        }
}

// Take the keys and values [first, first + count), a chunk at most, into the running softmax.
template <int H>
inline void take_chunk(const Heads& heads, const AttentionShape& shape, const CacheRows& keys,
                       const CacheRows& values, int first, int count) {
    float scores[H * kChunk], shrink[H];
    dot_keys<H>(heads, keys, first, count, scores);
    for (int h = 0; h < H; ++h) {
        float *row = scores + h * kChunk, top = heads.tops[h];
        std::fill(row + count, row + kChunk, 0.f);
        for (int i = 0; i < count; i += kLanes) {
            Floats part = load<Floats>(row + i);
            capped(shape, part);
            store(row + i, part);
        }
        for (int i = 0; i < count; ++i) top = std::max(top, row[i]);
        std::fill(row + count, row + kChunk, -1e30f);
        Floats sum{};
        for (int i = 0; i < count; i += kLanes) {
            Floats power = fast_exp(load<Floats>(row + i) - spread(top));
            store(row + i, power);
            sum += power;
        }
        shrink[h] = fast_exp(heads.tops[h] - top);
        heads.sums[h] = heads.sums[h] * shrink[h] + sum_of(sum);
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

// The heads of one token that share a key head, over the keys of the places [low, high).
// queries, out: (num_heads, head_dim) side by side.
inline void attend(const AttentionShape& shape, const CacheRows& keys, const CacheRows& values, int low, int high,
                   const float* queries, float* out) {
    int shared = shape.num_heads / shape.num_kv_heads;
    for (int left = shared; left > 0; left -= kHeadsAtOnce) {
        switch (std::min(kHeadsAtOnce, left)) {
            case 1: attend_heads<1>(shape, queries, out, keys, values, low, high); break;
            case 2: attend_heads<2>(shape, queries, out, keys, values, low, high); break;
            case 3: attend_heads<3>(shape, queries, out, keys, values, low, high); break;
            default: attend_heads<4>(shape, queries, out, keys, values, low, high); break;
        }
        queries += kHeadsAtOnce * shape.head_dim;
        out += kHeadsAtOnce * shape.head_dim;
    }
}
