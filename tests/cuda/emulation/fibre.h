// Threads of execution that switch when they want to, on stacks of their own.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace ltd::emulation {

// Memory for so many stacks, one behind the other, each with a page below it that may not be touched. It is never
// freed.
char* new_stacks(int count);

class Fibre {
 public:
  static constexpr size_t kStack = 128 << 10;

  // Its stack takes the kStack bytes from here on.
  explicit Fibre(char* stack) : stack_(stack) {}
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // The next resume() calls `entry`, which must never return nor let an exception out.
  void start(void (*entry)());

  // From the main thread of execution: runs the fibre until it calls pause().
  void resume();

  // From the fibre: returns to resume()'s caller, until the next resume().
  void pause();

 private:
  char* stack_;
#ifdef __x86_64__
  void* top_ = nullptr;     // of the fibre's stack while it pauses
  void* caller_ = nullptr;  // of the stack of resume()'s caller meanwhile
#else
  ucontext_t own_;
  ucontext_t caller_;
#endif
};

}  // namespace ltd::emulation
