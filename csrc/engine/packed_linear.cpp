#include "engine/packed_linear.h"

#include <cstring>

namespace ltd {
namespace {

// Number of the element (output, input) in packed order.
int64_t place(int64_t output, int64_t input, int64_t inputs, DType dtype) {
  const int64_t width = dtype == DType::kFloat32 ? 1 : 2;
  const int64_t step = output / kBlockOutputs * packed_steps(inputs, dtype) + input / width;
  return (step * kBlockOutputs + output % kBlockOutputs) * width + input % width;
}

template <typename T>
void pack(const T* weight, int64_t row_stride, int64_t outputs, int64_t inputs, DType dtype, T* blocks) {
  const int64_t width = dtype == DType::kFloat32 ? 1 : 2;
  for (int64_t first = 0; first < outputs; first += kBlockOutputs) {
    const int64_t count = outputs - first < kBlockOutputs ? outputs - first : kBlockOutputs;
    for (int64_t input = 0; input < inputs;
         input += width) {  // in the order of the blocks, to write them in one stream
      T* const step = blocks + place(first, input, inputs, dtype);
      for (int64_t i = 0; i < count; ++i) {
        const T* const source = weight + (first + i) * row_stride + input;
        for (int64_t w = 0; w < width && input + w < inputs; ++w) step[i * width + w] = source[w];
      }
    }
  }
}

template <typename T>
void unpack(const T* blocks, int64_t output, int64_t inputs, DType dtype, T* row) {
  for (int64_t input = 0; input < inputs; ++input) row[input] = blocks[place(output, input, inputs, dtype)];
}

}  // namespace

void pack_linear(const void* weight, int64_t row_stride, int64_t outputs, int64_t inputs, DType dtype, void* blocks) {
  std::memset(blocks, 0, packed_blocks(outputs) * packed_steps(inputs, dtype) * kStepBytes);
  if (dtype == DType::kFloat32) {
    pack(static_cast<const float*>(weight), row_stride, outputs, inputs, dtype, static_cast<float*>(blocks));
  } else {
    pack(static_cast<const BFloat16*>(weight), row_stride, outputs, inputs, dtype, static_cast<BFloat16*>(blocks));
  }
}

void unpack_row(const void* blocks, int64_t output, int64_t inputs, DType dtype, void* row) {
  if (dtype == DType::kFloat32) {
    unpack(static_cast<const float*>(blocks), output, inputs, dtype, static_cast<float*>(row));
  } else {
    unpack(static_cast<const BFloat16*>(blocks), output, inputs, dtype, static_cast<BFloat16*>(row));
  }
}

}  // namespace ltd
