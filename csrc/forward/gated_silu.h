// gated_silu: the activation of a gated feed-forward block (Shazeer, 2020), silu(gate) * up with silu(x) = x / (1 +
// e^-x), rounded to the type after either step, as the layers of `transformers` do. silu(-inf) is NaN.
#pragma once

#include "forward/float_rows.h"

namespace ltd {

struct GatedSilu {
  DType dtype;
  FloatRows gate_up;  // (R, 2 * size), the gates first
  FloatRows active;   // (R, size)
  int64_t rows;       // R
  int64_t size;
  int threads;
  Launch launch;
};

}  // namespace ltd
