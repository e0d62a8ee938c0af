#include "accept/accept_chain.h"
#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void draft_token(const DraftToken& a) {
  Memory memory;
  memory.may_read(a.logits, 1, 1, a.vocabulary);
  memory.may_write(a.token, 1);
  memory.may_write(a.chance, 1);
  run(memory, a, cuda::draft_token_workspace, cuda::draft_token);
}

}  // namespace ltd::emulation
