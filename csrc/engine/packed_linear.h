// The weight of a linear layer in the order in which the engine reads it.
//
// Outputs are taken in blocks of 32, the last one filled up with zeros. A block holds one step after the other; a step
// is one input of float32, or a pair of inputs of bfloat16 or float16 (behind an odd last input stands a zero), for the
// 32 outputs: 128 bytes in all types. So a block is one stream through memory. A pair of bfloat16 stands side by side,
// output by output, as processors multiply it, and as a shift and a mask make two floats of it; of float16 the first
// inputs of all outputs stand before the second ones, as processors convert whole vectors of them.
#pragma once

#include "common/types.h"

namespace ltd {

inline constexpr int64_t kBlockOutputs = 32;
inline constexpr int64_t kStepBytes = 128;

LTD_INLINE int64_t packed_blocks(int64_t outputs) { return (outputs + kBlockOutputs - 1) / kBlockOutputs; }

LTD_INLINE int64_t inputs_of_step(DType dtype) { return dtype == DType::kFloat32 ? 1 : 2; }

LTD_INLINE int64_t packed_steps(int64_t inputs, DType dtype) { return ceil_div(inputs, inputs_of_step(dtype)); }

struct PackedLinear {
  const char* blocks;
  const void* bias;  // (outputs) of the weight's type, or null
  int64_t outputs;
  int64_t inputs;
  int64_t steps;
};

// Writes a weight (outputs, inputs), its rows `row_stride` elements apart, in packed order.
void pack_linear(const void* weight, int64_t row_stride, int64_t outputs, int64_t inputs, DType dtype, void* blocks);

// Reads row `output` of a packed weight back: `inputs` elements.
void unpack_row(const void* blocks, int64_t output, int64_t inputs, DType dtype, void* row);

}  // namespace ltd
