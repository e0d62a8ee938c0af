#include "emulation/control.h"

#include <map>
#include <string_view>
#include <utility>
#include <vector>

namespace ltd::emulation {

namespace {

struct Barrier {
  std::string place;
  int64_t visits;
};
std::vector<Barrier> barriers;
int skipped = -1;

int barrier_number(const Location& where) {
  // A file's name may stand at several addresses; they lead to the same text.
  static std::map<std::pair<const char*, unsigned>, int> numbers;
  const auto [entry, is_new] = numbers.try_emplace({where.file_name(), where.line()}, 0);
  if (is_new) {
    const std::string text = place(where);
    size_t number = 0;
    while (number < barriers.size() && barriers[number].place != text) ++number;
    if (number == barriers.size()) barriers.push_back({text, 0});
    entry->second = static_cast<int>(number);
  }
  return entry->second;
}

}  // namespace

int barrier_count() { return static_cast<int>(barriers.size()); }

std::string barrier_place(int barrier) { return barriers.at(static_cast<size_t>(barrier)).place; }

int64_t barrier_visits(int barrier) { return barriers.at(static_cast<size_t>(barrier)).visits; }

void skip_barrier(int barrier) { skipped = barrier; }

bool skips_barrier() { return skipped >= 0; }

bool is_skipped(const Location& where) {
  const int number = barrier_number(where);
  ++barriers[static_cast<size_t>(number)].visits;
  return number == skipped;
}

std::string place(const Location& where) {
  const std::string_view file = where.file_name();
  return std::string(file.substr(file.find_last_of('/') + 1)) + ":" + std::to_string(where.line());
}

}  // namespace ltd::emulation
