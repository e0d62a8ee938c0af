#include "dispatch/cpu_kernels.h"

#ifdef LTD_X86_KERNELS
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>
#include <list>
#include <stdexcept>

namespace ltd {

namespace baseline {
extern const CpuKernels kernels;
}
#ifdef LTD_X86_KERNELS
namespace avx2 {
extern const CpuKernels kernels;
}
namespace avx512 {
extern const CpuKernels kernels;
}
namespace avx512_bf16 {
extern const CpuKernels kernels;
}
#endif
#ifdef LTD_AMX_KERNELS
namespace amx_bf16 {
extern const CpuKernels kernels;
bool tiles_work();
}  // namespace amx_bf16
#endif

namespace {

#ifdef LTD_X86_KERNELS
// Features that older compilers' __builtin_cpu_supports does not know.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1) != 0;
}

bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 5 & 1) != 0;
}

#ifdef LTD_AMX_KERNELS
bool has_amx_bf16() {
  constexpr unsigned kTilesAndBFloat16 = 1u << 24 | 1u << 22;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (edx & kTilesAndBFloat16) == kTilesAndBFloat16 && amx_bf16::tiles_work();
}
#endif
#endif

std::vector<const CpuKernels*> find_supported_kernels() {
  std::vector<const CpuKernels*> supported{&baseline::kernels};
#ifdef LTD_X86_KERNELS
  // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    supported.push_back(&avx2::kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      supported.push_back(&avx512::kernels);
      if (has_avx512_bf16()) {
        supported.push_back(&avx512_bf16::kernels);
#ifdef LTD_AMX_KERNELS
        if (has_amx_bf16()) supported.push_back(&amx_bf16::kernels);
#endif
      }
    }
  }
#endif
  return supported;
}

const std::vector<const CpuKernels*>& supported_kernels() {
  static const std::vector<const CpuKernels*> supported = find_supported_kernels();
  return supported;
}

bool is_made_by_intel() {
#ifdef LTD_X86_KERNELS
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(0, &eax, &ebx, &ecx, &edx) != 0 && ebx == signature_INTEL_ebx && ecx == signature_INTEL_ecx &&
         edx == signature_INTEL_edx;
#else
  return false;
#endif
}

// Kernels that add_kernels brought; they stay where they are.
std::list<CpuKernels>& added_kernels() {
  static std::list<CpuKernels> kernels;
  return kernels;
}

// Null where there are none.
const CpuKernels* kernels_named(const std::string& name) {
  for (const CpuKernels* kernels : supported_kernels()) {
    if (name == kernels->isa) return kernels;
  }
  for (const CpuKernels& kernels : added_kernels()) {
    if (name == kernels.isa) return &kernels;
  }
  return nullptr;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const CpuKernels* initial_kernels() {
  const std::vector<const CpuKernels*>& supported = supported_kernels();
  const auto fastest = [] { return kernels_named(fastest_cpu_isa()); };
  const char* wanted = std::getenv("LTD_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return fastest();
  const std::vector<std::string> names{"baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16"};
  size_t level = 0;
  while (level < names.size() && names[level] != wanted) ++level;
  if (level == names.size()) {
    throw std::invalid_argument("LTD_CPU_ISA is '" + std::string(wanted) + "' but must be one of " + joined(names));
  }
  return level < supported.size() ? supported[level] : fastest();
}

std::atomic<const CpuKernels*>& current() {
  static std::atomic<const CpuKernels*> kernels{initial_kernels()};
  return kernels;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> supported_cpu_isas() {
  std::vector<std::string> names;
  for (const CpuKernels* kernels : supported_kernels()) names.emplace_back(kernels->isa);
  return names;
}

std::string fastest_cpu_isa(const std::vector<std::string>& supported, bool made_by_intel) {
  const std::string& widest = supported.back();
  return made_by_intel && widest == "avx512_bf16" ? "avx512" : widest;
}

std::string fastest_cpu_isa() { return fastest_cpu_isa(supported_cpu_isas(), is_made_by_intel()); }

void use_cpu_isa(const std::string& isa) {
  const CpuKernels* kernels = kernels_named(isa);
  if (kernels == nullptr) {
    throw std::invalid_argument("no CPU kernels for '" + isa + "' here; supported are " + joined(supported_cpu_isas()));
  }
  current().store(kernels);
}

void add_kernels(const CpuKernels* added) {
  const CpuKernels& widest = *supported_kernels().back();
  CpuKernels& kernels = added_kernels().emplace_back(*added);
#define LTD_COMPLETE(name, Arguments) \
  if (kernels.name == nullptr) kernels.name = widest.name;
  LTD_OPERATORS(LTD_COMPLETE)
#undef LTD_COMPLETE
}

}  // namespace ltd
