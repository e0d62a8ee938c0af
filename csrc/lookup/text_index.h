// TextIndex: looks up the end of a text in the text itself. Where its last tokens stood before, the tokens that
// followed them then are candidates for what follows now.
//
// Of the places that IndexedText finds along its chains, the 32 newest of each, the best 64 by (match descending,
// newest first) speak. A place says what followed it; where the text ends, what it said goes on from its beginning. It
// falls silent where another text begins.
//
// What the places say is a tree of tokens. A child is a token that some of its parent's places say, and has these; its
// chance, if its parent is right, is looked up by the evidence for it:
//
//   cell = (match - 1) * 18 + agreement * 3 + rate
//
//   match      that of the child's best place, and one more for every token between it and the root, up to 16
//   agreement  among those of the parent's places that match longest: 0: there is one, and it says the token; 1: there
//              are more, and all do; if some do: 2: the newest does, 3: several do, 4: one does; 5: none does
//   rate       0: below 1/3, 1: below 2/3, 2: from there on
//
// The tree's nodes are candidates in the order of their chance of being right, the product of those along their path;
// between equals, the one whose parent came first, then the one with the best place. None is less likely than 1 %, or
// more than 16 tokens deep.
//
// Proposing takes constant time.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common/types.h"
#include "lookup/indexed_text.h"

namespace ltd {

inline constexpr int kMaxTextDepth = 16;
inline constexpr int kAgreements = 6;
inline constexpr int kRates = 3;
inline constexpr int kEvidenceCells = kMaxMatch * kAgreements * kRates;

// Where propose() writes, `most` columns each; 24 features, and how many candidates there are.
struct TextRows {
  int64_t* tokens;
  int32_t* parents;  // text candidates, -1 = root
  float* scores;
  float* chances;
  float* features;
  int32_t* cells;
  int32_t* count;
};

class TextIndex {
 public:
  // `chances` are kEvidenceCells numbers above 0 and up to 1. The knots ascend strictly, as many of both; `most` is
  // 1 ... kMaxText; `text` is empty, or stands behind an earlier one.
  TextIndex(const float* chances, std::vector<float> head_scores, std::vector<float> head_log_chances, int64_t most,
            IndexedText text);

  // What is looked up, and in what; kSeparator in it is never proposed.
  IndexedText& text() { return text_; }
  const IndexedText& text() const { return text_; }

  // Elementary steps so far, the text's included: a token compared, looked up or taken up.
  int64_t steps() const { return steps_ + text_.steps(); }

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
  struct Node {
    double log_chance;
    uint64_t places;  // bit i: place i says it
    int32_t order;    // in which nodes were found
    int32_t parent;
    int32_t depth;  // tokens between it and the root
    int32_t token;
    int32_t cell;
  };

  static bool comes_later(const Node& a, const Node& b);

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
  IndexedText text_;
  int64_t steps_ = 0;

  // Of the newest question.
  std::vector<IndexedText::Place> places_;
  std::array<uint64_t, kMaxText> same_match_;  // by place: those with its match
  std::vector<Node> nodes_;
  std::vector<Node> open_;  // a heap
  int32_t found_ = 0;
};

}  // namespace ltd
