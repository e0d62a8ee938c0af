// The weight of a linear layer in the order in which the engine reads it.
//
// Outputs are taken in blocks of 32, the last one filled up with zeros. A block holds one step after the other; a step
// is one input of float32, or a pair of inputs of bfloat16 (the pair of one output side by side; behind an odd last
// input stands a zero), for the 32 outputs: 128 bytes in both types. So a block is one stream through memory.
#pragma once

#include "common/types.h"

namespace ltd {

inline constexpr int64_t kBlockOutputs = 32;
inline constexpr int64_t kStepBytes = 128;

LTD_INLINE int64_t packed_blocks(int64_t outputs) { return (outputs + kBlockOutputs - 1) / kBlockOutputs; }

// `dtype`: kFloat32 or kBFloat16.
LTD_INLINE int64_t packed_steps(int64_t inputs, DType dtype) {
  return dtype == DType::kFloat32 ? inputs : (inputs + 1) / 2;
}

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
