// Causal grouped-query attention of a ragged batch over the cache, with a running softmax so that
// no row of scores is ever longer than a chunk.
//
// Tokens take their heads one by one, with the numbers of a head in the lanes. So what a token gets is
// the same to the bit in a prompt, in a part of one, beside drafts and alone: a prompt whose beginning
// is in the cache is answered as it was the first time. Several tokens at once, a query in each lane,
// would read the keys of a long prompt less often, but round otherwise.
#pragma once
#include <algorithm>

#include "cache.h"
#include "simd.h"

constexpr int kChunk = 64;       // keys at a time
constexpr int kHeadsAtOnce = 4;  // heads that share the reading of keys

struct AttentionShape {
    int num_heads, num_kv_heads, head_dim, window;
    float scale, softcap;
};

inline void capped(const AttentionShape& shape, Floats& scores) {
    scores *= spread(shape.scale);
    if (shape.softcap > 0) scores = fast_tanh(scores / spread(shape.softcap)) * spread(shape.softcap);
}

// Heads of one token that share a key head, and what they have seen so far.
template <class Query>
struct Heads {
    const Query* queries;  // (H, width)
    int width;
    float* out;            // (H, size), not yet divided by the sums
    float *tops, *sums;    // (H,)
    int size;
};

// scores[h * kChunk + i] = queries[h] . keys[first + i]; room is left up to a multiple of kLanes.
template <int H>
inline void dot_keys(const Heads<float>& heads, const HalfRows& keys, int first, int count, float* scores) {
    for (int i = 0; i < count; ++i) {
        auto key = keys[first + i];
        Floats sums[H] = {};
        int d = 0;
        for (; d + kLanes <= heads.size; d += kLanes) {
            Floats part = key.part(d);
            for (int h = 0; h < H; ++h) sums[h] += part * load<Floats>(heads.queries + h * heads.size + d);
        }
        for (int h = 0; h < H; ++h) {
            float total = sum_of(sums[h]);
            for (int rest = d; rest < heads.size; ++rest)
                total += heads.queries[h * heads.size + rest] * key.one(rest);
            scores[h * kChunk + i] = total;
        }
    }
}

// Four bytes of each key of a group that the sequence has in order, and the scales of a block.
struct GroupInOrder {
    const uint8_t *quads, *scales;
    Words quad(int i) const { return load<Words>(quads + i * kVector); }
    Floats scale(int block) const { return load_bfloats(scales + block * 2 * kLanes); }
};

// The same of keys from anywhere.
struct GroupFromAnywhere {
    const uint8_t *quads[kLanes], *scales[kLanes];
    Words quad(int i) const {
        uint32_t words[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) std::memcpy(&words[lane], quads[lane] + i * kVector, 4);
        return load<Words>(words);
    }
    Floats scale(int block) const {
        uint16_t halves[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) halves[lane] = half_at(scales[lane] + block * 2 * kLanes);
        return load_bfloats(halves);
    }
};

template <int H, class Group>
inline void dot_group(const Heads<QueryBlock>& heads, const Group& group, float* scores) {
    Floats sums[H] = {};
    for (int block = 0; block < heads.width; ++block) {
        Dots<8> dots[H];
        int quads = std::min(kQuads, in_quads(heads.size) / 4 - block * kQuads);
        for (int i = 0; i < quads; ++i) {
            Words key = group.quad(block * kQuads + i);
            for (int h = 0; h < H; ++h)
                dots[h].add(key, spread_quad(heads.queries[h * heads.width + block].values + 4 * i));
        }
        Floats scale = group.scale(block);
        for (int h = 0; h < H; ++h) {
            const QueryBlock& query = heads.queries[h * heads.width + block];
            sums[h] += to_floats(dots[h].total() - spread(query.bias)) * (scale * spread(query.scale));
        }
    }
    for (int h = 0; h < H; ++h) store(scores + h * kChunk, sums[h]);
}

template <int H>
inline void dot_keys(const Heads<QueryBlock>& heads, const ByteKeys& keys, int first, int count, float* scores) {
    for (int i = 0; i < count; i += kLanes) {
        int present = std::min(kLanes, count - i);
        if (keys.is_group(first + i, present)) {
            int slot = keys.slots[first + i];
            dot_group<H>(heads, GroupInOrder{keys.quads(slot), keys.scales(slot)}, scores + i);
            continue;
        }
        GroupFromAnywhere group;
        for (int lane = 0; lane < kLanes; ++lane) {
            int slot = keys.slots[first + i + std::min(lane, present - 1)];
            group.quads[lane] = keys.quads(slot), group.scales[lane] = keys.scales(slot);
        }
        dot_group<H>(heads, group, scores + i);
    }
}

// out[h] = out[h] * shrink[h] + sum of scores[h][i] * values[first + i]
template <int H, class Query, class Values>
inline void add_values(const Heads<Query>& heads, const Values& values, int first, int count,
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
            auto value = values[first + i];
            Floats one = value.part(d), two = value.part(d + kLanes);
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
            for (int i = 0; i < count; ++i) out += scores[h * kChunk + i] * values[first + i].one(d);
        }
}

// Take the keys and values [first, first + count), a chunk at most, into the running softmax, but for
// those before `low`.
template <int H, class Query, class Keys, class Values>
inline void take_chunk(const Heads<Query>& heads, const AttentionShape& shape, const Keys& keys,
                       const Values& values, int low, int first, int count) {
    int skipped = std::max(0, low - first);
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
        for (int i = skipped; i < count; ++i) top = std::max(top, row[i]);
        std::fill(row, row + skipped, -1e30f);
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

template <int H, class Query, class Keys, class Values>
inline void attend_heads(const AttentionShape& shape, const Query* queries, float* out, const Keys& keys,
                         const Values& values, int low, int high) {
    float tops[H], sums[H];
    std::fill(tops, tops + H, -1e30f);
    std::fill(sums, sums + H, 0.f);
    std::fill(out, out + H * shape.head_dim, 0.f);
    Heads<Query> heads{queries, keys.width(), out, tops, sums, shape.head_dim};
    // Chunks begin where groups of keys do.
    for (int first = low / kLanes * kLanes; first < high; first += kChunk)
        take_chunk<H>(heads, shape, keys, values, low, first, std::min(kChunk, high - first));
    for (int h = 0; h < H; ++h) {
        float inverse = 1.f / sums[h];
        for (int d = 0; d < shape.head_dim; ++d) out[h * shape.head_dim + d] *= inverse;
    }
}

// The heads of one token that share a key head, over the keys of the places [low, high).
// queries: (num_heads, keys.width()) side by side. out: (num_heads, head_dim).
template <class Query, class Keys, class Values>
inline void attend(const AttentionShape& shape, const Keys& keys, const Values& values, int low, int high,
                   const Query* queries, float* out) {
    int shared = shape.num_heads / shape.num_kv_heads;
    for (int left = shared; left > 0; left -= kHeadsAtOnce) {
        switch (std::min(kHeadsAtOnce, left)) {
            case 1: attend_heads<1>(shape, queries, out, keys, values, low, high); break;
            case 2: attend_heads<2>(shape, queries, out, keys, values, low, high); break;
            case 3: attend_heads<3>(shape, queries, out, keys, values, low, high); break;
            default: attend_heads<4>(shape, queries, out, keys, values, low, high); break;
        }
        queries += kHeadsAtOnce * keys.width();
        out += kHeadsAtOnce * shape.head_dim;
    }
}
