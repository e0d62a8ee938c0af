// What the module's own classes and functions, which torch's dispatcher does not call, do with their arguments.
#pragma once

#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>

#include "bindings/checks.h"

namespace ltd {

// What a function returns; bad arguments are raised as the operators' Python functions do, as ltd.errors.InputError
// that begins with the name.
template <typename Function>
auto with_input_errors(const char* name, Function&& function) {
  try {
    return function();
  } catch (const c10::ValueError& error) {
    const std::string message = std::string(name) + ": " + error.what_without_backtrace();
    pybind11::set_error(pybind11::module_::import("ltd.errors").attr("InputError"), message.c_str());
    throw pybind11::error_already_set();
  }
}

// A Python object that must be a tensor. The reference lives as long as the object.
inline const at::Tensor& any_tensor(const char* name, pybind11::handle object) {
  LTD_CHECK(THPVariable_Check(object.ptr()), name, " must be a tensor");
  return THPVariable_Unpack(object.ptr());
}

// The same of one that can be read here.
inline const at::Tensor& tensor_of(const char* name, pybind11::handle object) {
  const at::Tensor& tensor = any_tensor(name, object);
  check_tensor({name, tensor}, at::kCPU);
  return tensor;
}

}  // namespace ltd
