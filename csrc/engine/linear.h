// linear: rows times a packed weight.
//
// Every row's result is the same bit for bit, however many other rows are computed with it.
#pragma once

#include "common/types.h"
#include "engine/packed_linear.h"

namespace ltd {

struct Linear {
  DType dtype;
  int64_t rows;
  const void* x;  // (rows, inputs)
  PackedLinear weight;
  void* result;  // (rows, outputs)
  int threads;
};

}  // namespace ltd
