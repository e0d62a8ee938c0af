// place_noise: the noise of a place in a text, and the ring in which operators keep it.
//
// A token is sampled as the argmax of logit / temperature + noise, whose law is softmax(logits / temperature) if the
// noise is Gumbel's. It belongs to (seed, row, position, token) alone, where `position` is that of the last token known
// and `row` the sequence's number in its call: draft and target, any tree and no tree at all see the same noise.
//
// Word token % 4 of Philox4x32-10 with the counter (position, row, token / 4, kNoiseStream), keyed by the seed, becomes
// noise as gumbel.h says.
#pragma once

#include "common/types.h"

namespace ltd {

struct PlaceNoise {
  const int64_t* seed;  // (1)
  int64_t row;          // 0 ... 2^32 - 1
  int64_t position;     // the same
  int64_t vocabulary;
  float* noise;  // (vocabulary)
  int threads;
  Launch launch;
};

// The noise of the places that operators have come to. Position p lies in slot p % slots; a slot that holds another
// place when it is wanted is made anew.
struct NoiseRing {
  Matrices<float> noise;  // (B, slots, vocabulary)
  Rows<int64_t> places;   // (B, slots), the positions that the slots hold, -1 = none
  const int64_t* rows;    // (B)
  const int64_t* seed;    // (1)
  int64_t slots;          // a power of two
  int64_t vocabulary;

  LTD_INLINE int64_t slot_of(int64_t position) const { return position & (slots - 1); }
};

}  // namespace ltd
