// The processor, with all its threads.
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

#include "common/cpu_kernels.h"
#include "device.h"
#include "memory.h"

namespace ltd::bench {
namespace {

constexpr int64_t kLine = 64;
constexpr std::align_val_t kAlignment{kLine};
constexpr int64_t kLargeRead = int64_t{256} << 20;
constexpr int kReads = 10;

// Out of all levels of the caches, to memory. Where the processor has no instruction for it, by reading so much else
// that little is left.
void evict([[maybe_unused]] const Block& block) {
#ifdef __SSE2__
  for (int64_t byte = 0; byte < block.bytes; byte += kLine) _mm_clflush(static_cast<const char*>(block.data) + byte);
  _mm_mfence();
#else
  static std::vector<char> other(kLargeRead);
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
#pragma omp parallel num_threads(thread_count())
  {
  }
}

uint64_t sum(const std::vector<uint64_t>& values, int threads) {
  uint64_t total = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : total)
  for (size_t i = 0; i < values.size(); ++i) total += values[i];
  return total;
}

// With all threads or one, whichever is faster: a thread that others keep waiting would slow the rest down.
double measure_bandwidth() {
  std::vector<uint64_t> values(kLargeRead / 8, 1);
  const Block block{values.data(), kLargeRead};
  double best = 0.0;
  for (int i = 0; i < kReads; ++i) {
    for (const int threads : {1, thread_count()}) {
      evict(block);
      wake_threads();
      uint64_t total = 0;
      const double seconds = seconds_of([&] { total = sum(values, threads); });
      if (total == values.size()) best = std::max(best, kLargeRead / seconds);
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

  double bandwidth() const override { return bandwidth_; }
  double launch_seconds() const override { return 0.0; }
  double rough_speed() const override { return 5e10 * thread_count(); }

 private:
  double bandwidth_ = measure_bandwidth();
};

}  // namespace

int thread_count() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

std::unique_ptr<Device> make_host_device() { return std::make_unique<HostDevice>(); }

}  // namespace ltd::bench
