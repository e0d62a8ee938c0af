// A stand-in for CUDA's runtime, as far as launch() of common/device.cuh asks for it: no device is needed.
#pragma once

#include <cuda_runtime_api.h>

namespace ltd::stand_in {

inline cudaError_t answer = cudaSuccess;  // to whatever launches
inline cudaError_t last_error = cudaSuccess;
inline int device = 0;           // the current one, 0 or 1
inline unsigned attributes = 0;  // of the last launch

}  // namespace ltd::stand_in
