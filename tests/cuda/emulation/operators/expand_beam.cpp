#include "expand/expand_beam.h"

#include "common/cuda_kernels.h"
#include "emulation/operators/noise_ring.h"

namespace ltd::emulation {

void expand_beam(const ExpandBeam& a) {
  Memory memory;
  const int64_t first = level_offset(a.level, a.width), children = a.rows * a.width;
  memory.may_read(a.logits, a.batch, a.rows, a.vocabulary);
  memory.may_read(a.d2t, a.vocabulary);
  for (int64_t b = 0; b < a.batch; ++b) {
    memory.may_write(a.tokens[b].raw() + first, children);
    memory.may_read(a.scores[b].raw(), first);
    memory.may_write(a.scores[b].raw() + first, children);
    memory.may_write(a.parents[b].raw() + first, children);
    if (a.level > 0) {
      memory.may_read(a.beam_nodes.at(b, a.level - 1).raw(), a.width);
      memory.may_read(a.beam_masks.at(b, a.level - 1).raw(), a.width * a.words);
    }
    memory.may_write(a.beam_nodes.at(b, a.level).raw(), a.width);
    memory.may_write(a.beam_masks.at(b, a.level).raw(), a.width * a.words);
  }
  memory.may_write(a.beam_rows, a.batch, a.width);
  memory.may_write(a.beam_tokens, a.batch, a.width);
  memory.may_read(a.lengths, a.batch);
  may_keep_noise(memory, a.ring, a.batch);
  run(memory, a, cuda::expand_beam_workspace, cuda::expand_beam);
}

}  // namespace ltd::emulation
