#include "emulation/races.h"

#include <algorithm>

namespace ltd::emulation {

void Races::forget() {
  std::fill(cells_.begin(), cells_.end(), Cell{});
  std::fill(std::begin(warp_synced_), std::end(warp_synced_), 0u);
  time_ = block_synced_ = 0;
}

std::optional<Races::Race> Races::note(size_t begin, size_t bytes, int thread, bool writes, bool is_atomic) {
  // The bytes of a number have the same past nearly always, so one look at it does for all.
  Cell before, after;
  for (size_t byte = begin; byte < begin + bytes; ++byte) {
    Cell& cell = cells_[byte];
    if (byte > begin && cell == before) {
      cell = after;
      continue;
    }
    before = cell;
    const int other = note(cell, thread, writes, is_atomic);
    if (other != kNobody) return Race{byte, other};
    after = cell;
  }
  return std::nullopt;
}

// The thread that touched the byte at the same time, or kNobody.
int Races::note(Cell& cell, int thread, bool writes, bool is_atomic) const {
  const int warp = thread / kWarpSize;
  if (cell.writer != kNobody && cell.writer != thread && !(is_atomic && cell.by_atomic) &&
      !is_over(cell.written, warp, cell.writer / kWarpSize == warp)) {
    return cell.writer;
  }
  const bool same_warp = cell.reader / kWarpSize == warp && !cell.more_warps;
  const bool reads_are_over = cell.reader == kNobody || is_over(cell.read, warp, same_warp);
  if (writes) {
    if (!reads_are_over && (cell.reader != thread || cell.more_readers)) return cell.reader;
    cell.written = time_;
    cell.writer = static_cast<int16_t>(thread);
    cell.by_atomic = is_atomic;
    return kNobody;
  }
  if (is_atomic) return kNobody;  // only half of what an atomic does; it writes as well
  if (reads_are_over) {
    cell.more_readers = cell.more_warps = false;
  } else if (cell.reader != thread) {
    cell.more_readers = true;
    cell.more_warps |= !same_warp;
  }
  cell.read = time_;
  cell.reader = static_cast<int16_t>(thread);
  return kNobody;
}

}  // namespace ltd::emulation
