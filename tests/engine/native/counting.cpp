// The core with an allocator that counts: see test_threads.py.
#include <atomic>
#include <cstdlib>
#include <new>

static std::atomic<int64_t> num_allocations{0};

void* operator new(size_t size) {
    num_allocations.fetch_add(1);
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

extern "C" int64_t olla_num_allocations() { return num_allocations.load(); }
