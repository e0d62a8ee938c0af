#include "emulation/run.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "emulation/block.h"
#include "emulation/memory.h"

namespace ltd::emulation {

namespace {

constexpr Range kNowhere{1, 0};

// What the running operator may reach, in order, without overlaps.
std::vector<Range> readable;
std::vector<Range> writable;

std::vector<Range> merged(const std::vector<Memory::Part>& parts, bool all) {
  std::vector<Range> ranges;
  for (const Memory::Part& part : parts) {
    if (all || part.writable) ranges.push_back({part.begin, part.end});
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  size_t count = 0;
  for (const Range& range : ranges) {
    if (count > 0 && range.begin <= ranges[count - 1].end) {
      ranges[count - 1].end = std::max(ranges[count - 1].end, range.end);
    } else {
      ranges[count++] = range;
    }
  }
  ranges.resize(count);
  return ranges;
}

void set_reach(const std::vector<Memory::Part>& parts) {
  readable = merged(parts, true);
  writable = merged(parts, false);
  forget_last_ranges();
}

// Whether the running thread has not yet waited for the kernels before.
bool is_early = false;

// The last range that begins at the address or before it.
const Range* range_before(const std::vector<Range>& ranges, uintptr_t address) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), address,
                                      [](uintptr_t value, const Range& range) { return value < range.begin; });
  return after == ranges.begin() ? nullptr : &*(after - 1);
}

}  // namespace

Range last_read = kNowhere;
Range last_written = kNowhere;

std::string describe_reach(uintptr_t address, bool writes) {
  if (is_early) return " before it has waited for the kernels before";
  const std::vector<Range>& ranges = writes ? writable : readable;
  const Range* before = range_before(ranges, address);
  const Range* after = before != nullptr ? before + 1 : ranges.data();
  std::string text;
  if (before != nullptr) {
    text += ", " + std::to_string(address - before->begin) + " bytes into a range of " +
            std::to_string(before->end - before->begin);
  }
  if (after != ranges.data() + ranges.size()) {
    text += ", " + std::to_string(after->begin - address) + " bytes before a range of " +
            std::to_string(after->end - after->begin);
  }
  return text;
}

void fail_alignment(size_t alignment) { fail("an address that is no multiple of " + std::to_string(alignment)); }

void forget_last_ranges() { last_read = last_written = kNowhere; }

void must_wait() {
  is_early = true;
  forget_last_ranges();
}

void has_waited() { is_early = false; }

bool may_reach(uintptr_t address, size_t bytes, bool writes) {
  if (is_early && is_in_kernel()) return false;
  const Range* range = range_before(writes ? writable : readable, address);
  if (range == nullptr || address + bytes > range->end) return false;
  if (is_in_kernel()) (writes ? last_written : last_read) = *range;
  return true;
}

void find_range(uintptr_t address, size_t bytes, bool writes) {
  if (!is_in_kernel()) fail("a launch function reaches the device's memory");
  if (may_reach(address, bytes, writes) || is_shared(address, bytes)) return;
  fail((writes ? "writes " : "reaches ") + std::to_string(bytes) + " bytes that it must not" +
       describe_reach(address, writes));
}

void Memory::add(const void* data, int64_t bytes, bool writable) {
  if (data == nullptr || bytes <= 0) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  parts_.push_back({begin, begin + static_cast<uintptr_t>(bytes), writable});
}

void run_on(const Memory& memory, int64_t workspace_bytes, const std::function<void(void* workspace)>& start) {
  // Aligned to 16 bytes and not more.
  std::vector<uint64_t> buffer(static_cast<size_t>(workspace_bytes) / 8 + 8);
  std::generate(buffer.begin(), buffer.end(), random_bits);
  char* workspace = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(buffer.data()) + 31) / 32 * 32 + 16);

  std::vector<Memory::Part> parts = memory.parts();
  const uintptr_t begin = reinterpret_cast<uintptr_t>(workspace);
  if (workspace_bytes > 0) parts.push_back({begin, begin + static_cast<uintptr_t>(workspace_bytes), true});
  set_reach(parts);
  try {
    start(workspace_bytes > 0 ? workspace : nullptr);
    throw_delayed();
  } catch (...) {
    set_reach({});
    throw;
  }
  set_reach({});
}

}  // namespace ltd::emulation
