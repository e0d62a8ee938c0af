// The CPU kernels, compiled once per instruction set, and the choice among them at run time.
#pragma once

#include <string>
#include <vector>

namespace ltd {

struct AcceptGreedy;
struct AcceptSample;
struct ExpandBeam;
struct ForwardStack;
struct Linear;
struct PolicyAction;
struct RowEntropy;
struct SummaryDecision;
struct TreeAttention;

// The operators whose arithmetic profits from wide vectors; select_tree and commit_path exist once.
struct CpuKernels {
  const char* isa;
  void (*expand_beam)(const ExpandBeam&);
  void (*row_entropy)(const RowEntropy&);
  void (*tree_attention)(const TreeAttention&);
  void (*accept_greedy)(const AcceptGreedy&);
  void (*accept_sample)(const AcceptSample&);
  void (*policy_action)(const PolicyAction&);
  void (*summary_decision)(const SummaryDecision&);
  void (*forward_stack)(const ForwardStack&);
  void (*linear)(const Linear&);
};

// The kernels in use: the widest that the processor and its operating system support, unless the environment variable
// LTD_CPU_ISA (baseline, avx2, avx512 or avx512_bf16) asks for narrower ones. Throws std::invalid_argument if it names
// anything else.
const CpuKernels& cpu_kernels();

// Names of the instruction sets that can be used here, narrowest first.
std::vector<std::string> supported_cpu_isas();

// Changes the kernels in use (for tests). Throws std::invalid_argument if `isa` is not one of supported_cpu_isas().
void use_cpu_isa(const std::string& isa);

}  // namespace ltd
