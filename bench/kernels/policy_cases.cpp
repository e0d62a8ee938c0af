// Policies: the paper's observations and networks, and our own, of the sizes that are shipped.
#include "cases.h"
#include "policy/policy_action.h"
#include "policy/summary_decision.h"

namespace ltd::bench {
namespace {

constexpr int64_t kCandidates = kWidth + kDepth * kWidth * kWidth;
constexpr int64_t kBest = 12;
constexpr int64_t kNewest = 6;
constexpr int64_t kHidden = 48;
constexpr int64_t kSizeActions = 11;  // that ours can choose among
constexpr int64_t kStates = 576;      // of the default head; ours do not read them

struct Policy {
  const char* name;
  int64_t scores;
  int64_t slots;
  int64_t repeats;
  std::vector<int64_t> sizes;  // of the layers, inputs first
};

const Policy kDepthPolicy{"depth_action", kWidth * kWidth, 100, 14, {128, 1024, 2}};
const Policy kSizePolicy{"size_action", kCandidates, 1210, 29, {1268, 1024, 256, 24}};

int64_t weight_count(const std::vector<int64_t>& sizes) {
  int64_t count = 0;
  for (size_t i = 1; i < sizes.size(); ++i) count += (sizes[i - 1] + 1) * sizes[i];
  return count;
}

PolicyNetwork make_network(Memory& memory, const std::vector<int64_t>& sizes) {
  PolicyNetwork network{};
  network.layer_count = static_cast<int>(sizes.size()) - 1;
  network.threads = thread_count();
  for (int i = 0; i < network.layer_count; ++i) {
    PolicyLayer& layer = network.layers[i];
    layer.inputs = sizes[i];
    layer.outputs = sizes[i + 1];
    layer.weight = memory.copy(float_noise(layer.inputs * layer.outputs, 0.05f));
    layer.bias = memory.copy(float_noise(layer.outputs, 1.0f));
  }
  return network;
}

std::vector<float> made_scores(int64_t count) {
  std::vector<float> scores = float_noise(count, 3.0f);
  for (float& score : scores) score = score < 0.0f ? score : -score;
  return scores;
}

Call prepare_action(Memory& memory, const Policy& policy) {
  PolicyAction a{};
  a.scores = {memory.copy(made_scores(policy.scores)), policy.scores};
  a.lengths = memory.zeros<int32_t>(1);
  a.batch = 1;
  a.score_count = policy.scores;
  a.score_slots = policy.slots;
  a.repeats = policy.repeats;
  a.depth = kDepth;
  a.network = make_network(memory, policy.sizes);
  a.actions = memory.zeros<int32_t>(1);
  return call_of(LTD_OPERATOR(PolicyAction, policy_action), a, memory);
}

// The sizes of our own policies' question, or of one that reads the draft's state in the text's place.
SummaryDecision summary_sizes(bool reads_state) {
  SummaryDecision a{};
  a.batch = 1;
  a.score_count = kCandidates;
  a.newest_from = kCandidates - kWidth * kWidth;
  a.best = kBest;
  a.newest = kNewest;
  a.depth = kDepth;
  a.state_size = reads_state ? kStates : 0;
  a.text_size = reads_state ? 0 : kTextFeatures;
  return a;
}

std::vector<int64_t> summary_layers(const SummaryDecision& a, int64_t actions) { return {a.width(), kHidden, actions}; }

void add_networks(Memory& memory, SummaryDecision& a) {
  a.depth_network = make_network(memory, summary_layers(a, 2));
  a.size_network = make_network(memory, summary_layers(a, kSizeActions));
}

Call prepare_summary(Memory& memory) {
  SummaryDecision a = summary_sizes(false);
  a.scores = {memory.copy(made_scores(a.score_count)), a.score_count};
  a.lengths = memory.zeros<int32_t>(1);
  a.text = {memory.copy(float_noise(a.text_size, 1.0f)), a.text_size};
  add_networks(memory, a);
  a.actions = {memory.zeros<int32_t>(2), 2};
  return call_of(LTD_OPERATOR(SummaryDecision, summary_decision), a, memory);
}

Call prepare_state(Memory& memory) {
  SummaryDecision asked = summary_sizes(true);
  asked.states = {memory.copy(bfloat16_noise(kStates, 1.0f)), DType::kBFloat16, kStates, kStates};
  add_networks(memory, asked);
  SummaryState a = asked.state();
  a.sums = {memory.zeros<float>(a.outputs()), a.outputs()};
  return call_of(LTD_OPERATOR(SummaryState, summary_state), a, memory);
}

}  // namespace

void add_policy_cases(std::vector<Case>& cases) {
  for (const Policy* policy : {&kDepthPolicy, &kSizePolicy}) {
    cases.push_back({.name = std::string(policy->name) + "/scores:" + std::to_string(policy->scores),
                     .usual = true,
                     .bytes = 4.0 * static_cast<double>(policy->scores + weight_count(policy->sizes)),
                     .prepare = [policy](Memory& m) { return prepare_action(m, *policy); }});
  }
  const SummaryDecision ours = summary_sizes(false);
  const int64_t weights = weight_count(summary_layers(ours, 2)) + weight_count(summary_layers(ours, kSizeActions));
  cases.push_back({.name = "summary_decision/scores:" + std::to_string(kCandidates),
                   .usual = true,
                   .bytes = 4.0 * static_cast<double>(kCandidates + kTextFeatures + weights),
                   .prepare = prepare_summary});
  cases.push_back({.name = "summary_state/states:" + std::to_string(kStates),
                   .usual = true,
                   .bytes = static_cast<double>((4 * 2 * kHidden + kElement) * kStates),
                   .prepare = prepare_state});
}

}  // namespace ltd::bench
