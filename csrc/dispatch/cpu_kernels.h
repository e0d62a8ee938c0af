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

// The kernels in use: fastest_cpu_isa()'s, unless the environment variable LTD_CPU_ISA (baseline, avx2, avx512,
// avx512_bf16 or amx_bf16) asks for others that can be used here. Throws std::invalid_argument if it names anything
// else.
const CpuKernels& cpu_kernels();

// Names of the instruction sets that can be used here, narrowest first.
std::vector<std::string> supported_cpu_isas();

// Which of these, narrowest first, is taken: the widest, but on an Intel processor without AMX avx512 and not
// avx512_bf16. Intel's vdpbf16ps takes longer than to unpack two vectors and multiply them, from about 4 rows on, and
// saves little before; AMD's does not. The rule asks no clock: a machine takes the same kernels, which round alike, in
// every run.
std::string fastest_cpu_isa(const std::vector<std::string>& supported, bool made_by_intel);

// The one that is taken here if nothing else is asked for.
std::string fastest_cpu_isa();

// Changes the kernels in use (for tests). Throws std::invalid_argument if `isa` is neither one of supported_cpu_isas()
// nor the name of added kernels.
void use_cpu_isa(const std::string& isa);

// Makes kernels from elsewhere usable under their name `added->isa` (for tests). In the place of those that are null
// come the widest that can be used here.
void add_kernels(const CpuKernels* added);

}  // namespace ltd
