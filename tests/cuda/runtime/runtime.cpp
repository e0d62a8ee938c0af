#include "runtime.h"

namespace ltd::stand_in {
namespace {

constexpr int kMultiprocessors[] = {132, 78};
constexpr int kMajors[] = {9, 8};  // of the compute capability

cudaError_t noted() {
  if (answer != cudaSuccess) last_error = answer;
  return answer;
}

}  // namespace
}  // namespace ltd::stand_in

using namespace ltd::stand_in;

extern "C" {

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  attributes = config->numAttrs;
  return noted();
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return noted(); }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t) { return "refused"; }
cudaError_t cudaGetDevice(int* current) {
  *current = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int of_device) {
  *value = (attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors : kMajors)[of_device];
  return cudaSuccess;
}

// What nvcc adds to a program registers its kernels with these.
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

}  // extern "C"
