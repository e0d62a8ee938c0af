#include "report.h"

#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace ltd::bench {
namespace {

constexpr int kNameWidth = 52;
constexpr unsigned char kFirstPrintable = 0x20;

std::string number(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

// As JSON wants it; what cannot be printed becomes a space.
std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (const char character : text) {
    if (character == '"' || character == '\\') made += '\\';
    made += static_cast<unsigned char>(character) < kFirstPrintable ? ' ' : character;
  }
  return made + '"';
}

std::string json(const Device& device) {
  return "{\"name\": " + quoted(device.name()) + ", \"description\": " + quoted(device.description()) +
         ", \"gb_per_s\": " + number(device.bandwidth() * 1e-9, 2) +
         ", \"launch_us\": " + number(device.launch_seconds() * 1e6, 3) + "}";
}

std::string json(const Line& line) {
  return "{\"name\": " + quoted(line.name) + ", \"median_us\": " + number(line.median_us, 3) +
         ", \"low_us\": " + number(line.low_us, 3) + ", \"high_us\": " + number(line.high_us, 3) +
         ", \"gb_per_s\": " + number(line.gb_per_s, 3) + ", \"floor_share\": " + number(line.floor_share, 4) +
         ", \"samples\": " + std::to_string(line.samples) + "}";
}

// One element a line.
template <typename T, typename Text>
std::string list(const std::vector<T>& values, Text text) {
  std::string made = "[";
  const char* separator = "\n    ";
  for (const T& value : values) {
    made += separator + text(value);
    separator = ",\n    ";
  }
  return made + "\n  ]";
}

}  // namespace

Report::Report(const std::vector<Device*>& devices) : devices_(devices) {
  for (const Device* device : devices_) {
    std::printf("%s: %s, reads %.1f GB/s", device->name().c_str(), device->description().c_str(),
                device->bandwidth() * 1e-9);
    if (device->is_gpu()) std::printf(", runs an empty kernel in %.2f us", device->launch_seconds() * 1e6);
    std::printf("\n");
  }
  std::printf("floor: the time of the bytes at that rate%s\n\n", devices_.size() > 1 ? ", or of the empty kernel" : "");
  std::printf("%-*s %12s %25s %8s %7s\n", kNameWidth, "", "median us", "quartiles", "GB/s", "floor");
}

void Report::add(const Line& line) {
  const std::string quartiles = number(line.low_us, 1) + " ... " + number(line.high_us, 1);
  std::printf("%-*s %12.1f %25s %8.1f %5.0f %%\n", kNameWidth, line.name.c_str(), line.median_us, quartiles.c_str(),
              line.gb_per_s, 100 * line.floor_share);
  std::fflush(stdout);
  lines_.push_back(line);
}

void Report::add_failure(const std::string& name, const std::string& reason) {
  std::printf("%-*s failed: %s\n", kNameWidth, name.c_str(), reason.c_str());
  std::fflush(stdout);
  failures_.push_back({name, reason});
}

void Report::write(const std::string& path) const {
  const auto failure = [](const Failure& f) {
    return "{\"name\": " + quoted(f.name) + ", \"reason\": " + quoted(f.reason) + "}";
  };
  std::ofstream file(path);
  file << "{\n  \"devices\": " << list(devices_, [](const Device* device) { return json(*device); })
       << ",\n  \"results\": " << list(lines_, [](const Line& line) { return json(line); })
       << ",\n  \"failures\": " << list(failures_, failure) << "\n}\n";
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

}  // namespace ltd::bench
