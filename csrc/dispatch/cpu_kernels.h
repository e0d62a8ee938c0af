// The CPU kernels, compiled once per instruction set, and the choice among them at run time.
#pragma once

#include <string>
#include <vector>

#include "common/operators.h"

namespace ltd {

// Kernels of all operators under one name.
struct CpuKernels {
  const char* isa;
#define LTD_KERNEL(name, Arguments) void (*name)(const Arguments&);
  LTD_OPERATORS(LTD_KERNEL)
#undef LTD_KERNEL
};

// The kernels in use: the widest that the processor and its operating system support, unless the environment variable
// LTD_CPU_ISA (baseline, avx2, avx512, avx512_bf16 or amx_bf16) asks for narrower ones. Throws std::invalid_argument if
// it names anything else.
const CpuKernels& cpu_kernels();

// Names of the instruction sets that can be used here, narrowest first.
std::vector<std::string> supported_cpu_isas();

// Changes the kernels in use (for tests). Throws std::invalid_argument if `isa` is neither one of supported_cpu_isas()
// nor the name of added kernels.
void use_cpu_isa(const std::string& isa);

// Makes kernels from elsewhere usable under their name `added->isa` (for tests). In the place of those that are null
// come the widest that can be used here.
void add_kernels(const CpuKernels* added);

}  // namespace ltd
