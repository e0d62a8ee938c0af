#include "entropy/row_entropy.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void row_entropy(const RowEntropy& a) {
  Memory memory;
  memory.may_read(a.logits, a.batch, a.rows, a.vocabulary);
  memory.may_write(a.entropies, a.batch, a.rows);
  run(memory, a, cuda::row_entropy_workspace, cuda::row_entropy);
}

}  // namespace ltd::emulation
