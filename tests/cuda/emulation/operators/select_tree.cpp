#include "select/select_tree.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void select_tree(const SelectTree& a) {
  Memory memory;
  memory.may_read(a.tokens, a.batch, a.candidates);
  memory.may_read(a.scores, a.batch, a.candidates);
  memory.may_read(a.parents, a.batch, a.candidates);
  memory.may_read(a.roots, a.batch);
  memory.may_read(a.lengths, a.batch);
  memory.may_write(a.node_tokens, a.batch, a.nodes);
  memory.may_write(a.node_parents, a.batch, a.nodes);
  memory.may_write(a.positions, a.batch, a.nodes);
  memory.may_write(a.masks, a.batch, a.nodes, a.words);
  memory.may_write(a.first_child, a.batch, a.nodes);
  memory.may_write(a.next_sibling, a.batch, a.nodes);
  memory.may_write(a.node_candidates, a.batch, a.nodes);
  run(memory, a, cuda::select_tree_workspace, cuda::select_tree);
}

}  // namespace ltd::emulation
