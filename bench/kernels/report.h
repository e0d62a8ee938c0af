// What is shown and written: one line for each shape.
#pragma once

#include <string>
#include <vector>

#include "device.h"

namespace ltd::bench {

struct Line {
  std::string name;                                     // device/operator/shape
  double median_us = 0.0, low_us = 0.0, high_us = 0.0;  // low and high are the quartiles
  double gb_per_s = 0.0;
  double floor_share = 0.0;  // the floor's part of the median
  int samples = 0;
};

class Report {
 public:
  // Shows what the devices are, and the head of the table.
  explicit Report(const std::vector<Device*>& devices);

  // Shows a line and keeps it.
  void add(const Line& line);

  // Shows that something could not be timed, and why.
  void add_failure(const std::string& name, const std::string& reason);

  // Writes all lines, what failed, and what the devices are. Throws std::runtime_error if the file cannot be written.
  void write(const std::string& path) const;

  bool has_failures() const { return !failures_.empty(); }

 private:
  struct Failure {
    std::string name, reason;
  };

  std::vector<Device*> devices_;
  std::vector<Line> lines_;
  std::vector<Failure> failures_;
};

}  // namespace ltd::bench
