// gather_accepted: what a cycle hands on, in buffers of the caller's: the accepted nodes' features, the next root, and
// a report for the host, which is all that it needs to copy.
//
// Behind what was gained, features and tokens of the report are 0, so that they do not depend on what stood there.
#pragma once

#include "common/types.h"

namespace ltd {

struct GatherAccepted {
  Matrices<const char> features;  // (B, nodes, row_bytes) of any type, strides in bytes; null: there are none
  Rows<const int32_t> path;       // (B, P), nodes
  Rows<const int64_t> tokens;     // (B, P)
  const int32_t* gained;          // (B), how many of both count; 0 leaves the root as it is
  Matrices<char> gathered;        // (B, P, row_bytes), the features of path; null as features
  int64_t* roots;                 // (B), the last token that counts
  Rows<int64_t> report;           // (B, 2 + P): gained, the root, tokens
  int64_t batch;
  int64_t places;  // P
  int64_t nodes;
  int64_t row_bytes;
  Launch launch;
};

}  // namespace ltd
