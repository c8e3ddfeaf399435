// Products of packed matrices with rows of activations.
//
// Quantized weights meet activations quantized to 8 bits in blocks of 32, as in llama.cpp; sums of
// a block are exact integers. A row's product is the same whatever rows are computed beside it.
#pragma once
#include <algorithm>
#include <cstring>

#include "activations.h"
#include "deltas.h"

// Bytes between what one row of inputs is multiplied with and what is asked of memory. With more rows
// the weights of kGroupsAtOnce groups are read side by side, and less of each is ahead.
constexpr int kAhead = 8192, kAheadOfRows = 2048;

template <int G, int bytes_at_once>
inline void prefetch(const uint8_t* data, size_t bytes) {
    for (int g = 0; g < G; ++g)
        for (int i = 0; i < bytes_at_once; i += 64)
            __builtin_prefetch(data + g * bytes + (G == 1 ? kAhead : kAheadOfRows) + i);
}

// G groups, `bytes` apart, times M activation rows from `first` on: out[g * M + m] has kLanes sums.
template <int G, int M, int kBits, int columns, bool has_offset, int bias>
inline void products(Quants<kBits, columns, has_offset, bias>, const uint8_t* data, size_t bytes,
                     const Activations& x, int first, Floats* out) {
    using K = Quants<kBits, columns, has_offset, bias>;
    constexpr int kSpan = kQuads / K::kScales;
    int blocks = x.columns / kBlock;
    const int8_t* values = x.values.data() + size_t(first) * x.columns;
    const float* scales = x.scales.data() + size_t(first) * blocks;
    const int32_t* sums = x.sums.data() + size_t(first) * blocks * 2;
    for (int block = 0; block < blocks; ++block, data += K::kBytes, values += kBlock) {
        prefetch<G, K::kBytes>(data, bytes);
#pragma GCC unroll 2
        for (int part = 0; part < K::kScales; ++part) {
            Dots<kBits> totals[G * M];
#pragma GCC unroll 8
            for (int i = part * kSpan; i < (part + 1) * kSpan; ++i) {
                Words weights[G];
                for (int g = 0; g < G; ++g) weights[g] = quad_of<kBits>(data + g * bytes, i);
                for (int m = 0; m < M; ++m) {
                    Words inputs = spread_quad(values + size_t(m) * x.columns + 4 * i);
                    for (int g = 0; g < G; ++g) totals[g * M + m].add(weights[g], inputs);
                }
            }
            for (int m = 0; m < M; ++m) {
                float scale = scales[m * blocks + block];
                const int32_t* sum = sums + 2 * (m * blocks + block);
                int32_t total = K::kScales == 2 ? sum[part] : sum[0] + sum[1];
                for (int g = 0; g < G; ++g) {
                    const uint8_t* at = data + g * bytes + K::kValueBytes + part * K::kHalves;
                    Ints exact = totals[g * M + m].total();
                    if (bias) exact -= spread(int32_t(bias) * total);
                    Floats& to = out[g * M + m];
                    to += to_floats(exact) * load_halves(at) * spread(scale);
                    if (has_offset)
                        to += load_halves(at + K::kScales * K::kHalves) * spread(scale * float(total));
                }
            }
        }
    }
}

template <int G, int M, int kind>
inline void products(FloatsOf<kind> of, const uint8_t* data, size_t bytes, const Activations& x, int first,
                     Floats* out) {
    const float* rows = x.rows + size_t(first) * x.columns;
    for (int column = 0; column < x.columns; ++column)
        for (int g = 0; g < G; ++g) {
            Floats weights = of.column(data + g * bytes + size_t(column) * FloatsOf<kind>::kBytes);
            for (int m = 0; m < M; ++m)
                out[g * M + m] += weights * spread(rows[size_t(m) * x.columns + column]);
        }
}

// A part of a product: groups of rows of weights, and where their sums go.
struct Target {
    int rows;
    const uint8_t* data;
    size_t bytes;  // of a group
    float* out;    // (num_rows, stride)
    size_t stride;
};

template <int G, int M, class K>
inline void tile(K kind, const Target& target, const Activations& x, int group, int first) {
    Floats sums[G * M] = {};
    products<G, M>(kind, target.data + target.bytes * group, target.bytes, x, first, sums);
    for (int g = 0; g < G; ++g) {
        int row = (group + g) * kLanes, count = std::min(kLanes, target.rows - row);
        for (int m = 0; m < M; ++m)
            std::memcpy(target.out + size_t(first + m) * target.stride + row, &sums[g * M + m],
                        sizeof(float) * count);
    }
}

// So many groups and rows of activations share what they load, and fit into the registers.
#if OLLA_AVX512
constexpr int kGroupsAtOnce = 3, kRowsAtOnce = 4;
#elif OLLA_NEON
constexpr int kGroupsAtOnce = 2, kRowsAtOnce = 4;
#else
constexpr int kGroupsAtOnce = 2, kRowsAtOnce = 2;
#endif
constexpr int kRowsInCache = 64;  // activations that stay in the second-level cache

template <int G, int M, class K>
inline void tiles(K kind, const Target& target, const Activations& x, int group, int first, int last) {
    for (; first + M <= last; first += M) tile<G, M>(kind, target, x, group, first);
    if constexpr (M > 1) tiles<G, M / 2>(kind, target, x, group, first, last);
}

// The groups [group, end) of a part. Calls before(first, last) before some of its outputs are made.
template <class K, class Before>
inline void part_product(K kind, const Target& target, const Activations& x, int group, int end,
                         const Before& before) {
    // Floats need no registers for sums of integers, and nothing else to do while a sum is awaited.
    constexpr int kRows = K::kIsFloat ? 2 * kRowsAtOnce : kRowsAtOnce;
    if (x.num_rows == 1 && !K::kIsFloat) {
        for (; group < end; ++group) {
            before(group * kLanes, (group + 1) * kLanes);
            tile<1, 1>(kind, target, x, group, 0);
        }
        return;
    }
    for (int first = 0, begin = group; first < x.num_rows; first += kRowsInCache) {
        int last = std::min(x.num_rows, first + kRowsInCache);
        for (group = begin; group + kGroupsAtOnce <= end; group += kGroupsAtOnce) {
            if (!first) before(group * kLanes, (group + kGroupsAtOnce) * kLanes);
            tiles<kGroupsAtOnce, kRows>(kind, target, x, group, first, last);
        }
        for (; group < end; ++group) tiles<1, kRows>(kind, target, x, group, first, last);
    }
}

inline int groups_of(const Part& part) { return (part.rows + kLanes - 1) / kLanes; }

// The groups [group, end) of a linear, numbered through all of its parts. Calls before(first, last) before
// some of the outputs are made, after(first, last) when they are there.
template <class Before, class After>
inline void range_product(const Linear& layer, const Activations& x, int group, int end, float* out,
                          const Before& before, const After& after) {
    int done = 0;
    for (const Part* part = layer.parts; group < end; done += part++->rows) {
        int groups = groups_of(*part);
        if (group < groups) {
            Target target{part->rows, part->data, group_bytes(part->kind, x.columns), out + done, size_t(layer.rows)};
            int last = std::min(groups, end);
            with_kind(part->kind, [&](auto kind) {
                part_product(kind, target, x, group, last,
                             [&](int from, int to) { before(done + from, done + to); });
            });
            after(done + group * kLanes, done + std::min(part->rows, last * kLanes));
        }
        group = std::max(0, group - groups), end -= groups;
    }
}

inline void add_bias(const float* bias, int num_rows, int first, int last, float* out, size_t stride) {
    for (int row = 0; row < num_rows; ++row)
        for (int i = first; i < last; ++i) out[row * stride + i] += bias[i];
}

// `found` are the deltas of the rows. They cost no waiting of threads for one another: the low-rank products
// are made beside the inputs' 8-bit form, the rest by whoever made the outputs that it is added to. Their memory
// comes while weights are computed with, that of the `next` linear's low-rank products too.
inline void linear(Pool& pool, const Linear& layer, Activations& x, const FoundDeltas& found,
                   const FoundDeltas& next, float* out) {
    bool needs_values = false;
    int groups = 0;
    for (int i = 0; i < layer.num_parts; ++i) {
        needs_values |= is_quantized(layer.parts[i].kind);
        groups += groups_of(layer.parts[i]);
    }
    int quantizing = needs_values ? x.begin_quantizing() : 0;
    pool.run(quantizing + found.num_tasks(),
             [&](int task) { task < quantizing ? x.quantize(task) : found.multiply(task - quantizing, x); });
    auto before = [&](int first, int last) {
        found.ask_for_columns(first, last);
        next.ask_for_low(first, last, layer.rows);
    };
    auto after = [&](int first, int last) {
        if (layer.bias) add_bias(layer.bias, x.num_rows, first, last, out, layer.rows);
        found.add_to_columns(first, last, out, layer.rows);
    };
    // What many rows are multiplied with has to stay in a cache meanwhile.
    int most = x.num_rows == 1 ? groups : 8 * kGroupsAtOnce;
    pool.share(groups, kGroupsAtOnce, most,
               [&](int first, int last) { range_product(layer, x, first, last, out, before, after); });
}
