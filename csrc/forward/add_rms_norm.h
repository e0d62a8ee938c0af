// add_rms_norm: adds to the residual states, in place, and norms them (Zhang and Sennrich, 2019).
//
//   states <- states + addend                                       rounded to the type
//   normed <- weight * round(states / sqrt(mean(states²) + epsilon))  rounded to the type
//
// Rounded where the layers of `transformers` round; sums are float. NaN and infinities go where these formulas send
// them: a row with an infinity becomes NaN there and 0 elsewhere.
#pragma once

#include "forward/float_rows.h"

namespace ltd {

struct AddRmsNorm {
  DType dtype;
  FloatRows states;    // (R, size)
  FloatRows addend;    // (R, size) or none
  const void* weight;  // (size)
  FloatRows normed;    // (R, size)
  int64_t rows;        // R
  int64_t size;        // >= 1
  float epsilon;
  int threads;
  Launch launch;
};

}  // namespace ltd
