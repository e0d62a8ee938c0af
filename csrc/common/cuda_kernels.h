// The CUDA kernels' launch functions: the same argument structs and results as the CPU's, on the stream in `launch`.
// Pointers are to device memory. They neither wait for the device nor allocate, so they can be captured in graphs; what
// they need besides is the workspace, whose bytes (0: none) *_workspace tells from sizes alone.
#pragma once

#include <cstdint>

#include "common/operators.h"

namespace ltd::cuda {

#define LTD_DECLARE(name, Arguments) \
  void name(const Arguments&);       \
  int64_t name##_workspace(const Arguments&);
LTD_CUDA_OPERATORS(LTD_DECLARE)
#undef LTD_DECLARE

}  // namespace ltd::cuda
