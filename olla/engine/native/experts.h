// Which rows go through which experts of a mixture.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core.h"
#include "maths.h"

// The rows of a step, once for each of their experts, in the order of the experts.
struct Routes {
    std::vector<int32_t> starts;                  // (count + 1,) where each expert's rows begin
    std::vector<int32_t> rows, adapters;          // (num_rows * used,) in that order
    std::vector<int32_t> places, chosen;          // (num_rows, used) where a row stands there; its experts
    std::vector<float> shares;                    // (num_rows, used)
    std::vector<int32_t> ranking;

    // `likes`: (num_rows, count), what the router made of the rows; is changed.
    void choose(const Experts& experts, int num_rows, const int32_t* row_adapters, float* likes) {
        size_t total = size_t(num_rows) * experts.used;
        for (auto* numbers : {&rows, &adapters, &places, &chosen})
            if (numbers->size() < total) numbers->resize(total);
        if (shares.size() < total) shares.resize(total);
        ranking.resize(experts.count);
        for (int row = 0; row < num_rows; ++row)
            choose_for(experts, likes + size_t(row) * experts.count, size_t(row) * experts.used);
        group(experts, num_rows, row_adapters);
    }

  private:
    void choose_for(const Experts& experts, float* likes, size_t at) {
        softmax(likes, experts.count);
        for (int i = 0; i < experts.count; ++i) ranking[i] = i;
        auto is_before = [&](int a, int b) { return likes[a] > likes[b] || (likes[a] == likes[b] && a < b); };
        std::partial_sort(ranking.begin(), ranking.begin() + experts.used, ranking.end(), is_before);
        std::sort(ranking.begin(), ranking.begin() + experts.used);  // sums go by their numbers
        float sum = 0;
        for (int i = 0; i < experts.used; ++i) sum += likes[ranking[i]];
        for (int i = 0; i < experts.used; ++i) {
            chosen[at + i] = ranking[i];
            shares[at + i] = likes[ranking[i]] / (experts.normalizes ? sum : 1.f);
        }
    }

    static void softmax(float* values, int count) {
        float top = *std::max_element(values, values + count), sum = 0;
        for (int i = 0; i < count; ++i) sum += values[i] = fast_exp(values[i] - top);
        for (int i = 0; i < count; ++i) values[i] /= sum;
    }

    void group(const Experts& experts, int num_rows, const int32_t* row_adapters) {
        starts.assign(experts.count + 1, 0);
        for (int i = 0; i < num_rows * experts.used; ++i) ++starts[chosen[i] + 1];
        for (int i = 0; i < experts.count; ++i) starts[i + 1] += starts[i];
        std::copy(starts.begin(), starts.end() - 1, ranking.begin());
        for (int i = 0; i < num_rows * experts.used; ++i) {
            int place = places[i] = ranking[chosen[i]]++;
            rows[place] = i / experts.used;
            adapters[place] = row_adapters[i / experts.used];
        }
    }
};
