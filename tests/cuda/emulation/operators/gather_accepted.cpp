#include "commit/gather_accepted.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void gather_accepted(const GatherAccepted& a) {
  Memory memory;
  memory.may_read(a.gained, a.batch);
  for (int64_t b = 0; b < a.batch; ++b) {
    memory.may_read(a.path[b].raw(), a.gained[b]);
    memory.may_read(a.tokens[b].raw(), a.gained[b]);
    for (int64_t i = 0; i < a.gained[b] && a.features.data != nullptr; ++i) {
      memory.may_read(a.features.at(b, a.path[b].raw()[i]).raw(), a.row_bytes);
    }
  }
  memory.may_write(a.gathered, a.batch, a.places, a.row_bytes);
  memory.may_write(a.roots, a.batch);
  memory.may_write(a.report, a.batch, 2 + a.places);
  run(memory, a, cuda::gather_accepted_workspace, cuda::gather_accepted);
}

}  // namespace ltd::emulation
