// What kernel sources call before every access to memory: they are compiled with -fsanitize=thread, of which this is
// the runtime library. So plain pointers are checked like Pointer<T>, and races in shared memory found whatever the
// order.
//
// The compiler takes it that these functions do not throw.
#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "common/types.h"
#include "emulation/block.h"
#include "emulation/memory.h"

namespace ltd::emulation {

namespace {

struct Interval {
  uintptr_t begin = UINTPTR_MAX;
  uintptr_t end = 0;

  bool holds(uintptr_t address) const { return address >= begin && address < end; }
};

// This library's own variables and constants.
Interval find_library() {
  Interval library;
  const auto visit = [](dl_phdr_info* info, size_t, void* found) {
    Interval image;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& header = info->dlpi_phdr[i];
      if (header.p_type != PT_LOAD) continue;
      image.begin = std::min(image.begin, static_cast<uintptr_t>(info->dlpi_addr + header.p_vaddr));
      image.end = std::max(image.end, static_cast<uintptr_t>(info->dlpi_addr + header.p_vaddr + header.p_memsz));
    }
    if (!image.holds(reinterpret_cast<uintptr_t>(&find_library))) return 0;
    *static_cast<Interval*>(found) = image;
    return 1;
  };
  dl_iterate_phdr(visit, &library);
  return library;
}

// The stack of the launch functions, where a kernel's parameters are.
Interval find_stack() {
  Interval stack;
  pthread_attr_t attributes;
  void* lowest = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return stack;
  if (pthread_attr_getstack(&attributes, &lowest, &bytes) == 0) {
    stack.begin = reinterpret_cast<uintptr_t>(lowest);
    stack.end = stack.begin + bytes;
  }
  pthread_attr_destroy(&attributes);
  return stack;
}

Interval host_library;
Interval host_stack;

bool is_of_the_host(uintptr_t address) { return host_stack.holds(address) || host_library.holds(address); }

bool in_atomic = false;

[[gnu::noinline]] void refuse(size_t bytes, bool writes, const std::string& why) {
  give_up((writes ? "writes " : "reads ") + std::to_string(bytes) + " bytes " + why);
}

void check(uintptr_t address, size_t bytes, bool writes) {
  if (address - stacks_begin < stacks_bytes) return;
  const Range& last = writes ? last_written : last_read;
  if (address >= last.begin && address + bytes <= last.end) return;
  if (is_in_shared_memory(address)) {
    if (!is_shared(address, bytes)) return refuse(bytes, writes, "beside a shared variable");
    const std::string problem = note_shared(address, bytes, writes, in_atomic);
    if (!problem.empty()) give_up(problem);
  } else if (is_in_kernel()) {
    if (is_of_the_host(address)) return;
    if (!may_reach(address, bytes, writes)) refuse(bytes, writes, "that it must not" + describe_reach(address, writes));
  } else if (may_reach(address, 1, false)) {
    refuse(bytes, writes, "of the device's memory in a launch function");
  }
}

}  // namespace

void set_in_atomic(bool value) { in_atomic = value; }

void note_host() {
  static const Interval library = find_library();
  static thread_local const Interval stack = find_stack();
  host_library = library;
  host_stack = stack;
}

}  // namespace ltd::emulation

#define LTD_ACCESS(name, bytes)                                                \
  void __tsan_##name##read##bytes(void* address) {                             \
    ltd::emulation::check(reinterpret_cast<uintptr_t>(address), bytes, false); \
  }                                                                            \
  void __tsan_##name##write##bytes(void* address) {                            \
    ltd::emulation::check(reinterpret_cast<uintptr_t>(address), bytes, true);  \
  }

extern "C" {

LTD_ACCESS(, 1)
LTD_ACCESS(, 2)
LTD_ACCESS(, 4)
LTD_ACCESS(, 8)
LTD_ACCESS(, 16)
LTD_ACCESS(unaligned_, 2)
LTD_ACCESS(unaligned_, 4)
LTD_ACCESS(unaligned_, 8)
LTD_ACCESS(unaligned_, 16)

void __tsan_read_range(void* address, size_t bytes) {
  ltd::emulation::check(reinterpret_cast<uintptr_t>(address), bytes, false);
}
void __tsan_write_range(void* address, size_t bytes) {
  ltd::emulation::check(reinterpret_cast<uintptr_t>(address), bytes, true);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
// Of the guards of local static variables.
char __tsan_atomic8_load(const volatile char* address, int) { return *address; }
}
