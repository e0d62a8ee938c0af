#include "policy/summary_state.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void summary_state(const SummaryState& a) {
  Memory memory;
  memory.may_read(a.states, a.batch, 1, a.state_size);
  for (const PolicyLayer& layer : a.layers) {
    for (int64_t row = 0; row < layer.outputs; ++row) {
      memory.may_read(layer.weight + row * layer.inputs + a.state_from, a.state_size);
    }
    memory.may_read(layer.bias, layer.outputs);
  }
  memory.may_write(a.sums, a.batch, a.outputs());
  run(memory, a, cuda::summary_state_workspace, cuda::summary_state);
}

}  // namespace ltd::emulation
