// Causal grouped-query attention of a ragged batch over the cache, with a running softmax so that
// no row of scores is ever longer than a chunk.
//
// Queries that share keys, of several heads and of several tokens of a sequence, read them together, with
// a key or a column of values in each lane. What a query gets is made of the same numbers in the same
// order whichever others are beside it: chunks begin at multiples of kChunk, and a place that a query does not see
// adds an exact zero. So an answer is the same to the bit if its prompt comes whole, in pieces or
// from the cache.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "cache.h"
#include "simd.h"

constexpr int kChunk = 64;      // keys at a time
constexpr int kMostRows = 12;   // queries at a time
constexpr int kSums = kLanes == 8 ? 12 : 24;  // vectors of sums that processors have registers for
constexpr float kUnseen = -1e30f;

// How many vectors, of keys or of values, H queries take at once.
template <int H>
constexpr int kAcross = kSums / H >= 4 ? 4 : kSums / H >= 2 ? 2 : 1;

struct AttentionShape {
    int num_heads, num_kv_heads, head_dim, window;
    float scale, softcap;
};

// A head of a token, which sees the places [low, high).
template <class Query>
struct Row {
    const Query* query;  // (width,)
    float* out;          // (head_dim,)
    int low, high;
};

// H rows that share a key head, and what they have seen so far.
template <int H, class Query>
struct Tile {
    const Query* queries;  // (width, H)
    float* out;            // (H, size), not yet divided by the sums
    int size, end, low[H], high[H];  // no row sees the places from `end` on
    float tops[H], sums[H];
};

inline Floats capped(const AttentionShape& shape, Floats scores) {
    scores *= spread(shape.scale);
    if (shape.softcap > 0) scores = fast_tanh(scores / spread(shape.softcap)) * spread(shape.softcap);
    return scores;
}

// scores[h * kChunk + i] = query h . key i, for the keys of G groups. The groups `ahead` come next.
template <int H, int G>
inline void dot_groups(const float* queries, int size, const uint16_t* const* groups, const uint16_t* const* ahead,
                       float* scores) {
    Floats sums[H][G] = {};
    for (int d = 0; d < size; ++d) {
        Floats keys[G];
        for (int g = 0; g < G; ++g) {
            __builtin_prefetch(ahead[g] + d * kLanes);
            keys[g] = load_halves(groups[g] + d * kLanes);
        }
#pragma GCC unroll 12
        for (int h = 0; h < H; ++h) {
            Floats query = spread(queries[d * H + h]);
            for (int g = 0; g < G; ++g) sums[h][g] += keys[g] * query;
        }
    }
#pragma GCC unroll 12
    for (int h = 0; h < H; ++h)
        for (int g = 0; g < G; ++g) store(scores + h * kChunk + g * kLanes, sums[h][g]);
}

// The group whose keys are at the slots; put together in `room` if they come from anywhere.
inline const uint16_t* group_at(const HalfKeys& keys, const int32_t* slots, int count, uint16_t* room) {
    if (is_group(slots, count)) return keys.at(slots[0]);
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < keys.size; ++d) room[d * kLanes + i] = keys.at(slots[i])[d * kLanes];
    return room;
}

// scores[h * kChunk + i] = query h . keys[first + i]; beyond `count`, up to a multiple of kLanes, anything.
template <int H>
inline void dot_keys(const Tile<H, float>& tile, const HalfKeys& keys, int first, int count, float* scores) {
    constexpr int G = kAcross<H>;
    thread_local std::vector<uint16_t> room;
    size_t group_size = size_t(keys.size) * kLanes;
    if (room.size() < G * group_size) room.resize(G * group_size);
    const uint16_t *groups[G], *ahead[G];
    for (int i = 0; i < count; i += G * kLanes) {
        int present = 0;
        for (; present < G && i + present * kLanes < count; ++present) {
            int from = i + present * kLanes;
            groups[present] = group_at(keys, keys.slots + first + from, std::min(kLanes, count - from),
                                       room.data() + present * group_size);
            ahead[present] = keys.at(keys.slots[std::min(first + from + kChunk, tile.end - 1)]);
        }
        if (present == G) dot_groups<H, G>(tile.queries, tile.size, groups, ahead, scores + i);
        else
            for (int g = 0; g < present; ++g)
                dot_groups<H, 1>(tile.queries, tile.size, groups + g, ahead + g, scores + i + g * kLanes);
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
inline void dot_group(const Tile<H, QueryBlock>& tile, const Group& group, float* scores) {
    Floats sums[H] = {};
    for (int block = 0; block < blocks_of(tile.size); ++block) {
        const QueryBlock* queries = tile.queries + block * H;
        Dots<8> dots[H];
        int quads = std::min(kQuads, in_quads(tile.size) / 4 - block * kQuads);
        for (int i = 0; i < quads; ++i) {
            Words key = group.quad(block * kQuads + i);
#pragma GCC unroll 12
            for (int h = 0; h < H; ++h) dots[h].add(key, spread_quad(queries[h].values + 4 * i));
        }
        Floats scale = group.scale(block);
#pragma GCC unroll 12
        for (int h = 0; h < H; ++h)
            sums[h] += to_floats(dots[h].total() - spread(queries[h].bias)) * (scale * spread(queries[h].scale));
    }
    for (int h = 0; h < H; ++h) store(scores + h * kChunk, sums[h]);
}

template <int H>
inline void dot_keys(const Tile<H, QueryBlock>& tile, const ByteKeys& keys, int first, int count, float* scores) {
    for (int i = 0; i < count; i += kLanes) {
        const int32_t* slots = keys.slots + first + i;
        int present = std::min(kLanes, count - i);
        if (is_group(slots, present)) {
            dot_group<H>(tile, GroupInOrder{keys.quads(slots[0]), keys.scales(slots[0])}, scores + i);
            continue;
        }
        GroupFromAnywhere group;
        for (int lane = 0; lane < kLanes; ++lane) {
            int slot = slots[std::min(lane, present - 1)];
            group.quads[lane] = keys.quads(slot), group.scales[lane] = keys.scales(slot);
        }
        dot_group<H>(tile, group, scores + i);
    }
}

// Turn a row's scores of the places from `first` on into weights. Gives what earlier weights shrink by.
inline float weigh(const AttentionShape& shape, int low, int high, int first, int count, float* scores, float& top,
                   float& sum) {
    Floats most = spread(top), sums{};
    for (int i = 0; i < count; i += kLanes) {
        Ints places = spread(first + i) + ascending();
        Floats part = capped(shape, load<Floats>(scores + i));
        part = (places >= spread(low)) & (places < spread(high)) ? part : spread(kUnseen);
        most = larger(most, part);
        store(scores + i, part);
    }
    float before = top;
    top = largest_of(most);
    for (int i = 0; i < count; i += kLanes) {
        Floats part = load<Floats>(scores + i);
        Floats weights = part > spread(kUnseen) ? fast_exp(part - spread(top)) : Floats{};
        store(scores + i, weights);
        sums += weights;
    }
    float shrink = fast_exp(before - top);
    sum = sum * shrink + sum_of(sums);
    return shrink;
}

// out[h] = out[h] * shrink[h] + sum of weights[h][i] * values[first + i], for W vectors of columns from d on.
template <int W, int H, class Query, class Values>
inline void add_columns(const Tile<H, Query>& tile, const Values& values, int first, int count,
                        const float* weights, const float* shrink, int d) {
    Floats sums[H][W] = {};
    for (int i = 0; i < count; ++i) {
        auto row = values[first + i];
        values[std::min(first + i + kChunk, tile.end - 1)].prefetch(d, W * kLanes);
        Floats parts[W];
        for (int w = 0; w < W; ++w) parts[w] = row.part(d + w * kLanes);
#pragma GCC unroll 12
        for (int h = 0; h < H; ++h) {
            Floats weight = spread(weights[h * kChunk + i]);
            for (int w = 0; w < W; ++w) sums[h][w] += parts[w] * weight;
        }
    }
#pragma GCC unroll 12
    for (int h = 0; h < H; ++h)
        for (int w = 0; w < W; ++w) {
            float* out = tile.out + h * tile.size + d + w * kLanes;
            store(out, load<Floats>(out) * spread(shrink[h]) + sums[h][w]);
        }
}

template <int H, class Query, class Values>
inline void add_values(const Tile<H, Query>& tile, const Values& values, int first, int count,
                       const float* weights, const float* shrink) {
    constexpr int W = kAcross<H>;
    int d = 0;
    for (; d + W * kLanes <= tile.size; d += W * kLanes)
        add_columns<W>(tile, values, first, count, weights, shrink, d);
    for (; d + kLanes <= tile.size; d += kLanes)
        add_columns<1>(tile, values, first, count, weights, shrink, d);
    for (; d < tile.size; ++d)
        for (int h = 0; h < H; ++h) {
            float sum = 0, &out = tile.out[h * tile.size + d];
            for (int i = 0; i < count; ++i) sum += weights[h * kChunk + i] * values[first + i].one(d);
            out = out * shrink[h] + sum;
        }
}

template <int H, class Query, class Keys, class Values>
inline void take_keys(Tile<H, Query>& tile, const AttentionShape& shape, const Keys& keys, const Values& values) {
    float scores[H * kChunk], shrink[H];
    int low = *std::min_element(tile.low, tile.low + H);
    for (int first = low / kLanes * kLanes, next; first < tile.end; first = next) {
        next = std::min(tile.end, (first / kChunk + 1) * kChunk);
        int count = next - first;
        dot_keys<H>(tile, keys, first, count, scores);
        for (int h = 0; h < H; ++h)
            shrink[h] = weigh(shape, tile.low[h], tile.high[h], first, count, scores + h * kChunk, tile.tops[h],
                              tile.sums[h]);
        add_values(tile, values, first, count, scores, shrink);
    }
}

// `count` rows, at most H; the last stands in for those that are missing.
template <int H, class Keys, class Values>
inline void attend_tile(const AttentionShape& shape, const Keys& keys, const Values& values,
                        const Row<typename Keys::Query>* rows, int count) {
    using Query = typename Keys::Query;
    thread_local std::vector<Query> queries;
    thread_local std::vector<float> out;
    int width = keys.width(), size = shape.head_dim;
    if (queries.size() < size_t(H) * width) queries.resize(size_t(H) * width);
    out.assign(size_t(H) * size, 0.f);
    Tile<H, Query> tile{queries.data(), out.data(), size, 0, {}, {}, {}, {}};
    for (int h = 0; h < H; ++h) {
        const Row<Query>& row = rows[std::min(h, count - 1)];
        for (int i = 0; i < width; ++i) queries[i * H + h] = row.query[i];
        tile.low[h] = row.low, tile.high[h] = row.high, tile.end = std::max(tile.end, row.high);
        tile.tops[h] = kUnseen, tile.sums[h] = 0.f;
    }
    take_keys(tile, shape, keys, values);
    for (int h = 0; h < count; ++h) {
        float inverse = 1.f / tile.sums[h];
        for (int d = 0; d < size; ++d) rows[h].out[d] = out[h * size + d] * inverse;
    }
}

// `count` rows of a sequence that share a key head, at most kMostRows.
template <class Keys, class Values>
inline void attend(const AttentionShape& shape, const Keys& keys, const Values& values,
                   const Row<typename Keys::Query>* rows, int count) {
    auto with = [&](auto most) { attend_tile<decltype(most)::value>(shape, keys, values, rows, count); };
    if (count == 1) with(std::integral_constant<int, 1>());
    else if (count == 2) with(std::integral_constant<int, 2>());
    else if (count == 3) with(std::integral_constant<int, 3>());
    else if (count == 4) with(std::integral_constant<int, 4>());
    else if (count <= 6) with(std::integral_constant<int, 6>());
    else if (count <= 8) with(std::integral_constant<int, 8>());
    else with(std::integral_constant<int, kMostRows>());
}
