#include "attention/tree_attention.h"

#include "common/cuda_kernels.h"
#include "emulation/run.h"

namespace ltd::emulation {
namespace {

void may_read(Memory& memory, const TreeAttention& a, const HeadRows& rows, int64_t batch, int64_t heads,
              int64_t count) {
  const int64_t bytes = a.dtype == DType::kFloat32 ? 4 : 2;
  const char* const data = static_cast<const char*>(rows.data);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t row = 0; row < count; ++row) {
      const int64_t offset = batch * rows.batch_stride + head * rows.head_stride + row * rows.row_stride;
      memory.may_read(data + offset * bytes, a.head_dim * bytes);
    }
  }
}

}  // namespace

void tree_attention(const TreeAttention& a) {
  Memory memory;
  for (int64_t b = 0; b < a.batch; ++b) {
    may_read(memory, a, a.query, b, a.query_heads, a.nodes);
    may_read(memory, a, a.keys, b, a.kv_heads, a.lengths[b] + a.tree_rows);
    may_read(memory, a, a.values, b, a.kv_heads, a.lengths[b] + a.tree_rows);
  }
  memory.may_read(a.lengths, a.batch);
  memory.may_read(a.masks, a.batch, a.nodes, ceil_div(a.tree_rows, 64));
  memory.may_read(a.positions, a.batch, a.nodes);
  memory.may_write(a.counters, kMergeCounters);
  memory.may_write(a.output, a.dtype, a.batch * a.nodes * a.query_heads * a.head_dim);
  run(memory, a, cuda::tree_attention_workspace, cuda::tree_attention);
}

}  // namespace ltd::emulation
