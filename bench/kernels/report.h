// What is shown and written: one line for each shape.
#pragma once

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "device.h"

namespace ltd::bench {

// Names of a benchmark's numbers, in Google Benchmark's own file as well.
inline constexpr const char* kMedian = "median_us";
inline constexpr const char* kLow = "low_us";  // the quartiles
inline constexpr const char* kHigh = "high_us";
inline constexpr const char* kRate = "gb_per_s";
inline constexpr const char* kShare = "floor_share";  // the floor's part of the median

class Report : public benchmark::BenchmarkReporter {
 public:
  explicit Report(const std::vector<Device*>& devices) : devices_(devices) {}

  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;

  // Writes all lines and what the devices are. Throws std::runtime_error if the file cannot be written.
  void write(const std::string& path) const;

  int count() const { return static_cast<int>(lines_.size()); }

 private:
  struct Line {
    std::string name;
    double median, low, high, rate, share;
  };

  std::vector<Device*> devices_;
  std::vector<Line> lines_;
};

}  // namespace ltd::bench
