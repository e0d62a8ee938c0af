// The kernels of one instruction set, LTD_ISA: the build compiles this file and the kernels once for each.
#include "commit/commit_path.h"
#include "dispatch/cpu_kernels.h"
#include "select/select_tree.h"

#define LTD_STRING(name) #name
#define LTD_NAME(name) LTD_STRING(name)

namespace ltd::LTD_ISA {

void expand_beam(const ExpandBeam&);
void row_entropy(const RowEntropy&);
void tree_attention(const TreeAttention&);
void accept_greedy(const AcceptGreedy&);
void accept_sample(const AcceptSample&);
void draft_token(const DraftToken&);
void accept_chain(const AcceptChain&);
void policy_action(const PolicyAction&);
void summary_decision(const SummaryDecision&);
void forward_stack(const ForwardStack&);
void linear(const Linear&);

extern const CpuKernels kernels;
const CpuKernels kernels{LTD_NAME(LTD_ISA), expand_beam,      row_entropy,   select_tree,  tree_attention,
                         accept_greedy,     accept_sample,    draft_token,   accept_chain, commit_path,
                         policy_action,     summary_decision, forward_stack, linear};

}  // namespace ltd::LTD_ISA
