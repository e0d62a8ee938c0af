// The Python module ltd._C. Importing it registers the operators, each of which its area's file here defines; what it
// exposes itself is for `ltd info`, for questions to policies, for looking texts up, and for tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/lookup.h"
#include "bindings/policy.h"
#include "dispatch/cpu_kernels.h"
#include "noise/philox.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = LTD_VERSION;
  info["compiler"] = LTD_COMPILER;
  info["torch"] = LTD_TORCH_VERSION;
  info["cpu_kernels"] = ltd::cpu_kernels().isa;
  info["cpu_isas"] = ltd::supported_cpu_isas();
  info["cpu_fastest"] = ltd::fastest_cpu_isa();
  const std::string cuda_reason = LTD_CUDA_REASON;  // why the CUDA kernels are left out; empty if they are not
  info["cuda"] = cuda_reason.empty();
  info["cuda_reason"] = cuda_reason;
  return info;
}

std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const ltd::PhiloxBlock block{{counter[0], counter[1], counter[2], counter[3]}};
  const ltd::PhiloxBlock random = ltd::philox4x32_10(block, key[0], key[1]);
  return {random.words[0], random.words[1], random.words[2], random.words[3]};
}

double sampling_uniform(int64_t seed, int64_t position, int64_t row) {
  return ltd::sampling_uniform(static_cast<uint64_t>(seed), position, row, ltd::kTargetStream);
}

// A bad LTD_CPU_ISA fails here, at import: pybind11 makes an ImportError of it, whose cause is an
// ltd.errors.InputError.
void choose_kernels() {
  try {
    ltd::cpu_kernels();
  } catch (const std::invalid_argument& error) {
    py::set_error(py::module_::import("ltd.errors").attr("InputError"), error.what());
    throw py::error_already_set();
  }
}

// The kernels of a table in memory, by its address: a library loaded with ctypes has one.
void add_kernels(uintptr_t address) { ltd::add_kernels(reinterpret_cast<const ltd::CpuKernels*>(address)); }

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Kernels of ltd; registers torch.ops.ltd.*";
  choose_kernels();
  module.def("build_info", &build_info, "What this build contains and which kernels are in use.");
  module.def("use_cpu_isa", &ltd::use_cpu_isa, py::arg("isa"), "Changes the CPU kernels in use; for tests.");
  module.def("fastest_cpu_isa", py::overload_cast<const std::vector<std::string>&, bool>(&ltd::fastest_cpu_isa),
             py::arg("supported"), py::arg("made_by_intel"), "Which of the CPU kernels are taken; for tests.");
  module.def("add_kernels", &add_kernels, py::arg("address"),
             "Makes the kernels of a CpuKernels usable under its name; for tests.");
  module.def("philox4x32_10", &philox4x32_10, py::arg("counter"), py::arg("key"), "The generator; for tests.");
  module.def("sampling_uniform", &sampling_uniform, py::arg("seed"), py::arg("position"), py::arg("row"),
             "The uniform number that draws the token at position + 1; for tests.");
  ltd::bind_lookup(module);
  ltd::bind_policy(module);
}
