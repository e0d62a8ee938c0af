#include "commit/commit_path.h"

#include <algorithm>
#include <cstring>

#include "common/team.h"

namespace ltd {
namespace {

// Below this many bytes a second thread costs more than it saves.
constexpr int64_t kBytesPerThread = 1 << 19;

void commit_head(const CommitPath& a, const CacheTensor& cache, int64_t layer, int64_t b, int64_t head) {
  const int64_t offset = layer * cache.layer_stride + b * cache.batch_stride + head * cache.head_stride;
  const int64_t row_step = cache.row_stride * a.element_bytes;
  char* tree = cache.data + offset * a.element_bytes + a.lengths[b] * row_step;
  // path[i] >= i, so a row is never overwritten before it was moved.
  for (int64_t i = 0; i < a.gained[b]; ++i) {
    const int64_t node = a.path[b][i];
    if (node != i) std::memcpy(tree + i * row_step, tree + node * row_step, a.row_bytes);
  }
}

void move_rows(const CommitPath& a) {
  int64_t moved = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t i = 0; i < a.gained[b]; ++i) moved += a.path[b][i] != i;
  }
  if (moved == 0) return;
  const int64_t bytes = 2 * moved * a.layers * a.heads * a.row_bytes;
  const int threads = static_cast<int>(std::min<int64_t>(a.threads, bytes / kBytesPerThread + 1));
  for_items(threads, a.layers * a.batch, [&](int64_t item) {
    for (int64_t head = 0; head < a.heads; ++head) {
      commit_head(a, a.keys, item / a.batch, item % a.batch, head);
      commit_head(a, a.values, item / a.batch, item % a.batch, head);
    }
  });
}

}  // namespace

void commit_path(const CommitPath& a) {
  move_rows(a);
  for (int64_t b = 0; b < a.batch && a.advance; ++b) a.lengths[b] += a.gained[b];
}

}  // namespace ltd
