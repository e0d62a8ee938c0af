#include "emulation/toys.h"

#include <stdexcept>
#include <string>

#include "emulation/run.h"

// Runs a toy. Returns what went wrong, or null.
extern "C" __attribute__((visibility("default"))) const char* ltd_emulation_toy(const char* name, const uint32_t* in,
                                                                                int64_t in_count, uint32_t* out,
                                                                                int64_t out_count) {
  using namespace ltd::emulation;
  static std::string problem;
  const ToyFunction function = find_toy(name);
  if (function == nullptr) return "there is no such toy";
  Memory memory;
  memory.may_read(in, in_count);
  memory.may_write(out, out_count);
  try {
    run(memory, Toy{in, in_count, out, out_count, {}}, toy_workspace, function);
    return nullptr;
  } catch (const std::runtime_error& error) {
    problem = error.what();
    return problem.c_str();
  }
}
