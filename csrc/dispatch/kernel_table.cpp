// The kernels of one instruction set, LTD_ISA: the build compiles this file and the kernels once for each.
#include "common/operators.h"
#include "dispatch/cpu_kernels.h"

#define LTD_STRING(name) #name
#define LTD_NAME(name) LTD_STRING(name)
#define LTD_DECLARE(name, Arguments) void name(const Arguments&);
#define LTD_KERNEL(name, Arguments) .name = name,

namespace ltd {

LTD_SCALAR_OPERATORS(LTD_DECLARE)

namespace LTD_ISA {

LTD_VECTOR_OPERATORS(LTD_DECLARE)
LTD_ENGINE_OPERATORS(LTD_DECLARE)

extern const CpuKernels kernels;
const CpuKernels kernels{.isa = LTD_NAME(LTD_ISA), LTD_OPERATORS(LTD_KERNEL)};

}  // namespace LTD_ISA
}  // namespace ltd
