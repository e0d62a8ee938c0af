// commit_path: moves the key/value rows of the accepted nodes behind the prefix, in place, for all layers and heads,
// and lets the prefix grow by them if it is told to.
#pragma once

#include "common/types.h"

namespace ltd {

// Keys or values, (layers, B, heads, capacity, head_dim), the last dimension contiguous.
struct CacheTensor {
  char* data;
  int64_t layer_stride;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

struct CommitPath {
  CacheTensor keys;
  CacheTensor values;
  Rows<const int32_t> path;  // (B, P), strictly increasing node indices
  const int32_t* gained;     // (B), how many of them
  int32_t* lengths;          // (B): tree row j is cache row lengths[b] + j
  bool advance;              // whether lengths[b] becomes lengths[b] + gained[b] in the end
  int64_t layers;
  int64_t batch;
  int64_t heads;
  int64_t row_bytes;      // head_dim elements
  int64_t element_bytes;  // strides count elements
  int threads;
  Launch launch;
};

}  // namespace ltd
