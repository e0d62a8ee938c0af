// What operators that keep noise may read and write of its ring.
#pragma once

#include "emulation/run.h"
#include "noise/place_noise.h"

namespace ltd::emulation {

inline void may_keep_noise(Memory& memory, const NoiseRing& ring, int64_t batch) {
  memory.may_write(ring.noise, batch, ring.slots, ring.vocabulary);
  memory.may_write(ring.places, batch, ring.slots);
  memory.may_read(ring.rows, batch);
  memory.may_read(ring.seed, 1);
}

}  // namespace ltd::emulation
