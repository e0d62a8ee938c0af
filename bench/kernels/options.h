// What kernel_bench is asked for.
#pragma once

#include <regex>
#include <string>

namespace ltd::bench {

struct Options {
  std::string json;       // a file for the results, if any
  std::string device;     // the only one that is used; if empty, all that there are
  bool once = false;      // run, do not time
  bool filtered = false;  // a filter was given, which then decides alone
  std::regex filter;      // found in the names of what is timed
  double seconds = 0.4;   // that a case runs, at least
  int repetitions = 7;    // and how often, at least

  // Throws std::invalid_argument, with a sentence, for an argument that is not one of these or has a bad value.
  static Options taken_from(int count, char** arguments);

  // Whether what has this name and belongs to the usual sizes, or not, is timed.
  bool wants(const std::string& name, bool usual) const { return filtered ? std::regex_search(name, filter) : usual; }
};

}  // namespace ltd::bench
