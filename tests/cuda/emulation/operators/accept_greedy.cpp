#include "common/cuda_kernels.h"
#include "emulation/operators/tree_walk.h"

namespace ltd::emulation {

void accept_greedy(const AcceptGreedy& a) {
  Memory memory;
  may_walk(memory, a.walk);
  run(memory, a, cuda::accept_greedy_workspace, cuda::accept_greedy,
      [](AcceptGreedy& copy) -> Launch& { return copy.walk.launch; });
}

}  // namespace ltd::emulation
