// Rows of activations as the products of the engine read them. Included by engine sources only.
#pragma once

#include "common/types.h"
#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

#if defined(LTD_TILES)
// All tiles of a product are of one height: the last one may reach behind the last row.
constexpr int64_t kSpareRows = kTileHeight - 1;
#else
constexpr int64_t kSpareRows = 0;
#endif

// Rows of activations. Memory for kSpareRows more stands behind them, whatever it holds.
template <typename Activation>
struct ActivationRows {
  Activation* data;
  int64_t stride;

  LTD_INLINE Activation* operator[](int64_t row) const { return data + row * stride; }
};

// Rows apart by an odd number of cache lines: they would fall on each other in the cache if apart by a large power of
// two.
template <typename Activation>
LTD_INLINE int64_t activation_stride(int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(Activation);
  return ((size + 1 + kLine - 1) / kLine | 1) * kLine;
}

// Makes what a product of this kind reads behind the last of a row's `size` inputs zero.
template <typename Kind>
LTD_INLINE void zero_behind(typename Kind::Activation* row, int64_t size) {
  for (int64_t i = size; i % Kind::kInputsRead != 0; ++i) row[i] = {};
}

}  // namespace
}  // namespace ltd::LTD_ISA
