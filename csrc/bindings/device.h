// Where an operator runs: on the CPU or, in builds with CUDA, on the device that its tensors are on.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "dispatch/cpu_kernels.h"

#ifdef LTD_WITH_CUDA
#include <c10/core/DeviceGuard.h>

#include "common/cuda_kernels.h"

// Of torch's stable C interface. Its headers show it only where CUDA's are installed, and older versions have nothing
// else that tells the stream without those.
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

#define LTD_DEVICE_KERNELS(name) {&ltd::cuda::name, &ltd::cuda::name##_workspace}
#else
#define LTD_DEVICE_KERNELS(name) {nullptr, nullptr}
#endif

// The kernels of the operator of this name, on all devices.
#define LTD_KERNELS(name) {&ltd::CpuKernels::name, LTD_DEVICE_KERNELS(name)}

namespace ltd {

// CUDA's launch function; null in builds without CUDA.
template <typename Arguments>
struct DeviceKernels {
  void (*launch)(const Arguments&);
  int64_t (*workspace)(const Arguments&);
};

template <typename Arguments>
struct Kernels {
  void (*CpuKernels::*cpu)(const Arguments&);
  DeviceKernels<Arguments> device;
};

// Launches on torch's current stream there. `launch` is the one in `a`. No tensor reaches another device than the CPU
// in builds without CUDA.
template <typename Arguments>
void run_on_device([[maybe_unused]] at::Device device, [[maybe_unused]] DeviceKernels<Arguments> kernels,
                   [[maybe_unused]] Arguments& a, [[maybe_unused]] Launch& launch) {
#ifdef LTD_WITH_CUDA
  const c10::DeviceGuard guard(device);
  TORCH_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &launch.stream) == 0, "torch tells no stream of ",
              device);
  const int64_t bytes = kernels.workspace(a);
  // Given back at the end, but only to what runs later on the same stream.
  const at::Tensor workspace =
      bytes > 0 ? at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device)) : at::Tensor();
  if (bytes > 0) launch.workspace = workspace.mutable_data_ptr();
  kernels.launch(a);
#endif
}

template <typename Arguments>
void run(at::Device device, Kernels<Arguments> kernels, Arguments& a, Launch& launch) {
  if (device.is_meta()) return;  // all is checked, and there is nothing to compute with
  if (device.is_cpu()) {
    (cpu_kernels().*kernels.cpu)(a);
  } else {
    run_on_device(device, kernels.device, a, launch);
  }
}

}  // namespace ltd
