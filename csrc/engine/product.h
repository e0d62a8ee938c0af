// The products of the engine: rows of activations with packed weights. Included by engine sources only.
//
// Every element of the result is one sum in one order, however many rows are computed with it.
#pragma once

#include <utility>

#include "common/team.h"
#include "common/vector.h"
#include "engine/block_product.h"
#include "engine/packed_linear.h"
#include "forward/rows.h"

namespace ltd::LTD_ISA {
namespace {

// Multiply-adds below which a further thread costs more than it saves.
constexpr int64_t kWorkOfThread = 1 << 16;

LTD_INLINE int useful_threads(int64_t work, int threads) {
  return static_cast<int>(at_most(work / kWorkOfThread + 1, threads));
}

// Part of a product: blocks of outputs for some rows.
struct ProductItem {
  int64_t first_block;
  int64_t last_block;
  int64_t first_row;
  int64_t rows;
};

// How the work of a product is divided: so many blocks of outputs together, for the rows in so many groups.
struct ProductItems {
  int64_t rows;
  int64_t blocks;
  int64_t span;
  int64_t groups;
  int64_t count;

  ProductItems(int64_t rows, const PackedLinear& linear, int64_t threads, int64_t span = 1)
      : rows(rows), blocks(packed_blocks(linear.outputs)), span(span), groups(ceil_div(rows, kGroupRows)) {
    const int64_t spans = ceil_div(blocks, span);
    while (groups * spans < 2 * threads && groups * kProductRows < rows) ++groups;
    count = spans * groups;
  }

  ProductItem operator[](int64_t item) const {
    const int64_t block = item / groups * span;
    const int64_t row = rows * (item % groups) / groups;
    return {block, at_most(block + span, blocks), row, rows * (item % groups + 1) / groups - row};
  }
};

// Computes an item of x * weight, with memory for kGroupSums sums; finish(row, first output, its 32 sums) takes each
// result.
template <typename Kind, typename Finish>
void multiply(const ProductItem& item, ActivationRows<typename Kind::Activation> x, const PackedLinear& linear,
              float* sums, Finish&& finish) {
  for (int64_t block = item.first_block; block < item.last_block; ++block) {
    run_block<Kind>(x, item.first_row, item.rows, linear, block, sums);
    for (int64_t r = 0; r < item.rows; ++r) {
      finish(item.first_row + r, block * kBlockOutputs, sums + r * kBlockOutputs);
    }
  }
}

// A linear layer's output before it is rounded: sums plus bias, for the outputs `first` + i ... of which some may be
// missing.
template <typename Element>
LTD_INLINE Floats output_part(const PackedLinear& linear, const float* sums, int64_t first, int64_t i) {
  const Floats values = load(sums + i);
  if (linear.bias == nullptr) return values;
  return values + load_part(static_cast<const Element*>(linear.bias) + first + i, linear.outputs - first - i);
}

// Calls body(i, how many outputs from `first` + i on exist) for the vectors of a block.
template <typename Body>
LTD_INLINE void for_outputs(const PackedLinear& linear, int64_t first, Body&& body) {
  const int64_t count = at_most(linear.outputs - first, kBlockOutputs);
  for (int64_t i = 0; i < count; i += kLanes) body(i, count - i);
}

// An item of result = linear(x), rounded; rows of the result are `linear.outputs` apart.
template <typename Kind>
void store_product(const ProductItem& item, ActivationRows<typename Kind::Activation> x, const PackedLinear& linear,
                   float* sums, typename Kind::Element* result) {
  using Element = typename Kind::Element;
  multiply<Kind>(item, x, linear, sums, [&](int64_t row, int64_t output, const float* sums) {
    for_outputs(linear, output, [&](int64_t i, int64_t count) {
      store_part(result + row * linear.outputs + output + i, output_part<Element>(linear, sums, output, i), count);
    });
  });
}

}  // namespace
}  // namespace ltd::LTD_ISA
