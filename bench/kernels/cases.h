// What is timed: every operator at realistic sizes.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/cuda_kernels.h"
#include "dispatch/cpu_kernels.h"
#include "memory.h"

namespace ltd::bench {

inline constexpr int64_t kWidth = 10;
inline constexpr int64_t kDepth = 8;
inline constexpr int64_t kUsualSize = 60;
inline constexpr int64_t kElement = 2;  // bytes of bfloat16, in which everything large is

struct Labelled {
  const char* label;
  int64_t value;
};

inline constexpr Labelled kVocabularies[] = {{"8k", 8192}, {"32k", 32000}, {"128k", 128256}, {"152k", 151936}};
inline constexpr int64_t kSizes[] = {20, 60, 120, 240};

struct Case {
  std::string name;        // operator/shape
  bool usual;              // timed unless a filter asks for others
  double bytes;            // that have to come from memory or go there, at the least
  double gpu_bytes = 0.0;  // the same on a GPU, if more
  std::function<Call(Memory&)> prepare;

  double bytes_on(const Device& device) const { return device.is_gpu() && gpu_bytes > 0.0 ? gpu_bytes : bytes; }
};

std::vector<Case> all_cases();

void add_draft_cases(std::vector<Case>& cases);
void add_attention_cases(std::vector<Case>& cases);
void add_accept_cases(std::vector<Case>& cases);
void add_cache_cases(std::vector<Case>& cases);
void add_forward_cases(std::vector<Case>& cases);
void add_policy_cases(std::vector<Case>& cases);

template <typename Arguments>
struct Operator {
  void (*on_cpu)(const Arguments&);
  void (*on_gpu)(const Arguments&);
  int64_t (*workspace)(const Arguments&);
};

// The operator `name`, whose arguments are an `Arguments`.
#ifdef LTD_WITH_CUDA
#define LTD_OPERATOR(Arguments, name)                                                     \
  ::ltd::bench::Operator<Arguments> {                                                     \
    [](const Arguments& a) { cpu_kernels().name(a); }, cuda::name, cuda::name##_workspace \
  }
#else
#define LTD_OPERATOR(Arguments, name)                                   \
  ::ltd::bench::Operator<Arguments> {                                   \
    [](const Arguments& a) { cpu_kernels().name(a); }, nullptr, nullptr \
  }
#endif

// The call of an operator on the device of `memory`. `launch` is the part of `arguments` that says where.
template <typename Arguments>
Call call_of(const Operator<Arguments>& op, const Arguments& arguments, Launch& (*launch)(Arguments&), Memory& memory) {
  if (!memory.device().is_gpu()) return [op, arguments](void*) { op.on_cpu(arguments); };
  Arguments placed = arguments;
  launch(placed).workspace = memory.bytes_of(op.workspace(arguments));
  return [op, placed, launch](void* stream) mutable {
    launch(placed).stream = stream;
    op.on_gpu(placed);
  };
}

template <typename Arguments>
Call call_of(const Operator<Arguments>& op, const Arguments& arguments, Memory& memory) {
  return call_of<Arguments>(op, arguments, [](Arguments& a) -> Launch& { return a.launch; }, memory);
}

}  // namespace ltd::bench
