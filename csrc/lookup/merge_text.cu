// One launch, a block per batch row. Every thread keeps some of the head's candidates, and all of them look at the
// text's candidates one after the other: the column of a parent must be known first.
#include "common/cuda_kernels.h"
#include "common/device.cuh"
#include "lookup/merge_text.h"

namespace ltd::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kThreadCandidates = kMaxCandidates / kThreads;
constexpr int32_t kNowhere = 0x7fffffff;  // of a candidate that the head does not have
constexpr int32_t kNoParent = -2;         // of none

static_assert(kMaxText <= kThreads);

struct Text {
  Array<int64_t, kMaxText> tokens;
  Array<int32_t, kMaxText> parents;
  Array<float, kMaxText> scores;
  Array<int32_t, kMaxText> columns;  // among the head's, or kNowhere

  // How many of the first `count` the head does not have.
  __device__ int count_appended(int count) const {
    int appended = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) appended += columns[i] == kNowhere;
    return appended;
  }
};

// The head's candidates that a thread keeps.
struct Kept {
  int64_t tokens[kThreadCandidates];
  int32_t parents[kThreadCandidates];

  // The thread's i-th.
  __device__ static int column(int i) { return i * kThreads + static_cast<int>(threadIdx.x); }

  __device__ Kept(const MergeText& a, int64_t b) {
#pragma unroll
    for (int i = 0; i < kThreadCandidates; ++i) {
      const bool is_there = column(i) < a.candidates;
      tokens[i] = is_there ? a.tokens[b][column(i)] : 0;
      parents[i] = is_there ? a.parents[b][column(i)] : kNoParent;
    }
  }

  // The first of them that is this token below that parent, or kNowhere.
  __device__ int32_t find(int32_t parent, int64_t token) const {
    int32_t found = kNowhere;
#pragma unroll
    for (int i = kThreadCandidates - 1; i >= 0; --i) {
      if (parents[i] == parent && tokens[i] == token) found = column(i);
    }
    return found;
  }
};

__device__ inline float number(float score) { return fmaxf(score, -kInfinity); }

__device__ inline void write(const MergeText& a, int64_t b, int column, int64_t token, float score, int32_t parent,
                             int8_t source) {
  a.tokens[b][column] = token;
  a.scores[b][column] = score;
  a.parents[b][column] = parent;
  a.sources[b][column] = source;
}

// Finds the text's candidates among the head's, which their threads write. Ends with a barrier behind the last column
// that was found.
__device__ void merge_candidates(const MergeText& a, int64_t b, const Kept& kept, int count, Text& text) {
  for (int i = 0; i < count; ++i) {
    const int32_t parent = text.parents[i] < 0 ? -1 : text.columns[text.parents[i]];
    if (parent == kNowhere) continue;  // for all threads
    const int32_t mine = kept.find(parent, text.tokens[i]);
    if (mine != kNowhere) atomicMin(&text.columns[i], mine);
    __syncthreads();
    if (mine != kNowhere && text.columns[i] == mine) {
      a.scores[b][mine] = fmaxf(number(a.scores[b][mine]), number(text.scores[i]));
      a.sources[b][mine] = kFromBoth;
    }
  }
}

// By a thread for every column that the text may fill.
__device__ void append_candidates(const MergeText& a, int64_t b, int count, const Text& text) {
  const int i = threadIdx.x, candidates = static_cast<int>(a.candidates);
  const int appended = text.count_appended(count);
  if (i < count && text.columns[i] == kNowhere) {
    int32_t parent = text.parents[i] < 0 ? -1 : text.columns[text.parents[i]];
    if (parent == kNowhere) parent = candidates + text.count_appended(text.parents[i]);
    write(a, b, candidates + text.count_appended(i), text.tokens[i], number(text.scores[i]), parent, kFromText);
  }
  if (i >= appended && i < a.text) write(a, b, candidates + i, global(a.roots)[b], -kInfinity, -1, 0);
  if (i == 0) global(a.appended)[b] = appended;
}

// Block (batch row).
__global__ void __launch_bounds__(kThreads) merge_rows(MergeText a) {
  await_earlier_kernels();
  LTD_SHARED(Text, text);
  const int64_t b = blockIdx.x;
  const int i = threadIdx.x, count = global(a.text_counts)[b];
  if (i < count) {
    text.tokens[i] = a.text_tokens[b][i];
    text.parents[i] = a.text_parents[b][i];
    text.scores[i] = a.text_scores[b][i];
    text.columns[i] = kNowhere;
  }
  const Kept kept(a, b);
  for (int column = i; column < a.candidates; column += kThreads) a.sources[b][column] = kFromHead;
  __syncthreads();
  merge_candidates(a, b, kept, count, text);
  if (i < kMaxText) append_candidates(a, b, count, text);
}

}  // namespace

int64_t merge_text_workspace(const MergeText&) { return 0; }

void merge_text(const MergeText& a) {
  if (a.batch == 0) return;
  launch<kStartsEarly>(merge_rows, dim3(static_cast<unsigned>(a.batch)), kThreads, 0, a.launch.stream, a);
}

}  // namespace ltd::cuda
