#include "commit/commit_path.h"
#include "common/cuda_kernels.h"
#include "common/device.cuh"

namespace ltd::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsAtOnce = 8;

// Keys and values of all layers, sequences and heads, one after the other; heads come fastest.
LTD_INLINE int64_t matrix_count(const CommitPath& a) { return 2 * a.layers * a.batch * a.heads; }

// The rows of a tree, in a matrix of keys or values.
struct TreeRows {
  char* data;
  int64_t step;  // bytes
  int batch;
};

__device__ TreeRows tree_rows(const CommitPath& a, int matrix) {
  const int heads = static_cast<int>(a.heads), batches = static_cast<int>(a.batch), layers = static_cast<int>(a.layers);
  const int head = matrix % heads;
  const int batch = matrix / heads % batches;
  const int layer = matrix / heads / batches % layers;
  const CacheTensor& cache = matrix < heads * batches * layers ? a.keys : a.values;
  const int64_t element = layer * cache.layer_stride + batch * cache.batch_stride + head * cache.head_stride +
                          global(a.lengths)[batch] * cache.row_stride;
  return {cache.data + element * a.element_bytes, cache.row_stride * a.element_bytes, batch};
}

// Moves kWords words of every row, from byte `offset` on. As path[i] >= i, no row is overwritten before it was read:
// several are read before the first of them is written.
template <typename Word, int kWords>
__device__ void move_column(const TreeRows& tree, int64_t offset, Pointer<const int32_t> path, int gained) {
  const auto words_of = [&](int row) { return global(reinterpret_cast<Word*>(tree.data + row * tree.step + offset)); };
  for (int first = 0; first < gained; first += kRowsAtOnce) {
    int nodes[kRowsAtOnce];
    Pack<Word, kWords> rows[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) nodes[i] = first + i < gained ? path[first + i] : first + i;
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (nodes[i] != first + i) rows[i] = load_pack<kWords>(words_of(nodes[i]));
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (nodes[i] != first + i) store_pack(words_of(first + i), rows[i]);
    }
  }
}

// Every thread has a column, of the width that it moves at once, of one matrix: no thread writes what another reads.
// A block takes `matrices` matrices.
template <typename Word, int kWords>
__global__ void __launch_bounds__(kThreads) move_rows(CommitPath a, int matrices) {
  await_earlier_kernels();
  constexpr int kBytes = kWords * sizeof(Word);
  const int columns = static_cast<int>(a.row_bytes / kBytes);
  const int threads = kThreads / matrices;
  const int part = static_cast<int>(threadIdx.x) / threads;
  const int64_t matrix = int64_t{blockIdx.x} * matrices + part;
  if (part >= matrices || matrix >= matrix_count(a)) return;
  const TreeRows tree = tree_rows(a, static_cast<int>(matrix));
  const int gained = global(a.gained)[tree.batch];
  for (int column = threadIdx.x % threads; column < columns; column += threads) {
    move_column<Word, kWords>(tree, int64_t{column} * kBytes, a.path[tree.batch], gained);
  }
}

template <typename Word, int kWords>
void launch_moves(const CommitPath& a) {
  const int64_t columns = a.row_bytes / (kWords * static_cast<int64_t>(sizeof(Word)));
  const int64_t matrices = columns < kThreads ? kThreads / columns : 1;
  const dim3 blocks(static_cast<unsigned>(ceil_div(matrix_count(a), matrices)));
  launch<kStartsEarly>(move_rows<Word, kWords>, blocks, kThreads, 0, a.launch.stream, a, static_cast<int>(matrices));
}

// A launch of its own: all blocks of the one before read the lengths.
__global__ void __launch_bounds__(kThreads) advance_lengths(CommitPath a) {
  await_earlier_kernels();
  for (int64_t b = threadIdx.x; b < a.batch; b += kThreads) global(a.lengths)[b] += global(a.gained)[b];
}

// Whether all rows begin and end at multiples of so many bytes.
bool rows_are_aligned(const CommitPath& a, int64_t bytes) {
  const auto is_multiple = [&](const CacheTensor& cache) {
    const int64_t strides = cache.layer_stride | cache.batch_stride | cache.head_stride | cache.row_stride;
    return (reinterpret_cast<uintptr_t>(cache.data) | static_cast<uintptr_t>(strides * a.element_bytes)) % bytes == 0;
  };
  return a.row_bytes % bytes == 0 && is_multiple(a.keys) && is_multiple(a.values);
}

void launch_moves(const CommitPath& a) {
  if (matrix_count(a) == 0 || a.row_bytes == 0) return;
  if (rows_are_aligned(a, 16)) {
    launch_moves<uint32_t, 4>(a);
  } else if (rows_are_aligned(a, 8)) {
    launch_moves<uint32_t, 2>(a);
  } else if (rows_are_aligned(a, 4)) {
    launch_moves<uint32_t, 1>(a);
  } else if (rows_are_aligned(a, 2)) {
    launch_moves<uint16_t, 1>(a);
  } else {
    launch_moves<uint8_t, 1>(a);
  }
}

}  // namespace

int64_t commit_path_workspace(const CommitPath&) { return 0; }

void commit_path(const CommitPath& a) {
  launch_moves(a);
  if (a.advance) launch<kStartsEarly>(advance_lengths, dim3(1), kThreads, 0, a.launch.stream, a);
}

}  // namespace ltd::cuda
