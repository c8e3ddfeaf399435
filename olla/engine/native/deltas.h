// What adapters add to the outputs of a linear.
#pragma once
#include <algorithm>
#include <vector>

#include "activations.h"

inline void widen(const uint16_t* halves, int kind, int size, float* out) {
    int i = 0;
    for (; i + kLanes <= size; i += kLanes)
        store(out + i, kind == F16 ? load_halves(halves + i) : load_bfloats(halves + i));
    for (; i < size; ++i) out[i] = kind == F16 ? half_to_float(halves[i]) : bfloat_to_float(halves[i]);
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

// Scratch memory of add_deltas.
struct FoundDeltas {
    std::vector<RowDelta> deltas;
    std::vector<float> low;
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
                       FoundDeltas& scratch, float* out) {
    if (!layer.num_deltas) return;
    auto& found = scratch.deltas;
    auto& low = scratch.low;
    found.clear();
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
    if (low.size() < lows) low.resize(lows);
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
