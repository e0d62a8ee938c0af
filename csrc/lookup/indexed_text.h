// IndexedText: a text that knows where its last tokens stood before.
//
// A place is an earlier position whose last m tokens are the text's last m; m is its match, counted up to 16. For the
// last 4, 2 and 1 tokens of every position the text knows the position before it with the same ones; places are found
// along these chains. What a step along a chain reads, the next step, what the place says and what it matches, lies
// together: between two questions a model's weights go through the caches, and every line is fetched anew.
//
// The rate is how often the best place was right lately: an average that starts at 1/2, and that every appended token
// with a place moves by an eighth.
//
// A text may stand behind an earlier one, which it looks up in as if it were its own beginning. Many may share that
// one, which takes no time: it is only read, and kSeparator at its end keeps all runs of tokens apart.
//
// Memory is linear in the text; appending a token takes constant time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ltd {

inline constexpr int kMaxMatch = 16;
inline constexpr int32_t kSeparator = -1;  // stands between texts: matches nothing

class IndexedText {
 public:
  struct Place {
    int32_t end;
    int32_t match;
  };

  static bool is_better(const Place& a, const Place& b) {
    return a.match > b.match || (a.match == b.match && a.end > b.end);
  }

  IndexedText() = default;

  // Behind an earlier text, which stands behind none, is empty or ends with kSeparator, and does not change any more.
  explicit IndexedText(std::shared_ptr<const IndexedText> earlier);

  // The earlier text included.
  int32_t size() const { return first_ + static_cast<int32_t>(own_.size()); }

  int32_t token(int32_t i) const { return at(i).token; }
  float rate() const { return rate_; }

  // Elementary steps so far: a token compared, looked up or taken up.
  int64_t steps() const { return steps_; }

  // Without the earlier text.
  int64_t bytes() const;

  // A token or kSeparator.
  void append(int32_t token);

  // The places of the text's end, unordered, from so many steps along every chain at most. What `only_best` leaves out
  // matches less than what it finds.
  void find_places(int most_steps, bool only_best, std::vector<Place>& places);

 private:
  static constexpr std::array<int, 3> kRuns{4, 2, 1};
  using Run = std::array<int32_t, 4>;  // the last tokens of a position, the newest first; as many as count

  struct Position {
    int32_t token;
    std::array<int32_t, 3> before;  // by length of run: where the same tokens ended before; -1 = nowhere
  };

  // The newest ends of all different runs of one length, a hash table; -1 = free. At least half are.
  struct Ends {
    std::vector<int32_t> slots;
    size_t used = 0;
  };

  const Position& at(int32_t i) const { return i < first_ ? earlier_->own_[i] : own_[i - first_]; }

  void move_rate(int32_t token);
  int match_at(int32_t end);
  bool read_run(int32_t end, int length, Run& run) const;
  void link(size_t chain);
  void grow(size_t chain);
  size_t slot_of(size_t chain, const Run& run, int64_t& steps) const;
  int32_t newest(size_t chain, const Run& run, int64_t& steps) const;

  std::shared_ptr<const IndexedText> earlier_;
  int32_t first_ = 0;  // of the own positions
  std::vector<Position> own_;
  std::array<Ends, 3> ends_;
  float rate_ = 0.5f;
  int64_t steps_ = 0;
  std::vector<Place> best_;  // of the newest token, for the rate
};

}  // namespace ltd
