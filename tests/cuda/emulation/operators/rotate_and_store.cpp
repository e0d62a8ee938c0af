#include "forward/rotate_and_store.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {

void rotate_and_store(const RotateAndStore& a) {
  Memory memory;
  memory.may_read(a.lengths, a.batch);
  memory.may_read(a.rows, a.batch, a.nodes);
  memory.may_read(a.query_norm, a.dtype, a.head_dim);
  memory.may_read(a.key_norm, a.dtype, a.head_dim);
  const auto may_read_angles = [&](const void* table, int64_t row) {
    const int64_t bytes = a.head_dim * (a.table_dtype == DType::kFloat32 ? 4 : 2);
    memory.may_read(static_cast<const char*>(table) + row * bytes, bytes);
  };
  const auto may_reach_head = [&](auto type, int64_t b, int64_t n, int64_t head) {
    const auto place = head_place<decltype(type)>(a, b, n, head, a.lengths[b]);
    memory.may_read(place.source.raw(), a.head_dim);
    memory.may_write(place.target.raw(), a.head_dim);
  };
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t n = 0; n < a.nodes; ++n) {
      may_read_angles(a.cosines, a.rows[b].raw()[n]);
      may_read_angles(a.sines, a.rows[b].raw()[n]);
      for (int64_t head = 0; head < a.query_heads + 2 * a.kv_heads; ++head) {
        with_type(a.dtype, [&](auto type) { may_reach_head(type, b, n, head); });
      }
    }
  }
  run(memory, a, cuda::rotate_and_store_workspace, cuda::rotate_and_store);
}

}  // namespace ltd::emulation
