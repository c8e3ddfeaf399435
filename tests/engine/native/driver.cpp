// The kernels without Python, for sanitizers and for emulated processors: `driver FILE` writes what it
// computes, or compares it with what another build wrote. driver.py builds and runs it.
#include <cstdio>
#include <deque>
#include <random>

#include "../../../olla/engine/native/core.cpp"

namespace {

std::mt19937 generator(1);
bool is_right = true;

float random_float() { return float(generator() % 20001) / 10000.f - 1.f; }

std::vector<float> random_floats(size_t count, float size = 1.f) {
    std::vector<float> values(count);
    for (float& value : values) value = size * random_float();
    return values;
}

// Random bytes are valid blocks, but for halves that are infinite or no number.
std::vector<uint8_t> random_blocks(int type, int rows, int columns) {
    std::vector<uint8_t> bytes(row_bytes(type, columns) * rows);
    if (type == kGgmlF32) {
        std::vector<float> values = random_floats(size_t(rows) * columns);
        std::memcpy(bytes.data(), values.data(), bytes.size());
        return bytes;
    }
    for (uint8_t& byte : bytes) byte = uint8_t(generator() % 0x3c);
    return bytes;
}

struct Matrix {
    Matrix(Core* core, Kind kind, int type, int rows, int columns, const int32_t* order = nullptr)
        : data(olla_part_bytes(kind, rows, columns)), part{kind, rows, data.data()},
          linear{rows, columns, 1, 0, &part, nullptr, nullptr} {
        std::vector<uint8_t> blocks = random_blocks(type, rows, columns);
        olla_pack(core, type, blocks.data(), order, &part, columns);
    }
    Matrix(const Matrix&) = delete;
    std::vector<uint8_t> data;
    Part part;
    Linear linear;
};

// Products are those of the weights, but for what 8 bits of inputs lose.
void check_product(Core* core, Matrix& matrix, int count, bool is_exact, std::vector<float>& found) {
    int rows = matrix.linear.rows, columns = matrix.linear.columns;
    std::vector<float> inputs = random_floats(size_t(count) * columns), outputs(size_t(count) * rows);
    std::vector<float> weights(size_t(rows) * columns);
    std::vector<int32_t> numbers(rows);
    for (int i = 0; i < rows; ++i) numbers[i] = i;
    olla_rows(core, &matrix.linear, numbers.data(), rows, weights.data());
    olla_linear(core, &matrix.linear, inputs.data(), count, outputs.data());
    for (int i = 0; i < count; ++i)
        for (int row = 0; row < rows; ++row) {
            double sum = 0, bound = 0;
            for (int k = 0; k < columns; ++k) {
                double product = double(weights[size_t(row) * columns + k]) * inputs[size_t(i) * columns + k];
                sum += product, bound += std::fabs(weights[size_t(row) * columns + k]);
            }
            double error = std::fabs(sum - outputs[size_t(i) * rows + row]);
            if (error <= (is_exact ? 1e-5 : 0.5 / 127 + 1e-3) * bound + 1e-6) continue;
            std::printf("kind %d, %d x %d, row %d: off by %g\n", matrix.part.kind, rows, columns, row, error);
            is_right = false;
        }
    found.insert(found.end(), outputs.begin(), outputs.end());
}

void check_products(Core* core, std::vector<float>& found) {
    constexpr struct { Kind kind; int type, block; } kAll[] = {
        {Q2, kGgmlQ2_K, 256}, {Q3, kGgmlQ3_K, 256}, {Q4, kGgmlQ4_0, 32}, {Q4, kGgmlQ4_1, 32}, {Q4, kGgmlQ4_K, 256},
        {Q5, kGgmlQ5_0, 32}, {Q5, kGgmlQ5_1, 32}, {Q5, kGgmlQ5_K, 256}, {Q6, kGgmlQ6_K, 256}, {Q8, kGgmlQ8_0, 32},
        {Q8, kGgmlF32, 32}, {F16, kGgmlF16, 1}, {BF16, kGgmlBF16, 1}, {F32, kGgmlF32, 1}};
    for (auto each : kAll)
        for (int rows : {1, 7, 50})
            for (int blocks : {1, 3}) {
                int columns = each.block == 1 ? 11 * blocks : each.block * blocks;
                std::vector<int32_t> order(rows);
                for (int i = 0; i < rows; ++i) order[i] = rows - 1 - i;
                Matrix matrix(core, each.kind, each.type, rows, columns, rows % 2 ? order.data() : nullptr);
                for (int count : {1, 2, 7, 67}) check_product(core, matrix, count, each.kind > Q8, found);
            }
}

// A model of odd sizes; tokens together see what they see one by one, to the bit.
struct TinyModel {
    static constexpr int kHidden = 96, kHeads = 6, kKeyHeads = 2, kSize = 22, kWide = 64, kVocab = 37, kTokens = 75;
    explicit TinyModel(Core* core)
        : qkv(core, Q4, kGgmlQ4_0, (kHeads + 2 * kKeyHeads) * kSize, kHidden), out(core, F32, kGgmlF32, kHidden, kHeads * kSize),
          gate_up(core, Q5, kGgmlQ5_0, 2 * kWide, kHidden), down(core, Q8, kGgmlQ8_0, kHidden, kWide),
          ends(core, F16, kGgmlF16, kVocab, kHidden), norm(kHidden, 1.f), cosines(kTokens * kSize), sines(kTokens * kSize) {
        for (int i = 0; i < kTokens * kSize; ++i)
            cosines[i] = std::cos(0.1f * float(i % 7)), sines[i] = std::sin(0.1f * float(i % 7));
    }
    Matrix qkv, out, gate_up, down, ends;
    std::vector<float> norm, cosines, sines;
};

// A mixture with a shared expert, and an adapter of every second token.
struct Mixture {
    using T = TinyModel;
    static constexpr int kCount = 5, kUsed = 2, kRank = 5, kQkv = (T::kHeads + 2 * T::kKeyHeads) * T::kSize;
    Mixture(Core* core, TinyModel& tiny)
        : router(core, F32, kGgmlF32, kCount, T::kHidden), gate(core, F32, kGgmlF32, 1, T::kHidden),
          shared_gate_up(core, Q4, kGgmlQ4_1, 2 * T::kWide, T::kHidden),
          shared_down(core, Q5, kGgmlQ5_1, T::kHidden, T::kWide), floats(random_floats((kQkv + kTile) * kRank)),
          halves(kRank * T::kHidden) {
        for (uint16_t& half : halves) half = float_to_half(random_float());
        wide_delta = {1, kRank, 3, kQkv - 4, F32, floats.data(), floats.data(), floats.data(), floats.data()};
        expert_delta = {1, kRank, 0, T::kHidden, F16, halves.data(), halves.data(), nullptr, nullptr};
        for (int i = 0; i < kCount; ++i) {
            gate_up.push_back(parts.emplace_back(core, Q4, kGgmlQ4_0, 2 * T::kWide, T::kHidden).linear);
            down.push_back(parts.emplace_back(core, Q8, kGgmlQ8_0, T::kHidden, T::kWide).linear);
        }
        down[1].num_deltas = 1, down[1].deltas = &expert_delta;
        qkv = tiny.qkv.linear;
        qkv.num_deltas = 1, qkv.deltas = &wide_delta, qkv.bias = floats.data();
        experts = {kCount, kUsed, 1, T::kWide, T::kWide, router.linear, gate_up.data(), down.data(),
                   shared_gate_up.linear, shared_down.linear, gate.linear};
    }
    Matrix router, gate, shared_gate_up, shared_down;
    std::deque<Matrix> parts;
    std::vector<Linear> gate_up, down;
    std::vector<float> floats;
    std::vector<uint16_t> halves;
    Delta wide_delta, expert_delta;
    Linear qkv;
    Experts experts;
};

// With a mixture in the place of the MLP, if there is one.
std::vector<float> run(Core* core, TinyModel& tiny, const Mixture* mixture, Kind kind, int window, int piece) {
    using T = TinyModel;
    const float* norm = tiny.norm.data();
    Layer layer{tiny.qkv.linear, tiny.out.linear, tiny.gate_up.linear, tiny.down.linear,
                norm, norm, norm, norm, nullptr, nullptr, window, 1, nullptr};
    if (mixture) layer.qkv = mixture->qkv, layer.experts = &mixture->experts, layer.q_norm = layer.k_norm = norm;
    Model model{T::kHidden, T::kWide, T::kHeads, T::kKeyHeads, T::kSize, 1, 0, 1, 1e-5f, 0.2f, 20.f, 0.f,
                1.f, 1.f, 1.f, tiny.ends.linear, tiny.ends.linear, norm, &layer, nullptr, 0};
    std::vector<uint8_t> keys(T::kKeyHeads * olla_cache_bytes(kind, T::kTokens, T::kSize)), values(keys.size());
    uint8_t *all_keys[] = {keys.data()}, *all_values[] = {values.data()};
    std::vector<int32_t> tokens(T::kTokens), slots(T::kTokens), adapters(T::kTokens), rows(T::kTokens);
    for (int i = 0; i < T::kTokens; ++i)
        tokens[i] = i * 5 % T::kVocab, slots[i] = (i * 7 + 3) % T::kTokens, rows[i] = i, adapters[i] = i % 2;
    std::vector<float> logits(T::kTokens * T::kVocab);
    for (int at = 0; at < T::kTokens; at += piece) {
        int count = std::min(piece, T::kTokens - at);
        Span span{0, count, at + count, slots.data()};
        Step step{count, 1, count, T::kTokens, kind, T::kSize, T::kSize, &tokens[at], &slots[at], &adapters[at],
                  rows.data(), &span, &tiny.cosines[at * T::kSize], &tiny.sines[at * T::kSize], nullptr, nullptr,
                  all_keys, all_values, &logits[at * T::kVocab], nullptr, nullptr};
        olla_step(core, &model, &step);
    }
    return logits;
}

float difference(const std::vector<float>& a, const std::vector<float>& b) {
    float largest = 0, off = 0;
    for (size_t i = 0; i < a.size(); ++i)
        largest = std::max(largest, std::fabs(a[i])), off = std::max(off, std::fabs(a[i] - b[i]));
    return off / largest;
}

void check_steps(Core* core, std::vector<float>& found) {
    TinyModel tiny(core);
    Mixture mixture(core, tiny);
    for (Kind kind : {F16, Q8})
        for (const Mixture* each : {static_cast<const Mixture*>(nullptr), static_cast<const Mixture*>(&mixture)})
            for (int window : {0, 9}) {
                std::vector<float> whole = run(core, tiny, each, kind, window, TinyModel::kTokens);
                for (int piece : {1, 5, 40})
                    if (float off = difference(whole, run(core, tiny, each, kind, window, piece)); off != 0) {
                        std::printf("%s, cache %d, window %d, %d tokens at a time: off by %g\n",
                                    each ? "mixture" : "dense", kind, window, piece, off);
                        is_right = false;
                    }
                found.insert(found.end(), whole.begin(), whole.end());
            }
}

// Attention of a head over the places [low, high): kept has key and value of each place.
void check_head(const float* query, const std::vector<double>& kept, int size, int low, int high, const float* out) {
    std::vector<double> expected(size), sizes(size);
    double top = -1e30, sum = 0;
    std::vector<double> scores(high);
    for (int i = low; i < high; ++i) {
        for (int d = 0; d < size; ++d) scores[i] += query[d] * kept[size_t(2 * i) * size + d];
        top = std::max(top, scores[i]);
    }
    for (int i = low; i < high; ++i) {
        double weight = std::exp(scores[i] - top);
        sum += weight;
        for (int d = 0; d < size; ++d) {
            double part = weight * kept[size_t(2 * i + 1) * size + d];
            expected[d] += part, sizes[d] += std::fabs(part);
        }
    }
    for (int d = 0; d < size; ++d)
        if (!(std::fabs(out[d] - expected[d] / sum) <= 2e-5 * sizes[d] / sum)) {
            std::printf("size %d from %d, number %d: %g for %g\n", size, low, d, out[d], expected[d] / sum);
            is_right = false;
        }
}

float key_in(const HalfKeys& keys, int slot, int d) { return half_to_float(keys.at(slot)[d * kLanes]); }

float key_in(const ByteKeys& keys, int slot, int d) {
    int byte = int8_t(keys.quads(slot)[d / 4 * kVector + d % 4] - kBias);
    return float(byte) * bfloat_to_float(half_at(keys.scales(slot) + d / kBlock * 2 * kLanes));
}

// What a cache gives back, off by `loss` of the largest at most from the random tokens that go in.
template <class Keys, class Values>
std::vector<double> kept_in(const Keys& keys, const Values& values, int num_tokens, double loss) {
    int size = keys.size;
    std::vector<double> kept(size_t(2) * num_tokens * size);
    for (int i = 0; i < num_tokens; ++i) {
        std::vector<float> key = random_floats(size, float(i + 1)), value = random_floats(size, 0.01f * float(i));
        keys.write(keys.slots[i], key.data());
        values.write(keys.slots[i], value.data());
        for (int d = 0; d < size; ++d) {
            double& kept_key = kept[(2 * i) * size + d] = key_in(keys, keys.slots[i], d);
            double& kept_value = kept[(2 * i + 1) * size + d] = values[i].one(d);
            if (std::fabs(kept_key - key[d]) > loss * (i + 1) ||
                std::fabs(kept_value - value[d]) > loss * 0.01 * i) {
                std::printf("size %d, token %d, number %d: not what was kept\n", size, i, d);
                is_right = false;
            }
        }
    }
    return kept;
}

std::vector<float> as_queries(const HalfKeys&, std::vector<float>& queries) { return queries; }

// Rounded, as those are that they stand for.
std::vector<QueryBlock> as_queries(const ByteKeys& keys, std::vector<float>& queries) {
    std::vector<QueryBlock> blocks;
    for (size_t start = 0; start < queries.size(); start += keys.size)
        for (int first = 0; first < keys.size; first += kBlock) {
            int count = std::min(kBlock, keys.size - first);
            float* query = &queries[start + first];
            blocks.emplace_back().set(query, count);
            for (int d = 0; d < count; ++d) query[d] = float(blocks.back().values[d]) * blocks.back().scale;
        }
    return blocks;
}

// The rows of a tile see places of their own, and get the same alone, to the bit.
template <class Keys, class Values>
void check_tile(const Keys& keys, const Values& values, int num_tokens, int count, double loss,
                std::vector<float>& found) {
    using Query = typename Keys::Query;
    int size = keys.size;
    std::vector<double> kept = kept_in(keys, values, num_tokens, loss);
    std::vector<float> queries = random_floats(size_t(count) * size, 0.02f), out(queries.size()), alone(size);
    std::vector<Query> taken = as_queries(keys, queries);
    AttentionShape shape{count, 1, size, 0, 1.f, 0.f};
    for (int low : {0, 37}) {
        std::vector<Row<Query>> rows;
        for (int i = 0; i < count; ++i)
            rows.push_back({&taken[i * keys.width()], &out[i * size], low ? low + 9 * i : 0, num_tokens - count + i});
        attend(shape, keys, values, rows.data(), count);
        for (int i = 0; i < count; ++i) {
            Row<Query> row = rows[i];
            check_head(&queries[i * size], kept, size, row.low, row.high, row.out);
            row.out = alone.data();
            attend(shape, keys, values, &row, 1);
            if (std::equal(alone.begin(), alone.end(), rows[i].out)) continue;
            std::printf("size %d, row %d of %d: not the same alone\n", size, i, count);
            is_right = false;
        }
        found.insert(found.end(), out.begin(), out.end());
    }
}

void check_attention(int size, int count, bool in_order, std::vector<float>& found) {
    constexpr int kTokens = 150;
    std::vector<int32_t> slots(kTokens);
    for (int i = 0; i < kTokens; ++i) slots[i] = in_order ? i : (i * 7 + 3) % kTokens;
    for (Kind kind : {F16, Q8}) {
        std::vector<uint8_t> keys(cache_bytes(kind, kTokens, size)), values(keys.size());
        if (kind == F16)
            check_tile(HalfKeys{keys.data(), slots.data(), size}, HalfRows{values.data(), slots.data(), size},
                       kTokens, count, 0.5 / 1024, found);
        else
            check_tile(ByteKeys{keys.data(), slots.data(), size}, ByteRows{values.data(), slots.data(), size, kTokens},
                       kTokens, count, 0.505 / 127, found);
    }
}

void compare(std::FILE* file, const std::vector<float>& found, float tolerance) {
    std::vector<float> expected(found.size());
    if (std::fread(expected.data(), 4, expected.size(), file) != expected.size() ||
        !(difference(expected, found) < tolerance)) {
        std::printf("differs from the other build by %g\n", difference(expected, found));
        is_right = false;
    }
}

}  // namespace

int main(int, char** arguments) {
    Core* core = olla_open(2);
    std::vector<float> products, attended, logits;
    check_products(core, products);
    for (int size : {1, 22, 64, 80, 256})
        for (int count : {1, 2, 3, 4, 5, 7, 12})
            for (bool in_order : {true, false}) check_attention(size, count, in_order, attended);
    check_steps(core, logits);
    olla_close(core);
    if (std::FILE* file = std::fopen(arguments[1], "rb")) {
        compare(file, products, 1e-5f);
        compare(file, attended, 1e-5f);
        compare(file, logits, 2e-2f);  // where one rounds a state to another step of eight bits
        std::fclose(file);
    } else {
        file = std::fopen(arguments[1], "wb");
        for (auto* each : {&products, &attended, &logits}) std::fwrite(each->data(), 4, each->size(), file);
        std::fclose(file);
    }
    std::printf("%s: %zu numbers, %d lanes\n", is_right ? "right" : "WRONG",
                products.size() + attended.size() + logits.size(), kLanes);
    return is_right ? 0 : 1;
}
