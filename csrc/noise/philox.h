// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1,
// 2, 3" (SC 2011): four 32-bit outputs that are a function of a 128-bit counter and a 64-bit key.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace ltd {

struct PhiloxBlock {
  uint32_t words[4];
};

LTD_INLINE PhiloxBlock philox4x32_10(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  uint32_t* c = counter.words;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0;
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1;
    c[0] = next0;
    c[1] = static_cast<uint32_t>(product1);
    c[2] = next2;
    c[3] = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// What a random number is for. Numbers for different ends are independent of one another.
enum RandomStream : uint32_t { kTargetStream, kDraftStream, kAcceptanceStream, kResidualStream, kNoiseStream };

// The uniform number in [0, 1), a multiple of 2^-53, that decides about the token at `position` + 1 of `row`, the cycle
// of a chain.
LTD_INLINE double sampling_uniform(uint64_t seed, int64_t position, int64_t row, RandomStream stream) {
  const uint64_t drawn = static_cast<uint64_t>(position) + 1;
  const PhiloxBlock counter{
      {static_cast<uint32_t>(drawn), static_cast<uint32_t>(drawn >> 32), static_cast<uint32_t>(row), stream}};
  const PhiloxBlock random = philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (uint64_t{random.words[0]} << 32) | random.words[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace ltd
