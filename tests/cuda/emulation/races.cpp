#include "emulation/races.h"

namespace ltd::emulation {

int Races::note(size_t byte, int thread, bool writes, bool is_atomic) {
  Cell& cell = cells_[byte];
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
    return -1;
  }
  if (is_atomic) return -1;  // only half of what an atomic does; it writes as well
  if (reads_are_over) {
    cell.more_readers = cell.more_warps = false;
  } else if (cell.reader != thread) {
    cell.more_readers = true;
    cell.more_warps |= !same_warp;
  }
  cell.read = time_;
  cell.reader = static_cast<int16_t>(thread);
  return -1;
}

}  // namespace ltd::emulation
