// What the operators that walk through the tree may read and write.
#pragma once

#include "accept/accept.h"
#include "emulation/run.h"

namespace ltd::emulation {

inline void may_walk(Memory& memory, const TreeWalk& walk) {
  memory.may_read(walk.logits, walk.batch, walk.nodes, walk.vocabulary);
  memory.may_read(walk.tokens, walk.batch, walk.nodes);
  memory.may_read(walk.first_child, walk.batch, walk.nodes);
  memory.may_read(walk.next_sibling, walk.batch, walk.nodes);
  memory.may_write(walk.path, walk.batch, walk.path_capacity);
  memory.may_write(walk.gained_tokens, walk.batch, walk.path_capacity);
  memory.may_write(walk.gained, walk.batch);
}

}  // namespace ltd::emulation
