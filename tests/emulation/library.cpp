// What the tests load: the table of emulated kernels, and what they decide about the emulation.
#include <string>

#include "dispatch/cpu_kernels.h"
#include "emulation/control.h"

#define LTD_EXPORT extern "C" __attribute__((visibility("default")))

namespace ltd::emulation {

void expand_beam(const ExpandBeam&);
void row_entropy(const RowEntropy&);
void select_tree(const SelectTree&);
void tree_attention(const TreeAttention&);
void accept_greedy(const AcceptGreedy&);
void accept_sample(const AcceptSample&);
void draft_token(const DraftToken&);
void accept_chain(const AcceptChain&);
void commit_path(const CommitPath&);
void policy_action(const PolicyAction&);
void summary_decision(const SummaryDecision&);

namespace {

// The engine has no CUDA kernels. On the device select_tree finds no mistakes of its caller.
const CpuKernels kernels{
    .isa = "emulated cuda",
    .expand_beam = expand_beam,
    .row_entropy = row_entropy,
    .select_tree = [](const SelectTree& a) -> int64_t { return select_tree(a), -1; },
    .tree_attention = tree_attention,
    .accept_greedy = accept_greedy,
    .accept_sample = accept_sample,
    .draft_token = draft_token,
    .accept_chain = accept_chain,
    .commit_path = commit_path,
    .policy_action = policy_action,
    .summary_decision = summary_decision,
    .forward_stack = nullptr,
    .linear = nullptr,
};

}  // namespace

}  // namespace ltd::emulation

LTD_EXPORT const ltd::CpuKernels* ltd_emulated_kernels() { return &ltd::emulation::kernels; }

LTD_EXPORT void ltd_emulation_seed(uint64_t seed) { ltd::emulation::seed_random(seed); }

LTD_EXPORT int ltd_emulation_barriers() { return ltd::emulation::barrier_count(); }

LTD_EXPORT const char* ltd_emulation_barrier_place(int barrier) {
  static std::string text;
  text = ltd::emulation::barrier_place(barrier);
  return text.c_str();
}

LTD_EXPORT int64_t ltd_emulation_barrier_visits(int barrier) { return ltd::emulation::barrier_visits(barrier); }

LTD_EXPORT void ltd_emulation_skip_barrier(int barrier) { ltd::emulation::skip_barrier(barrier); }
