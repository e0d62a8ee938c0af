// How the operators of the torch library `ltd` are registered. Only bindings include torch. Every file of them checks
// arguments, fills argument structs and calls the kernels of one area, and ends with the definitions of its operators.
#pragma once

#include <torch/library.h>

#include <string>

namespace ltd {

// Operators that only write into their arguments have nothing to do when there are only shapes.
template <typename... Arguments>
void no_operation(Arguments...) {}

// A function that takes the same arguments and does nothing.
template <typename... Arguments>
constexpr auto nothing_like(void (*)(Arguments...)) {
  return &no_operation<Arguments...>;
}

// Defines an operator that runs on the CPU only; `meta` says what results look like when there are only shapes.
template <typename Run, typename Meta>
void define_for_cpu(torch::Library& library, const char* name, const std::string& signature, Run* run, Meta* meta) {
  library.def((name + signature).c_str());
  library.impl(name, torch::dispatch(c10::DispatchKey::CPU, run));
  library.impl(name, torch::dispatch(c10::DispatchKey::Meta, meta));
}

// The same for every device.
template <typename Run, typename Meta>
void define(torch::Library& library, const char* name, const std::string& signature, Run* run, Meta* meta) {
  define_for_cpu(library, name, signature, run, meta);
#ifdef LTD_WITH_CUDA
  library.impl(name, torch::dispatch(c10::DispatchKey::CUDA, run));
#endif
}

}  // namespace ltd
