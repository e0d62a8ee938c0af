#include "accept/accept_chain.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void accept_chain(const AcceptChain& a) {
  Memory memory;
  memory.may_read(a.logits, 1, a.count + 1, a.vocabulary);
  if (a.sampling.temperature > 0.0f) memory.may_read(a.draft_logits, 1, a.count, a.draft_vocabulary);
  memory.may_read(a.words, a.draft_vocabulary);
  memory.may_read(a.drafted, a.count);
  memory.may_write(a.result, 2);
  run(memory, a, cuda::accept_chain_workspace, cuda::accept_chain);
}

}  // namespace ltd::emulation
