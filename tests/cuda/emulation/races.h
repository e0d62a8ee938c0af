// Who touched which byte of shared memory last, to find accesses that no barrier separates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ltd::emulation {

class Races {
 public:
  explicit Races(size_t bytes) : cells_(bytes) {}

  // A new block: all that was done before is over.
  void start_block() { block_synced_ = ++time_; }

  // All threads of the block, or lanes of a warp, have met, and see what the others have done. A barrier of some lanes
  // counts for all of their warp.
  void meet_block() { block_synced_ = ++time_; }
  void meet_warp(int warp) { warp_synced_[warp] = ++time_; }

  // A thread that touched the byte at the same time as this one does, one of the two writing; or -1, and all is well.
  int note(size_t byte, int thread, bool writes, bool is_atomic);

 private:
  static constexpr int kNobody = -1;
  static constexpr int kWarpSize = 32;
  static constexpr int kWarps = 32;

  struct Cell {
    uint64_t written = 0;  // when
    uint64_t read = 0;
    int16_t writer = kNobody;
    int16_t reader = kNobody;
    bool by_atomic = false;
    // Since the last barrier others read as well, maybe of other warps.
    bool more_readers = false;
    bool more_warps = false;
  };

  bool is_over(uint64_t time, int warp, bool same_warp) const {
    return time < block_synced_ || (same_warp && time < warp_synced_[warp]);
  }

  std::vector<Cell> cells_;
  uint64_t time_ = 0;
  uint64_t block_synced_ = 0;
  uint64_t warp_synced_[kWarps] = {};
};

}  // namespace ltd::emulation
