// What adapters add to the outputs of a linear.
//
// The rows of one adapter are computed together, so its matrices are read once a step, and what a row
// gets is the same whoever is beside it.
#pragma once
#include <algorithm>
#include <vector>

#include "activations.h"

constexpr int kTile = 16;         // outputs that stand side by side in `b`
constexpr int kRanksAtOnce = 4;   // rows of `a` that share the inputs they are multiplied with
constexpr int kRowsTogether = kLanes == 16 ? 4 : 2;
constexpr int kRowsOfTask = 32;
constexpr int kColumnsAtOnce = 256;

template <class Body>
inline void with_float_kind(int kind, const Body& body) {
    if (kind == F16) body(FloatsOf<F16>());
    else if (kind == BF16) body(FloatsOf<BF16>());
    else body(FloatsOf<F32>());
}

template <class K>
constexpr size_t kElementBytes = K::kBytes / kLanes;

// R rows of `a` from `rank` on, times M rows of inputs.
template <int R, int M, class K>
inline void low_tile(K, const Delta& delta, int rank, const float* const* inputs, int columns, float* const* low) {
    size_t bytes = columns * kElementBytes<K>;
    const uint8_t* a = static_cast<const uint8_t*>(delta.a) + rank * bytes;
    Floats sums[R * M] = {};
    int whole = columns / kLanes * kLanes;
    for (int i = 0; i < whole; i += kLanes) {
        Floats weights[R];
        for (int r = 0; r < R; ++r) weights[r] = K::column(a + r * bytes + i * kElementBytes<K>);
        for (int m = 0; m < M; ++m) {
            Floats x = load<Floats>(inputs[m] + i);
            for (int r = 0; r < R; ++r) sums[r * M + m] += weights[r] * x;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int m = 0; m < M; ++m) {
            float sum = sum_of(sums[r * M + m]);
            for (int i = whole; i < columns; ++i) sum += K::value(a + r * bytes, i) * inputs[m][i];
            low[m][rank + r] = sum;
        }
}

template <int R, int M, class K>
inline void low_tiles(K kind, const Delta& delta, int rank, int last, const float* const* inputs, int columns,
                      float* const* low) {
    for (; rank + R <= last; rank += R) low_tile<R, M>(kind, delta, rank, inputs, columns, low);
    if constexpr (R > 1) low_tiles<R / 2, M>(kind, delta, rank, last, inputs, columns, low);
}

// sums[m * kTile + i] = output i of a tile of `b`, times M low-rank products.
template <int M, class K>
inline void high_tile(K, const Delta& delta, int tile, const float* const* low, float* sums) {
    constexpr int kVectors = kTile / kLanes;
    const uint8_t* b = static_cast<const uint8_t*>(delta.b) + size_t(tile) * delta.rank * kTile * kElementBytes<K>;
    Floats totals[M * kVectors] = {};
    for (int r = 0; r < delta.rank; ++r)
        for (int v = 0; v < kVectors; ++v, b += K::kBytes) {
            Floats weights = K::column(b);
            for (int m = 0; m < M; ++m) totals[m * kVectors + v] += weights * spread(low[m][r]);
        }
    std::memcpy(sums, totals, sizeof(totals));
}

// A delta, the rows it is for, and where their low-rank products stand.
struct UsedDelta {
    const Delta* delta;
    const int* rows;
    int num_rows;
    float* low;  // (num_rows, rank)
};

inline void ask_for(const void* memory, size_t from, size_t until) {
    const char* at = static_cast<const char*>(memory);
    for (; from < until; from += 64) __builtin_prefetch(at + from, 0, 2);
}

// The deltas of a linear that the rows of a step use.
class FoundDeltas {
  public:
    const Linear* layer() const { return layer_; }

    void clear() { layer_ = nullptr, used_.clear(), tasks_.clear(), rows_.clear(); }

    void find(const Linear& layer, const int32_t* adapters, int num_rows) {
        clear();
        layer_ = &layer;
        if (!layer.num_deltas) return;
        for (int row = 0; row < num_rows; ++row)
            if (adapters[row]) rows_.push_back(row);
        std::stable_sort(rows_.begin(), rows_.end(), [&](int a, int b) { return adapters[a] < adapters[b]; });
        size_t lows = 0;
        for (size_t first = 0, last; first < rows_.size(); first = last) {
            int adapter = adapters[rows_[first]];
            for (last = first; last < rows_.size() && adapters[rows_[last]] == adapter;) ++last;
            for (int i = 0; i < layer.num_deltas; ++i) {
                const Delta& delta = layer.deltas[i];
                if (delta.adapter != adapter) continue;
                used_.push_back({&delta, &rows_[first], int(last - first), nullptr});
                lows += (last - first) * delta.rank;
            }
        }
        if (low_.size() < lows) low_.resize(lows);
        float* low = low_.data();
        for (UsedDelta& used : used_) {
            used.low = low;
            low += size_t(used.num_rows) * used.delta->rank;
            for (int rank = 0; rank < used.delta->rank; rank += kRanksAtOnce)
                for (int row = 0; row < used.num_rows; row += kRowsOfTask) tasks_.push_back({&used, rank, row});
        }
    }

    // Ask memory for a share of what the low-rank products read.
    void ask_for_low(int from, int until, int of) const {
        for (const UsedDelta& used : used_) {
            size_t bytes = used.delta->a ? size_t(used.delta->rank) * layer_->columns * bytes_of(used) : 0;
            ask_for(used.delta->a, bytes * from / of, bytes * until / of);
        }
    }

    // Ask memory for what `add_to_columns` reads.
    void ask_for_columns(int first, int last) const {
        for (const UsedDelta& used : used_) {
            const Delta& delta = *used.delta;
            int from = std::max(first, delta.start) - delta.start, until = std::min(last, delta.end) - delta.start;
            if (delta.b && from < until)
                ask_for(delta.b, from * delta.rank * bytes_of(used), until * delta.rank * bytes_of(used));
        }
    }

    int num_tasks() const { return int(tasks_.size()); }

    // A task of the low-rank products, which all have to be there before any columns.
    void multiply(int number, const Activations& x) const {
        const Task& task = tasks_[number];
        int last = std::min(task.used->num_rows, task.row + kRowsOfTask);
        with_float_kind(task.used->delta->kind, [&](auto kind) { multiply<kRowsTogether>(kind, task, task.row, last, x); });
    }

    // Add what they come to, to the output columns [first, last) of all rows; out: (num_rows, stride).
    void add_to_columns(int first, int last, float* out, size_t stride) const {
        for (size_t i = 0, end; i < used_.size(); i = end) {
            for (end = i; end < used_.size() && used_[end].rows == used_[i].rows;) ++end;
            for (int at = first; at < last; at += kColumnsAtOnce)
                add<kRowsTogether>(i, end, 0, at, std::min(last, at + kColumnsAtOnce), out, stride);
        }
    }

  private:
    static size_t bytes_of(const UsedDelta& used) { return used.delta->kind == F32 ? 4 : 2; }

    struct Task {
        const UsedDelta* used;
        int rank, row;
    };

    template <int M, class K>
    static void multiply(K kind, const Task& task, int row, int last, const Activations& x) {
        const Delta& delta = *task.used->delta;
        for (; row + M <= last; row += M) {
            const float* inputs[M];
            float* low[M];
            for (int m = 0; m < M; ++m) {
                inputs[m] = x.rows + size_t(task.used->rows[row + m]) * x.columns;
                low[m] = task.used->low + size_t(row + m) * delta.rank;
            }
            int end = std::min(delta.rank, task.rank + kRanksAtOnce);
            low_tiles<kRanksAtOnce, M>(kind, delta, task.rank, end, inputs, x.columns, low);
        }
        if constexpr (M > 1) multiply<M / 2>(kind, task, row, last, x);
    }

    // All of [i, end) are of the same rows, and are added up before they count.
    template <int M>
    void add(size_t i, size_t end, int row, int first, int last, float* out, size_t stride) const {
        for (; row + M <= used_[i].num_rows; row += M) {
            float before[M][kColumnsAtOnce];
            float* to[M];
            for (int m = 0; m < M; ++m) {
                to[m] = out + used_[i].rows[row + m] * stride;
                std::memcpy(before[m], to[m] + first, sizeof(float) * (last - first));
            }
            for (size_t each = i; each < end; ++each)
                with_float_kind(used_[each].delta->kind,
                                [&](auto kind) { add_delta<M>(kind, used_[each], row, first, last, before, to); });
        }
        if constexpr (M > 1) add<M / 2>(i, end, row, first, last, out, stride);
    }

    template <int M, class K>
    static void add_delta(K kind, const UsedDelta& used, int row, int first, int last,
                          const float (*before)[kColumnsAtOnce], float* const* to) {
        const Delta& delta = *used.delta;
        const float* low[M];
        for (int m = 0; m < M; ++m) low[m] = used.low + size_t(row + m) * delta.rank;
        int begin = std::max(first, delta.start) - delta.start, end = std::min(last, delta.end) - delta.start;
        for (int tile = begin / kTile; tile * kTile < end; ++tile) {
            float sums[M * kTile] = {};
            int from = std::max(begin, tile * kTile), until = std::min(end, tile * kTile + kTile);
            if (delta.b) high_tile<M>(kind, delta, tile, low, sums);
            for (int m = 0; m < M; ++m)
                for (int o = from; o < until; ++o) {
                    float sum = delta.b || !delta.a ? sums[m * kTile + o - tile * kTile] : low[m][o];
                    if (delta.keep) sum += delta.keep[o] * before[m][o + delta.start - first];
                    if (delta.constant) sum += delta.constant[o];
                    to[m][o + delta.start] += sum;
                }
        }
    }

    const Linear* layer_ = nullptr;
    std::vector<UsedDelta> used_;
    std::vector<Task> tasks_;
    std::vector<int> rows_;
    std::vector<float> low_;
};
