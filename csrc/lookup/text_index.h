// TextIndex: looks up the end of a text in the text itself. Where its last tokens stood before, the tokens that
// followed them then are candidates for what follows now.
//
// A place is an earlier position whose last m tokens are the text's last m; m is its match, counted up to 16. For the
// last 4, 2 and 1 tokens of every position the index knows the position before it with the same ones. Along these
// chains propose() looks at the 32 newest positions each, and the best 64 places by (match descending, newest first)
// speak. A place says what followed it; where the text ends, what it said goes on from its beginning. It falls silent
// where another text begins.
//
// What the places say is a tree of tokens. A child is a token that some of its parent's places say, and has these; its
// chance, if its parent is right, is looked up by the evidence for it:
//
//   cell = (match - 1) * 18 + agreement * 3 + rate
//
//   match      that of the child's best place, and one more for every token between it and the root, up to 16
//   agreement  among those of the parent's places that match longest: 0: there is one, and it says the token; 1: there
//              are more, and all do; if some do: 2: the newest does, 3: several do, 4: one does; 5: none does
//   rate       how often the best place was right lately: of an average that starts at 1/2, and that every appended
//              token with a place moves by an eighth, 0: below 1/3, 1: below 2/3, 2: from there on
//
// The tree's nodes are candidates in the order of their chance of being right, the product of those along their path;
// between equals, the one whose parent came first, then the one with the best place. None is less likely than 1 %, or
// more than 16 tokens deep.
//
// Memory is linear in the text; appending a token and proposing take constant time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ltd {

inline constexpr int kMaxText = 64;  // candidates, and places that speak
inline constexpr int kMaxTextDepth = 16;
inline constexpr int kMaxMatch = 16;
inline constexpr int kTextFeatures = 24;
inline constexpr int kAgreements = 6;
inline constexpr int kRates = 3;
inline constexpr int kEvidenceCells = kMaxMatch * kAgreements * kRates;
inline constexpr int32_t kSeparator = -1;  // stands between texts

// By the end of every sequence of so many tokens: the end of the same ones before it.
class EndChains {
 public:
  explicit EndChains(int length) : length_(length) {}

  int length() const { return length_; }

  // Of the same tokens as the ones that end here; -1 = none.
  int32_t before(int32_t end) const { return before_[end]; }

  // Takes the text's newest token in, once after every one; the number of steps that took.
  int64_t add(const std::vector<int32_t>& text);

  int64_t bytes() const;

 private:
  // The slot of the tokens that end there: the one with the same ones, or a free one.
  size_t slot_of(const std::vector<int32_t>& text, int32_t end, int64_t& steps) const;
  int64_t grow(const std::vector<int32_t>& text);

  int length_;
  std::vector<int32_t> before_;
  std::vector<int32_t> newest_;  // a hash table of ends, all of different tokens; -1 = free. At least half are.
  size_t used_ = 0;
};

// Where propose() writes, `most` columns each; 24 features.
struct TextRows {
  int64_t* tokens;
  int32_t* parents;  // text candidates, -1 = root
  float* scores;
  float* features;
  int32_t* cells;
};

class TextIndex {
 public:
  // `chances` are kEvidenceCells numbers above 0 and up to 1. The knots ascend strictly, as many of both; `most` is
  // 1 ... kMaxText.
  TextIndex(const float* chances, std::vector<float> head_scores, std::vector<float> head_log_chances, int64_t most);

  int64_t most() const { return most_; }
  int64_t size() const { return static_cast<int64_t>(text_.size()); }

  // Elementary steps so far: a token compared, looked up or taken up.
  int64_t steps() const { return steps_; }

  // That the text and its chains take.
  int64_t bytes() const;

  // A token or kSeparator, which matches nothing and is never proposed.
  void append(int32_t token);

  // Candidates at the end of the text; how many there are. Their scores are logs of their chances in the units of a
  // head, along lines between its knots, with slope 1 beyond them; the logs themselves without knots. Behind the
  // candidates stand token 0, parent -1, score -inf and cell -1. Features:
  //
  //   0 ...  7  of depth 1 ... 8, the highest log of a chance / 4; -20 / 4 without a candidate
  //   8 ... 15  the same, its exponential without the division
  //  16 ... 19  sums of the chances of the first 2, 4, 8 and all candidates
  //  20         the longest match / 16; 0 without a place
  //  21         how many places have it, up to 32, / 32
  //  22         candidates / 32
  //  23         the average behind the rate
  int64_t propose(const TextRows& rows);

 private:
  struct Place {
    int32_t end;
    int32_t match;
  };

  struct Node {
    double log_chance;
    uint64_t places;  // bit i: place i says it
    int32_t order;    // in which nodes were found
    int32_t parent;
    int32_t depth;  // tokens between it and the root
    int32_t token;
    int32_t cell;
  };

  static bool is_better(const Place& a, const Place& b);
  static bool comes_later(const Node& a, const Node& b);

  int match_at(int32_t end);
  void find_places(int most_steps, bool only_best);
  void rank_places();
  void grow_tree();
  void find_children(const Node& node, int32_t index);
  int rate_bin() const;
  double head_units(double log_chance) const;
  void write_candidates(const TextRows& rows) const;
  void write_features(float* features) const;

  std::array<double, kEvidenceCells> log_chances_;
  std::vector<float> head_scores_;
  std::vector<float> head_log_chances_;
  int64_t most_;
  std::vector<int32_t> text_;
  std::array<EndChains, 3> chains_{EndChains(4), EndChains(2), EndChains(1)};
  float rate_ = 0.5f;
  int64_t steps_ = 0;

  // Of the newest question.
  std::vector<Place> places_;
  std::array<uint64_t, kMaxText> same_match_;  // by place: those with its match
  std::vector<Node> nodes_;
  std::vector<Node> open_;  // a heap
  int32_t found_ = 0;
};

}  // namespace ltd
