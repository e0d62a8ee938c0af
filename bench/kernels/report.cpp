#include "report.h"

#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace ltd::bench {
namespace {

constexpr int kNameWidth = 52;

std::string number(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

double counter(const benchmark::BenchmarkReporter::Run& run, const char* name) {
  const auto found = run.counters.find(name);
  return found == run.counters.end() ? 0.0 : found->second.value;
}

}  // namespace

bool Report::ReportContext(const Context&) {
  for (const Device* device : devices_) {
    std::printf("%s: %s, reads %.1f GB/s", device->name().c_str(), device->description().c_str(),
                device->bandwidth() * 1e-9);
    if (device->is_gpu()) std::printf(", runs an empty kernel in %.2f us", device->launch_seconds() * 1e6);
    std::printf("\n");
  }
  std::printf("floor: the time of the bytes at that rate%s\n\n", devices_.size() > 1 ? ", or of the empty kernel" : "");
  std::printf("%-*s %12s %25s %8s %7s\n", kNameWidth, "", "median us", "quartiles", "GB/s", "floor");
  return true;
}

void Report::ReportRuns(const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    const std::string& name = run.run_name.function_name;
    if (run.counters.count(kMedian) == 0) {
      std::printf("%-*s failed: %s\n", kNameWidth, name.c_str(), run.report_label.c_str());
      continue;
    }
    const Line line{name,
                    counter(run, kMedian),
                    counter(run, kLow),
                    counter(run, kHigh),
                    counter(run, kRate),
                    counter(run, kShare)};
    const std::string quartiles = number(line.low, 1) + " ... " + number(line.high, 1);
    std::printf("%-*s %12.1f %25s %8.1f %5.0f %%\n", kNameWidth, name.c_str(), line.median, quartiles.c_str(),
                line.rate, 100 * line.share);
    lines_.push_back(line);
  }
  std::fflush(stdout);
}

void Report::write(const std::string& path) const {
  std::ofstream file(path);
  file << "{\n  \"devices\": [";
  const char* separator = "\n";
  for (const Device* device : devices_) {
    file << separator << "    {\"name\": \"" << device->name() << "\", \"description\": \"" << device->description()
         << "\", \"gb_per_s\": " << number(device->bandwidth() * 1e-9, 2)
         << ", \"launch_us\": " << number(device->launch_seconds() * 1e6, 3) << "}";
    separator = ",\n";
  }
  file << "\n  ],\n  \"results\": [";
  separator = "\n";
  for (const Line& line : lines_) {
    file << separator << "    {\"name\": \"" << line.name << "\", \"" << kMedian << "\": " << number(line.median, 3)
         << ", \"" << kLow << "\": " << number(line.low, 3) << ", \"" << kHigh << "\": " << number(line.high, 3)
         << ", \"" << kRate << "\": " << number(line.rate, 3) << ", \"" << kShare << "\": " << number(line.share, 4)
         << "}";
    separator = ",\n";
  }
  file << "\n  ]\n}\n";
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

}  // namespace ltd::bench
