// How the cache holds the keys or values of a head: as halves (F16), or as signed bytes with a bfloat16
// scale for each block of 32 (Q8).
//
// Keys stand in groups of kLanes slots, so that where a sequence has a group's slots in order, scores of
// kLanes keys come from whole vectors, without sums across lanes. F16 has the first half of each slot,
// then the second of each and so on; Q8 four bytes of each, four more of each and so on, then the scale
// of each one's first block, of its second and so on. Values are a row a slot; those of Q8 are followed by
// the scales of all slots.
#pragma once
#include <algorithm>

#include "layout.h"

inline int blocks_of(int size) { return (size + kBlock - 1) / kBlock; }
inline int in_quads(int size) { return (size + 3) / 4 * 4; }

inline size_t cache_bytes(int kind, int num_slots, int size) {
    size_t slots = size_t(num_slots + kLanes - 1) / kLanes * kLanes;
    return slots * 2 * (kind == Q8 ? in_quads(size) / 2 + blocks_of(size) : size);
}

// Up to kBlock numbers; those that are missing are 0.
struct ByteBlock {
    int8_t values[kBlock];
    uint16_t scale;

    ByteBlock(const float* from, int count) {
        float numbers[kBlock] = {}, lanes[kLanes], largest = 0;
        std::copy(from, from + count, numbers);
        Floats most{};
        for (int i = 0; i < kBlock; i += kLanes) {
            Floats part = load<Floats>(numbers + i);
            most = larger(most, larger(part, -part));
        }
        store(lanes, most);
        for (float lane : lanes) largest = std::max(largest, lane);
        // Rounded up, so that the largest stays within 127; less than this would have no inverse.
        scale = largest > 1e-30f ? bfloat_above(largest / 127.f) : 0;
        float inverse = scale ? 1.f / bfloat_to_float(scale) : 0.f;
        for (int i = 0; i < kBlock; ++i) values[i] = int8_t(std::nearbyintf(numbers[i] * inverse));
    }
};

// A block of a query, for products with keys of Q8; `bias` is what kBias adds to them.
struct QueryBlock {
    int8_t values[kBlock];
    float scale;
    int32_t bias;

    void set(const float* from, int count) {
        ByteBlock block(from, count);
        std::memcpy(values, block.values, kBlock);
        scale = bfloat_to_float(block.scale);
        bias = 0;
        for (int8_t value : values) bias += kBias * value;
    }
};

// Whether the slots are a group's, from its first on.
inline bool is_group(const int32_t* slots, int count) {
    int wrong = slots[0] % kLanes;
    for (int i = 0; i < count; ++i) wrong |= slots[i] ^ (slots[0] + i);
    return !wrong;
}

// Keys of one head as halves in groups, by their slot.
struct HalfKeys {
    using Query = float;
    uint8_t* data;
    const int32_t* slots;
    int size;

    int width() const { return size; }  // of a query

    // Where the first number of a slot stands; the next are kLanes halves on.
    uint16_t* at(int slot) const {
        size_t group = size_t(slot / kLanes) * kLanes * size;
        return reinterpret_cast<uint16_t*>(data) + group + slot % kLanes;
    }

    void write(int slot, const float* from) const {
        uint16_t halves[kLanes];
        int i = 0;
        for (; i + kLanes <= size; i += kLanes) {
            store_halves(halves, load<Floats>(from + i));
            for (int k = 0; k < kLanes; ++k) at(slot)[(i + k) * kLanes] = halves[k];
        }
        for (; i < size; ++i) at(slot)[i * kLanes] = float_to_half(from[i]);
    }
};

// Values of one head as halves, by their place in a sequence.
struct HalfRows {
    uint8_t* data;
    const int32_t* slots;
    int size;

    struct Row {
        const uint16_t* halves;
        Floats part(int d) const { return load_halves(halves + d); }
        float one(int d) const { return half_to_float(halves[d]); }
        void prefetch(int d, int count) const {
            for (int i = 0; i < count; i += 32) __builtin_prefetch(halves + d + i);
        }
    };
    Row operator[](int place) const { return {at(slots[place])}; }

    void write(int slot, const float* from) const {
        int i = 0;
        for (; i + kLanes <= size; i += kLanes) store_halves(at(slot) + i, load<Floats>(from + i));
        for (; i < size; ++i) at(slot)[i] = float_to_half(from[i]);
    }

  private:
    uint16_t* at(int slot) const { return reinterpret_cast<uint16_t*>(data) + size_t(slot) * size; }
};

// Keys of one head as bytes in groups, by their slot.
struct ByteKeys {
    using Query = QueryBlock;
    uint8_t* data;
    const int32_t* slots;
    int size;

    int width() const { return blocks_of(size); }

    // Where the first quad and the first scale of a slot stand; the next are kVector and 2 * kLanes bytes on.
    uint8_t* quads(int slot) const { return data + slot / kLanes * group_bytes() + slot % kLanes * 4; }
    uint8_t* scales(int slot) const {
        return data + slot / kLanes * group_bytes() + kLanes * in_quads(size) + slot % kLanes * 2;
    }

    void write(int slot, const float* from) const {
        for (int first = 0; first < size; first += kBlock) {
            ByteBlock block(from + first, std::min(kBlock, size - first));
            for (int8_t& value : block.values) value = int8_t(value + kBias);
            for (int i = 0; i < std::min(kBlock, in_quads(size) - first); i += 4)
                std::memcpy(quads(slot) + (first + i) * kLanes, block.values + i, 4);
            std::memcpy(scales(slot) + first / kBlock * 2 * kLanes, &block.scale, 2);
        }
    }

  private:
    size_t group_bytes() const { return cache_bytes(Q8, kLanes, size); }
};

// Values of one head as bytes, by their place in a sequence.
struct ByteRows {
    uint8_t* data;
    const int32_t* slots;
    int size, num_slots;

    struct Row {
        const int8_t* bytes;
        const uint8_t* scales;
        float scale(int d) const { return bfloat_to_float(half_at(scales, d / kBlock)); }
        Floats part(int d) const { return load_bytes(bytes + d) * spread(scale(d)); }
        float one(int d) const { return float(bytes[d]) * scale(d); }
        void prefetch(int d, int) const { __builtin_prefetch(bytes + d); }
    };
    Row operator[](int place) const { return {bytes(slots[place]), scales(slots[place])}; }

    void write(int slot, const float* from) const {
        for (int first = 0; first < size; first += kBlock) {
            int count = std::min(kBlock, size - first);
            ByteBlock block(from + first, count);
            std::memcpy(bytes(slot) + first, block.values, count);
            std::memcpy(scales(slot) + first / kBlock * 2, &block.scale, 2);
        }
    }

  private:
    int8_t* bytes(int slot) const { return reinterpret_cast<int8_t*>(data) + size_t(slot) * size; }
    uint8_t* scales(int slot) const {
        return data + size_t(num_slots) * size + size_t(slot) * 2 * blocks_of(size);
    }
};
