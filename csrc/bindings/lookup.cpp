// Binds the class that looks texts up in themselves.
#include "bindings/lookup.h"

#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "lookup/text_index.h"

namespace ltd {
namespace {

using at::Tensor;
namespace py = pybind11;

// What a function returns; bad arguments are raised as the operators' Python functions do.
template <typename Function>
auto with_input_errors(Function&& function) {
  try {
    return function();
  } catch (const c10::ValueError& error) {
    const std::string message = std::string("text_index: ") + error.what_without_backtrace();
    py::set_error(py::module_::import("ltd.errors").attr("InputError"), message.c_str());
    throw py::error_already_set();
  }
}

bool ascend_strictly(const std::vector<float>& knots) {
  return std::adjacent_find(knots.begin(), knots.end(), std::not_fn(std::less<>())) == knots.end();
}

TextIndex new_text_index(const std::vector<float>& chances, std::vector<float> head_scores,
                         std::vector<float> head_log_chances, int64_t most) {
  LTD_CHECK(chances.size() == kEvidenceCells &&
                std::all_of(chances.begin(), chances.end(), [](float chance) { return chance > 0 && chance <= 1; }),
            "chances must be ", kEvidenceCells, " numbers above 0 and up to 1, but are ", chances.size(),
            " numbers or not all in between");
  LTD_CHECK(head_scores.size() == head_log_chances.size() && ascend_strictly(head_scores) &&
                ascend_strictly(head_log_chances),
            "head_scores and head_log_chances must ascend strictly, as many of both, but are ", head_scores.size(),
            " and ", head_log_chances.size(), " numbers or do not ascend");
  check_range("most", most, 1, kMaxText);
  return TextIndex(chances.data(), std::move(head_scores), std::move(head_log_chances), most);
}

void extend(TextIndex& index, const std::vector<int64_t>& tokens) {
  for (const int64_t token : tokens) check_range("tokens", token, kSeparator, INT32_MAX);
  const auto count = static_cast<int64_t>(tokens.size());
  LTD_CHECK(count <= kMaxSize - index.size(), "a text must have at most ", kMaxSize, " tokens, but would have ",
            index.size() + count);
  for (const int64_t token : tokens) index.append(static_cast<int32_t>(token));
}

// A row that is written, of so many numbers at least.
template <typename T>
T* row_of(const Tensors& tensors, const Named& row, int64_t least) {
  T* data = tensors.checked<T>(row, {-1});
  LTD_CHECK(row.tensor.size(0) >= least, row.name, " must hold ", least, " numbers at least, but its shape is ",
            row.tensor.sizes());
  return data;
}

int64_t propose(TextIndex& index, py::handle tokens, py::handle parents, py::handle scores, py::handle chances,
                py::handle features, py::handle cells) {
  static const std::vector<TensorInfo> signature{{"tokens", true},  {"parents", true},  {"scores", true},
                                                 {"chances", true}, {"features", true}, {"cells", true}};
  const std::array<py::handle, 6> given{tokens, parents, scores, chances, features, cells};
  std::array<TensorArgument, 6> arguments;
  for (size_t i = 0; i < given.size(); ++i) {
    LTD_CHECK(THPVariable_Check(given[i].ptr()), signature[i].name, " must be a tensor");
    arguments[i] = {&THPVariable_Unpack(given[i].ptr()), static_cast<int>(i), -1};
  }
  const Tensors tensors(at::kCPU);
  check_tensor({"tokens", *arguments[0].tensor}, tensors.device());
  check_tensors(arguments, signature);
  const auto named = [&](int i) { return Named{signature[i].name.c_str(), *arguments[i].tensor}; };
  return index.propose(
      {row_of<int64_t>(tensors, named(0), index.most()), row_of<int32_t>(tensors, named(1), index.most()),
       row_of<float>(tensors, named(2), index.most()), row_of<float>(tensors, named(3), index.most()),
       row_of<float>(tensors, named(4), kTextFeatures), row_of<int32_t>(tensors, named(5), index.most())});
}

}  // namespace

void bind_lookup(py::module_& module) {
  py::class_<TextIndex>(module, "TextIndex", "Looks up the end of one text in the text itself.")
      .def(py::init([](const std::vector<float>& chances, std::vector<float> head_scores,
                       std::vector<float> head_log_chances, int64_t most) {
             return with_input_errors(
                 [&] { return new_text_index(chances, std::move(head_scores), std::move(head_log_chances), most); });
           }),
           py::arg("chances"), py::arg("head_scores"), py::arg("head_log_chances"), py::arg("most"))
      .def_property_readonly("size", &TextIndex::size)
      .def_property_readonly("steps", &TextIndex::steps)
      .def_property_readonly("memory", &TextIndex::bytes)
      .def(
          "extend",
          [](TextIndex& index, const std::vector<int64_t>& tokens) {
            with_input_errors([&] { extend(index, tokens); });
          },
          py::arg("tokens"))
      .def(
          "propose",
          [](TextIndex& index, py::handle tokens, py::handle parents, py::handle scores, py::handle chances,
             py::handle features, py::handle cells) {
            return with_input_errors([&] { return propose(index, tokens, parents, scores, chances, features, cells); });
          },
          py::arg("tokens"), py::arg("parents"), py::arg("scores"), py::arg("chances"), py::arg("features"),
          py::arg("cells"));
}

}  // namespace ltd
