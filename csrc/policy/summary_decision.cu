// Each sequence has two blocks, one for each network; both observe for themselves. What the networks make of the state
// is found before that, by many blocks.
#include "common/cuda_kernels.h"
#include "common/warp.cuh"
#include "policy/run_network.cuh"
#include "policy/summary_decision.h"

namespace ltd::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRankingWarps = 2;  // one for the best scores, one for the newest
constexpr int kScoresAtOnce = 4;  // of a lane

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }

// The largest `count` scores that a warp has been given, descending, over its lanes; -20 where there were fewer above
// -20.
class Ranking {
 public:
  __device__ explicit Ranking(int count) : count_(count) {}

  // Nearly all scores fail the comparison with the least of the ranking. NaN fails it too.
  __device__ void add(Pointer<const float> scores, int64_t score_count) {
    const int lane = threadIdx.x % kWarp;
    for (int64_t first = 0; first < score_count; first += kScoresAtOnce * kWarp) {
      float values[kScoresAtOnce];
#pragma unroll
      for (int i = 0; i < kScoresAtOnce; ++i) {
        const int64_t place = first + i * kWarp + lane;
        values[i] = place < score_count ? scores[place] : kLeastRanked;
      }
#pragma unroll
      for (int i = 0; i < kScoresAtOnce; ++i) add_lanes(values[i]);
    }
  }

  // Place lane + 32 * part.
  __device__ float value(int part) const { return values_[part]; }

 private:
  static constexpr int kParts = kMaxRanked / kWarp;

  __device__ float least() const {
    const int last = count_ - 1;
    return __shfl_sync(kAllLanes, values_[last / kWarp], last % kWarp);
  }

  __device__ void add_lanes(float value) {
    float bound = least();
    for (uint32_t above = __ballot_sync(kAllLanes, value > bound); above != 0; above &= above - 1) {
      const float candidate = __shfl_sync(kAllLanes, value, __ffs(static_cast<int>(above)) - 1);
      if (candidate > bound) {
        insert(candidate);
        bound = least();
      }
    }
  }

  // Every place takes the larger of what it holds and what comes down to it: its neighbour above, or the value if that
  // is smaller. Above the first place is infinity.
  __device__ void insert(float value) {
    float above[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const float before = part == 0 ? infinity() : __shfl_sync(kAllLanes, values_[part - 1], kWarp - 1);
      const float neighbour = __shfl_up_sync(kAllLanes, values_[part], 1);
      above[part] = threadIdx.x % kWarp == 0 ? before : neighbour;
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) values_[part] = fmaxf(values_[part], fminf(above[part], value));
  }

  int count_;
  float values_[kParts] = {kLeastRanked, kLeastRanked};
};

static_assert(kMaxRanked == 2 * kWarp);

// Ranks scores and writes them, their exponentials and the sum of the latter; for a whole warp.
__device__ void write_ranked(Pointer<const float> scores, int64_t score_count, int count, Pointer<float> ranked,
                             Pointer<float> exponentials, Pointer<float> sum) {
  Ranking ranking(count);
  ranking.add(scores, score_count);
  float mine = 0.0f;
#pragma unroll
  for (int part = 0; part < kMaxRanked / kWarp; ++part) {
    const int place = threadIdx.x % kWarp + part * kWarp;
    if (place >= count) continue;
    const float exponential = expf(ranking.value(part));
    ranked[place] = ranking.value(part) / kRankedUnit;
    exponentials[place] = exponential;
    mine += exponential;
  }
  mine = warp_sum(mine);
  if (threadIdx.x % kWarp == 0) *sum = mine;
}

// What is known besides scores and state: length, depth and text. By these threads of the block, as many as `step`.
__device__ void write_facts(const SummaryDecision& a, int64_t b, Pointer<float> observation, int first, int step) {
  const Pointer<float> facts = observation + (a.state_from() - (1 + kMaxDepth + 1));
  for (int i = first; i < 1 + kMaxDepth + 1; i += step) {
    facts[i] = i == 0 ? a.length_range.shown(global(a.lengths)[b]) : static_cast<float>(i - 1 == a.depth);
  }
  for (int i = first; i < a.text_size; i += step) observation[a.text_from() + i] = a.text[b][i];
}

// But for the state. The whole block; ends with a barrier.
__device__ void observe(const SummaryDecision& a, int64_t b, Pointer<float> observation) {
  const int warp = threadIdx.x / kWarp;
  const int best = static_cast<int>(a.best), newest = static_cast<int>(a.newest);
  const Pointer<float> exponentials = observation + best + newest;
  const Pointer<float> sums = exponentials + best + newest;
  if (warp == 0) {
    write_ranked(a.scores[b], a.score_count, best, observation, exponentials, sums);
  } else if (warp == 1) {
    write_ranked(a.scores[b] + a.newest_from, a.score_count - a.newest_from, newest, observation + best,
                 exponentials + best, sums + 1);
  } else {
    write_facts(a, b, observation, threadIdx.x - kRankingWarps * kWarp, kThreads - kRankingWarps * kWarp);
  }
  __syncthreads();
}

struct Observation {
  Pointer<const float> values;
  Span span;
  Pointer<const float> first_bias;

  __device__ Span used() const { return span; }
  __device__ Pointer<const float> bias(const PolicyNetwork&) const { return first_bias; }
  __device__ float operator()(int i) const { return values[i]; }
};

// What a block needs of the workspace: an observation and two halves of activations.
LTD_INLINE int64_t widest_of(const SummaryDecision& a) {
  const int64_t depth = widest_layer(a.depth_network), size = widest_layer(a.size_network);
  return depth > size ? depth : size;
}
LTD_INLINE int64_t floats_of_block(const SummaryDecision& a) { return a.width() + 2 * widest_of(a); }

// With sums, if the networks read the state.
__global__ void __launch_bounds__(kThreads, 1) decide(SummaryDecision a, int64_t depth_sums) {
  await_earlier_kernels();
  const int64_t b = blockIdx.x / 2;
  const int number = blockIdx.x % 2;
  const PolicyNetwork& network = number == 0 ? a.depth_network : a.size_network;
  int action = 0;
  if (network.layer_count > 0) {
    const Pointer<float> room = global(static_cast<float*>(a.launch.workspace)) + blockIdx.x * floats_of_block(a);
    const Activations activations{room + a.width(), widest_of(a)};
    const int width = static_cast<int>(a.width());
    Observation observation{room, {width, width}, global(network.layers[0].bias)};
    if (a.state_size > 0) observation.span = {static_cast<int>(a.state_from()), static_cast<int>(a.text_from())};
    if (a.reads_state()) observation.first_bias = a.sums[b] + (number == 0 ? 0 : depth_sums);
    observe(a, b, room);
    apply_layers(network, 0, network.layer_count, observation, activations);
    if (threadIdx.x < kWarp) action = largest_output(network, activations);
  }
  if (threadIdx.x == 0) a.actions[b][number] = action;
}

}  // namespace

// Behind what the blocks need come the sums that are found here.
int64_t summary_decision_workspace(const SummaryDecision& a) {
  return a.batch * (2 * floats_of_block(a) + a.sums_to_find()) * static_cast<int64_t>(sizeof(float));
}

void summary_decision(const SummaryDecision& a) {
  if (a.batch == 0) return;
  SummaryDecision known = a;
  SummaryState state = a.state();
  if (a.sums_to_find() > 0) {
    state.sums = {static_cast<float*>(a.launch.workspace) + 2 * a.batch * floats_of_block(a), state.outputs()};
    summary_state(state);
    known.sums = {state.sums.data, state.sums.batch_stride};
  }
  const dim3 blocks(static_cast<unsigned>(2 * a.batch));
  launch<kStartsEarly>(decide, blocks, kThreads, 0, a.launch.stream, known, state.layers[0].outputs);
}

}  // namespace ltd::cuda
