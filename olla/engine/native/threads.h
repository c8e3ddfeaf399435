// A pool of threads that share out the numbers of a range. The caller takes part; workers spin
// briefly between ranges and then sleep, so that an idle model costs nothing. Nobody waits for a
// worker that has not begun: on a busy machine one may have to wait long for a processor.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
inline void relax() { _mm_pause(); }
#else
inline void relax() { std::this_thread::yield(); }
#endif

class Pool {
  public:
    explicit Pool(int num_threads) {
        for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            is_over_ = true;
        }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Call body(i) once for each i in [0, count), in any order, on any thread.
    template <class Body>
    void run(int count, const Body& body) {
        if (count <= 1 || workers_.empty()) {
            for (int i = 0; i < count; ++i) body(i);
            return;
        }
        body_ = [](const void* self, int i) { (*static_cast<const Body*>(self))(i); };
        self_ = &body;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        state_.fetch_add(kRound, std::memory_order_seq_cst);
        if (num_asleep_.load(std::memory_order_seq_cst) > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        share();
        state_.fetch_add(kRound, std::memory_order_seq_cst);
        for (int spins = 0; state_.load(std::memory_order_acquire) % kRound > 0; ++spins)
            spins < kSpins ? relax() : std::this_thread::yield();
    }

  private:
    static constexpr int kSpins = 4000;  // some 50 microseconds
    static constexpr uint64_t kRound = 1 << 16;  // the state's lower bits count who is at work

    void share() {
        for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) body_(self_, i);
    }

    // Whether there is a range to share in that a worker has not seen: odd rounds are open.
    static bool is_new(uint64_t state, uint64_t seen) {
        return state / kRound % 2 == 1 && state / kRound != seen;
    }

    void work() {
        for (uint64_t seen = 0;;) {
            uint64_t state = state_.load(std::memory_order_acquire);
            for (int i = 0; i < kSpins && !is_new(state, seen); ++i) {
                relax();
                state = state_.load(std::memory_order_acquire);
            }
            if (!is_new(state, seen)) {
                std::unique_lock<std::mutex> lock(mutex_);
                num_asleep_.fetch_add(1, std::memory_order_seq_cst);
                wake_.wait(lock, [&] {
                    state = state_.load(std::memory_order_seq_cst);
                    return is_over_ || is_new(state, seen);
                });
                num_asleep_.fetch_sub(1, std::memory_order_seq_cst);
            }
            if (is_over_) return;
            if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) continue;
            seen = state / kRound;
            share();
            state_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> state_{0};
    std::atomic<int> next_{0}, num_asleep_{0};
    std::atomic<bool> is_over_{false};
    void (*body_)(const void*, int) = nullptr;
    const void* self_ = nullptr;
    int count_ = 0;
};
