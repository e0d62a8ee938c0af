#include "lookup/merge_text.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void merge_text(const MergeText& a) {
  Memory memory;
  const int64_t columns = a.candidates + a.text;
  memory.may_read(a.text_counts, a.batch);
  for (int64_t b = 0; b < a.batch; ++b) {
    memory.may_read(a.text_tokens[b].raw(), a.text_counts[b]);
    memory.may_read(a.text_parents[b].raw(), a.text_counts[b]);
    memory.may_read(a.text_scores[b].raw(), a.text_counts[b]);
    memory.may_read(a.tokens[b].raw(), a.candidates);
    memory.may_read(a.parents[b].raw(), a.candidates);
    memory.may_write((a.tokens[b] + a.candidates).raw(), a.text);
    memory.may_write((a.parents[b] + a.candidates).raw(), a.text);
  }
  memory.may_read(a.roots, a.batch);
  memory.may_write(a.scores, a.batch, columns);
  memory.may_write(a.sources, a.batch, columns);
  memory.may_write(a.appended, a.batch);
  run(memory, a, cuda::merge_text_workspace, cuda::merge_text);
}

}  // namespace ltd::emulation
