// A whole decoder step: the new tokens of many sequences through every layer, to logits.
#include "core.h"

#include <cmath>
#include <string>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "experts.h"
#include "linear.h"
#include "maths.h"
#include "pack.h"
#include "scales.h"
#include "threads.h"
#include "variants.h"

// Scratch memory that only ever grows.
struct Buffer : std::vector<float> {
    float* room(size_t size) {
        if (size > this->size()) resize(size);
        return data();
    }
};

// Rows of a span from `first` on: its heads that share keys, token by token.
struct Placed {
    int span, first;
};

struct Core {
    explicit Core(int num_threads) : pool(num_threads) {}
    Pool pool;
    Activations inputs;
    Buffer states, normed, projected, mixed, wide, narrow, picked, gathered, made;
    std::vector<Placed> placed;
    std::vector<QueryBlock> queries;
    Routes routes;
    FoundDeltas found, next;
};

namespace {

constexpr int kRowsAChunk = 4;

// Call body(row) for each row; a few rows are not worth waking threads for.
template <class Body>
void for_rows(Pool& pool, int num_rows, const Body& body) {
    if (num_rows <= 2 * kRowsAChunk) {
        for (int row = 0; row < num_rows; ++row) body(row);
        return;
    }
    pool.run((num_rows + kRowsAChunk - 1) / kRowsAChunk, [&](int chunk) {
        int end = std::min(num_rows, (chunk + 1) * kRowsAChunk);
        for (int row = chunk * kRowsAChunk; row < end; ++row) body(row);
    });
}

void rms_norm(const float* from, const float* weight, int size, float eps, float* to) {
    float factor = 1.f / std::sqrt(dot(from, from, size) / float(size) + eps);
    for (int i = 0; i < size; ++i) to[i] = from[i] * factor * weight[i];
}

void rotate(float* head, const float* cosine, const float* sine, int rotary_dim) {
    int half = rotary_dim / 2;
    for (int i = 0; i < half; ++i) {
        float first = head[i], second = head[i + half];
        head[i] = first * cosine[i] - second * sine[i];
        head[i + half] = second * cosine[i + half] + first * sine[i + half];
    }
}

// One forward pass; holds what its parts share.
class Pass {
  public:
    Pass(Core& core, const Model& model, const Step& step)
        : core_(core), pool_(core.pool), model_(model), step_(step), rows_(step.num_tokens) {}

    void run() {
        core_.next.clear();
        embed();
        for (int i = 0; i < model_.num_layers; ++i) {
            const Layer& layer = model_.layers[i];
            attention(layer, i);
            mlp(layer, i + 1 < model_.num_layers ? &model_.layers[i + 1].qkv : nullptr);
        }
        logits();
    }

  private:
    void embed() {
        size_t size = size_t(rows_) * model_.hidden;
        core_.states.room(size);
        if (step_.embedded) {
            std::copy(step_.embedded, step_.embedded + size, core_.states.begin());
            return;
        }
        for_rows(pool_, rows_, [&](int row) {
            float* state = core_.states.data() + size_t(row) * model_.hidden;
            matrix_row(model_.embedding, step_.tokens[row], state);
            for (int i = 0; i < model_.hidden; ++i) state[i] *= model_.embedding_scale;
        });
    }

    // The states as a half of a layer takes them.
    const float* before(const float* weight) {
        if (!weight) return core_.states.data();
        float* normed = core_.normed.room(size_t(rows_) * model_.hidden);
        norm_rows(core_.states.data(), weight, normed);
        return normed;
    }

    // Add what a half of a layer made of them.
    void after(const float* weight, float* added) {
        if (weight) norm_rows(added, weight, added);
        float scale = model_.residual_scale;
        for_rows(pool_, rows_, [&](int row) {
            size_t start = size_t(row) * model_.hidden;
            axpy(scale, added + start, core_.states.data() + start, model_.hidden);
        });
    }

    void norm_rows(const float* from, const float* weight, float* to) {
        for_rows(pool_, rows_, [&](int row) {
            size_t start = size_t(row) * model_.hidden;
            rms_norm(from + start, norm_of(weight, row), model_.hidden, model_.eps, to + start);
        });
    }

    // A norm's weights for a row, which its adapter may have replaced.
    const float* norm_of(const float* weight, int row) const {
        for (int i = 0; i < model_.num_norms; ++i) {
            const Norm& norm = model_.norms[i];
            if (norm.original == weight && norm.adapter == step_.adapters[row]) return norm.weight;
        }
        return weight;
    }

    // Inputs (count, columns) through a linear, with what the rows' adapters add. The `next` linear, if it is
    // known, is for the same rows.
    void apply(const Linear& layer, const float* inputs, int count, const int32_t* adapters, float* out,
               const Linear* next = nullptr) {
        core_.inputs.set(inputs, count, layer.columns);
        if (core_.next.layer() == &layer) std::swap(core_.found, core_.next);
        else core_.found.find(layer, adapters, count);
        if (next) core_.next.find(*next, adapters, count);
        else core_.next.clear();
        linear(pool_, layer, core_.inputs, core_.found, core_.next, out);
    }

    float* apply(const Linear& layer, const float* inputs, Buffer& to, const Linear* next = nullptr) {
        float* out = to.room(size_t(rows_) * layer.rows);
        apply(layer, inputs, rows_, step_.adapters, out, next);
        return out;
    }

    void attention(const Layer& layer, int number) {
        apply(layer.qkv, before(layer.pre_attention), core_.projected, &layer.out);
        size_t blocks = size_t(rows_) * model_.num_heads * blocks_of(model_.head_dim);
        if (step_.cache_kind == Q8 && core_.queries.size() < blocks) core_.queries.resize(blocks);
        for_rows(pool_, rows_, [&](int row) { place(layer, number, row); });
        core_.mixed.room(size_t(rows_) * model_.num_heads * model_.head_dim);
        attend_all(layer, number);
        const Linear* next = layer.experts ? nullptr : &layer.gate_up;
        after(layer.post_attention, apply(layer.out, core_.mixed.data(), core_.narrow, next));
    }

    // Norm and rotate a token's queries and keys, and store its keys and values.
    void place(const Layer& layer, int number, int row) {
        int size = model_.head_dim, queries = model_.num_heads * size, keys = model_.num_kv_heads * size;
        float* query = core_.projected.data() + size_t(row) * (queries + 2 * keys);
        if (layer.q_norm) norm_heads(norm_of(layer.q_norm, row), query, queries);
        if (layer.k_norm) norm_heads(norm_of(layer.k_norm, row), query + queries, keys);
        if (layer.rope) {
            bool is_local = layer.rope == 2;
            int dim = is_local ? step_.local_rotary_dim : step_.rotary_dim;
            const float* cosine = (is_local ? step_.local_cosines : step_.cosines) + size_t(row) * dim;
            const float* sine = (is_local ? step_.local_sines : step_.sines) + size_t(row) * dim;
            for (int i = 0; i < queries + keys; i += size) rotate(query + i, cosine, sine, dim);
        }
        if (step_.cache_kind == Q8) quantize(query, row);
        for (int head = 0; head < model_.num_kv_heads; ++head) {
            const float* key = query + queries + head * size;
            with_cache(number, head, nullptr, [&](auto cached_keys, auto cached_values) {
                cached_keys.write(step_.slots[row], key);
                cached_values.write(step_.slots[row], key + keys);
            });
        }
    }

    void quantize(const float* query, int row) {
        int size = model_.head_dim;
        QueryBlock* to = core_.queries.data() + size_t(row) * model_.num_heads * blocks_of(size);
        for (int head = 0; head < model_.num_heads; ++head, query += size)
            for (int first = 0; first < size; first += kBlock)
                (to++)->set(query + first, std::min(kBlock, size - first));
    }

    // Calls body(keys, values) with those of a head in the cache.
    template <class Body>
    void with_cache(int layer, int head, const int32_t* slots, const Body& body) const {
        int size = model_.head_dim, num_slots = step_.num_slots;
        size_t start = head * cache_bytes(step_.cache_kind, num_slots, size);
        uint8_t *keys = step_.keys[layer] + start, *values = step_.values[layer] + start;
        if (step_.cache_kind == Q8) body(ByteKeys{keys, slots, size}, ByteRows{values, slots, size, num_slots});
        else body(HalfKeys{keys, slots, size}, HalfRows{values, slots, size});
    }

    void norm_heads(const float* weight, float* heads, int size) {
        int part = model_.norms_whole_projection ? size : model_.head_dim;
        for (int i = 0; i < size; i += part) rms_norm(heads + i, weight, part, model_.eps, heads + i);
    }

    void attend_all(const Layer& layer, int number) {
        AttentionShape shape{model_.num_heads,     model_.num_kv_heads,    model_.head_dim,
                             layer.sliding_window, model_.attention_scale, model_.attention_softcap};
        int shared = shape.num_heads / shape.num_kv_heads;
        auto& placed = core_.placed;
        placed.clear();
        for (int i = 0; i < step_.num_spans; ++i)
            for (int at = 0; at < (step_.spans[i].end - step_.spans[i].start) * shared; at += kMostRows)
                placed.push_back({i, at});
        pool_.run(int(placed.size()) * model_.num_kv_heads, [&](int task) {
            // The last tokens of a prompt see most keys, so they go first.
            const Placed& rows = placed[placed.size() - 1 - task / model_.num_kv_heads];
            attend_some(shape, number, rows, task % model_.num_kv_heads);
        });
    }

    void attend_some(const AttentionShape& shape, int number, const Placed& placed, int kv_head) {
        const Span& span = step_.spans[placed.span];
        int shared = shape.num_heads / shape.num_kv_heads;
        int count = std::min(kMostRows, (span.end - span.start) * shared - placed.first);
        with_cache(number, kv_head, span.slots, [&](auto keys, auto values) {
            Row<typename decltype(keys)::Query> rows[kMostRows];
            for (int i = 0; i < count; ++i) {
                int token = span.start + (placed.first + i) / shared;
                int head = kv_head * shared + (placed.first + i) % shared;
                int high = span.length - (span.end - token) + 1;
                int low = shape.window ? std::max(0, high - shape.window) : 0;
                size_t out = (size_t(token) * shape.num_heads + head) * shape.head_dim;
                rows[i] = {queries_for(keys, token, head), core_.mixed.data() + out, low, high};
            }
            attend(shape, keys, values, rows, count);
        });
    }

    const float* queries_for(const HalfKeys& keys, int row, int head) const {
        size_t heads = model_.num_heads + 2 * model_.num_kv_heads;
        return core_.projected.data() + (row * heads + head) * keys.size;
    }

    const QueryBlock* queries_for(const ByteKeys& keys, int row, int head) const {
        return core_.queries.data() + (size_t(row) * model_.num_heads + head) * keys.width();
    }

    void mlp(const Layer& layer, const Linear* next) {
        const float* inputs = before(layer.pre_mlp);
        float* out = core_.narrow.room(size_t(rows_) * model_.hidden);
        if (layer.experts) {
            mixture(*layer.experts, inputs, out);
        } else {
            gated(layer.gate_up, layer.down, model_.intermediate, inputs, rows_, step_.adapters, out, next);
        }
        after(layer.post_mlp, out);
    }

    // down(activation(gate) * up) of `count` rows.
    void gated(const Linear& gate_up, const Linear& down, int size, const float* inputs, int count,
               const int32_t* adapters, float* out, const Linear* next = nullptr) {
        float* wide = core_.wide.room(size_t(count) * 2 * size);
        float* mixed = core_.mixed.room(size_t(count) * size);
        apply(gate_up, inputs, count, adapters, wide, &down);
        for_rows(pool_, count, [&](int row) {
            const float* gate = wide + size_t(row) * 2 * size;
            float* to = mixed + size_t(row) * size;
            if (model_.uses_gelu)
                for (int i = 0; i < size; ++i) to[i] = gelu(gate[i]) * gate[size + i];
            else
                for (int i = 0; i < size; ++i) to[i] = silu(gate[i]) * gate[size + i];
        });
        apply(down, mixed, count, adapters, out, next);
    }

    // Rows stand side by side by expert, so that each expert's weights are read once.
    void mixture(const Experts& experts, const float* inputs, float* out) {
        Routes& routes = core_.routes;
        int hidden = model_.hidden;
        routes.choose(experts, rows_, step_.adapters, apply(experts.router, inputs, core_.picked));
        float* gathered = core_.gathered.room(size_t(rows_) * experts.used * hidden);
        float* made = core_.made.room(size_t(rows_) * experts.used * hidden);
        for_rows(pool_, rows_ * experts.used, [&](int i) {
            const float* from = inputs + size_t(routes.rows[i]) * hidden;
            std::copy(from, from + hidden, gathered + size_t(i) * hidden);
        });
        for (int i = 0; i < experts.count; ++i) {
            int first = routes.starts[i], count = routes.starts[i + 1] - first;
            if (count)
                gated(experts.gate_up[i], experts.down[i], experts.intermediate,
                      gathered + size_t(first) * hidden, count, routes.adapters.data() + first,
                      made + size_t(first) * hidden);
        }
        const float* shares = nullptr;
        if (experts.shared_intermediate) {
            shares = apply(experts.shared_gate, inputs, core_.picked);
            gated(experts.shared_gate_up, experts.shared_down, experts.shared_intermediate, inputs, rows_,
                  step_.adapters, out);
        }
        for_rows(pool_, rows_, [&](int row) {
            float* sum = out + size_t(row) * hidden;
            float share = shares ? 1.f / (1.f + fast_exp(-shares[row])) : 0.f;
            for (int i = 0; i < hidden; ++i) sum[i] = shares ? sum[i] * share : 0.f;
            for (int i = row * experts.used; i < (row + 1) * experts.used; ++i)
                axpy(routes.shares[i], made + size_t(routes.places[i]) * hidden, sum, hidden);
        });
    }

    void logits() {
        int count = step_.num_logits, hidden = model_.hidden, vocab = model_.head.rows;
        if (!count) return;
        float* picked = core_.picked.room(size_t(count) * hidden);
        for (int i = 0; i < count; ++i)
            rms_norm(core_.states.data() + size_t(step_.logit_rows[i]) * hidden,
                     norm_of(model_.final_norm, step_.logit_rows[i]), hidden, model_.eps,
                     picked + size_t(i) * hidden);
        if (step_.hidden) {
            std::copy(picked, picked + size_t(count) * hidden, step_.hidden);
            return;
        }
        core_.inputs.set(picked, count, hidden);
        linear(pool_, model_.head, core_.inputs, FoundDeltas(), FoundDeltas(), step_.logits);
        float scale = model_.logit_scale, cap = model_.logit_softcap;
        if (scale == 1.f && cap == 0.f) return;
        for (size_t i = 0; i < size_t(count) * vocab; ++i) {
            float value = step_.logits[i] * scale;
            step_.logits[i] = cap > 0 ? cap * fast_tanh(value / cap) : value;
        }
    }

    Core& core_;
    Pool& pool_;
    const Model& model_;
    const Step& step_;
    int rows_;
};

}  // namespace

extern "C" {

Core* olla_open(int32_t num_threads) { return new Core(num_threads); }

void olla_close(Core* core) { delete core; }

void olla_step(Core* core, const Model* model, const Step* step) { Pass(*core, *model, *step).run(); }

void olla_linear(Core* core, const Linear* layer, const float* inputs, int32_t num_rows, float* outputs) {
    core->inputs.set(inputs, num_rows, layer->columns);
    linear(core->pool, *layer, core->inputs, FoundDeltas(), FoundDeltas(), outputs);
}

void olla_rows(Core* core, const Linear* matrix, const int32_t* numbers, int32_t count, float* outputs) {
    for_rows(core->pool, count,
             [&](int i) { matrix_row(*matrix, numbers[i], outputs + size_t(i) * matrix->columns); });
}

int64_t olla_part_bytes(int32_t kind, int32_t rows, int32_t columns) {
    return int64_t((rows + kLanes - 1) / kLanes) * int64_t(group_bytes(kind, columns));
}

int64_t olla_cache_bytes(int32_t kind, int32_t num_slots, int32_t head_dim) {
    return int64_t(cache_bytes(kind, num_slots, head_dim));
}

void olla_pack(Core* core, int32_t type, const uint8_t* blocks, const int32_t* order, const Part* part,
               int32_t columns) {
    pack(core->pool, type, blocks, order, *part, columns);
}

void olla_affine_scales(Core* core, const float* groups, int32_t num_groups, int32_t most, float* scales,
                        float* leasts) {
    ::scales::for_groups(core->pool, num_groups, [&](int first, int count) {
        ::scales::affine<32>(groups + size_t(first) * 32, count, most, scales + first, leasts + first);
    });
}

void olla_symmetric_scales(Core* core, const float* groups, int32_t num_groups, int32_t half, float* scales) {
    ::scales::for_groups(core->pool, num_groups, [&](int first, int count) {
        ::scales::symmetric<16>(groups + size_t(first) * 16, count, half, scales + first);
    });
}

float olla_peak(Core* core, int32_t count, int32_t of_floats) {
    constexpr int kChains = 12;  // enough to hide that each product waits for the last
    std::vector<float> results(core->pool.num_threads());
    core->pool.run(core->pool.num_threads(), [&](int thread) {
        Floats sums[kChains], left = spread(float(thread)), right = spread(0.5f);
        Dots<8> dots[kChains];
        int8_t quad[4] = {1, 2, 3, int8_t(thread)};
        Words bytes = spread_quad(quad);
        for (int j = 0; j < kChains; ++j) {  // else the compiler would see that all are the same
            sums[j] = spread(float(j));
            for (int i = 0; i < j; ++i) dots[j].add(bytes, bytes);
        }
        for (int i = 0; i < count; ++i)
#pragma GCC unroll 12
            for (int j = 0; j < kChains; ++j)
                if (of_floats) sums[j] += left * right;
                else dots[j].add(bytes, bytes);
        for (int j = 0; j < kChains; ++j) results[thread] += sum_of(sums[j]) + sum_of(to_floats(dots[j].total()));
    });
    return results[0];
}

const char* olla_variants() {
    static const std::string names = variants();
    return names.c_str();
}
}
