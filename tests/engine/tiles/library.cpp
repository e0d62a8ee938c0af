// The engine's kernels with emulated tiles, for ltd::add_kernels.
#include "dispatch/cpu_kernels.h"

namespace ltd::emulated_tiles {

void forward_stack(const ForwardStack&);
void linear(const Linear&);

namespace {

CpuKernels engine_kernels() {
  CpuKernels kernels{};
  kernels.isa = "emulated tiles";
  kernels.forward_stack = forward_stack;
  kernels.linear = linear;
  return kernels;
}

}  // namespace
}  // namespace ltd::emulated_tiles

extern "C" __attribute__((visibility("default"))) const ltd::CpuKernels* ltd_emulated_tiles() {
  static const ltd::CpuKernels kernels = ltd::emulated_tiles::engine_kernels();
  return &kernels;
}
