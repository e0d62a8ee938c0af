// The last of several blocks goes on with what all of them have done, instead of another launch.
#pragma once

#include "common/device.cuh"

namespace ltd::cuda {

// Tells one of the `blocks` blocks that share a counter: all others have written their results, and it may read them.
// The counter must be 0 before the first of them comes, and is 0 again after the last. The whole block.
__device__ inline bool is_last_block(Pointer<unsigned> counter, int blocks) {
  LTD_SHARED(bool, is_last);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned last = static_cast<unsigned>(blocks - 1);
    is_last = atomicInc(counter, last) == last;
    __threadfence();
  }
  __syncthreads();
  return is_last;
}

}  // namespace ltd::cuda
