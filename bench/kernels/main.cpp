// Times the operators' kernels at realistic sizes, without torch.
//
//   kernel_bench [--json=FILE] [--device=cpu|cuda] [--filter=REGEX] [--seconds=S] [--repetitions=N]
//   kernel_bench --once [--device=cpu|cuda]
//
// Memory is cold at every start: neither inputs nor outputs are in a cache. A case runs until it has taken so many
// seconds and so many repetitions. Without a filter only the usual sizes are timed. --once runs every operator at its
// first size only, without timing it, for tools that watch what kernels do.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "cases.h"
#include "options.h"
#include "report.h"

namespace ltd::bench {
namespace {

constexpr int kWarmUps = 2;
constexpr int kMostSamples = 200;
constexpr int kBadArguments = 2;  // exit code

// Between the two nearest of sorted values.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// Seconds of each run: until the wall's seconds and the repetitions are both over, or there are as many as help.
std::vector<double> samples_of(const Timed& once, const Options& options) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < kWarmUps; ++i) once();
  const size_t least = options.repetitions, most = std::max(options.repetitions, kMostSamples);
  const Clock::time_point start = Clock::now();
  std::vector<double> samples;
  while (samples.size() < least ||
         (samples.size() < most && std::chrono::duration<double>(Clock::now() - start).count() < options.seconds)) {
    samples.push_back(once());
  }
  return samples;
}

Line time_case(const std::string& name, const Case& c, Device& device, const Options& options) {
  Memory memory(device);
  std::vector<double> samples = samples_of(device.timed(c.prepare(memory), memory.blocks()), options);
  std::sort(samples.begin(), samples.end());
  const double median = quantile(samples, 0.5), bytes = c.bytes_on(device);
  return {name,
          median * 1e6,
          quantile(samples, 0.25) * 1e6,
          quantile(samples, 0.75) * 1e6,
          bytes / median * 1e-9,
          std::max(bytes / device.bandwidth(), device.launch_seconds()) / median,
          static_cast<int>(samples.size())};
}

// Whatever fails is in the report, and the others are timed all the same.
int time_all(const std::vector<Case>& cases, const std::vector<Device*>& devices, const Options& options) {
  for (Device* device : devices) device->measure();
  Report report(devices);
  for (Device* device : devices) {
    for (const Case& c : cases) {
      const std::string name = device->name() + "/" + c.name;
      if (!options.wants(name, c.usual)) continue;
      try {
        report.add(time_case(name, c, *device, options));
      } catch (const std::exception& error) {
        report.add_failure(name, error.what());
      }
    }
  }
  if (!options.json.empty()) report.write(options.json);
  return report.has_failures() ? 1 : 0;
}

std::string operator_of(const Case& c) { return c.name.substr(0, c.name.find('/')); }

int run_each_once(const std::vector<Case>& cases, Device& device) {
  std::set<std::string> seen;
  for (const Case& each : cases) {
    if (!seen.insert(operator_of(each)).second) continue;
    Memory memory(device);
    device.run(each.prepare(memory));
    std::printf("%s/%s\n", device.name().c_str(), each.name.c_str());
  }
  return 0;
}

// The GPU first, if there is one.
std::vector<std::unique_ptr<Device>> make_devices(const std::string& only) {
  std::vector<std::unique_ptr<Device>> devices;
#ifdef LTD_WITH_CUDA
  if (only != "cpu") {
    if (std::unique_ptr<Device> gpu = make_cuda_device()) devices.push_back(std::move(gpu));
  }
#endif
  if (only != "cuda") devices.push_back(make_host_device());
  if (devices.empty()) throw std::runtime_error("--device=cuda, but there is no GPU, or none in this build");
  return devices;
}

int run(const Options& options) {
  const std::vector<std::unique_ptr<Device>> devices = make_devices(options.device);
  std::vector<Device*> used;
  for (const auto& device : devices) used.push_back(device.get());
  return options.once ? run_each_once(all_cases(), *used[0]) : time_all(all_cases(), used, options);
}

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_draft_cases(cases);
  add_attention_cases(cases);
  add_accept_cases(cases);
  add_cache_cases(cases);
  add_forward_cases(cases);
  add_policy_cases(cases);
  return cases;
}

}  // namespace ltd::bench

int main(int count, char** arguments) {
  try {
    return ltd::bench::run(ltd::bench::Options::taken_from(count, arguments));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "kernel_bench: %s\n", error.what());
    return ltd::bench::kBadArguments;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernel_bench: %s\n", error.what());
    return 1;
  }
}
