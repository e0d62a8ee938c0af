#include "commit/commit_path.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void commit_path(const CommitPath& a) {
  Memory memory;
  memory.may_read(a.gained, a.batch);
  a.advance ? memory.may_write(a.lengths, a.batch) : memory.may_read(a.lengths, a.batch);
  for (int64_t b = 0; b < a.batch; ++b) memory.may_read(a.path[b].raw(), a.gained[b]);
  const auto may_move = [&](const CacheTensor& cache, int64_t layer, int64_t b, int64_t head) {
    const int64_t offset = layer * cache.layer_stride + b * cache.batch_stride + head * cache.head_stride;
    const auto row_at = [&](int64_t row) {
      return cache.data + (offset + (a.lengths[b] + row) * cache.row_stride) * a.element_bytes;
    };
    for (int64_t i = 0; i < a.gained[b]; ++i) {
      memory.may_read(row_at(a.path[b].raw()[i]), a.row_bytes);
      memory.may_write(row_at(i), a.row_bytes);
    }
  };
  for (int64_t layer = 0; layer < a.layers; ++layer) {
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t head = 0; head < a.heads; ++head) {
        may_move(a.keys, layer, b, head);
        may_move(a.values, layer, b, head);
      }
    }
  }
  run(memory, a, cuda::commit_path_workspace, cuda::commit_path);
}

}  // namespace ltd::emulation
