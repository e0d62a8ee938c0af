// Rows that are longer than the nearest cache, a chunk at a time: read once from memory as floats, then some times from
// the cache. Included by kernel sources only.
#pragma once

#include "common/vector.h"

namespace ltd::LTD_ISA {
namespace {

// Elements handled at a time.
constexpr int64_t kChunk = 512;

enum class NaN { kKept, kLeast };

// Copies a chunk as floats, padded with -inf to whole vectors; NaN stays, or becomes -inf. Returns the maximum of what
// is not NaN.
template <NaN kNaN, typename T>
LTD_INLINE float copy_chunk(const T* source, int64_t count, float* target) {
  Floats peak = splat(-kInfinity);
  for (int64_t i = 0; i < count; i += kLanes) {
    const bool whole = i + kLanes <= count;
    const Floats x = whole ? load(source + i) : load_some(source + i, count - i, -kInfinity);
    const Floats number = x == x ? x : splat(-kInfinity);
    store(target + i, kNaN == NaN::kKept ? x : number);
    peak = larger(peak, number);
  }
  return largest_lane(peak);
}

}  // namespace
}  // namespace ltd::LTD_ISA
