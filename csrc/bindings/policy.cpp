// Binds the learned policies: depth_action, size_action, summary_state and summary_decision, and the class that asks
// without torch's dispatcher.
#include "bindings/policy.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "bindings/device.h"
#include "bindings/python_arguments.h"
#include "bindings/register.h"
#include "policy/policy_action.h"
#include "policy/summary_decision.h"

namespace ltd {
namespace {

using at::Tensor;
namespace py = pybind11;

// A network that reads so many inputs.
PolicyNetwork policy_network(const Tensors& tensors, int64_t inputs, at::TensorList weights, bool uses_tanh) {
  LTD_CHECK(weights.size() >= 2 && weights.size() % 2 == 0 && weights.size() <= 2 * kMaxPolicyLayers,
            "weights must be 1 to ", kMaxPolicyLayers, " pairs of weight and bias, but holds ", weights.size(),
            " tensors");
  PolicyNetwork network{};
  network.uses_tanh = uses_tanh;
  network.threads = at::get_num_threads();
  for (size_t i = 0; i < weights.size(); i += 2) {
    const std::string name = "weights[" + std::to_string(i) + "]";
    const std::string bias_name = "weights[" + std::to_string(i + 1) + "]";
    const Named weight{name.c_str(), weights[i]};
    PolicyLayer& layer = network.layers[network.layer_count++];
    layer.weight = tensors.checked<const float>(weight, {-1, inputs});
    LTD_CHECK(weights[i].is_contiguous() && weights[i].size(0) >= 1, name,
              " must be contiguous and not empty, but its shape is ", weights[i].sizes(), " and its strides are ",
              weights[i].strides());
    layer.inputs = inputs;
    layer.outputs = weights[i].size(0);
    layer.bias = tensors.checked<const float>({bias_name.c_str(), weights[i + 1]}, {layer.outputs});
    inputs = layer.outputs;
  }
  return network;
}

LengthRange length_range(int64_t shortest, int64_t longest) {
  check_range("longest", longest, 0, INT32_MAX);
  check_range("shortest", shortest, 0, longest);
  return {static_cast<int32_t>(shortest), static_cast<int32_t>(longest)};
}

Tensor run_policy_action(const Tensor& scores, const Tensor& lengths, int64_t depth, int64_t score_slots,
                         int64_t repeats, at::TensorList weights, bool uses_tanh, int64_t shortest, int64_t longest) {
  const Tensors tensors(scores.device());
  PolicyAction a{};
  a.scores = tensors.rows<const float>({"scores", scores}, -1, -1);
  a.batch = scores.size(0);
  a.score_count = scores.size(1);
  check_range("repeats", repeats, 0, kMaxSize);
  check_range("score_slots", score_slots, 0, kMaxSize);
  LTD_CHECK(a.score_count <= score_slots, "scores must have at most score_slots = ", score_slots,
            " columns, but its shape is ", scores.sizes());
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  a.length_range = length_range(shortest, longest);
  a.score_slots = score_slots;
  a.repeats = repeats;
  a.depth = depth;
  a.network = policy_network(tensors, score_slots + 2 * repeats, weights, uses_tanh);
  Tensor actions = at::empty({a.batch}, scores.options().dtype(at::kInt));
  a.actions = written<int32_t>(actions);
  run<PolicyAction>(tensors.device(), LTD_KERNELS(policy_action), a, a.launch);
  return actions;
}

Tensor policy_action_meta(const Tensor& scores, const Tensor&, int64_t, int64_t, int64_t, at::TensorList, bool, int64_t,
                          int64_t) {
  return at::empty_symint({scores.sym_size(0)}, scores.options().dtype(at::kInt));
}

// --- the arguments of a SummaryDecision, in the order in which they can be filled in; its text_size comes first ---

void set_ranked(SummaryDecision& a, int64_t best, int64_t newest) {
  check_range("best", best, 1, kMaxRanked);
  check_range("newest", newest, 1, kMaxRanked);
  a.best = best;
  a.newest = newest;
}

void set_tree(SummaryDecision& a, const Tensors& tensors, const Tensor& scores, int64_t count, int64_t newest_from,
              const Tensor& lengths, int64_t depth) {
  a.scores = tensors.rows<const float>({"scores", scores}, -1, -1);
  a.batch = scores.size(0);
  check_range("count", count, 0, scores.size(1));
  check_range("newest_from", newest_from, 0, count);
  check_range("depth", depth, a.text_size > 0 ? -1 : 0, kMaxDepth);
  LTD_CHECK(depth >= 0 || count == 0, "count must be 0 at depth -1, where nothing is drafted yet, but is ", count);
  a.lengths = tensors.per_row<const int32_t>({"lengths", lengths}, a.batch);
  a.score_count = count;
  a.newest_from = newest_from;
  a.depth = depth;
}

// Of this size; -1 is any.
void set_states(SummaryDecision& a, const Tensors& tensors, const Tensor& states, int64_t size) {
  const Named named{"states", states};
  a.states = tensors.float_matrices(named, a.batch, 1);
  check_sizes(named, {a.batch, 1, size});
  a.state_size = states.size(2);
}

void set_text(SummaryDecision& a, const Tensors& tensors, const Tensor& text) {
  a.text = tensors.rows<const float>({"text", text}, a.batch, a.text_size);
}

// A network that reads so many inputs, with layers of so many outputs. Its weights begin at `weights`, which moves on
// behind them.
PolicyNetwork flat_network(const char* name, int64_t inputs, at::IntArrayRef layers, bool uses_tanh,
                           const float*& weights, const float* end) {
  LTD_CHECK(layers.size() <= kMaxPolicyLayers, name, " must be at most ", kMaxPolicyLayers, " numbers, but are ",
            layers);
  PolicyNetwork network{};
  network.uses_tanh = uses_tanh;
  network.threads = at::get_num_threads();
  for (const int64_t outputs : layers) {
    LTD_CHECK(outputs >= 1 && outputs <= kMaxLayerOutputs, name, " must be 1 to ", kMaxLayerOutputs, ", but are ",
              layers);
    const int64_t count = outputs * (inputs + 1);
    LTD_CHECK(count <= end - weights, "weights must hold all layers, but end before those of ", name, " = ", layers);
    network.layers[network.layer_count++] = {weights, weights + outputs * inputs, inputs, outputs};
    weights += count;
    inputs = outputs;
  }
  return network;
}

// Both networks. They keep pointing to the weights.
void set_networks(SummaryDecision& a, const float* weights, int64_t weight_count, at::IntArrayRef depth_layers,
                  at::IntArrayRef size_layers, bool uses_tanh) {
  const float* const end = weights + weight_count;
  check_range("states", a.state_size, 0, kMaxSize);
  a.depth_network = flat_network("depth_layers", a.width(), depth_layers, uses_tanh, weights, end);
  a.size_network = flat_network("size_layers", a.width(), size_layers, uses_tanh, weights, end);
  LTD_CHECK(weights == end, "weights must be those of all layers, but ", end - weights, " of ", weight_count,
            " are left");
}

// How many sums summary_state makes of a sequence.
int64_t first_outputs(at::IntArrayRef depth_layers, at::IntArrayRef size_layers) {
  return (depth_layers.empty() ? 0 : depth_layers[0]) + (size_layers.empty() ? 0 : size_layers[0]);
}

Tensor run_summary_state(const Tensor& states, const Tensor& weights, at::IntArrayRef depth_layers,
                         at::IntArrayRef size_layers, int64_t best, int64_t newest, bool reads_text) {
  const Tensors tensors(states.device());
  check_sizes({"states", states}, {-1, 1, -1});
  SummaryDecision a{};
  a.batch = states.size(0);
  a.text_size = reads_text ? kTextFeatures : 0;
  set_ranked(a, best, newest);
  set_states(a, tensors, states, -1);
  const float* data = tensors.checked<const float>({"weights", weights}, {-1});
  set_networks(a, data, weights.size(0), depth_layers, size_layers, false);
  SummaryState state = a.state();
  checked_count("sums", {a.batch, state.outputs()});
  Tensor sums = at::empty({a.batch, state.outputs()}, weights.options());
  state.sums = {written<float>(sums), state.outputs()};
  if (sums.numel() > 0) run<SummaryState>(tensors.device(), LTD_KERNELS(summary_state), state, state.launch);
  return sums;
}

Tensor summary_state_meta(const Tensor& states, const Tensor& weights, at::IntArrayRef depth_layers,
                          at::IntArrayRef size_layers, int64_t, int64_t, bool) {
  return at::empty_symint({states.sym_size(0), first_outputs(depth_layers, size_layers)}, weights.options());
}

void run_summary_decision(const Tensor& scores, int64_t count, int64_t newest_from, const Tensor& lengths,
                          int64_t depth, int64_t best, int64_t newest, const std::optional<Tensor>& states,
                          const std::optional<Tensor>& text, const Tensor& weights, at::IntArrayRef depth_layers,
                          at::IntArrayRef size_layers, bool uses_tanh, Tensor actions, int64_t shortest,
                          int64_t longest, const std::optional<Tensor>& sums) {
  const Tensors tensors(scores.device());
  SummaryDecision a{};
  a.text_size = text.has_value() ? kTextFeatures : 0;
  set_ranked(a, best, newest);
  a.length_range = length_range(shortest, longest);
  set_tree(a, tensors, scores, count, newest_from, lengths, depth);
  if (states.has_value()) set_states(a, tensors, *states, -1);
  if (text.has_value()) set_text(a, tensors, *text);
  const float* data = tensors.checked<const float>({"weights", weights}, {-1});
  set_networks(a, data, weights.size(0), depth_layers, size_layers, uses_tanh);
  LTD_CHECK(!sums.has_value() || states.has_value(), "sums must be those of states, but there are none");
  if (sums.has_value()) {
    a.sums = tensors.rows<const float>({"sums", *sums}, a.batch, first_outputs(depth_layers, size_layers));
  }
  a.actions = tensors.rows<int32_t>({"actions", actions}, a.batch, 2);
  run<SummaryDecision>(tensors.device(), LTD_KERNELS(summary_decision), a, a.launch);
}

// --- the same without torch's dispatcher, which takes longer than the kernel ---

class SummaryAsker {
 public:
  SummaryAsker(py::handle weights, const std::vector<int64_t>& depth_layers, const std::vector<int64_t>& size_layers,
               int64_t best, int64_t newest, int64_t states, bool uses_tanh, int64_t shortest, int64_t longest,
               int64_t text) {
    LTD_CHECK(text == 0 || text == kTextFeatures, "text must be 0 or ", kTextFeatures, ", but is ", text);
    set_ranked(a_, best, newest);
    a_.state_size = states;
    a_.text_size = text;
    a_.length_range = length_range(shortest, longest);
    const Tensors tensors(at::kCPU);
    const Tensor& given = tensor_of("weights", weights);
    const float* data = tensors.checked<const float>({"weights", given}, {-1});
    weights_.assign(data, data + given.size(0));
    set_networks(a_, weights_.data(), given.size(0), depth_layers, size_layers, uses_tanh);
  }

  // The networks point into the weights.
  SummaryAsker(const SummaryAsker&) = delete;
  SummaryAsker& operator=(const SummaryAsker&) = delete;

  std::pair<int32_t, int32_t> ask(py::handle scores, int64_t count, int64_t newest_from, py::handle lengths,
                                  int64_t depth, py::handle states, py::handle text) {
    const Tensors tensors(at::kCPU);
    set_tree(a_, tensors, tensor_of("scores", scores), count, newest_from, tensor_of("lengths", lengths), depth);
    LTD_CHECK(a_.batch > 0, "scores must be of at least one sequence");
    if (a_.text_size > 0) set_text(a_, tensors, tensor_of("text", text));
    if (a_.reads_state()) read_states(tensors, states);
    actions_.resize(2 * a_.batch);
    a_.actions = {actions_.data(), 2};
    cpu_kernels().summary_decision(a_);
    return {upper_median(0), upper_median(1)};
  }

 private:
  // What the networks make of the states, or None for those of the last question that gave any.
  void read_states(const Tensors& tensors, py::handle states) {
    const int64_t outputs = a_.state().outputs();
    if (!states.is_none()) {
      summed_ = 0;  // until the new ones are
      set_states(a_, tensors, tensor_of("states", states), a_.state_size);
      SummaryState state = a_.state();
      sums_.resize(a_.batch * outputs);
      state.sums = {sums_.data(), outputs};
      cpu_kernels().summary_state(state);
      summed_ = a_.batch;
      a_.states = {};
    }
    LTD_CHECK(summed_ == a_.batch, "states must be a tensor, as none of ", a_.batch, " sequences came before");
    a_.sums = {sums_.data(), outputs};
  }

  // Over the batch, of the depth network's actions (0) or the size network's (1).
  int32_t upper_median(int network) {
    if (a_.batch == 1) return actions_[network];
    sorted_.clear();
    for (int64_t b = 0; b < a_.batch; ++b) sorted_.push_back(actions_[2 * b + network]);
    const auto middle = sorted_.begin() + a_.batch / 2;
    std::nth_element(sorted_.begin(), middle, sorted_.end());
    return *middle;
  }

  std::vector<float> weights_;
  std::vector<float> sums_;       // (B, outputs of both first layers), those of summary_state
  int64_t summed_ = 0;            // the B of sums_, 0 before there are any
  std::vector<int32_t> actions_;  // (B, 2)
  std::vector<int32_t> sorted_;
  SummaryDecision a_{};  // of the last question; the layout and the networks stay
};

// The operator's name, as messages begin.
template <typename Function>
auto asking(Function&& function) {
  return with_input_errors("summary_decision", function);
}

}  // namespace

void bind_policy(py::module_& module) {
  using Layers = std::vector<int64_t>;
  py::class_<SummaryAsker>(module, "SummaryAsker", "Asks what summary_decision decides, without torch's dispatcher.")
      .def(
          py::init([](py::handle weights, const Layers& depth_layers, const Layers& size_layers, int64_t best,
                      int64_t newest, int64_t states, bool uses_tanh, int64_t shortest, int64_t longest, int64_t text) {
            return asking([&] {
              return std::make_unique<SummaryAsker>(weights, depth_layers, size_layers, best, newest, states, uses_tanh,
                                                    shortest, longest, text);
            });
          }),
          py::arg("weights"), py::arg("depth_layers"), py::arg("size_layers"), py::arg("best"), py::arg("newest"),
          py::arg("states"), py::arg("uses_tanh"), py::arg("shortest"), py::arg("longest"), py::arg("text") = 0)
      .def(
          "ask",
          [](SummaryAsker& asker, py::handle scores, int64_t count, int64_t newest_from, py::handle lengths,
             int64_t depth, py::handle states, py::handle text) {
            return asking([&] { return asker.ask(scores, count, newest_from, lengths, depth, states, text); });
          },
          py::arg("scores"), py::arg("count"), py::arg("newest_from"), py::arg("lengths"), py::arg("depth"),
          py::arg("states"), py::arg("text") = py::none());
}

}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  for (const char* name : {"depth_action", "size_action"}) {
    ltd::define<ltd::run_policy_action, ltd::policy_action_meta>(
        library, name,
        "(Tensor scores, Tensor lengths, int depth, int score_slots, int repeats, Tensor[] weights, "
        "bool uses_tanh=False, int shortest=0, int longest=2147483647) -> Tensor");
  }
  ltd::define<ltd::run_summary_decision>(
      library, "summary_decision",
      "(Tensor scores, int count, int newest_from, Tensor lengths, int depth, int best, int newest, "
      "Tensor? states, Tensor? text, Tensor weights, int[] depth_layers, int[] size_layers, "
      "bool uses_tanh, Tensor(a!) actions, int shortest=0, int longest=2147483647, Tensor? sums=None) -> ()",
      "actions");
  ltd::define<ltd::run_summary_state, ltd::summary_state_meta>(
      library, "summary_state",
      "(Tensor states, Tensor weights, int[] depth_layers, int[] size_layers, int best, int newest, "
      "bool reads_text=False) -> Tensor");
}
