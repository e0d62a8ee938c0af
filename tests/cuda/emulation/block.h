// A block of threads: what the twins of CUDA's built-ins are made of. Threads are fibres; a thread runs until it waits
// for others, then any other one that can goes on, in an order that the seed decides.
#pragma once

#include <cstdint>
#include <functional>
#include <source_location>
#include <string_view>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace ltd::emulation {

using Location = std::source_location;

inline constexpr int kLanes = 32;

// What the built-in variables say.
struct Indices {
  uint3 thread;
  uint3 block;
  dim3 threads;
  dim3 blocks;
};
extern Indices now;

// Throws std::runtime_error with the kernel, block and thread in front of `what` and the call's place behind it.
[[noreturn]] void fail(std::string_view what);
[[noreturn]] void fail(std::string_view what, const Location& where);

// For kernels, which make no strings: they must not reach the memory that those have.
[[noreturn]] void fail_index(int64_t index, int64_t count);
[[noreturn]] void fail_source(const char* operation, int lane, const Location& where);

inline int64_t checked_index(int64_t index, int64_t count) {
  if (index < 0 || index >= count) fail_index(index, count);
  return index;
}

// --- launches ---

struct Grid {
  dim3 blocks;
  Location where;

  Grid(dim3 blocks, Location where = Location::current()) : blocks(blocks), where(where) {}
  Grid(unsigned x, Location where = Location::current()) : blocks(x), where(where) {}
};

inline constexpr int64_t kMaxShared = 99 << 10;  // of a block, of all architectures that kernels are compiled for
inline constexpr int64_t kSharedUnasked = 48 << 10;

// Runs `kernel` in every thread of the grid, block after block. Of its room of shared memory, shared_bytes are dynamic.
void run_grid(const Grid& grid, int threads, int64_t shared_bytes, int64_t shared_room,
              const std::function<void()>& kernel);

// --- kernels that start before the ones before them have ended ---

// From now on the thread must reach nothing of the caller's, until it has waited for those kernels.
void must_wait();
void has_waited();

// --- threads that wait for each other ---

// Until all threads of the block are here. Returns of how many `vote` was true. A barrier that the tests took out
// returns this thread's own vote.
int meet_block(const char* operation, bool vote, const Location& where);

// Until all lanes of the mask are here; then the last one calls meet(data of the lanes, mask), where lanes that are not
// in the mask have no data. A null `meet` is a barrier for memory.
using Meeting = void (*)(void* const (&lanes)[kLanes], uint32_t mask);
void meet_warp(const char* operation, uint32_t mask, void* data, Meeting meet, const Location& where);

// Whether the tests took out the barrier here.
bool is_skipped(const Location& where);

// Whether they took out any.
bool skips_barrier();

// Lets other threads go first, or not: at atomics, whose order among threads is anyone's.
void perhaps_yield();

// Whether what the thread does now is atomic.
void set_in_atomic(bool value);

// A random number that the seed decides.
uint64_t random_bits();

// --- shared memory ---

// A shared variable, full of rubbish in every new block. `key` has one value for every variable.
struct SharedKey {
  uint64_t block = 0;  // the last one that had the variable
  void* data = nullptr;
};
void* new_shared(size_t bytes, size_t alignment);
uint64_t block_number();

template <typename T>
T& shared_variable(SharedKey& key) {
  if (key.block != block_number()) key = {block_number(), new_shared(sizeof(T), alignof(T))};
  return *static_cast<T*>(key.data);
}

char* dynamic_bytes(int64_t byte, int64_t bytes, int64_t alignment);

// Fails unless the block's shared memory holds all of this.
void check_shared(const void* data, size_t bytes);

// --- copies that arrive late ---

void copy_later(void* shared, const void* source, size_t bytes);
void close_copies();
void await_copies(int left);

}  // namespace ltd::emulation
