#include "options.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace ltd::bench {
namespace {

constexpr double kMostSeconds = 600.0;
constexpr int kMostRepetitions = 100000;

// What stands behind `name` and =, or null if the argument is another.
const char* value_of(const char* argument, const char* name) {
  const size_t length = std::strlen(name);
  return std::strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : nullptr;
}

double number_of(const std::string& argument, const char* text, double most) {
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(number > 0.0 && number <= most)) {
    throw std::invalid_argument(argument + " must have a number above 0, at most " + std::to_string(most));
  }
  return number;
}

int count_of(const std::string& argument, const char* text, int most) {
  char* end = nullptr;
  const long count = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || count < 1 || count > most) {
    throw std::invalid_argument(argument + " must have a whole number from 1 to " + std::to_string(most));
  }
  return static_cast<int>(count);
}

std::regex regex_of(const std::string& argument, const char* text) {
  try {
    return std::regex(text);
  } catch (const std::regex_error& error) {
    throw std::invalid_argument(argument + " is no regular expression: " + error.what());
  }
}

}  // namespace

Options Options::taken_from(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--once") {
      options.once = true;
    } else if (const char* file = value_of(arguments[i], "--json")) {
      options.json = file;
    } else if (const char* device = value_of(arguments[i], "--device")) {
      options.device = device;
      if (options.device != "cpu" && options.device != "cuda") {
        throw std::invalid_argument(argument + " is unknown; there are cpu and cuda");
      }
    } else if (const char* filter = value_of(arguments[i], "--filter")) {
      options.filter = regex_of(argument, filter);
      options.filtered = true;
    } else if (const char* seconds = value_of(arguments[i], "--seconds")) {
      options.seconds = number_of(argument, seconds, kMostSeconds);
    } else if (const char* repetitions = value_of(arguments[i], "--repetitions")) {
      options.repetitions = count_of(argument, repetitions, kMostRepetitions);
    } else {
      throw std::invalid_argument(argument +
                                  " is unknown; there are --json=FILE, --device=NAME, --filter=REGEX, "
                                  "--seconds=S, --repetitions=N and --once");
    }
  }
  return options;
}

}  // namespace ltd::bench
