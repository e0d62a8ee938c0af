// Binds the classes that look texts up in themselves, and what counts whose candidates were accepted.
#include "bindings/lookup.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "bindings/python_arguments.h"
#include "lookup/merge_text.h"
#include "lookup/text_index.h"

namespace ltd {
namespace {

using at::Tensor;
namespace py = pybind11;

template <typename Function>
auto looking_up(Function&& function) {
  return with_input_errors("text_index", function);
}

void extend(IndexedText& text, const std::vector<int64_t>& tokens) {
  for (const int64_t token : tokens) check_range("tokens", token, kSeparator, INT32_MAX);
  const auto count = static_cast<int64_t>(tokens.size());
  LTD_CHECK(count <= kMaxSize - text.size(), "a text must have at most ", kMaxSize, " tokens, but would have ",
            text.size() + count);
  for (const int64_t token : tokens) text.append(static_cast<int32_t>(token));
}

using History = std::shared_ptr<IndexedText>;

History new_history(const std::vector<int64_t>& tokens) {
  auto history = std::make_shared<IndexedText>();
  extend(*history, tokens);
  history->append(kSeparator);
  return history;
}

bool ascend_strictly(const std::vector<float>& knots) {
  return std::adjacent_find(knots.begin(), knots.end(), std::not_fn(std::less<>())) == knots.end();
}

// An index and the row that it writes.
class RowIndex {
 public:
  static constexpr size_t kTensors = 7;
  using Row = std::array<py::handle, kTensors>;

  RowIndex(const std::vector<float>& chances, std::vector<float> head_scores, std::vector<float> head_log_chances,
           int64_t most, History history)
      : index_(chances.data(), std::move(head_scores), std::move(head_log_chances), most,
               history == nullptr ? IndexedText() : IndexedText(std::move(history))),
        most_(most) {}

  TextIndex& index() { return index_; }

  void write_to(const Row& row) {
    static const std::vector<TensorInfo> signature{
        {"tokens", true, false},   {"parents", true, false}, {"scores", true, false}, {"chances", true, false},
        {"features", true, false}, {"cells", true, false},   {"count", true, false}};
    std::array<Tensor, kTensors> given;
    std::array<TensorArgument, kTensors> arguments;
    for (size_t i = 0; i < kTensors; ++i) {
      given[i] = any_tensor(signature[i].name.c_str(), row[i]);
      arguments[i] = {&given[i], static_cast<int>(i), -1};
    }
    const Tensors tensors(at::kCPU);
    check_tensor({"tokens", given[0]}, tensors.device());
    check_tensors(arguments, signature);
    const auto named = [&](int i) { return Named{signature[i].name.c_str(), given[i]}; };
    row_ = {tensors.checked<int64_t>(named(0), {most_}),
            tensors.checked<int32_t>(named(1), {most_}),
            tensors.checked<float>(named(2), {most_}),
            tensors.checked<float>(named(3), {most_}),
            tensors.checked<float>(named(4), {kTextFeatures}),
            tensors.checked<int32_t>(named(5), {most_}),
            tensors.checked<int32_t>(named(6), {1})};
    kept_ = std::move(given);
  }

  int64_t propose(const std::vector<int64_t>& tokens) {
    LTD_CHECK(row_.count != nullptr, "there is no row to write to; call write_to before propose");
    extend(index_.text(), tokens);
    return index_.propose(row_);
  }

 private:
  TextIndex index_;
  int64_t most_;
  std::array<Tensor, kTensors> kept_;  // whose memory is written
  TextRows row_{};
};

std::unique_ptr<RowIndex> new_index(const std::vector<float>& chances, std::vector<float> head_scores,
                                    std::vector<float> head_log_chances, int64_t most, History history) {
  LTD_CHECK(chances.size() == kEvidenceCells &&
                std::all_of(chances.begin(), chances.end(), [](float chance) { return chance > 0 && chance <= 1; }),
            "chances must be ", kEvidenceCells, " numbers above 0 and up to 1, but are ", chances.size(),
            " numbers or not all in between");
  LTD_CHECK(head_scores.size() == head_log_chances.size() && ascend_strictly(head_scores) &&
                ascend_strictly(head_log_chances),
            "head_scores and head_log_chances must ascend strictly, as many of both, but are ", head_scores.size(),
            " and ", head_log_chances.size(), " numbers or do not ascend");
  check_range("most", most, 1, kMaxText);
  return std::make_unique<RowIndex>(chances, std::move(head_scores), std::move(head_log_chances), most,
                                    std::move(history));
}

std::array<int64_t, 3> count_sources(py::handle sources, py::handle candidates, py::handle path,
                                     const std::vector<int64_t>& kept) {
  const Tensors tensors(at::kCPU);
  const auto batch = static_cast<int64_t>(kept.size());
  const Tensor& by_candidate = tensor_of("sources", sources);
  const Tensor& by_node = tensor_of("candidates", candidates);
  const Tensor& accepted = tensor_of("path", path);
  const auto source_rows = tensors.rows<const int8_t>({"sources", by_candidate}, batch, -1);
  const auto candidate_rows = tensors.rows<const int32_t>({"candidates", by_node}, batch, -1);
  const auto path_rows = tensors.rows<const int32_t>({"path", accepted}, batch, -1);
  std::array<int64_t, 3> counts{};
  for (int64_t b = 0; b < batch; ++b) {
    check_range("kept", kept[b], 0, accepted.size(1) - 1);
    for (int64_t i = 1; i <= kept[b]; ++i) {
      const int32_t node = path_rows[b][i];
      check_range("path", node, 0, by_node.size(1) - 1);
      const int32_t candidate = candidate_rows[b][node];
      check_range("candidates", candidate, 0, by_candidate.size(1) - 1);
      const int8_t source = source_rows[b][candidate];
      check_range("sources", source, 0, kFromBoth);
      if (source != 0) ++counts[source - kFromHead];
    }
  }
  return counts;
}

}  // namespace

void bind_lookup(py::module_& module) {
  py::class_<IndexedText, History>(module, "HistoryIndex", "Texts that others are looked up in as well.")
      .def(py::init([](const std::vector<int64_t>& tokens) { return looking_up([&] { return new_history(tokens); }); }),
           py::arg("tokens"));
  py::class_<RowIndex>(module, "TextIndex", "Looks up the end of one text in the text itself.")
      .def(py::init([](const std::vector<float>& chances, std::vector<float> head_scores,
                       std::vector<float> head_log_chances, int64_t most, History history) {
             return looking_up([&] {
               return new_index(chances, std::move(head_scores), std::move(head_log_chances), most, std::move(history));
             });
           }),
           py::arg("chances"), py::arg("head_scores"), py::arg("head_log_chances"), py::arg("most"),
           py::arg("history") = py::none())
      .def(
          "write_to",
          [](RowIndex& row, py::handle tokens, py::handle parents, py::handle scores, py::handle chances,
             py::handle features, py::handle cells, py::handle count) {
            looking_up([&] { row.write_to({tokens, parents, scores, chances, features, cells, count}); });
          },
          py::arg("tokens"), py::arg("parents"), py::arg("scores"), py::arg("chances"), py::arg("features"),
          py::arg("cells"), py::arg("count"))
      .def_property_readonly("size", [](RowIndex& row) { return row.index().text().size(); })
      .def_property_readonly("steps", [](RowIndex& row) { return row.index().steps(); })
      .def_property_readonly("memory", [](RowIndex& row) { return row.index().text().bytes(); })
      .def(
          "extend",
          [](RowIndex& row, const std::vector<int64_t>& tokens) {
            looking_up([&] { extend(row.index().text(), tokens); });
          },
          py::arg("tokens"))
      .def(
          "propose",
          [](RowIndex& row, const std::vector<int64_t>& tokens) {
            return looking_up([&] { return row.propose(tokens); });
          },
          py::arg("tokens") = std::vector<int64_t>());
  module.def(
      "count_sources",
      [](py::handle sources, py::handle candidates, py::handle path, const std::vector<int64_t>& kept) {
        return with_input_errors("count_sources", [&] { return count_sources(sources, candidates, path, kept); });
      },
      py::arg("sources"), py::arg("candidates"), py::arg("path"), py::arg("kept"),
      "How many of the accepted candidates the draft, the text and both proposed.");
}

}  // namespace ltd
