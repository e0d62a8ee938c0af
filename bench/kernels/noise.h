// Noise as a cycle has it.
#pragma once

#include "memory.h"
#include "noise/place_noise.h"

namespace ltd::bench {

// The noise of a batch of one; it has been made for no place.
inline NoiseRing noise_ring(Memory& memory, int64_t vocabulary) {
  constexpr int64_t kSlots = 32;
  NoiseRing ring{};
  ring.noise = {memory.zeros<float>(kSlots * vocabulary), kSlots * vocabulary, vocabulary};
  ring.places = {memory.copy(std::vector<int64_t>(kSlots, -1)), kSlots};
  ring.rows = memory.zeros<int64_t>(1);
  ring.seed = memory.zeros<int64_t>(1);
  ring.slots = kSlots;
  ring.vocabulary = vocabulary;
  return ring;
}

}  // namespace ltd::bench
