#include "policy/summary_decision.h"

#include "common/cuda_kernels.h"
#include "emulation/operators/policy_network.h"
#include "emulation/run.h"

namespace ltd::emulation {

void summary_decision(const SummaryDecision& a) {
  Memory memory;
  memory.may_read(a.scores, a.batch, a.score_count);
  memory.may_read(a.lengths, a.batch);
  if (a.sums_to_find() > 0) memory.may_read(a.states, a.batch, 1, a.state_size);
  if (a.reads_state()) memory.may_read(a.sums, a.batch, a.state().outputs());
  memory.may_read(a.text, a.batch, a.text_size);
  may_read_network(memory, a.depth_network);
  may_read_network(memory, a.size_network);
  memory.may_write(a.actions, a.batch, 2);
  run(memory, a, cuda::summary_decision_workspace, cuda::summary_decision);
}

}  // namespace ltd::emulation
