// The heads of models of about these sizes: Llama 3.2 1B, Llama 3.1 8B, Qwen3 32B.
#pragma once

#include <cstdint>

namespace ltd::bench {

struct Model {
  const char* label;
  int64_t layers;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
};

inline constexpr Model kModels[] = {{"1B", 16, 32, 8, 64}, {"8B", 32, 32, 8, 128}, {"32B", 64, 64, 8, 128}};

}  // namespace ltd::bench
