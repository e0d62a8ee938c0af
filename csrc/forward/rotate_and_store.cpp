#include "forward/rotate_and_store.h"

#include <cstring>

#include "common/scratch.h"
#include "common/team.h"
#include "forward/rows.h"

namespace ltd::LTD_ISA {
namespace {

// Below this many numbers a second thread costs more than it saves.
constexpr int64_t kNumbersPerThread = 1 << 16;

// `normed`: room for a head.
template <typename T, typename Table>
void store_head(const RotateAndStore& a, int64_t b, int64_t n, int64_t head, T* normed) {
  const HeadPlace<T> place = head_place<T>(a, b, n, head, a.lengths[b]);
  if (place.kind == HeadKind::kValue) {
    std::memcpy(place.target, place.source, a.head_dim * sizeof(T));
    return;
  }
  const T* source = place.source;
  const void* norm = place.kind == HeadKind::kQuery ? a.query_norm : a.key_norm;
  if (norm != nullptr) {
    norm_row<T>(source, static_cast<const T*>(norm), a.head_dim, a.epsilon, normed);
    source = normed;
  }
  const int64_t angles = a.rows[b][n] * a.head_dim;
  const auto table = [&](const void* all) { return static_cast<const Table*>(all) + angles; };
  rotate_row<T, Table>(source, table(a.cosines), table(a.sines), a.head_dim, static_cast<T*>(place.target));
}

template <typename T, typename Table>
void store_heads(const RotateAndStore& a) {
  const int64_t heads = a.query_heads + 2 * a.kv_heads;
  const int64_t numbers = a.batch * a.nodes * heads * a.head_dim;
  const int threads = static_cast<int>(at_most(numbers / kNumbersPerThread + 1, a.threads));
  for_items(threads, a.batch * a.nodes, [&](int64_t item) {
    thread_local Scratch memory;
    T* const normed = memory.reserve<T>(a.head_dim);
    for (int64_t head = 0; head < heads; ++head) {
      store_head<T, Table>(a, item / a.nodes, item % a.nodes, head, normed);
    }
  });
}

}  // namespace

void rotate_and_store(const RotateAndStore& a) {
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    a.table_dtype == DType::kFloat32 ? store_heads<T, float>(a) : store_heads<T, T>(a);
  });
}

}  // namespace ltd::LTD_ISA
