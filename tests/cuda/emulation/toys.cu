#include <string_view>

#include "common/device.cuh"
#include "emulation/toys.h"

namespace ltd::emulation {

using namespace ltd::cuda;

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// --- kernels with and without a fault: the right ones write numbers that do not depend on any order ---

// The sum of all inputs, for every thread.
template <bool kFaulty>
__global__ void sum(Toy a) {
  using Sums = Array<uint32_t, kWarps>;
  LTD_SHARED(Sums, sums);
  const uint32_t mine = __reduce_add_sync(kAllLanes, global(a.in)[threadIdx.x]);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = mine;
  if (!kFaulty) __syncthreads();
  uint32_t all = 0;
  for (int warp = 0; warp < kWarps; ++warp) all += sums[warp];
  global(a.out)[threadIdx.x] = all;
}

// What the thread's neighbours pass on, round after round. Faulty: a fast thread overwrites what a slow one still
// reads.
template <bool kFaulty>
__global__ void pass_on(Toy a) {
  using Values = Array<uint32_t, kThreads>;
  LTD_SHARED(Values, values);
  uint32_t value = global(a.in)[threadIdx.x];
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = value;
    __syncthreads();
    value = 3 * values[(threadIdx.x + 1) % kThreads] + round;
    if (!kFaulty) __syncthreads();
  }
  global(a.out)[threadIdx.x] = value;
}

// The same among the lanes of a warp.
template <bool kFaulty>
__global__ void pass_in_warp(Toy a) {
  using Values = Array<uint32_t, kWarp>;
  LTD_SHARED(Values, values);
  if (threadIdx.x >= kWarp) return;
  values[threadIdx.x] = global(a.in)[threadIdx.x];
  if (!kFaulty) __syncwarp();
  global(a.out)[threadIdx.x] = values[(threadIdx.x + 7) % kWarp];
}

enum class Bound { kRight, kRead, kWrite, kPlainRead, kPlainWrite };

// Adds neighbours.
template <Bound kBound>
__global__ void add_neighbours(Toy a) {
  const int64_t reads = a.in_count - (kBound == Bound::kRead ? 0 : 1);
  for (int64_t i = threadIdx.x; i < reads; i += kThreads) global(a.out)[i] = global(a.in)[i] + global(a.in)[i + 1];
  if (kBound == Bound::kWrite && threadIdx.x == 0) global(a.out)[a.out_count] = 1;
  if (kBound == Bound::kPlainRead && threadIdx.x == 0) a.out[0] = a.in[a.in_count];
  if (kBound == Bound::kPlainWrite && threadIdx.x == 0) a.out[a.out_count] = 1;
}

// Writes where it may only read.
__global__ void change_input(Toy a) { global(const_cast<uint32_t*>(a.in))[threadIdx.x] = 1; }

// Counts the inputs' last digits.
template <bool kFaulty>
__global__ void count_digits(Toy a) {
  using Counts = Array<uint32_t, 10>;
  LTD_SHARED(Counts, counts);
  if (!kFaulty && threadIdx.x < 10) counts[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&counts[global(a.in)[threadIdx.x] % 10], 1u);
  __syncthreads();
  if (threadIdx.x < 10) global(a.out)[threadIdx.x] = counts[threadIdx.x];
}

// Counts the threads.
template <bool kFaulty>
__global__ void count_threads(Toy a) {
  LTD_SHARED(uint32_t, count);
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  if (kFaulty) {
    count += 1;
  } else {
    atomicAdd(&count, 1u);
  }
  __syncthreads();
  global(a.out)[threadIdx.x] = count;
}

// Every thread leaves its number; who is last?
__global__ void be_last(Toy a) {
  LTD_SHARED(uint32_t, last);
  last = threadIdx.x;
  __syncthreads();
  global(a.out)[threadIdx.x] = last;
}

enum class Meeting { kRight, kHalfOfThem, kTwoPlaces, kOneLeft };

// Threads agree.
template <Meeting kMeeting>
__global__ void agree(Toy a) {
  int count = 0;
  if (kMeeting == Meeting::kOneLeft && threadIdx.x == 5) return;
  if (kMeeting == Meeting::kHalfOfThem) {
    if (threadIdx.x < kThreads / 2) __syncthreads();
  } else if (kMeeting == Meeting::kTwoPlaces && threadIdx.x < kThreads / 2) {
    count = __syncthreads_count(threadIdx.x % 3 == 0);
  } else {
    count = __syncthreads_count(threadIdx.x % 3 == 0);
  }
  const int some = __syncthreads_or(threadIdx.x == 70), none = __syncthreads_or(0);
  const int all = __syncthreads_and(1), not_all = __syncthreads_and(threadIdx.x != 70);
  global(a.out)[threadIdx.x] = count * 16 + (some != 0) * 8 + (none != 0) * 4 + (all != 0) * 2 + (not_all != 0);
}

enum class Lanes { kRight, kLeft, kElsewhere, kOtherMask, kReadsOutside };

// Lanes give to their neighbours.
template <Lanes kLanes>
__global__ void give_on(Toy a) {
  const uint32_t lane = threadIdx.x % kWarp;
  uint32_t mask = kAllLanes;
  int source = (static_cast<int>(lane) + 1) % kWarp;
  if (kLanes == Lanes::kLeft && threadIdx.x == 40) return;
  if (kLanes == Lanes::kElsewhere && threadIdx.x == 40) __syncthreads();
  if (kLanes == Lanes::kOtherMask && lane == 3) mask = 1u << 3 | 1u << 4;
  if (kLanes == Lanes::kReadsOutside) {
    mask = 0xffffu << (lane / 16 * 16);
    source = 15;
  }
  global(a.out)[threadIdx.x] = __shfl_sync(mask, global(a.in)[threadIdx.x], source);
}

enum class Copies { kRight, kNoWait, kTooFewGroups, kNoBarrier, kMisaligned };

// Reads backwards what was copied to shared memory.
template <Copies kCopies>
__global__ void copy_over(Toy a) {
  uint32_t* copies = dynamic_shared<uint32_t>(0, 2 * kThreads);
  for (int half = 0; half < 2; ++half) {
    if (threadIdx.x < kThreads / 4) {
      const int first = half * kThreads + threadIdx.x * 4;
      copy_async16(copies + first, global(a.in) + first + (kCopies == Copies::kMisaligned ? 1 : 0));
    }
    commit_copies();
  }
  if (kCopies == Copies::kTooFewGroups) {
    wait_for_copies<1>();
  } else if (kCopies != Copies::kNoWait) {
    wait_for_copies<0>();
  }
  if (kCopies != Copies::kNoBarrier) __syncthreads();
  for (int half = 0; half < 2; ++half) {
    const int i = half * kThreads + threadIdx.x;
    global(a.out)[i] = copies[2 * kThreads - 1 - i];
  }
}

enum class Packs { kRight, kMisaligned, kTooMany };

// Moves four numbers at a time.
template <Packs kPacks>
__global__ void move_packs(Toy a) {
  const int count = static_cast<int>(a.in_count / 4) + (kPacks == Packs::kTooMany ? 1 : 0);
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Pointer<const uint32_t> source = global(a.in) + 4 * i + (kPacks == Packs::kMisaligned ? 1 : 0);
    store_pack<4>(global(a.out) + 4 * i, load_pack<4>(source));
  }
}

enum class Places { kRight, kIndex, kDynamicSize, kBehindDynamic };

// Reverses by shared memory.
template <Places kPlaces>
__global__ void reverse(Toy a) {
  using Values = Array<uint32_t, kThreads>;
  LTD_SHARED(Values, values);
  uint32_t* more = dynamic_shared<uint32_t>(0, kThreads * (kPlaces == Places::kDynamicSize ? 3 : 2));
  values[threadIdx.x + (kPlaces == Places::kIndex ? 1 : 0)] = global(a.in)[threadIdx.x];
  more[threadIdx.x] = 5;
  if (kPlaces == Places::kBehindDynamic) more[threadIdx.x + kThreads + 1] = 5;
  __syncthreads();
  global(a.out)[threadIdx.x] = values[kThreads - 1 - threadIdx.x] + more[kThreads - 1 - threadIdx.x];
}

// The last block adds what all blocks have left in the workspace. Faulty: it relies on zeros there.
template <bool kFaulty>
__global__ void clear_workspace(Pointer<uint32_t> counter) {
  if (!kFaulty) *counter = 0;
}
__global__ void add_blocks(Toy a, Pointer<uint32_t> counter, Pointer<uint32_t> sums) {
  LTD_SHARED(bool, is_last);
  const uint32_t mine = __reduce_add_sync(kAllLanes, global(a.in)[blockIdx.x * kWarp + threadIdx.x]);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = mine;
    __threadfence();
    is_last = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  uint32_t all = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) all = 3 * all + sums[block];
  global(a.out)[threadIdx.x] = all;
}

template <bool kFaulty>
void start_blocks(const Toy& a) {
  const Pointer<uint32_t> counter = static_cast<uint32_t*>(a.launch.workspace);
  launch(clear_workspace<kFaulty>, dim3(1), 1, 0, a.launch.stream, counter);
  launch(add_blocks, dim3(4), kWarp, 0, a.launch.stream, a, counter, counter + 1);
}

// --- what the twins of CUDA's built-ins do, to be compared with plain Python ---

__global__ void shuffle_lanes(Toy a) {
  const uint32_t value = global(a.in)[threadIdx.x];
  const Pointer<uint32_t> out = global(a.out) + threadIdx.x;
  out[0 * kWarp] = __shfl_sync(kAllLanes, value, 5);
  out[1 * kWarp] = __shfl_sync(kAllLanes, value, threadIdx.x + 3, 8);
  out[2 * kWarp] = __shfl_xor_sync(kAllLanes, value, 17);
  out[3 * kWarp] = __shfl_up_sync(kAllLanes, value, 3);
  out[4 * kWarp] = __shfl_up_sync(kAllLanes, value, 2, 4);
  out[5 * kWarp] = __shfl_down_sync(kAllLanes, value, 3);
  out[6 * kWarp] = __shfl_down_sync(kAllLanes, value, 2, 4);
  const double big = __shfl_xor_sync(kAllLanes, static_cast<double>(value) * 1e10, 1);
  out[7 * kWarp] = static_cast<uint32_t>(big / 1e10 + 0.5);
  if (threadIdx.x % 2 == 0) out[8 * kWarp] = __shfl_xor_sync(0x55555555u, value, 2);
}

__global__ void vote_lanes(Toy a) {
  const uint32_t value = global(a.in)[threadIdx.x];
  const int number = static_cast<int>(value) - 50;
  const Pointer<uint32_t> out = global(a.out) + threadIdx.x;
  out[0 * kWarp] = __ballot_sync(kAllLanes, value % 3 == 0);
  out[1 * kWarp] = __any_sync(kAllLanes, value == 7) + 2 * __any_sync(kAllLanes, value == 1000);
  out[2 * kWarp] = __all_sync(kAllLanes, value < 100) + 2 * __all_sync(kAllLanes, value < 90);
  out[3 * kWarp] = __reduce_max_sync(kAllLanes, number);
  out[4 * kWarp] = __reduce_min_sync(kAllLanes, number);
  out[5 * kWarp] = __reduce_add_sync(kAllLanes, number);
  out[6 * kWarp] = __match_any_sync(kAllLanes, value % 5);
  out[7 * kWarp] = __popc(value) + 100 * __ffs(value) + 10000 * __clz(value);
  if (threadIdx.x < 7) out[8 * kWarp] = __ballot_sync(0x7f, value % 2);
}

__global__ void update_atomically(Toy a) {
  const uint32_t value = global(a.in)[threadIdx.x];
  const Pointer<uint32_t> out = global(a.out);
  atomicAdd(out, value);
  atomicMax(out + 1, value);
  atomicMin(&out[2], value);
  atomicOr(out + 3, value);
  atomicInc(out + 4, 9u);
  const uint32_t before = atomicAdd(&out[5], 1u);
  out[8 + before] = atomicExch(out + 6, threadIdx.x);
  for (uint32_t seen = out[7], expected = ~seen; seen != expected;) {
    expected = seen;
    seen = atomicCAS(out + 7, expected, expected * 2 % 1000003);
  }
}

template <typename T>
__global__ void multiply(Toy a) {
  const Pointer<const uint32_t> in = global(a.in) + threadIdx.x * 10;
  uint32_t left[4], right[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) left[i] = in[i];
  for (int i = 0; i < 2; ++i) right[i] = in[4 + i];
  for (int i = 0; i < 4; ++i) sums[i] = __uint_as_float(in[6 + i]);
  multiply_tiles<T>(sums, left, right);
  for (int i = 0; i < 4; ++i) global(a.out)[threadIdx.x * 4 + i] = __float_as_uint(sums[i]);
}

// The inputs, floats, rounded to T.
template <typename T>
__global__ void round_to(Toy a) {
  for (int64_t i = threadIdx.x; i < a.in_count; i += kThreads) {
    global(a.out)[i] = __float_as_uint(to_float(from_float<T>(__uint_as_float(global(a.in)[i]))));
  }
}

// --- launches ---

template <void (*kKernel)(Toy), int kCount = kThreads, int kSharedBytes = 0>
void start(const Toy& a) {
  launch(kKernel, dim3(1), kCount, kSharedBytes, a.launch.stream, a);
}

constexpr int kBytes = 2 * kThreads * sizeof(uint32_t);

struct Entry {
  std::string_view name;
  ToyFunction function;
};
constexpr Entry kToys[] = {
    {"sum", start<sum<false>>},
    {"sum without barrier", start<sum<true>>},
    {"pass_on", start<pass_on<false>>},
    {"pass_on without barrier", start<pass_on<true>>},
    {"pass_in_warp", start<pass_in_warp<false>>},
    {"pass_in_warp without barrier", start<pass_in_warp<true>>},
    {"add_neighbours", start<add_neighbours<Bound::kRight>>},
    {"add_neighbours reading too far", start<add_neighbours<Bound::kRead>>},
    {"add_neighbours writing too far", start<add_neighbours<Bound::kWrite>>},
    {"add_neighbours reading too far by a plain pointer", start<add_neighbours<Bound::kPlainRead>>},
    {"add_neighbours writing too far by a plain pointer", start<add_neighbours<Bound::kPlainWrite>>},
    {"change_input", start<change_input>},
    {"count_digits", start<count_digits<false>>},
    {"count_digits from rubbish", start<count_digits<true>>},
    {"count_threads", start<count_threads<false>>},
    {"count_threads without atomics", start<count_threads<true>>},
    {"be_last", start<be_last>},
    {"agree", start<agree<Meeting::kRight>>},
    {"agree half of them", start<agree<Meeting::kHalfOfThem>>},
    {"agree in two places", start<agree<Meeting::kTwoPlaces>>},
    {"agree after one left", start<agree<Meeting::kOneLeft>>},
    {"give_on", start<give_on<Lanes::kRight>>},
    {"give_on after one left", start<give_on<Lanes::kLeft>>},
    {"give_on with one elsewhere", start<give_on<Lanes::kElsewhere>>},
    {"give_on with another mask", start<give_on<Lanes::kOtherMask>>},
    {"give_on from outside of the mask", start<give_on<Lanes::kReadsOutside>>},
    {"copy_over", start<copy_over<Copies::kRight>, kThreads, kBytes>},
    {"copy_over without waiting", start<copy_over<Copies::kNoWait>, kThreads, kBytes>},
    {"copy_over waiting for too few", start<copy_over<Copies::kTooFewGroups>, kThreads, kBytes>},
    {"copy_over without barrier", start<copy_over<Copies::kNoBarrier>, kThreads, kBytes>},
    {"copy_over misaligned", start<copy_over<Copies::kMisaligned>, kThreads, kBytes>},
    {"move_packs", start<move_packs<Packs::kRight>>},
    {"move_packs misaligned", start<move_packs<Packs::kMisaligned>>},
    {"move_packs too many", start<move_packs<Packs::kTooMany>>},
    {"reverse", start<reverse<Places::kRight>, kThreads, kBytes>},
    {"reverse with a wrong index", start<reverse<Places::kIndex>, kThreads, kBytes>},
    {"reverse with too little memory", start<reverse<Places::kDynamicSize>, kThreads, kBytes>},
    {"reverse writing behind its memory", start<reverse<Places::kBehindDynamic>, kThreads, kBytes>},
    {"add_blocks", start_blocks<false>},
    {"add_blocks from rubbish", start_blocks<true>},
    {"launch too many threads", start<be_last, 1025>},
    {"read in a launch function", [](const Toy& a) { a.out[0] = a.in[0]; }},
    {"locate", locate_mass<1>},
    {"locate half of it later", locate_mass<2>},
    {"locate nothing later", locate_mass<0>},
    {"add_one", add_one_early<true>},
    {"add_one before it has waited", add_one_early<false>},
    {"use_shared", use_shared<kDynamicUnasked + 16>},
    {"use_shared without having asked", use_shared<kDynamicUnasked>},
    {"shuffle_lanes", start<shuffle_lanes, kWarp>},
    {"vote_lanes", start<vote_lanes, kWarp>},
    {"update_atomically", start<update_atomically>},
    {"multiply bfloat16", start<multiply<BFloat16>, kWarp>},
    {"multiply float16", start<multiply<Float16>, kWarp>},
    {"round_to bfloat16", start<round_to<BFloat16>>},
    {"round_to float16", start<round_to<Float16>>},
};

}  // namespace

ToyFunction find_toy(const char* name) {
  for (const Entry& entry : kToys) {
    if (entry.name == name) return entry.function;
  }
  return nullptr;
}

}  // namespace ltd::emulation
