// Who touched which byte of shared memory last, to find accesses that no barrier separates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

namespace ltd::emulation {

class Races {
 public:
  explicit Races(size_t bytes) : cells_(bytes) {}

  // A new block: all that was done before is over.
  void start_block() {
    if (time_ > kForget) forget();
    block_synced_ = ++time_;
  }

  // All threads of the block, or lanes of a warp, have met, and see what the others have done. A barrier of some lanes
  // counts for all of their warp.
  void meet_block() { block_synced_ = ++time_; }
  void meet_warp(int warp) { warp_synced_[warp] = ++time_; }

  struct Race {
    size_t byte;
    int thread;
  };

  // The first of the bytes that another thread touched at the same time as this one does, one of the two writing, and
  // that thread; nothing if all is well.
  std::optional<Race> note(size_t begin, size_t bytes, int thread, bool writes, bool is_atomic);

 private:
  static constexpr int kNobody = -1;
  static constexpr int kWarpSize = 32;
  static constexpr int kWarps = 32;

  // Times start again between blocks, long before they would overflow within one.
  static constexpr uint32_t kForget = UINT32_MAX / 2;

  // What is known of a byte. Small: every access reads those of all its bytes.
  struct Cell {
    uint32_t written = 0;  // when
    uint32_t read = 0;
    int16_t writer = kNobody;
    int16_t reader = kNobody;
    bool by_atomic = false;
    // Since the last barrier others read as well, maybe of other warps.
    bool more_readers = false;
    bool more_warps = false;
    bool unused = false;  // no padding: cells are compared as bytes

    bool operator==(const Cell& other) const { return std::memcmp(this, &other, sizeof(Cell)) == 0; }
  };
  static_assert(std::has_unique_object_representations_v<Cell>);

  void forget();
  int note(Cell& cell, int thread, bool writes, bool is_atomic) const;

  bool is_over(uint32_t time, int warp, bool same_warp) const {
    return time < block_synced_ || (same_warp && time < warp_synced_[warp]);
  }

  std::vector<Cell> cells_;
  uint32_t time_ = 0;
  uint32_t block_synced_ = 0;
  uint32_t warp_synced_[kWarps] = {};
};

}  // namespace ltd::emulation
