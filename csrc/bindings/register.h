// How the operators of the torch library `ltd` are registered. Only bindings include torch. Every file of them checks
// arguments, fills argument structs and calls the kernels of one area, and ends with the definitions of its operators.
#pragma once

#include <torch/library.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/checks.h"

namespace ltd {

// Operators that only write into their arguments have nothing to do when there are only shapes.
template <typename... Arguments>
void no_operation(Arguments...) {}

// A function that takes the same arguments and does nothing.
template <typename... Arguments>
constexpr auto nothing_like(void (*)(Arguments...)) {
  return &no_operation<Arguments...>;
}

using TensorArguments = c10::SmallVector<TensorArgument, 40>;

// What an argument adds to the tensors of a call: nothing if it is a number.
template <typename T>
void add_tensors(const T&, int, TensorArguments&) {}

inline void add_tensors(const at::Tensor& tensor, int place, TensorArguments& tensors) {
  tensors.push_back({&tensor, place, -1});
}

inline void add_tensors(const std::optional<at::Tensor>& tensor, int place, TensorArguments& tensors) {
  if (tensor.has_value()) tensors.push_back({&*tensor, place, -1});
}

inline void add_tensors(const at::TensorList& list, int place, TensorArguments& tensors) {
  for (size_t i = 0; i < list.size(); ++i) tensors.push_back({&list[i], place, static_cast<int>(i)});
}

// An operator as torch calls it. `Run` checks what is the operator's own and calls the kernel, if it is not on the meta
// device; `Shapes` tells nothing but what the results look like, by sizes that torch.compile leaves open.
template <auto Run, auto Shapes>
struct Operator;

template <typename Result, typename... Arguments, Result (*Run)(Arguments...), Result (*Shapes)(Arguments...)>
struct Operator<Run, Shapes> {
  inline static std::vector<TensorInfo> signature;

  static TensorArguments tensors_of(const Arguments&... arguments) {
    TensorArguments tensors;
    int place = 0;
    (add_tensors(arguments, place++, tensors), ...);
    return tensors;
  }

  static Result call(Arguments... arguments) {
    check_tensors(tensors_of(arguments...), signature);
    return Run(std::forward<Arguments>(arguments)...);
  }

  // Sizes left open cannot be checked: they are when the compiled code runs.
  static Result call_on_meta(Arguments... arguments) {
    for (const TensorArgument& argument : tensors_of(arguments...)) {
      if (argument.tensor->unsafeGetTensorImpl()->has_symbolic_sizes_strides()) {
        return Shapes(std::forward<Arguments>(arguments)...);
      }
    }
    return call(std::forward<Arguments>(arguments)...);
  }
};

// Defines an operator that runs on the CPU only. One that returns something has `Shapes`. `pinned` is the argument that
// may be in pinned memory.
template <auto Run, auto Shapes = nothing_like(Run)>
void define_for_cpu(torch::Library& library, const std::string& name, const std::string& signature,
                    const std::string& pinned = "") {
  using Defined = Operator<Run, Shapes>;
  const c10::FunctionSchema schema = torch::schema((name + signature).c_str());
  Defined::signature.clear();  // two operators may run the same
  for (const c10::Argument& argument : schema.arguments()) {
    const auto* alias = argument.alias_info();
    Defined::signature.push_back({argument.name(), alias != nullptr && alias->isWrite(), argument.name() == pinned});
  }
  library.def((name + signature).c_str());
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CPU, &Defined::call));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Meta, &Defined::call_on_meta));
}

// The same for every device.
template <auto Run, auto Shapes = nothing_like(Run)>
void define(torch::Library& library, const std::string& name, const std::string& signature,
            const std::string& pinned = "") {
  define_for_cpu<Run, Shapes>(library, name, signature, pinned);
#ifdef LTD_WITH_CUDA
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CUDA, &Operator<Run, Shapes>::call));
#endif
}

}  // namespace ltd
