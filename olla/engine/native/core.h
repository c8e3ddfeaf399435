// The interface of the compiled core: plain C, called with pointers to memory that the caller owns.
//
// A matrix is held in groups of 8 rows and blocks of 32 columns (see pack in bindings.py). Floats
// are 32 bits, keys and values 16. Nothing here allocates per step but scratch memory that grows
// to the largest step seen.
#pragma once
#include <cstdint>

extern "C" {

enum Kind : int32_t { Q4 = 0, Q8 = 1, F16 = 2, BF16 = 3, F32 = 4 };

// Rows of one precision. Q4: 128 bytes of nibbles, 8 half scales, 8 half offsets for each group and
// block. Q8: 256 signed bytes, 8 half scales. Floats: 8 rows side by side for each column.
struct Part {
    int32_t kind, rows;
    const uint8_t* data;
};

// b @ (a @ x) + keep * y + constant is added to the output columns [start, end) of the rows that use
// `adapter`, where y is the output without adapters. A null `b` is the identity, a null `a`, `keep`
// or `constant` adds nothing. `a` and `b` are F16, BF16 or F32, as `kind` says.
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

// Norms that a layer lacks are null. `rope`: 0 none, 1 the model's, 2 the local one.
struct Layer {
    Linear qkv, out, gate_up, down;
    const float *pre_attention, *post_attention, *pre_mlp, *post_mlp, *q_norm, *k_norm;
    int32_t sliding_window, rope;
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
// keys, values: one pointer a layer to (num_kv_heads, num_slots, head_dim) halves.
struct Step {
    int32_t num_tokens, num_spans, num_logits, num_slots, rotary_dim, local_rotary_dim;
    const int32_t *tokens, *slots, *adapters, *logit_rows;
    const Span* spans;
    const float *cosines, *sines, *local_cosines, *local_sines;
    uint16_t* const* keys;
    uint16_t* const* values;
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
// Blocks of a GGUF file, of ggml's `type` Q4_0, Q4_1, Q4_K or Q8_0, to a part's data. `order` has
// the file's row for each row; null if they are the same.
void olla_pack(Core* core, int32_t type, const uint8_t* blocks, const int32_t* order, int32_t rows,
               int32_t columns, uint8_t* data);
}
