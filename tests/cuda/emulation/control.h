// What tests decide about the emulation: the order of threads, and barriers that are taken out.
#pragma once

#include <cstdint>
#include <string>

#include "emulation/block.h"

namespace ltd::emulation {

void seed_random(uint64_t seed);

// Barriers have numbers, in the order in which they are first reached.
int barrier_count();
std::string barrier_place(int barrier);

// How often threads came there.
int64_t barrier_visits(int barrier);

// Makes it do nothing; -1: none.
void skip_barrier(int barrier);

// "file:line"
std::string place(const Location& where);

}  // namespace ltd::emulation
