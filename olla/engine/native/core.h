// The interface of the compiled core: plain C, called with pointers to memory that the caller owns.
//
// Floats are 32 bits. Nothing here allocates per step but scratch memory that
// grows to the largest step seen.
#pragma once
#include <cstdint>

extern "C" {

// Weights of so many bits with a scale for each 32 (Q4, Q5, Q8) or 16 (Q2, Q3, Q6), and floats.
enum Kind : int32_t { Q2 = 0, Q3 = 1, Q4 = 2, Q5 = 3, Q6 = 4, Q8 = 5, F16 = 6, BF16 = 7, F32 = 8 };

// Rows of one precision, laid out as layout.h says, which differs from one variant to another.
struct Part {
    int32_t kind, rows;
    const uint8_t* data;
};

// b @ (a @ x) + keep * y + constant is added to the output columns [start, end) of the rows that use
// `adapter`, where y is the output without adapters. A null `b` is the identity, a null `a`, `keep`
// or `constant` adds nothing. `a` and `b` are F16, BF16 or F32, as `kind` says. `a` is (rank, columns);
// `b` is (tiles, rank, 16), the outputs of a tile side by side, the last one filled up with zeros.
struct Delta {
    int32_t adapter, rank, start, end, kind;
    const void *a, *b;
    const float *keep, *constant;
};

// The rows that use `adapter` have `weight` in the place of the norm weights `original`.
struct Norm {
    int32_t adapter;
    const float *original, *weight;
};

struct Linear {
    int32_t rows, columns, num_parts, num_deltas;
    const Part* parts;
    const Delta* deltas;
    const float* bias;
};

// A mixture: rows go through the `used` of `count` gated MLPs of `intermediate` that the router's
// softmax likes best, with its values as weights, brought to a sum of one where it `normalizes`. With
// `shared_intermediate`, all rows go through the shared one too, weighted by the sigmoid of its gate.
struct Experts {
    int32_t count, used, normalizes, intermediate, shared_intermediate;
    Linear router;
    const Linear *gate_up, *down;  // (count,)
    Linear shared_gate_up, shared_down, shared_gate;
};

// `experts` stand in the place of gate_up and down, or are null. Norms that a layer lacks are null.
// `rope`: 0 none, 1 the model's, 2 the local one.
struct Layer {
    Linear qkv, out, gate_up, down;
    const float *pre_attention, *post_attention, *pre_mlp, *post_mlp, *q_norm, *k_norm;
    int32_t sliding_window, rope;
    const Experts* experts;
};

struct Model {
    int32_t hidden, intermediate, num_heads, num_kv_heads, head_dim, num_layers;
    int32_t norms_whole_projection, uses_gelu;
    float eps, attention_scale, attention_softcap, logit_softcap;
    float embedding_scale, residual_scale, logit_scale;
    Linear embedding, head;
    const float* final_norm;
    const Layer* layers;
    const Norm* norms;
    int32_t num_norms;
};

// Tokens [start, end) of the step are the newest of a sequence of `length` tokens, each of which has
// its keys and values at its slot.
struct Span {
    int32_t start, end, length;
    const int32_t* slots;
};

// cosines, sines: (num_tokens, rotary_dim) of the model's rope and of the local one.
// hidden: (num_logits, hidden) to be had instead of logits, or null.
// embedded: (num_tokens, hidden) to begin with instead of the tokens' rows, or null.
// keys, values: one pointer a layer to num_kv_heads times olla_cache_bytes. cache_kind: F16 or Q8.
struct Step {
    int32_t num_tokens, num_spans, num_logits, num_slots, cache_kind, rotary_dim, local_rotary_dim;
    const int32_t *tokens, *slots, *adapters, *logit_rows;
    const Span* spans;
    const float *cosines, *sines, *local_cosines, *local_sines;
    uint8_t* const* keys;
    uint8_t* const* values;
    float *logits, *hidden;
    const float* embedded;
};

struct Core;  // threads and scratch memory; one call at a time

Core* olla_open(int32_t num_threads);
void olla_close(Core* core);
void olla_step(Core* core, const Model* model, const Step* step);
// (num_rows, columns) -> (num_rows, rows), without deltas.
void olla_linear(Core* core, const Linear* linear, const float* inputs, int32_t num_rows, float* outputs);
// Rows of a matrix by number, (count, columns).
void olla_rows(Core* core, const Linear* linear, const int32_t* numbers, int32_t count, float* outputs);
// The size of a part's data.
int64_t olla_part_bytes(int32_t kind, int32_t rows, int32_t columns);
// The size of the keys, or the values, of one head in one layer.
int64_t olla_cache_bytes(int32_t kind, int32_t num_slots, int32_t head_dim);
// Rows of ggml's `type` to a part: Q4_0 and so on to the kind of as many bits, floats to their own or to
// Q8. `order` has the file's row for each row; null if they are the same.
void olla_pack(Core* core, int32_t type, const uint8_t* blocks, const int32_t* order, const Part* part,
               int32_t columns);
// The best scales (and least values, which come off) of groups of 32 values for codes from 0 to `most`.
void olla_affine_scales(Core* core, const float* groups, int32_t num_groups, int32_t most, float* scales,
                        float* leasts);
// The best scales of groups of 16 values for codes from -half to half - 1.
void olla_symmetric_scales(Core* core, const float* groups, int32_t num_groups, int32_t half, float* scales);
// For benchmarks: each thread multiplies `count` times 12 vectors of floats or of bytes, from registers.
float olla_peak(Core* core, int32_t count, int32_t of_floats);
// The names of the variants of this library that this machine can run, the fastest first.
const char* olla_variants();
}
