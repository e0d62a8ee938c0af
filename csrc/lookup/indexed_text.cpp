#include "lookup/indexed_text.h"

#include <algorithm>
#include <utility>

namespace ltd {
namespace {

constexpr int kRateSteps = 8;    // for the best place alone
constexpr float kRateShare = 8;  // of the average, what a token moves
constexpr size_t kFewestSlots = 16;

}  // namespace

IndexedText::IndexedText(std::shared_ptr<const IndexedText> earlier)
    : earlier_(std::move(earlier)), first_(earlier_->size()), rate_(earlier_->rate_) {}

int64_t IndexedText::bytes() const {
  size_t bytes = own_.capacity() * sizeof(Position);
  for (const Ends& ends : ends_) bytes += ends.slots.capacity() * sizeof(int32_t);
  return static_cast<int64_t>(bytes);
}

void IndexedText::append(int32_t token) {
  if (token != kSeparator) move_rate(token);
  own_.push_back({token, {-1, -1, -1}});
  for (size_t chain = 0; chain < kRuns.size(); ++chain) link(chain);
}

void IndexedText::move_rate(int32_t token) {
  find_places(kRateSteps, true, best_);
  if (best_.empty()) return;
  const Place& best = *std::min_element(best_.begin(), best_.end(), is_better);
  const float hit = this->token(best.end + 1) == token ? 1 : 0;
  rate_ += (hit - rate_) / kRateShare;
}

// --- places ---

int IndexedText::match_at(int32_t end) {
  const int32_t last = size() - 1;
  int match = 0;
  while (match < kMaxMatch && match <= end && token(end - match) == token(last - match) &&
         token(end - match) != kSeparator) {
    ++match;
  }
  steps_ += match;
  return match;
}

void IndexedText::find_places(int most_steps, bool only_best, std::vector<Place>& places) {
  places.clear();
  if (size() == 0) return;
  int above = kMaxMatch + 1;  // places that match so long were found along the chain before, if they were near enough
  for (size_t chain = 0; chain < kRuns.size(); ++chain) {
    int32_t end = at(size() - 1).before[chain];
    for (int step = 0; step < most_steps && end >= 0; ++step, end = at(end).before[chain]) {
      ++steps_;
      if (token(end + 1) == kSeparator) continue;  // says nothing
      const int match = match_at(end);
      if (match < above) places.push_back({end, match});
    }
    if (only_best && !places.empty()) return;
    above = kRuns[chain];
  }
}

// --- the chains ---

// Takes the newest token into one of them.
void IndexedText::link(size_t chain) {
  ++steps_;
  const int32_t end = size() - 1;
  Run run;
  if (!read_run(end, kRuns[chain], run)) return;
  Ends& ends = ends_[chain];
  if (2 * (ends.used + 1) > ends.slots.size()) grow(chain);
  int32_t& slot = ends.slots[slot_of(chain, run, steps_)];
  int32_t before = slot;
  if (before < 0) {
    ++ends.used;
    if (earlier_ != nullptr) before = earlier_->newest(chain, run, steps_);
  }
  own_.back().before[chain] = before;
  slot = end;
}

// False where there are fewer tokens of its own, or a separator is among them.
bool IndexedText::read_run(int32_t end, int length, Run& run) const {
  if (end - first_ + 1 < length) return false;
  for (int i = 0; i < length; ++i) run[i] = own_[end - first_ - i].token;
  return std::find(run.begin(), run.begin() + length, kSeparator) == run.begin() + length;
}

// The slot of a run: the one with the same tokens, or a free one.
size_t IndexedText::slot_of(size_t chain, const Run& run, int64_t& steps) const {
  const std::vector<int32_t>& slots = ends_[chain].slots;
  const int length = kRuns[chain];
  uint64_t hash = 0;
  for (int i = 0; i < length; ++i) {
    hash = (hash ^ static_cast<uint32_t>(run[i])) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  size_t slot = hash & (slots.size() - 1);
  for (; slots[slot] >= 0; slot = (slot + 1) & (slots.size() - 1)) {
    ++steps;
    const Position* end = &own_[slots[slot] - first_];
    int same = 0;
    while (same < length && (end - same)->token == run[same]) ++same;
    if (same == length) break;
  }
  return slot;
}

void IndexedText::grow(size_t chain) {
  std::vector<int32_t>& slots = ends_[chain].slots;
  const std::vector<int32_t> old = std::exchange(slots, {});
  slots.assign(std::max(kFewestSlots, 2 * old.size()), -1);
  steps_ += static_cast<int64_t>(slots.size());
  for (const int32_t end : old) {
    Run run;
    if (end >= 0 && read_run(end, kRuns[chain], run)) slots[slot_of(chain, run, steps_)] = end;
  }
}

// Where the run ended last, or -1.
int32_t IndexedText::newest(size_t chain, const Run& run, int64_t& steps) const {
  const std::vector<int32_t>& slots = ends_[chain].slots;
  return slots.empty() ? -1 : slots[slot_of(chain, run, steps)];
}

}  // namespace ltd
