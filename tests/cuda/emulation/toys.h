// Small kernels, right and wrong ones, by which the emulation itself is tested.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace ltd::emulation {

struct Toy {
  const uint32_t* in;
  int64_t in_count;
  uint32_t* out;
  int64_t out_count;
  Launch launch;
};

using ToyFunction = void (*)(const Toy&);

// Null if there is none of the name.
ToyFunction find_toy(const char* name);

// Writes the place that locate() of accept/row_search.cuh finds in a row of masses, whose target is the last unit of
// their total. After the first pass a mass of m is m / kLater (0: nothing), as if rounded otherwise in another place.
template <int kLater>
void locate_mass(const Toy& a);

// Launches early a kernel that adds 1 to every input, and waits for the kernels before it at first, or too late.
template <bool kWaits>
void add_one_early(const Toy& a);

// Copies through shared memory, so many dynamic bytes beside it.
template <int kDynamicBytes>
void use_shared(const Toy& a);

// Of each toy, in bytes.
inline int64_t toy_workspace(const Toy&) { return 512; }

}  // namespace ltd::emulation
