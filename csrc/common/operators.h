// The list of all operators. From it come the table of CPU kernels and its copy for every instruction set, the CUDA
// kernels' launch functions, and the table of the tests' emulation of CUDA. A new operator is one line here, in the
// group of the kernels that it has.
//
// OPERATOR(name, Arguments): `name` is a function of its kernels' namespaces that takes a const Arguments&, the struct
// of the operator's contract.
#pragma once

// CPU kernels written with vectors, which are compiled once for every instruction set, and CUDA kernels.
#define LTD_VECTOR_OPERATORS(OPERATOR)        \
  OPERATOR(expand_beam, ExpandBeam)           \
  OPERATOR(row_entropy, RowEntropy)           \
  OPERATOR(tree_attention, TreeAttention)     \
  OPERATOR(accept_greedy, AcceptGreedy)       \
  OPERATOR(place_noise, PlaceNoise)           \
  OPERATOR(accept_sample, AcceptSample)       \
  OPERATOR(draft_token, DraftToken)           \
  OPERATOR(accept_chain, AcceptChain)         \
  OPERATOR(policy_action, PolicyAction)       \
  OPERATOR(summary_state, SummaryState)       \
  OPERATOR(summary_decision, SummaryDecision) \
  OPERATOR(add_rms_norm, AddRmsNorm)          \
  OPERATOR(rotate_and_store, RotateAndStore)  \
  OPERATOR(gated_silu, GatedSilu)

// The same, but one CPU kernel for all instruction sets: it gains nothing from wide vectors.
#define LTD_SCALAR_OPERATORS(OPERATOR) \
  OPERATOR(merge_text, MergeText)      \
  OPERATOR(select_tree, SelectTree)    \
  OPERATOR(commit_path, CommitPath)    \
  OPERATOR(gather_accepted, GatherAccepted)

// CPU kernels written with vectors only: the engine has no CUDA kernels.
#define LTD_ENGINE_OPERATORS(OPERATOR)  \
  OPERATOR(forward_stack, ForwardStack) \
  OPERATOR(linear, Linear)

#define LTD_CUDA_OPERATORS(OPERATOR) LTD_VECTOR_OPERATORS(OPERATOR) LTD_SCALAR_OPERATORS(OPERATOR)
#define LTD_OPERATORS(OPERATOR) LTD_CUDA_OPERATORS(OPERATOR) LTD_ENGINE_OPERATORS(OPERATOR)

namespace ltd {

#define LTD_DECLARE(name, Arguments) struct Arguments;
LTD_OPERATORS(LTD_DECLARE)
#undef LTD_DECLARE

}  // namespace ltd
