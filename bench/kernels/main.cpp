// Times the operators' kernels at realistic sizes, without torch.
//
//   kernel_bench [--summary=FILE] [--once] [--benchmark_filter=REGEX] [--benchmark_out=FILE] ...
//
// Memory is cold at every start: neither inputs nor outputs are in a cache. --once runs every operator at its first
// size only, without timing it, for tools that watch what kernels do. Without a filter only the usual sizes are timed.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cases.h"
#include "report.h"

namespace ltd::bench {
namespace {

constexpr double kSecondsPerCase = 0.4;
constexpr double kLeastSamples = 7;
constexpr double kMostSamples = 200;
constexpr int kWarmUps = 2;
constexpr double kColdRate = 2e9;  // bytes per second of getting ready for the next sample, roughly

struct Options {
  std::string summary;
  bool once = false;
  bool filtered = false;

  // Takes ours out of the arguments; the rest are Google Benchmark's.
  static Options taken_from(int& count, char** arguments) {
    Options options;
    int kept = 1;
    for (int i = 1; i < count; ++i) {
      const std::string argument = arguments[i];
      if (argument.rfind("--summary=", 0) == 0) {
        options.summary = argument.substr(std::strlen("--summary="));
      } else if (argument == "--once") {
        options.once = true;
      } else {
        options.filtered |= argument.rfind("--benchmark_filter", 0) == 0;
        arguments[kept++] = arguments[i];
      }
    }
    count = kept;
    return options;
  }
};

int64_t sample_count(const Case& c, const Device& device) {
  const double seconds = c.operations / device.rough_speed() + c.bytes_on(device) / kColdRate;
  return static_cast<int64_t>(std::clamp(kSecondsPerCase / seconds, kLeastSamples, kMostSamples));
}

// Between the two nearest of sorted values.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

void time_case(benchmark::State& state, const Case& c, Device& device) {
  Memory memory(device);
  const Timed once = device.timed(c.prepare(memory), memory.blocks());
  for (int i = 0; i < kWarmUps; ++i) once();
  std::vector<double> samples;
  for ([[maybe_unused]] auto _ : state) {
    samples.push_back(once());
    state.SetIterationTime(samples.back());
  }
  std::sort(samples.begin(), samples.end());
  const double median = quantile(samples, 0.5), bytes = c.bytes_on(device);
  state.counters[kMedian] = median * 1e6;
  state.counters[kLow] = quantile(samples, 0.25) * 1e6;
  state.counters[kHigh] = quantile(samples, 0.75) * 1e6;
  state.counters[kRate] = bytes / median * 1e-9;
  state.counters[kShare] = std::max(bytes / device.bandwidth(), device.launch_seconds()) / median;
}

void add_benchmark(const Case& c, Device& device) {
  const auto run = [&c, &device](benchmark::State& state) {
    try {
      time_case(state, c, device);
    } catch (const std::exception& error) {
      state.SetLabel(error.what());
      state.SkipWithError(error.what());
    }
  };
  benchmark::RegisterBenchmark((device.name() + "/" + c.name).c_str(), run)
      ->UseManualTime()
      ->Iterations(sample_count(c, device));
}

void run_once(const Case& c, Device& device) {
  Memory memory(device);
  device.run(c.prepare(memory));
  std::printf("%s/%s\n", device.name().c_str(), c.name.c_str());
}

std::string operator_of(const Case& c) { return c.name.substr(0, c.name.find('/')); }

int run(int count, char** arguments) {
  const Options options = Options::taken_from(count, arguments);
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  std::vector<std::unique_ptr<Device>> owned;
#ifdef LTD_WITH_CUDA
  owned.push_back(make_cuda_device());
#endif
  if (!options.once || owned.empty() || owned[0] == nullptr) owned.push_back(make_host_device());
  std::vector<Device*> devices;
  for (const auto& device : owned) {
    if (device != nullptr) devices.push_back(device.get());
  }

  const std::vector<Case> cases = all_cases();
  for (Device* device : devices) {
    for (size_t i = 0; i < cases.size(); ++i) {
      const bool first = i == 0 || operator_of(cases[i]) != operator_of(cases[i - 1]);
      if (options.once && first) run_once(cases[i], *device);
      if (!options.once && (cases[i].usual || options.filtered)) add_benchmark(cases[i], *device);
    }
  }
  if (options.once) return 0;
  Report report(devices);
  const size_t started = benchmark::RunSpecifiedBenchmarks(&report);
  if (!options.summary.empty()) report.write(options.summary);
  return static_cast<size_t>(report.count()) == started ? 0 : 1;
}

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_draft_cases(cases);
  add_attention_cases(cases);
  add_accept_cases(cases);
  add_cache_cases(cases);
  add_policy_cases(cases);
  return cases;
}

}  // namespace ltd::bench

int main(int count, char** arguments) {
  try {
    return ltd::bench::run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernel_bench: %s\n", error.what());
    return 1;
  }
}
