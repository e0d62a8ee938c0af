#include "common/cuda_kernels.h"
#include "emulation/operators/noise_ring.h"
#include "emulation/operators/tree_walk.h"

namespace ltd::emulation {

void accept_sample(const AcceptSample& a) {
  Memory memory;
  may_walk(memory, a.walk);
  memory.may_read(a.positions, a.walk.batch, a.walk.nodes);
  may_keep_noise(memory, a.ring, a.walk.batch);
  run(memory, a, cuda::accept_sample_workspace, cuda::accept_sample,
      [](AcceptSample& copy) -> Launch& { return copy.walk.launch; });
}

}  // namespace ltd::emulation
