// Causal grouped-query attention of a ragged batch over the cache, with a running softmax so that
// no row of scores is ever longer than a chunk.
//
// There are two ways. A few tokens, as in decoding, take their heads one by one, with the numbers of
// a head in the lanes; so what a token gets does not depend on the few beside it. The many tokens of
// a prompt have one query of one token in each lane, and share the reading of keys and values.
#pragma once
#include <algorithm>
#include <vector>

#include "simd.h"

constexpr int kChunk = 64;         // keys at a time
constexpr int kFewTokens = 16;     // of a span, taken one by one
constexpr int kHeadsAtOnce = 4;    // heads that share the reading of keys
constexpr int kKeysAtOnce = 8;     // or dimensions of values, that fit into the registers

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

// What a thread needs for one task; it grows to the largest head seen.
struct AttentionScratch {
    std::vector<float> queries, sums, rows;

    void fit(int size) {
        queries.resize(size_t(size) * kLanes);
        sums.resize(size_t(size + kKeysAtOnce) * kLanes);
        rows.resize(size_t(size + kKeysAtOnce) * kChunk);
    }
};

inline float dot(const float* a, const float* b, int size) {
    Floats sums{};
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) sums += load<Floats>(a + i) * load<Floats>(b + i);
    float sum = sum_of(sums);
    for (; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

inline void capped(const AttentionShape& shape, Floats& scores) {
    scores *= spread(shape.scale);
    if (shape.softcap > 0) scores = fast_tanh(scores / spread(shape.softcap)) * spread(shape.softcap);
}

// A few tokens: heads of one token that share a key head, and what they have seen so far.
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

// Tokens of the step, all of one span, and the heads that share a key head.
struct AttentionTask {
    const AttentionShape& shape;
    CacheRows keys, values;
    int head, length, after;  // tokens of the sequence; of the step up to the span's end
    const float* queries;     // (num_tokens, stride), the heads first
    size_t stride;
    float* out;  // (num_tokens, num_heads * head_dim)

    int shared() const { return shape.num_heads / shape.num_kv_heads; }
    int high(int token) const { return length - (after - token) + 1; }
    int low(int token) const { return shape.window ? std::max(0, high(token) - shape.window) : 0; }
    const float* query(int token, int i) const {
        return queries + token * stride + size_t(head * shared() + i) * shape.head_dim;
    }
    float* to(int token, int i) const {
        return out + (size_t(token) * shape.num_heads + head * shared() + i) * shape.head_dim;
    }
};

inline void attend_few(const AttentionTask& task, int token) {
    int low = task.low(token), high = task.high(token);
    for (int i = 0; i < task.shared(); i += kHeadsAtOnce) {
        const float* from = task.query(token, i);
        float* to = task.to(token, i);
        switch (std::min(kHeadsAtOnce, task.shared() - i)) {
            case 1: attend_heads<1>(task.shape, from, to, task.keys, task.values, low, high); break;
            case 2: attend_heads<2>(task.shape, from, to, task.keys, task.values, low, high); break;
            case 3: attend_heads<3>(task.shape, from, to, task.keys, task.values, low, high); break;
            default: attend_heads<4>(task.shape, from, to, task.keys, task.values, low, high); break;
        }
    }
}

// Many tokens: to[i] += sum over k of left[k] * right[i * row + k * column], for each i < count.
// left, to: vectors. What is beyond count up to kKeysAtOnce is computed for nothing.
inline void multiply(const float* left, const float* right, size_t row, size_t column, int size, int count,
                     float* to) {
    for (int i = 0; i < count; i += kKeysAtOnce) {
        Floats sums[kKeysAtOnce];
        for (int j = 0; j < kKeysAtOnce; ++j) sums[j] = load<Floats>(to + (i + j) * kLanes);
        for (int k = 0; k < size; ++k) {
            Floats one = load<Floats>(left + k * kLanes);
            const float* many = right + i * row + k * column;
            for (int j = 0; j < kKeysAtOnce; ++j) sums[j] += one * spread(many[j * row]);
        }
        for (int j = 0; j < kKeysAtOnce; ++j) store(to + (i + j) * kLanes, sums[j]);
    }
}

inline void read_rows(const CacheRows& from, int first, int count, float* to) {
    for (int i = 0; i < count; ++i, to += from.size) {
        const uint16_t* row = from[first + i];
        int d = 0;
        for (; d + kLanes <= from.size; d += kLanes) store(to + d, load_halves(row + d));
        for (; d < from.size; ++d) to[d] = half_to_float(row[d]);
    }
}

// Queries of a lane each, numbered token by token, and the keys [low, high) that they see.
struct LaneQueries {
    Ints low, high;
    Floats tops, sums;
};

// Scores of a chunk of keys -> their powers, with what was summed before shrunk to the new tops.
inline void soften(const AttentionShape& shape, LaneQueries& lanes, int first, int count, float* scores,
                   float* out) {
    Floats top = lanes.tops;
    for (int i = 0; i < count; ++i) {
        Floats part = load<Floats>(scores + i * kLanes);
        capped(shape, part);
        Ints is_seen = (lanes.low <= spread(int32_t(first + i))) & (lanes.high > spread(int32_t(first + i)));
        part = is_seen ? part : spread(-1e30f);
        top = larger(top, part);
        store(scores + i * kLanes, part);
    }
    Floats shrink = fast_exp(lanes.tops - top), sum{};
    for (int i = 0; i < count; ++i) {
        Floats part = load<Floats>(scores + i * kLanes);
        // A lane that has seen nothing yet has no top.
        Floats power = part > spread(-1e29f) ? fast_exp(part - top) : Floats{};
        store(scores + i * kLanes, power);
        sum += power;
    }
    for (int d = 0; d < shape.head_dim; ++d) store(out + d * kLanes, load<Floats>(out + d * kLanes) * shrink);
    lanes.tops = top;
    lanes.sums = lanes.sums * shrink + sum;
}

// Queries [start, start + kLanes) of the task, `begin` being its first token; `end` is beyond its last.
inline void attend_lanes(const AttentionTask& task, int begin, int end, int start, AttentionScratch& scratch) {
    const AttentionShape& shape = task.shape;
    int size = shape.head_dim, shared = task.shared();
    int used = std::min(kLanes, (end - begin) * shared - start);
    float *queries = scratch.queries.data(), *out = scratch.sums.data(), *rows = scratch.rows.data();
    LaneQueries lanes{Ints{}, Ints{}, spread(-1e30f), Floats{}};
    for (int lane = 0; lane < kLanes; ++lane) {
        int number = start + std::min(lane, used - 1), token = begin + number / shared;
        lanes.low[lane] = task.low(token), lanes.high[lane] = task.high(token);
        const float* query = task.query(token, number % shared);
        for (int d = 0; d < size; ++d) queries[d * kLanes + lane] = query[d];
    }
    std::fill(out, out + size_t(size + kKeysAtOnce) * kLanes, 0.f);
    float scores[(kChunk + kKeysAtOnce) * kLanes];
    for (int first = lanes.low[0]; first < lanes.high[used - 1]; first += kChunk) {
        int count = std::min(kChunk, lanes.high[used - 1] - first);
        std::fill(scores, scores + (kChunk + kKeysAtOnce) * kLanes, 0.f);
        read_rows(task.keys, first, count, rows);
        multiply(queries, rows, size, 1, size, count, scores);
        soften(shape, lanes, first, count, scores, out);
        read_rows(task.values, first, count, rows);
        multiply(scores, rows, 1, size, count, size, out);
    }
    Floats inverse = spread(1.f) / lanes.sums;
    for (int lane = 0; lane < used; ++lane) {
        int number = start + lane;
        float* to = task.to(begin + number / shared, number % shared);
        for (int d = 0; d < size; ++d) to[d] = out[d * kLanes + lane] * inverse[lane];
    }
}
