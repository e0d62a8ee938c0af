#include "forward/gated_silu.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void gated_silu(const GatedSilu& a) {
  Memory memory;
  memory.may_read(a.gate_up, a.dtype, a.rows, 2 * a.size);
  memory.may_write(a.active, a.dtype, a.rows, a.size);
  run(memory, a, cuda::gated_silu_workspace, cuda::gated_silu);
}

}  // namespace ltd::emulation
