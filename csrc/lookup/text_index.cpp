#include "lookup/text_index.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace ltd {
namespace {

constexpr int kSteps = 32;  // along every chain for candidates
constexpr double kLeastChance = 0.01;
constexpr double kLeastLogFeature = -20;

}  // namespace

TextIndex::TextIndex(const float* chances, std::vector<float> head_scores, std::vector<float> head_log_chances,
                     int64_t most, IndexedText text)
    : head_scores_(std::move(head_scores)),
      head_log_chances_(std::move(head_log_chances)),
      most_(most),
      text_(std::move(text)) {
  for (int cell = 0; cell < kEvidenceCells; ++cell) log_chances_[cell] = std::log(static_cast<double>(chances[cell]));
}

int TextIndex::rate_bin() const { return text_.rate() < 1.0f / 3 ? 0 : text_.rate() < 2.0f / 3 ? 1 : 2; }

void TextIndex::rank_places() {
  std::sort(places_.begin(), places_.end(), IndexedText::is_better);
  if (places_.size() > kMaxText) places_.resize(kMaxText);
  for (size_t i = 0; i < places_.size(); ++i) {
    same_match_[i] = 0;
    for (size_t j = 0; j < places_.size(); ++j) {
      same_match_[i] |= uint64_t{places_[j].match == places_[i].match} << j;
    }
  }
}

// --- the tree ---

bool TextIndex::comes_later(const Node& a, const Node& b) {
  return a.log_chance < b.log_chance || (a.log_chance == b.log_chance && a.order > b.order);
}

void TextIndex::grow_tree() {
  text_.find_places(kSteps, false, places_);
  rank_places();
  nodes_.clear();
  open_.clear();
  found_ = 0;
  if (places_.empty()) return;
  Node root{};
  root.places = ~uint64_t{0} >> (kMaxText - places_.size());
  root.depth = -1;
  find_children(root, -1);
  while (!open_.empty() && static_cast<int64_t>(nodes_.size()) < most_) {
    std::pop_heap(open_.begin(), open_.end(), comes_later);
    const Node node = open_.back();
    open_.pop_back();
    nodes_.push_back(node);
    find_children(node, static_cast<int32_t>(nodes_.size()) - 1);
  }
}

void TextIndex::find_children(const Node& node, int32_t index) {
  static const double least_log_chance = std::log(kLeastChance);
  const int depth = node.depth + 1;
  if (depth == kMaxTextDepth) return;

  std::array<int32_t, kMaxText> says;
  uint64_t speaking = 0;
  for (uint64_t left = node.places; left != 0; left &= left - 1) {
    const int place = std::countr_zero(left);
    const int32_t end = places_[place].end;
    const int32_t distance = text_.size() - 1 - end;
    says[place] = text_.token(end + 1 + depth % distance);
    if (says[place] != kSeparator) speaking |= uint64_t{1} << place;
    ++steps_;
  }
  if (speaking == 0) return;

  const int best = std::countr_zero(speaking);
  const uint64_t longest = speaking & same_match_[best];
  const int longest_count = std::popcount(longest);
  for (uint64_t left = speaking; left != 0;) {
    const int first = std::countr_zero(left);
    uint64_t said = 0;
    for (uint64_t others = left; others != 0; others &= others - 1) {
      const int place = std::countr_zero(others);
      if (says[place] == says[first]) said |= uint64_t{1} << place;
      ++steps_;
    }
    left &= ~said;

    const int count = std::popcount(said & longest);
    int agreement = 4;
    if (count == 0) {
      agreement = 5;
    } else if (count == longest_count) {
      agreement = count == 1 ? 0 : 1;
    } else if (first == best) {
      agreement = 2;
    } else if (count > 1) {
      agreement = 3;
    }
    const int match = std::min(kMaxMatch, places_[first].match + depth);
    const int cell = ((match - 1) * kAgreements + agreement) * kRates + rate_bin();
    const double log_chance = node.log_chance + log_chances_[cell];
    if (log_chance < least_log_chance) continue;
    open_.push_back({log_chance, said, found_++, index, depth, says[first], cell});
    std::push_heap(open_.begin(), open_.end(), comes_later);
  }
}

// --- the answer ---

int64_t TextIndex::propose(const TextRows& rows) {
  grow_tree();
  write_candidates(rows);
  write_features(rows.features);
  *rows.count = static_cast<int32_t>(nodes_.size());
  return static_cast<int64_t>(nodes_.size());
}

double TextIndex::head_units(double log_chance) const {
  const std::vector<float>& logs = head_log_chances_;
  if (logs.empty()) return log_chance;
  const auto above = std::upper_bound(logs.begin(), logs.end(), log_chance) - logs.begin();
  if (above == 0) return head_scores_.front() + (log_chance - logs.front());
  if (above == static_cast<int64_t>(logs.size())) return head_scores_.back() + (log_chance - logs.back());
  const double low = logs[above - 1], high = logs[above];
  const double low_score = head_scores_[above - 1], high_score = head_scores_[above];
  return low_score + (log_chance - low) / (high - low) * (high_score - low_score);
}

void TextIndex::write_candidates(const TextRows& rows) const {
  const auto count = static_cast<int64_t>(nodes_.size());
  float lowest = INFINITY;  // so that rounding lets no score rise
  for (int64_t i = 0; i < count; ++i) {
    const Node& node = nodes_[i];
    lowest = std::min(lowest, static_cast<float>(head_units(node.log_chance)));
    rows.tokens[i] = node.token;
    rows.parents[i] = node.parent;
    rows.scores[i] = lowest;
    rows.chances[i] = static_cast<float>(std::exp(node.log_chance));
    rows.cells[i] = node.cell;
  }
  std::fill(rows.tokens + count, rows.tokens + most_, 0);
  std::fill(rows.parents + count, rows.parents + most_, -1);
  std::fill(rows.scores + count, rows.scores + most_, -INFINITY);
  std::fill(rows.chances + count, rows.chances + most_, 0.0f);
  std::fill(rows.cells + count, rows.cells + most_, -1);
}

void TextIndex::write_features(float* features) const {
  std::array<double, 8> best;  // by depth
  best.fill(kLeastLogFeature);
  std::array<double, 4> sums{};
  constexpr std::array<size_t, 4> kFirst{2, 4, 8, kMaxText};
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (static_cast<size_t>(node.depth) < best.size()) best[node.depth] = std::max(best[node.depth], node.log_chance);
    for (size_t s = 0; s < sums.size(); ++s) {
      if (i < kFirst[s]) sums[s] += std::exp(node.log_chance);
    }
  }
  for (size_t d = 0; d < best.size(); ++d) {
    features[d] = static_cast<float>(best[d] / 4);
    features[best.size() + d] = static_cast<float>(std::exp(best[d]));
  }
  for (size_t s = 0; s < sums.size(); ++s) features[16 + s] = static_cast<float>(sums[s]);
  const int longest = places_.empty() ? 0 : places_[0].match;
  const int count = places_.empty() ? 0 : std::min(32, std::popcount(same_match_[0]));
  features[20] = static_cast<float>(longest) / kMaxMatch;
  features[21] = static_cast<float>(count) / 32;
  features[22] = static_cast<float>(nodes_.size()) / 32;
  features[23] = text_.rate();
}

}  // namespace ltd
