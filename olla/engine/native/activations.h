// Rows of inputs, and their 8-bit form with a scale for each 32 once a quantized part asks for it.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "layout.h"
#include "threads.h"

struct Activations {
    const float* rows;
    int num_rows, columns;
    std::vector<int8_t> values;
    std::vector<float> scales;
    std::vector<int32_t> sums;  // of the values of each 16

    void set(const float* inputs, int count, int width) {
        rows = inputs, num_rows = count, columns = width;
    }

    // The number of tasks that making the 8-bit form is.
    int begin_quantizing() {
        size_t blocks = size_t(num_rows) * (columns / kBlock);
        values.resize(blocks * kBlock);
        scales.resize(blocks);
        sums.resize(2 * blocks);
        return (num_rows + kRowsOfTask - 1) / kRowsOfTask;
    }

    void quantize(int task) {
        size_t a_row = columns / kBlock, last = std::min(num_rows, (task + 1) * kRowsOfTask) * a_row;
        for (size_t block = task * kRowsOfTask * a_row; block < last; ++block) quantize_block(block);
    }

  private:
    static constexpr int kRowsOfTask = 8;

    void quantize_block(size_t block) {
        const float* from = rows + block * kBlock;
        int8_t* to = values.data() + block * kBlock;
        Floats most{};
        for (int i = 0; i < kBlock; i += kLanes) {
            Floats part = load<Floats>(from + i);
            most = larger(most, larger(part, -part));
        }
        float lanes[kLanes], largest = 0;
        store(lanes, most);
        for (float lane : lanes) largest = std::max(largest, lane);
        // Less than this would have no inverse.
        float inverse = largest > 1e-30f ? 127.f / largest : 0.f;
        scales[block] = largest / 127.f;
        for (int half = 0; half < 2; ++half) {
            int sum = 0;
            for (int i = 16 * half; i < 16 * half + 16; ++i) {
                int value = int(std::nearbyintf(from[i] * inverse));
                to[i] = int8_t(value);
                sum += value;
            }
            sums[2 * block + half] = sum;
        }
    }
};
