// Launches of all kinds, and what they leave behind.
#include <cstdio>

#include "common/device.cuh"
#include "runtime.h"

namespace {

using namespace ltd::stand_in;

void kernel() {}

// Launches, and says whether that threw and what is left behind as the last error.
void show_launch(const char* name, int64_t shared_bytes) {
  std::printf("%s: ", name);
  try {
    ltd::cuda::launch(kernel, dim3(1), 32, shared_bytes, nullptr);
    std::printf("launched");
  } catch (const std::runtime_error& error) {
    std::printf("%s", error.what());
  }
  std::printf(", %s\n", last_error == cudaSuccess ? "no last error" : "a last error");
}

void show_attributes(const char* name, void (*launch)(void (*)(), dim3, int, int64_t, void*)) {
  launch(kernel, dim3(1), 32, 0, nullptr);
  std::printf("device %d, %s: %u attributes\n", device, name, attributes);
}

}  // namespace

int main() {
  for (device = 0; device < 2; ++device) {
    show_attributes("in order", ltd::cuda::launch<false>);
    show_attributes("early", ltd::cuda::launch<true>);
  }
  device = 0;
  show_launch("right", 0);
  answer = cudaErrorInvalidConfiguration;
  show_launch("wrong", 0);
  show_launch("too large", 1 << 20);
  for (device = 0; device < 2; ++device) std::printf("device %d: %d\n", device, ltd::cuda::multiprocessors());
}
