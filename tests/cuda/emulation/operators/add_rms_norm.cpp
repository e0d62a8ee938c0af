#include "forward/add_rms_norm.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void add_rms_norm(const AddRmsNorm& a) {
  Memory memory;
  // Without anything to add they stay as they are.
  a.addend.data == nullptr ? memory.may_read(a.states, a.dtype, a.rows, a.size)
                           : memory.may_write(a.states, a.dtype, a.rows, a.size);
  memory.may_read(a.addend, a.dtype, a.rows, a.size);
  memory.may_read(a.weight, a.dtype, a.size);
  memory.may_write(a.normed, a.dtype, a.rows, a.size);
  run(memory, a, cuda::add_rms_norm_workspace, cuda::add_rms_norm);
}

}  // namespace ltd::emulation
