// What the emulation's parts tell each other about memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ltd::emulation {

bool is_in_kernel();

// Makes the launch throw std::runtime_error, though the caller cannot throw: the current thread never goes on.
void give_up(const std::string& what);

// The same for launch functions, which go on until they return. Throws what they have done wrong by then.
void throw_delayed();

// Between kernels nothing may be reached.
void forget_last_ranges();

// Finds where the host's own variables are, before a kernel is run: its parameters are there, and constants.
void note_host();

// The stacks of all threads of a block.
extern uintptr_t stacks_begin;
extern size_t stacks_bytes;

// Whether this lies in a shared variable of the running block, and whether it lies anywhere near.
bool is_shared(uintptr_t address, size_t bytes);
bool is_in_shared_memory(uintptr_t address);

// Whether the running operator may reach this.
bool may_reach(uintptr_t address, size_t bytes, bool writes);

// Where an address lies among what may be reached, so that an index that is off by one can be told from a wild pointer.
std::string describe_reach(uintptr_t address, bool writes);

// Notes the current thread's access to shared memory. Returns what is wrong with it, or nothing: another thread's
// access to the same byte, one of the two writing, that no barrier separates from this one.
std::string note_shared(uintptr_t address, size_t bytes, bool writes, bool is_atomic);

}  // namespace ltd::emulation
