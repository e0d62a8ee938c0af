#include "accept/accept_chain.h"
#include "accept/argmax.cuh"
#include "accept/distribution.cuh"
#include "common/cuda_kernels.h"

namespace ltd::cuda {
namespace {

// The random number for the token that row `row` of the chain's logits decides about.
__device__ double uniform(const ChainDraws& draws, int64_t row, RandomStream stream) {
  return sampling_uniform(draws.seed, draws.position + row, draws.cycle, stream);
}

// --- the draft's token ---

template <typename T>
__global__ void __launch_bounds__(kMostThreads) draw_draft_token(DraftToken a, bool greedy) {
  await_earlier_kernels();
  LTD_SHARED(Shared, shared);
  const LogitRow<T> row(a.logits.at<T>(0, 0), a.vocabulary);
  const Distribution d = distribution_of(row, a.sampling, shared);
  int64_t token = -1;
  float chance = 0.0f;
  if (d.valid) {
    Place place;
    if (greedy) {
      const auto is_peak = [&](int, T logit) { return uint64_t{to_float(logit) == d.peak}; };
      place.id = locate(row, is_peak, [](uint64_t) { return uint64_t{0}; }, shared).id;
      place.total = total_mass(row, d, shared);
    } else {
      place = draw(row, d, uniform(a.draws, 0, kDraftStream), shared);
    }
    token = place.id;
    chance = static_cast<float>(d.weight(row.logits[token]) / static_cast<double>(place.total));
  }
  if (threadIdx.x > 0) return;
  *global(a.token) = token;
  *global(a.chance) = chance;
}

// --- the chain ---

// What lives between the launches.
struct ChainSpace {
  Distribution* targets;  // (K + 1)
  Distribution* drafts;   // (K)
  int32_t* first_words;   // (vocabulary), a draft's id of this target's id, or -1 ...
  int32_t* next_words;    // (draft_vocabulary), ... and the next one of the same
};

int64_t sampled_chain_bytes(const AcceptChain& a) {
  const int64_t ids = a.words == nullptr ? 0 : a.vocabulary + a.draft_vocabulary;
  return (2 * a.count + 1) * sizeof(Distribution) + ids * sizeof(int32_t);
}

ChainSpace chain_space(const AcceptChain& a) {
  Distribution* targets = static_cast<Distribution*>(a.launch.workspace);
  Distribution* drafts = targets + a.count + 1;
  int32_t* first_words = reinterpret_cast<int32_t*>(drafts + a.count);
  return {targets, drafts, first_words, first_words + a.vocabulary};
}

// -1 for ids that no word belongs to.
__device__ int64_t target_id(const AcceptChain& a, int64_t draft_id) {
  if (draft_id < 0 || draft_id >= a.draft_vocabulary) return -1;
  const int64_t id = a.words == nullptr ? draft_id : global(a.words)[draft_id];
  return id >= 0 && id < a.vocabulary ? id : -1;
}

// The first row from `first` on that `keeps` does not keep: K if there is none. What threads have written before, all
// see in `keeps`. A barrier must come before the next call.
template <typename Keeps>
__device__ int64_t first_lost(const AcceptChain& a, int64_t first, Keeps keeps, uint32_t& lost) {
  if (threadIdx.x == 0) lost = static_cast<uint32_t>(a.count);
  __syncthreads();
  for (int64_t i = first + threadIdx.x; i < a.count; i += blockDim.x) {
    if (!keeps(i)) atomicMin(&lost, static_cast<uint32_t>(i));
  }
  __syncthreads();
  return lost;
}

__device__ void write_result(const AcceptChain& a, int64_t kept, int64_t token) {
  if (threadIdx.x > 0) return;
  global(a.result)[0] = kept;
  global(a.result)[1] = token;
}

__global__ void __launch_bounds__(kMostThreads)
    follow_greedily(AcceptChain a, int64_t parts, const uint64_t* bests, int64_t* tokens) {
  await_earlier_kernels();
  LTD_SHARED(uint32_t, lost);
  for (int64_t i = warp_index(); i <= a.count; i += warp_count()) {
    const int64_t token = token_of_parts(global(bests) + i * parts, parts);
    if (lane_index() == 0) global(tokens)[i] = token;
  }
  const auto keeps = [&](int64_t i) {
    const int64_t token = global(tokens)[i];
    return token >= 0 && token == target_id(a, global(a.drafted)[i]);
  };
  const int64_t kept = first_lost(a, 0, keeps, lost);
  write_result(a, kept, global(tokens)[kept]);
}

// Block i finds the distribution of row i of the target's logits, blocks behind these the draft's.
template <typename T>
__global__ void __launch_bounds__(kMostThreads) find_distributions(AcceptChain a, ChainSpace space) {
  await_earlier_kernels();
  LTD_SHARED(Shared, shared);
  const int64_t i = blockIdx.x;
  const bool draft = i > a.count;
  const LogitRow<T> row(draft ? a.draft_logits.at<T>(0, i - a.count - 1) : a.logits.at<T>(0, i),
                        draft ? a.draft_vocabulary : a.vocabulary);
  Distribution d = distribution_of(row, a.sampling, shared);
  if (d.valid) d.total = total_mass(row, d, shared);
  if (threadIdx.x == 0) global(space.targets)[i] = d;  // the draft's stand behind the target's
  if (a.words == nullptr) return;
  for (int64_t id = i * blockDim.x + threadIdx.x; id < a.vocabulary; id += int64_t{gridDim.x} * blockDim.x) {
    global(space.first_words)[id] = -1;
  }
}

// Lists the draft's ids of every target's id.
__global__ void list_words(AcceptChain a, ChainSpace space) {
  await_earlier_kernels();
  const int64_t draft_id = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t id = target_id(a, draft_id);
  if (id < 0) return;
  global(space.next_words)[draft_id] = atomicExch(global(space.first_words) + id, static_cast<int32_t>(draft_id));
}

// u < p(x) / q(x) for the drafted token x, with both distributions' sums multiplied out.
template <typename T>
__device__ bool is_kept(const AcceptChain& a, const ChainSpace& space, int64_t i) {
  const Distribution p = global(space.targets)[i];
  const Distribution q = global(space.drafts)[i];
  const int64_t draft_id = global(a.drafted)[i];
  const int64_t id = target_id(a, draft_id);
  if (!p.valid || !q.valid || id < 0) return false;
  const double own = p.weight(id, a.logits.at<T>(0, i)[id]) * static_cast<double>(q.total);
  const double drafts = q.weight(draft_id, a.draft_logits.at<T>(0, i)[draft_id]) * static_cast<double>(p.total);
  return uniform(a.draws, i, kAcceptanceStream) * drafts < own;
}

// What follows row i of the target's logits, where the drafted token is not kept: another one.
template <typename T>
__device__ int64_t replacement(const AcceptChain& a, const ChainSpace& space, int64_t i, Shared& shared) {
  const Distribution p = global(space.targets)[i];
  if (!p.valid) return -1;
  const LogitRow<T> row(a.logits.at<T>(0, i), a.vocabulary);
  const int64_t drafted = i < a.count ? target_id(a, global(a.drafted)[i]) : -1;
  // Nothing can have been drawn from a draft's row that is not valid: the drafted token does not count.
  if (drafted < 0 || !global(space.drafts)[i].valid) {
    return draw(row, p, uniform(a.draws, i, kTargetStream), shared).id;
  }
  Distribution q = global(space.drafts)[i];
  q.scale *= static_cast<float>(static_cast<double>(p.total) / static_cast<double>(q.total));
  const Pointer<const T> draft_logits = a.draft_logits.at<T>(0, i);
  const auto taken = [&](int id) {
    if (a.words == nullptr) return q.mass(id, draft_logits[id]);
    uint64_t sum = 0;
    for (int32_t word = global(space.first_words)[id]; word >= 0; word = global(space.next_words)[word]) {
      sum += q.mass(word, draft_logits[word]);
    }
    return sum;
  };
  const auto rest = [&](int id, T logit) {
    const uint64_t own = p.mass(id, logit);
    if (own == 0) return own;
    const uint64_t less = taken(id);
    return own > less ? own - less : 0;
  };
  const Place place = draw(row, rest, uniform(a.draws, i, kResidualStream), shared);
  // Nothing is left where p and q are the same but for rounding.
  return place.total > 0 ? place.id : drafted;
}

template <typename T>
__global__ void __launch_bounds__(kMostThreads) follow_sampled(AcceptChain a, ChainSpace space) {
  await_earlier_kernels();
  LTD_SHARED(Shared, shared);
  LTD_SHARED(uint32_t, lost);
  int64_t kept = -1;
  int64_t token;
  do {
    kept = first_lost(a, kept + 1, [&](int64_t i) { return is_kept<T>(a, space, i); }, lost);
    token = replacement<T>(a, space, kept, shared);
  } while (kept < a.count && token >= 0 && token == target_id(a, global(a.drafted)[kept]));
  write_result(a, kept, token);
}

// Threads of the blocks that look words up.
constexpr int kWordThreads = 256;

void accept_greedy_chain(const AcceptChain& a) {
  const int64_t rows = a.count + 1;
  const int64_t parts = argmax_parts(a.logits, a.vocabulary);
  int64_t* tokens = static_cast<int64_t*>(a.launch.workspace);
  uint64_t* bests = reinterpret_cast<uint64_t*>(tokens + rows);
  launch_argmax(a.logits, 1, rows, a.vocabulary, bests, a.launch.stream);
  launch<kStartsEarly>(follow_greedily, 1, static_cast<int>(at_most(rows * kWarp, kMostThreads)), 0, a.launch.stream, a,
                       parts, bests, tokens);
}

void accept_sampled_chain(const AcceptChain& a) {
  const ChainSpace space = chain_space(a);
  const int threads = threads_of_row(a.vocabulary);
  with_type(a.logits.dtype, [&](auto type) {
    using T = decltype(type);
    launch<kStartsEarly>(find_distributions<T>, static_cast<unsigned>(2 * a.count + 1), threads, 0, a.launch.stream, a,
                         space);
    if (a.words != nullptr && a.draft_vocabulary > 0) {
      const int64_t blocks = ceil_div(a.draft_vocabulary, kWordThreads);
      launch<kStartsEarly>(list_words, static_cast<unsigned>(blocks), kWordThreads, 0, a.launch.stream, a, space);
    }
    launch<kStartsEarly>(follow_sampled<T>, 1, threads, 0, a.launch.stream, a, space);
  });
}

}  // namespace

int64_t draft_token_workspace(const DraftToken&) { return 0; }

void draft_token(const DraftToken& a) {
  const bool greedy = a.sampling.temperature == 0.0f;
  DraftToken warm = a;
  if (greedy) warm.sampling = {1.0f, 0, 1.0};
  with_type(a.logits.dtype, [&](auto type) {
    launch<kStartsEarly>(draw_draft_token<decltype(type)>, 1, threads_of_row(a.vocabulary), 0, a.launch.stream, warm,
                         greedy);
  });
}

int64_t accept_chain_workspace(const AcceptChain& a) {
  if (a.sampling.temperature > 0.0f) return sampled_chain_bytes(a);
  return (a.count + 1) * (1 + argmax_parts(a.logits, a.vocabulary)) * static_cast<int64_t>(sizeof(int64_t));
}

void accept_chain(const AcceptChain& a) {
  if (a.sampling.temperature > 0.0f) {
    accept_sampled_chain(a);
  } else {
    accept_greedy_chain(a);
  }
}

}  // namespace ltd::cuda
