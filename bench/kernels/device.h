// Where the operators' memory lies and how their time is taken: on the host, or on an NVIDIA GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace ltd::bench {

struct Block {
  void* data;
  int64_t bytes;
};

// An operator's call, on the stream in its argument.
using Call = std::function<void(void* stream)>;

// Runs once and tells the seconds it took.
using Timed = std::function<double()>;

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;  // in the names of benchmarks
  virtual std::string description() const = 0;
  virtual bool is_gpu() const = 0;

  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* memory) = 0;
  virtual void copy_in(void* target, const void* source, int64_t bytes) = 0;

  // Waits until it is done.
  virtual void run(const Call& call) = 0;

  // A call whose memory is not in any cache when it starts.
  virtual Timed timed(const Call& call, const std::vector<Block>& memory) = 0;

  // Takes the two times below, which takes a while; before they are asked for.
  virtual void measure() = 0;

  // Measured: bytes per second of a large read, and the seconds of a call that does nothing.
  virtual double bandwidth() const = 0;
  virtual double launch_seconds() const = 0;
};

std::unique_ptr<Device> make_host_device();

// Null if there is no GPU. Throws std::runtime_error if there is one that does not work.
std::unique_ptr<Device> make_cuda_device();

}  // namespace ltd::bench
