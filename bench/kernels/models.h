// The layers of models of about these sizes: Llama 3.2 1B, Llama 3.1 8B, Qwen3 32B.
#pragma once

#include <cstdint>

namespace ltd::bench {

struct Model {
  const char* label;
  int64_t layers;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t hidden;
  int64_t intermediate;
};

inline constexpr Model kModels[] = {
    {"1B", 16, 32, 8, 64, 2048, 8192}, {"8B", 32, 32, 8, 128, 4096, 14336}, {"32B", 64, 64, 8, 128, 5120, 25600}};

}  // namespace ltd::bench
