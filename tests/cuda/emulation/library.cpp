// What the tests load: the table of emulated kernels, and what they decide about the emulation.
#include <string>

#include "common/operators.h"
#include "dispatch/cpu_kernels.h"
#include "emulation/control.h"

#define LTD_EXPORT extern "C" __attribute__((visibility("default")))

namespace ltd::emulation {

#define LTD_DECLARE(name, Arguments) void name(const Arguments&);
LTD_CUDA_OPERATORS(LTD_DECLARE)
#undef LTD_DECLARE

namespace {

#define LTD_EMULATED_KERNEL(name, Arguments) .name = name,
#define LTD_NO_KERNEL(name, Arguments) .name = nullptr,
const CpuKernels kernels{.isa = "emulated cuda",
                         LTD_CUDA_OPERATORS(LTD_EMULATED_KERNEL) LTD_ENGINE_OPERATORS(LTD_NO_KERNEL)};

}  // namespace

}  // namespace ltd::emulation

LTD_EXPORT const ltd::CpuKernels* ltd_emulated_kernels() { return &ltd::emulation::kernels; }

LTD_EXPORT void ltd_emulation_seed(uint64_t seed) { ltd::emulation::seed_random(seed); }

LTD_EXPORT int ltd_emulation_barriers() { return ltd::emulation::barrier_count(); }

LTD_EXPORT const char* ltd_emulation_barrier_place(int barrier) {
  static std::string text;
  text = ltd::emulation::barrier_place(barrier);
  return text.c_str();
}

LTD_EXPORT int64_t ltd_emulation_barrier_visits(int barrier) { return ltd::emulation::barrier_visits(barrier); }

LTD_EXPORT void ltd_emulation_skip_barrier(int barrier) { ltd::emulation::skip_barrier(barrier); }
