// The CUDA kernels' launch functions: the same argument structs and results as the CPU's, on the stream in `launch`.
// Pointers are to device memory. They neither wait for the device nor allocate, so they can be captured in graphs; what
// they need besides is the workspace, whose bytes (0: none) *_workspace tells from sizes alone.
#pragma once

#include <cstdint>

namespace ltd {

struct AcceptChain;
struct AcceptGreedy;
struct AcceptSample;
struct CommitPath;
struct DraftToken;
struct ExpandBeam;
struct PolicyAction;
struct RowEntropy;
struct SelectTree;
struct SummaryDecision;
struct TreeAttention;

namespace cuda {

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

int64_t expand_beam_workspace(const ExpandBeam&);
int64_t row_entropy_workspace(const RowEntropy&);
int64_t select_tree_workspace(const SelectTree&);
int64_t tree_attention_workspace(const TreeAttention&);
int64_t accept_greedy_workspace(const AcceptGreedy&);
int64_t accept_sample_workspace(const AcceptSample&);
int64_t draft_token_workspace(const DraftToken&);
int64_t accept_chain_workspace(const AcceptChain&);
int64_t commit_path_workspace(const CommitPath&);
int64_t policy_action_workspace(const PolicyAction&);
int64_t summary_decision_workspace(const SummaryDecision&);

}  // namespace cuda
}  // namespace ltd
