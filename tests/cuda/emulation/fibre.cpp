#include "emulation/fibre.h"

#include <sys/mman.h>

#include <new>

#ifdef __x86_64__
// void ltd_switch_stacks(void** left, void* entered): keeps what a function must keep, and goes on where the other
// stack was left.
asm(R"(
.text
.globl ltd_switch_stacks
.hidden ltd_switch_stacks
.type ltd_switch_stacks, @function
ltd_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ltd_switch_stacks, . - ltd_switch_stacks
)");
extern "C" void ltd_switch_stacks(void** left, void* entered);
#endif

namespace ltd::emulation {

namespace {

constexpr size_t kPage = 4096;
}  // namespace

char* new_stacks(int count) {
  const size_t bytes = static_cast<size_t>(count) * Fibre::kStack;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* stacks = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) mprotect(stacks + static_cast<size_t>(i) * Fibre::kStack, kPage, PROT_NONE);
  return stacks;
}

#ifdef __x86_64__

void Fibre::start(void (*entry)()) {
  // Stacks begin at different cache lines of their pages: what 1,024 fibres have on top would otherwise share a few.
  const uintptr_t shift = reinterpret_cast<uintptr_t>(stack_) / kStack % 32 * 64;
  void** top = reinterpret_cast<void**>(stack_ + kStack - shift);
  *--top = nullptr;                         // where a return address would be
  *--top = reinterpret_cast<void*>(entry);  // where ltd_switch_stacks returns to
  for (int kept = 0; kept < 6; ++kept) *--top = nullptr;
  top_ = top;
}

void Fibre::resume() { ltd_switch_stacks(&caller_, top_); }

void Fibre::pause() { ltd_switch_stacks(&top_, caller_); }

#else

void Fibre::start(void (*entry)()) {
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_ + kPage;
  own_.uc_stack.ss_size = kStack - kPage;
  own_.uc_link = nullptr;
  makecontext(&own_, entry, 0);
}

void Fibre::resume() { swapcontext(&caller_, &own_); }

void Fibre::pause() { swapcontext(&own_, &caller_); }

#endif

}  // namespace ltd::emulation
