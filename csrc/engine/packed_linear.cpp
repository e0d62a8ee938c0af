#include "engine/packed_linear.h"

#include <cstring>

namespace ltd {
namespace {

// Where the elements of a step stand: so far apart are those of two outputs, and those of two inputs.
struct StepOrder {
  int64_t inputs;  // of a step
  int64_t output_stride;
  int64_t input_stride;

  static StepOrder of(DType dtype) {
    if (dtype == DType::kFloat16) return {2, 1, kBlockOutputs};
    return dtype == DType::kBFloat16 ? StepOrder{2, 2, 1} : StepOrder{1, 1, 0};
  }
};

// The step of a block that holds an input, as the elements from there on.
template <typename T>
T* step_of(T* blocks, int64_t output, int64_t input, int64_t inputs, const StepOrder& order) {
  const int64_t steps = ceil_div(inputs, order.inputs);
  return blocks + (output / kBlockOutputs * steps + input / order.inputs) * kBlockOutputs * order.inputs;
}

template <typename T>
void pack(const T* weight, int64_t row_stride, int64_t outputs, int64_t inputs, const StepOrder& order, T* blocks) {
  for (int64_t first = 0; first < outputs; first += kBlockOutputs) {
    const int64_t count = at_most(outputs - first, kBlockOutputs);
    for (int64_t input = 0; input < inputs; input += order.inputs) {  // in their order, to write them in one stream
      T* const step = step_of(blocks, first, input, inputs, order);
      for (int64_t i = 0; i < count; ++i) {
        const T* const source = weight + (first + i) * row_stride + input;
        for (int64_t k = 0; k < at_most(inputs - input, order.inputs); ++k) {
          step[i * order.output_stride + k * order.input_stride] = source[k];
        }
      }
    }
  }
}

template <typename T>
void unpack(const T* blocks, int64_t output, int64_t inputs, const StepOrder& order, T* row) {
  const T* source = step_of(blocks, output, 0, inputs, order) + output % kBlockOutputs * order.output_stride;
  for (int64_t input = 0; input < inputs; input += order.inputs) {
    for (int64_t k = 0; k < at_most(inputs - input, order.inputs); ++k) row[input + k] = source[k * order.input_stride];
    source += kBlockOutputs * order.inputs;
  }
}

}  // namespace

void pack_linear(const void* weight, int64_t row_stride, int64_t outputs, int64_t inputs, DType dtype, void* blocks) {
  std::memset(blocks, 0, packed_blocks(outputs) * packed_steps(inputs, dtype) * kStepBytes);
  with_type(dtype, [&]<typename T>(T) {
    pack(static_cast<const T*>(weight), row_stride, outputs, inputs, StepOrder::of(dtype), static_cast<T*>(blocks));
  });
}

void unpack_row(const void* blocks, int64_t output, int64_t inputs, DType dtype, void* row) {
  with_type(dtype, [&]<typename T>(T) {
    unpack(static_cast<const T*>(blocks), output, inputs, StepOrder::of(dtype), static_cast<T*>(row));
  });
}

}  // namespace ltd
