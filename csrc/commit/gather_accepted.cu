#include "commit/gather_accepted.h"
#include "common/cuda_kernels.h"
#include "common/device.cuh"

namespace ltd::cuda {
namespace {

constexpr int kThreads = 256;

// Block (sequence, places and one for what is not features).
template <typename Word, int kWords>
__global__ void __launch_bounds__(kThreads) gather_rows(GatherAccepted a) {
  await_earlier_kernels();
  using Words = Pack<Word, kWords>;
  const int64_t b = blockIdx.x, place = blockIdx.y;
  const int64_t gained = global(a.gained)[b];
  const Pointer<const int64_t> tokens = a.tokens[b];
  if (place == a.places) {
    const Pointer<int64_t> report = a.report[b];
    for (int64_t i = threadIdx.x; i < a.places; i += kThreads) report[2 + i] = i < gained ? tokens[i] : 0;
    if (threadIdx.x > 0) return;
    if (gained > 0) global(a.roots)[b] = tokens[gained - 1];
    report[0] = gained;
    report[1] = global(a.roots)[b];
    return;
  }
  if (a.gathered.data == nullptr) return;
  const bool counts = place < gained;
  const char* source = a.features.data + b * a.features.batch_stride;
  if (counts) source += a.path[b][place] * a.features.row_stride;
  char* target = a.gathered.data + b * a.gathered.batch_stride + place * a.gathered.row_stride;
  for (int64_t byte = int64_t{threadIdx.x} * sizeof(Words); byte < a.row_bytes; byte += kThreads * sizeof(Words)) {
    Words words{};
    if (counts) words = load_pack<kWords>(global(reinterpret_cast<const Word*>(source + byte)));
    store_pack(global(reinterpret_cast<Word*>(target + byte)), words);
  }
}

// Whether all rows of features begin and end at multiples of so many bytes.
bool rows_are_aligned(const GatherAccepted& a, int64_t bytes) {
  const auto places = reinterpret_cast<uintptr_t>(a.features.data) | reinterpret_cast<uintptr_t>(a.gathered.data);
  const int64_t steps =
      a.features.batch_stride | a.features.row_stride | a.gathered.batch_stride | a.gathered.row_stride | a.row_bytes;
  return (places | static_cast<uintptr_t>(steps)) % bytes == 0;
}

}  // namespace

int64_t gather_accepted_workspace(const GatherAccepted&) { return 0; }

void gather_accepted(const GatherAccepted& a) {
  if (a.batch == 0) return;
  const dim3 blocks(static_cast<unsigned>(a.batch), static_cast<unsigned>(a.places + 1));
  const auto start = [&](auto kernel) { launch<kStartsEarly>(kernel, blocks, kThreads, 0, a.launch.stream, a); };
  if (rows_are_aligned(a, 16)) {
    start(gather_rows<uint32_t, 4>);
  } else if (rows_are_aligned(a, 4)) {
    start(gather_rows<uint32_t, 1>);
  } else if (rows_are_aligned(a, 2)) {
    start(gather_rows<uint16_t, 1>);
  } else {
    start(gather_rows<uint8_t, 1>);
  }
}

}  // namespace ltd::cuda
