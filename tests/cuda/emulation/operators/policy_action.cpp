#include "policy/policy_action.h"

#include "common/cuda_kernels.h"
#include "emulation/operators/policy_network.h"
#include "emulation/run.h"

namespace ltd::emulation {

void policy_action(const PolicyAction& a) {
  Memory memory;
  memory.may_read(a.scores, a.batch, a.score_count);
  memory.may_read(a.lengths, a.batch);
  may_read_network(memory, a.network);
  memory.may_write(a.actions, a.batch);
  run(memory, a, cuda::policy_action_workspace, cuda::policy_action);
}

}  // namespace ltd::emulation
