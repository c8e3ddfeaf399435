// A pool of threads that share out the numbers of a range. The caller takes part; workers spin
// briefly between ranges and then sleep, so that an idle model costs nothing. A worker that another
// program keeps from its CPU misses ranges: the caller waits only for those that have begun one.
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
            state_.fetch_add(kRound | kOpen);
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
        state_.fetch_add(kRound | kOpen, std::memory_order_seq_cst);
        if (num_asleep_.load(std::memory_order_seq_cst) > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        share();
        state_.fetch_sub(kOpen, std::memory_order_acq_rel);
        for (int spins = 0; state_.load(std::memory_order_acquire) & kInside; ++spins)
            spins < kSpins ? relax() : std::this_thread::yield();
    }

    // Call body(first, last) for ranges that make up [0, count), of at least `least` and at most `most`.
    // Each thread begins with a long one, since memory is read best in one go; what is left then goes
    // to whoever is ready, in ever smaller pieces.
    template <class Body>
    void share(int count, int least, int most, const Body& body) {
        int threads = num_threads(), begin = count / 4 * 3;
        std::atomic<int> claimed{0};
        auto size_at = [&](int first) {
            int size = first < begin ? (begin + threads - 1) / threads : (count - first) / (2 * threads);
            return std::min(count - first, std::max(least, std::min(size, most) / least * least));
        };
        run(std::min(threads, (count + least - 1) / least), [&](int) {
            for (int first = claimed.load(std::memory_order_relaxed); first < count;) {
                int last = first + size_at(first);
                if (!claimed.compare_exchange_weak(first, last, std::memory_order_relaxed)) continue;
                body(first, last);
                first = claimed.load(std::memory_order_relaxed);
            }
        });
    }

  private:
    static constexpr int kSpins = 4000;  // some 50 microseconds

    void share() {
        for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) body_(self_, i);
    }

    void work() {
        for (uint64_t seen = 0;;) {
            for (int i = 0; i < kSpins && !is_news(seen); ++i) relax();
            if (!is_news(seen)) {
                std::unique_lock<std::mutex> lock(mutex_);
                num_asleep_.fetch_add(1, std::memory_order_seq_cst);
                if (!is_news(seen)) wake_.wait(lock);
                num_asleep_.fetch_sub(1, std::memory_order_seq_cst);
            }
            if (!enter(seen)) continue;
            if (is_over_.load()) return;
            share();
            state_.fetch_sub(1, std::memory_order_release);
        }
    }

    static bool is_news(uint64_t state, uint64_t seen) { return (state & kOpen) && state / kRound != seen; }

    bool is_news(uint64_t seen) const { return is_news(state_.load(std::memory_order_seq_cst), seen); }

    // Take part in the round that is open, if one is that was not `seen`, which is its number then.
    bool enter(uint64_t& seen) {
        uint64_t state = state_.load(std::memory_order_relaxed);
        do {
            if (!is_news(state, seen)) return false;
        } while (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                               std::memory_order_relaxed));
        seen = state / kRound;
        return true;
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    // The number of the round, whether it is open to workers, and how many are inside.
    static constexpr uint64_t kOpen = 1 << 16, kInside = kOpen - 1, kRound = kOpen << 1;
    std::atomic<uint64_t> state_{0};
    std::atomic<int> next_{0}, num_asleep_{0};
    std::atomic<bool> is_over_{false};
    void (*body_)(const void*, int) = nullptr;
    const void* self_ = nullptr;
    int count_ = 0;
};
