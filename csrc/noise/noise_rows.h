// The noise of whole rows on the CPU, for the operators that need it. Included by kernel sources only.
#pragma once

#include "noise/place_noise.h"

namespace ltd::LTD_ISA {

// The noise of `position` in batch row b of the ring, made if it is not there. The next call may write over it.
const float* noise_of(const NoiseRing& ring, int64_t b, int64_t position, int threads);

}  // namespace ltd::LTD_ISA
