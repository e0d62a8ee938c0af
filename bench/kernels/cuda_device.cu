// The first NVIDIA GPU. Not yet run on one: see `make gpu-check`.
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>

#include "device.h"

namespace ltd::bench {
namespace {

constexpr int64_t kLargeRead = int64_t{1} << 30;
constexpr int kReads = 10;
constexpr int kBlocksPerProcessor = 8;
constexpr int kThreads = 256;

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

__global__ void do_nothing() {}

// Reads all; writes only if the sum is one that the zeros in there do not have.
__global__ void read_all(const uint4* values, int64_t count, uint32_t* result) {
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint4 value = values[i];
    sum += value.x + value.y + value.z + value.w;
  }
  if (sum != 0) *result = sum;
}

class CudaDevice : public Device {
 public:
  CudaDevice() {
    check(cudaSetDevice(0));
    check(cudaGetDeviceProperties(&properties_, 0));
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
    check(cudaMalloc(&large_, kLargeRead));
    check(cudaMemsetAsync(large_, 0, kLargeRead, stream_));
  }

  ~CudaDevice() override {
    cudaFree(large_);
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
    cudaStreamDestroy(stream_);
  }

  std::string name() const override { return "cuda"; }
  std::string description() const override { return properties_.name; }
  bool is_gpu() const override { return true; }

  void* allocate(int64_t bytes) override {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes));
    return memory;
  }
  void release(void* memory) override { cudaFree(memory); }
  // On the operators' own stream, which waits for no other: a copy on the usual one may return before it has arrived.
  void copy_in(void* target, const void* source, int64_t bytes) override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream_));
    check(cudaStreamSynchronize(stream_));
  }

  void run(const Call& call) override {
    call(stream_);
    check(cudaStreamSynchronize(stream_));
  }

  // What a cycle's captured graph would do: the launches follow one another without the host.
  Timed timed(const Call& call, const std::vector<Block>&) override {
    run(call);  // loads the kernels, which a capture must not do
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    call(stream_);
    check(cudaStreamEndCapture(stream_, &graph));
    cudaGraphExec_t made = nullptr;
    check(cudaGraphInstantiate(&made, graph, 0));
    check(cudaGraphDestroy(graph));
    const std::shared_ptr<CUgraphExec_st> launched(made, cudaGraphExecDestroy);
    return [this, launched] {
      // Clean lines of other memory take the place of everything in the cache. The read also lasts long enough for the
      // host to enqueue what follows.
      read(std::min<int64_t>(kLargeRead, std::max<int64_t>(4 * properties_.l2CacheSize, 128 << 20)));
      check(cudaEventRecord(start_, stream_));
      check(cudaGraphLaunch(launched.get(), stream_));
      check(cudaEventRecord(stop_, stream_));
      check(cudaEventSynchronize(stop_));
      float milliseconds = 0.0f;
      check(cudaEventElapsedTime(&milliseconds, start_, stop_));
      return milliseconds * 1e-3;
    };
  }

  void measure() override {
    bandwidth_ = kLargeRead / fastest([this](void*) { read(kLargeRead); });
    launch_seconds_ = fastest([this](void*) { do_nothing<<<1, 1, 0, stream_>>>(); });
  }
  double bandwidth() const override { return bandwidth_; }
  double launch_seconds() const override { return launch_seconds_; }

 private:
  void read(int64_t bytes) {
    read_all<<<properties_.multiProcessorCount * kBlocksPerProcessor, kThreads, 0, stream_>>>(
        static_cast<const uint4*>(large_), bytes / static_cast<int64_t>(sizeof(uint4)), static_cast<uint32_t*>(large_));
    check(cudaGetLastError());
  }

  double fastest(const Call& call) {
    const Timed once = timed(call, {});
    double best = once();
    for (int i = 1; i < kReads; ++i) best = std::min(best, once());
    return best;
  }

  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
  void* large_ = nullptr;
  double bandwidth_ = 0.0;
  double launch_seconds_ = 0.0;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return nullptr;
  return std::make_unique<CudaDevice>();
}

}  // namespace ltd::bench
