// The CPU kernels, compiled once per instruction set, and the choice among them at run time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ltd {

struct AcceptChain;
struct AcceptGreedy;
struct AcceptSample;
struct CommitPath;
struct DraftToken;
struct ExpandBeam;
struct ForwardStack;
struct Linear;
struct PolicyAction;
struct RowEntropy;
struct SelectTree;
struct SummaryDecision;
struct TreeAttention;

// Kernels of all operators under one name. Those of select_tree and commit_path, which gain nothing from wide vectors,
// are the same for all instruction sets.
struct CpuKernels {
  const char* isa;
  void (*expand_beam)(const ExpandBeam&);
  void (*row_entropy)(const RowEntropy&);
  int64_t (*select_tree)(const SelectTree&);
  void (*tree_attention)(const TreeAttention&);
  void (*accept_greedy)(const AcceptGreedy&);
  void (*accept_sample)(const AcceptSample&);
  void (*draft_token)(const DraftToken&);
  void (*accept_chain)(const AcceptChain&);
  void (*commit_path)(const CommitPath&);
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

// Changes the kernels in use (for tests). Throws std::invalid_argument if `isa` is neither one of supported_cpu_isas()
// nor the name of added kernels.
void use_cpu_isa(const std::string& isa);

// Makes kernels from elsewhere usable under their name `added->isa` (for tests). In the place of those that are null
// come the widest that can be used here.
void add_kernels(const CpuKernels* added);

}  // namespace ltd
