// The processor, with all its threads.
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <thread>

#include "common/team.h"
#include "device.h"
#include "dispatch/cpu_kernels.h"
#include "memory.h"

namespace ltd::bench {
namespace {

constexpr int64_t kLine = 64;
constexpr std::align_val_t kAlignment{kLine};
constexpr int64_t kPage = 2 << 20;  // a large one
constexpr int64_t kLargeRead = 16 * kPage;
constexpr int64_t kPart = 1 << 15;  // numbers of which a thread takes some at a time
constexpr int kReads = 20;

// Out of all levels of the caches, to memory. Where the processor has no instruction for it, by reading so much else
// that little is left.
void evict([[maybe_unused]] const Block& block) {
#ifdef __SSE2__
  for (int64_t byte = 0; byte < block.bytes; byte += kLine) _mm_clflush(static_cast<const char*>(block.data) + byte);
  _mm_mfence();
#else
  static std::vector<char> other(8 * kLargeRead);
  for (size_t byte = 0; byte < other.size(); byte += kLine) ++other[byte];
#endif
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Threads that wait for work sleep after a while; between two operators of a cycle they do not.
void wake_threads() {
  for_items(thread_count(), thread_count(), [](int64_t) {});
}

uint64_t sum(const uint64_t* values, int64_t count, int threads) {
  std::atomic<uint64_t> total{0};
  for_items(threads, count / kPart, [&](int64_t part) {
    const uint64_t* const first = values + part * kPart;
    total.fetch_add(std::accumulate(first, first + kPart, uint64_t{0}), std::memory_order_relaxed);
  });
  return total.load();
}

// From large pages, whose addresses the processor always knows, in reads short enough that few are disturbed. With all
// threads or one, whichever is faster: a thread that others keep waiting slows the rest down.
double measure_bandwidth() {
  const int64_t count = kLargeRead / static_cast<int64_t>(sizeof(uint64_t));
  const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(kPage, kLargeRead), std::free);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
  madvise(memory.get(), kLargeRead, MADV_HUGEPAGE);
#endif
  uint64_t* values = static_cast<uint64_t*>(memory.get());
  std::fill_n(values, count, 1);
  double best = 0.0;
  for (int i = 0; i < kReads; ++i) {
    for (const int threads : {1, thread_count()}) {
      evict({values, kLargeRead});
      wake_threads();
      uint64_t total = 0;
      const double seconds = seconds_of([&] { total = sum(values, count, threads); });
      if (total == static_cast<uint64_t>(count)) best = std::max(best, kLargeRead / seconds);
    }
  }
  return best;
}

class HostDevice : public Device {
 public:
  std::string name() const override { return "cpu"; }
  std::string description() const override {
    return std::string(cpu_kernels().isa) + " kernels, " + std::to_string(thread_count()) + " threads";
  }
  bool is_gpu() const override { return false; }

  void* allocate(int64_t bytes) override { return ::operator new(bytes, kAlignment); }
  void release(void* memory) override { ::operator delete(memory, kAlignment); }
  void copy_in(void* target, const void* source, int64_t bytes) override { std::memcpy(target, source, bytes); }

  void run(const Call& call) override { call(nullptr); }

  Timed timed(const Call& call, const std::vector<Block>& memory) override {
    return [call, memory] {
      for (const Block& block : memory) evict(block);
      wake_threads();
      return seconds_of([&] { call(nullptr); });
    };
  }

  void measure() override { bandwidth_ = measure_bandwidth(); }
  double bandwidth() const override { return bandwidth_; }
  double launch_seconds() const override { return 0.0; }

 private:
  double bandwidth_ = 0.0;
};

}  // namespace

int thread_count() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

std::unique_ptr<Device> make_host_device() { return std::make_unique<HostDevice>(); }

}  // namespace ltd::bench
