#include "emulation/block.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulation/control.h"
#include "emulation/fibre.h"
#include "emulation/memory.h"
#include "emulation/races.h"

namespace ltd::emulation {

Indices now;
uintptr_t stacks_begin = 0;
size_t stacks_bytes = 0;

namespace {

constexpr int kMaxThreads = 1024;
constexpr unsigned kMaxBlocksYz = 65535;

// Bytes beside every shared variable that nothing may change.
constexpr size_t kGuard = 64;

// --- the random order ---

uint64_t random_state = 1;

std::string delayed;  // what a launch function has done wrong

}  // namespace

uint64_t random_bits() {
  random_state += 0x9e3779b97f4a7c15u;
  uint64_t z = random_state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

namespace {

size_t random_below(size_t limit) { return static_cast<size_t>((random_bits() >> 32) * limit >> 32); }

template <typename Iterator>
void shuffle_order(Iterator begin, Iterator end) {
  for (auto n = end - begin; n > 1; --n) std::swap(begin[n - 1], begin[random_below(static_cast<size_t>(n))]);
}

bool is_same(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

// --- threads ---

struct Copy {
  void* shared;
  const void* source;
  size_t bytes;
  int group;
};

enum class State { kReady, kInBlock, kInWarp, kDone };

struct Thread {
  explicit Thread(char* stack) : fibre(stack) {}

  Fibre fibre;
  State state = State::kDone;

  // What it waits for.
  const char* operation = nullptr;
  Location where;
  uint32_t mask = 0;
  void* data = nullptr;

  std::vector<Copy> copies;  // that have not arrived
  int groups = 0;            // closed
};

// How the next thread is chosen. Each shows other mistakes: a stack lets a warp run far ahead of the others.
enum class Order { kAny, kLastReadied, kFirstReadied };

class Block {
 public:
  void run(const Grid& grid, uint3 index, int threads, int64_t dynamic_bytes, int64_t shared_room,
           const std::function<void()>& kernel);

  int meet_all(const char* operation, bool vote, const Location& where);
  void meet_lanes(const char* operation, uint32_t mask, void* data, Meeting meet, const Location& where);
  void yield();
  Thread& current() { return *threads_[static_cast<size_t>(now.thread.x)]; }
  std::string name() const;
  bool is_running() const { return running_; }
  void give_up(const std::string& what);

  void* new_shared(size_t bytes, size_t alignment);
  char* dynamic_bytes(int64_t byte, int64_t bytes, int64_t alignment);
  bool is_in_shared_memory(uintptr_t address) const;
  bool is_shared(uintptr_t address, size_t bytes) const;
  std::string note_shared(uintptr_t address, size_t bytes, bool writes, bool is_atomic);
  uint64_t number() const { return number_; }

 private:
  struct Variable {
    size_t begin;
    size_t end;
  };

  static void enter();
  void thread_main();
  void make_ready(int thread);
  int next_ready();
  void check_barrier();
  std::string waiting(int thread) const;
  std::string why_stuck() const;
  std::string describe_race(const Races::Race& race, bool writes) const;
  void clear_shared(int64_t dynamic_bytes);
  void check_guards();
  std::byte rubbish(size_t byte) const;

  const Grid* grid_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
  bool running_ = false;
  uint64_t number_ = 0;
  int count_ = 0;
  int done_ = 0;
  std::string error_;

  char* const stacks_ = new_stacks(kMaxThreads);
  std::vector<std::unique_ptr<Thread>> threads_;
  uint32_t in_warp_[kMaxThreads / kLanes] = {};  // the lanes of each warp that wait for others of it
  std::vector<int> ready_;                       // from first_ready_ on
  size_t first_ready_ = 0;
  Order order_ = Order::kAny;

  int in_barrier_ = 0;
  int votes_ = 0;
  int result_ = 0;  // of the last full barrier

  alignas(64) std::byte shared_[kMaxShared + 8192];
  Races races_{sizeof(shared_)};
  std::vector<Variable> variables_;  // the first is the dynamic memory
  size_t shared_end_ = 0;
  int64_t shared_room_ = kMaxShared;
  uint64_t rubbish_seed_ = 0;
};

Block the_block;  // not a local variable, whose guard every access would ask

Block& block() { return the_block; }

std::string text(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string Block::name() const {
  return "the kernel launched at " + place(grid_->where) + ", block " + text(now.block);
}

// --- a block's life ---

void Block::run(const Grid& grid, uint3 index, int threads, int64_t dynamic_bytes, int64_t shared_room,
                const std::function<void()>& kernel) {
  grid_ = &grid;
  kernel_ = &kernel;
  now = {{0, 0, 0}, index, dim3(static_cast<unsigned>(threads)), grid.blocks};
  ++number_;
  count_ = threads;
  done_ = in_barrier_ = votes_ = 0;
  error_.clear();
  std::fill(std::begin(in_warp_), std::end(in_warp_), 0u);
  ready_.clear();
  first_ready_ = 0;
  order_ = static_cast<Order>(std::max<size_t>(random_below(4), 1) - 1);
  clear_shared(dynamic_bytes);
  shared_room_ = shared_room;
  stacks_begin = reinterpret_cast<uintptr_t>(stacks_);
  stacks_bytes = kMaxThreads * Fibre::kStack;
  races_.start_block();
  set_in_atomic(false);
  while (static_cast<int>(threads_.size()) < threads) {
    threads_.push_back(std::make_unique<Thread>(stacks_ + threads_.size() * Fibre::kStack));
  }
  std::vector<int> first(static_cast<size_t>(threads));
  std::iota(first.begin(), first.end(), 0);
  shuffle_order(first.begin(), first.end());
  for (int thread : first) {
    threads_[static_cast<size_t>(thread)]->copies.clear();
    threads_[static_cast<size_t>(thread)]->groups = 0;
    threads_[static_cast<size_t>(thread)]->fibre.start(&Block::enter);
    make_ready(thread);
  }

  note_host();
  running_ = true;
  while (done_ < count_ && error_.empty()) {
    if (first_ready_ == ready_.size()) {
      error_ = why_stuck();
      break;
    }
    const int thread = next_ready();
    now.thread.x = static_cast<unsigned>(thread);
    threads_[static_cast<size_t>(thread)]->fibre.resume();
  }
  running_ = false;
  forget_last_ranges();
  if (!error_.empty()) throw std::runtime_error(error_);
  check_guards();
}

void Block::enter() { block().thread_main(); }

void Block::thread_main() {
  try {
    (*kernel_)();
    current().state = State::kDone;
    ++done_;
    if (in_barrier_ > 0) check_barrier();
  } catch (const std::exception& problem) {
    error_ = problem.what();
  } catch (...) {
    error_ = name() + " threw something";
  }
  current().fibre.pause();
  std::abort();  // a thread that is done was resumed
}

void Block::give_up(const std::string& what) {
  error_ = name() + ", thread " + text(now.thread) + ": " + what;
  current().fibre.pause();
}

void Block::make_ready(int thread) {
  threads_[static_cast<size_t>(thread)]->state = State::kReady;
  in_warp_[thread / kLanes] &= ~(1u << thread % kLanes);
  ready_.push_back(thread);
}

int Block::next_ready() {
  int thread = 0;
  if (order_ == Order::kFirstReadied) {
    thread = ready_[first_ready_++];
  } else {
    if (order_ == Order::kAny)
      std::swap(ready_.back(), ready_[first_ready_ + random_below(ready_.size() - first_ready_)]);
    thread = ready_.back();
    ready_.pop_back();
  }
  if (first_ready_ == ready_.size()) {
    ready_.clear();
    first_ready_ = 0;
  }
  return thread;
}

void Block::yield() {
  make_ready(static_cast<int>(now.thread.x));
  current().fibre.pause();
}

// --- barriers ---

// Threads wait in one and the same barrier; one that waits elsewhere or has left will never come.
void Block::check_barrier() {
  int first = -1;
  for (int i = 0; i < count_; ++i) {
    if (threads_[static_cast<size_t>(i)]->state != State::kInBlock) continue;
    if (first < 0) first = i;
    if (!is_same(threads_[static_cast<size_t>(i)]->where, threads_[static_cast<size_t>(first)]->where)) {
      fail("not all threads reach the same barrier: " + waiting(first) + ", " + waiting(i));
    }
  }
  for (int i = 0; i < count_ && first >= 0; ++i) {
    if (threads_[static_cast<size_t>(i)]->state == State::kDone) {
      fail("not all threads reach the barrier: " + waiting(first) + ", " + waiting(i));
    }
  }
}

int Block::meet_all(const char* operation, bool vote, const Location& where) {
  Thread& thread = current();
  thread.state = State::kInBlock;
  thread.operation = operation;
  thread.where = where;
  votes_ += vote;
  ++in_barrier_;
  if (in_barrier_ == 1 || in_barrier_ == count_ || done_ > 0) check_barrier();
  if (in_barrier_ == count_) {
    result_ = votes_;
    in_barrier_ = votes_ = 0;
    races_.meet_block();
    const size_t begin = ready_.size();
    for (int i = 0; i < count_; ++i) make_ready(i);
    shuffle_order(ready_.begin() + static_cast<ptrdiff_t>(begin), ready_.end());
  }
  current().fibre.pause();
  return result_;
}

void Block::meet_lanes(const char* operation, uint32_t mask, void* data, Meeting meet, const Location& where) {
  const int lane = static_cast<int>(now.thread.x % kLanes);
  const int warp = static_cast<int>(now.thread.x / kLanes);
  if ((mask >> lane & 1) == 0) fail(std::string(operation) + " by a lane that is not in its mask", where);
  Thread& thread = current();
  thread.state = State::kInWarp;
  thread.operation = operation;
  thread.where = where;
  thread.mask = mask;
  thread.data = data;

  in_warp_[warp] |= 1u << lane;

  // The lanes that wait do not wait for the same, perhaps.
  const int first = warp * kLanes;
  void* lanes[kLanes] = {};
  bool complete = (in_warp_[warp] & mask) == mask;
  for (uint32_t rest = mask; rest != 0 && complete; rest &= rest - 1) {
    const int other = std::countr_zero(rest);
    const Thread& one = *threads_[static_cast<size_t>(first + other)];
    complete = one.mask == mask && is_same(one.where, where);
    lanes[other] = one.data;
  }
  if (complete) {
    // Shuffles and votes exchange values, but do not order what the lanes do in memory.
    if (meet == nullptr) {
      races_.meet_warp(warp);
    } else {
      meet(lanes, mask);
    }
    const size_t begin = ready_.size();
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) make_ready(first + std::countr_zero(rest));
    shuffle_order(ready_.begin() + static_cast<ptrdiff_t>(begin), ready_.end());
  }
  current().fibre.pause();
}

std::string Block::waiting(int index) const {
  const Thread& thread = *threads_[static_cast<size_t>(index)];
  const std::string name = "thread " + std::to_string(index);
  switch (thread.state) {
    case State::kReady:
      return name + " runs";
    case State::kDone:
      return name + " has returned";
    case State::kInBlock:
    case State::kInWarp:
      return name + " waits in " + thread.operation + " at " + place(thread.where);
  }
  return name;
}

// Nobody can go on: names a thread that waits, and one for which it waits in vain.
std::string Block::why_stuck() const {
  for (int i = 0; i < count_; ++i) {
    const Thread& thread = *threads_[static_cast<size_t>(i)];
    if (thread.state != State::kInWarp) continue;
    const int first = i / kLanes * kLanes;
    for (uint32_t rest = thread.mask; rest != 0; rest &= rest - 1) {
      const int other = first + std::countr_zero(rest);
      const std::string here = name() + ": not all lanes of the mask come together: " + waiting(i);
      if (other >= count_) return here + ", thread " + std::to_string(other) + " does not exist";
      const Thread& one = *threads_[static_cast<size_t>(other)];
      if (one.state != State::kInWarp || one.mask != thread.mask || !is_same(one.where, thread.where)) {
        return here + ", " + waiting(other) +
               (one.state == State::kInWarp && one.mask != thread.mask ? " with another mask" : "");
      }
    }
  }
  return name() + ": no thread can go on";
}

// --- shared memory ---

// Where a barrier is left out, its numbers are negative: a thread that takes a large one for a count would be busy for
// many seconds before anything goes wrong that can be noticed.
std::byte Block::rubbish(size_t byte) const {
  uint64_t z = (rubbish_seed_ + byte / 8) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 32)) * 0xbf58476d1ce4e5b9u;
  const auto found = static_cast<std::byte>((z ^ (z >> 29)) >> (byte % 8 * 8));
  return skips_barrier() && byte % 4 == 3 ? found | std::byte{0x80} : found;
}

void Block::clear_shared(int64_t dynamic_bytes) {
  rubbish_seed_ = random_bits();
  shared_end_ = 0;
  variables_.clear();
  // Aligned to 16 bytes and not more, as on the device.
  variables_.push_back({kGuard + 16, kGuard + 16 + static_cast<size_t>(dynamic_bytes)});
  const size_t end = variables_[0].end + kGuard;
  for (size_t byte = 0; byte < end; ++byte) shared_[byte] = rubbish(byte);
  shared_end_ = end;
}

void* Block::new_shared(size_t bytes, size_t alignment) {
  const size_t begin = (shared_end_ + alignment - 1) / alignment * alignment;
  const size_t end = begin + bytes + kGuard;
  size_t total = bytes;
  for (size_t i = 1; i < variables_.size(); ++i) total += variables_[i].end - variables_[i].begin;
  if (total > kSharedUnasked) fail("more than 48 KB of shared variables");
  if (static_cast<int64_t>(total + variables_[0].end - variables_[0].begin) > shared_room_ || end > sizeof(shared_)) {
    fail("more than " + std::to_string(shared_room_ >> 10) + " KB of shared memory");
  }
  for (size_t byte = shared_end_; byte < end; ++byte) shared_[byte] = rubbish(byte);
  variables_.push_back({begin, begin + bytes});
  shared_end_ = end;
  return shared_ + begin;
}

char* Block::dynamic_bytes(int64_t byte, int64_t bytes, int64_t alignment) {
  const Variable& dynamic = variables_[0];
  const int64_t size = static_cast<int64_t>(dynamic.end - dynamic.begin);
  if (byte < 0 || bytes < 0 || byte + bytes > size) {
    fail("bytes " + std::to_string(byte) + " to " + std::to_string(byte + bytes) + " of " + std::to_string(size) +
         " bytes of dynamic shared memory");
  }
  if (byte % alignment != 0) fail("dynamic shared memory at byte " + std::to_string(byte) + ", which is misaligned");
  return reinterpret_cast<char*>(shared_ + dynamic.begin + byte);
}

bool Block::is_in_shared_memory(uintptr_t address) const {
  return address - reinterpret_cast<uintptr_t>(shared_) < sizeof(shared_);
}

std::string Block::note_shared(uintptr_t address, size_t bytes, bool writes, bool is_atomic) {
  const size_t begin = address - reinterpret_cast<uintptr_t>(shared_);
  const auto race = races_.note(begin, bytes, static_cast<int>(now.thread.x), writes, is_atomic);
  return race ? describe_race(*race, writes) : "";
}

std::string Block::describe_race(const Races::Race& race, bool writes) const {
  const auto [byte, other] = race;
  size_t variable = 0;
  while (byte >= variables_[variable].end) ++variable;
  return std::string(writes ? "writes" : "reads") + " byte " + std::to_string(byte - variables_[variable].begin) +
         (variable == 0 ? " of the dynamic shared memory" : " of shared variable " + std::to_string(variable)) +
         ", which no barrier separates from what thread " + std::to_string(other) + " does there";
}

bool Block::is_shared(uintptr_t address, size_t bytes) const {
  const uintptr_t base = reinterpret_cast<uintptr_t>(shared_);
  for (const Variable& variable : variables_) {
    if (address >= base + variable.begin && address + bytes <= base + variable.end) return true;
  }
  return false;
}

void Block::check_guards() {
  size_t byte = 0;
  const auto check_until = [&](size_t end) {
    for (; byte < end; ++byte) {
      if (shared_[byte] != rubbish(byte)) throw std::runtime_error(name() + ": wrote beside a shared variable");
    }
  };
  for (const Variable& variable : variables_) {
    check_until(variable.begin);
    byte = variable.end;
  }
  check_until(shared_end_);
}

}  // namespace

// --- what the twins call ---

void fail(std::string_view what) {
  if (!block().is_running()) throw std::runtime_error("outside of kernels: " + std::string(what));
  throw std::runtime_error(block().name() + ", thread " + text(now.thread) + ": " + std::string(what));
}

void fail(std::string_view what, const Location& where) { fail(std::string(what) + ", at " + place(where)); }

void fail_index(int64_t index, int64_t count) {
  fail("index " + std::to_string(index) + " of an array of " + std::to_string(count));
}

void fail_source(const char* operation, int lane, const Location& where) {
  fail(std::string(operation) + " reads lane " + std::to_string(lane) + ", which is not in the mask", where);
}

void run_grid(const Grid& grid, int threads, int64_t shared_bytes, int64_t shared_room,
              const std::function<void()>& kernel) {
  const auto refuse = [&](const std::string& why) {
    throw std::runtime_error("the kernel launched at " + place(grid.where) + ": " + why);
  };
  const dim3& blocks = grid.blocks;
  if (block().is_running()) refuse("launched by a kernel");
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) refuse("a grid without blocks");
  if (blocks.x > INT32_MAX || blocks.y > kMaxBlocksYz || blocks.z > kMaxBlocksYz) refuse("too many blocks");
  if (threads < 1 || threads > kMaxThreads) refuse("blocks of " + std::to_string(threads) + " threads");
  if (shared_bytes < 0 || shared_bytes > shared_room) refuse(std::to_string(shared_bytes) + " bytes of shared memory");

  std::vector<uint64_t> order(uint64_t{blocks.x} * blocks.y * blocks.z);
  std::iota(order.begin(), order.end(), 0);
  shuffle_order(order.begin(), order.end());
  for (uint64_t i : order) {
    const uint3 index{static_cast<unsigned>(i % blocks.x), static_cast<unsigned>(i / blocks.x % blocks.y),
                      static_cast<unsigned>(i / blocks.x / blocks.y)};
    block().run(grid, index, threads, shared_bytes, shared_room, kernel);
  }
}

int meet_block(const char* operation, bool vote, const Location& where) {
  return is_skipped(where) ? vote : block().meet_all(operation, vote, where);
}

void meet_warp(const char* operation, uint32_t mask, void* data, Meeting meet, const Location& where) {
  block().meet_lanes(operation, mask, data, meet, where);
}

void perhaps_yield() {
  if (random_bits() % 8 == 0) block().yield();
}

void* new_shared(size_t bytes, size_t alignment) { return block().new_shared(bytes, alignment); }

uint64_t block_number() { return block().number(); }

char* dynamic_bytes(int64_t byte, int64_t bytes, int64_t alignment) {
  return block().dynamic_bytes(byte, bytes, alignment);
}

void check_shared(const void* data, size_t bytes) {
  if (!is_shared(reinterpret_cast<uintptr_t>(data), bytes)) fail("an address that is not in shared memory");
}

bool is_shared(uintptr_t address, size_t bytes) { return block().is_running() && block().is_shared(address, bytes); }

bool is_in_shared_memory(uintptr_t address) { return block().is_running() && block().is_in_shared_memory(address); }

std::string note_shared(uintptr_t address, size_t bytes, bool writes, bool is_atomic) {
  return block().note_shared(address, bytes, writes, is_atomic);
}

void give_up(const std::string& what) {
  if (block().is_running()) {
    block().give_up(what);
  } else if (delayed.empty()) {
    delayed = what;
  }
}

void throw_delayed() {
  if (!delayed.empty()) throw std::runtime_error(std::exchange(delayed, ""));
}

bool is_in_kernel() { return block().is_running(); }

namespace {

void arrive(const Copy& copy) {
  const std::string problem = note_shared(reinterpret_cast<uintptr_t>(copy.shared), copy.bytes, true, false);
  if (!problem.empty()) fail("copy_async16 " + problem);
  std::memcpy(copy.shared, copy.source, copy.bytes);
}

}  // namespace

// Some copies arrive at once, the others as late as they may.
void copy_later(void* shared, const void* source, size_t bytes) {
  Thread& thread = block().current();
  const Copy copy{shared, source, bytes, thread.groups};
  if (random_bits() % 4 == 0) {
    arrive(copy);
  } else {
    thread.copies.push_back(copy);
  }
}

void close_copies() { ++block().current().groups; }

void await_copies(int left) {
  Thread& thread = block().current();
  std::erase_if(thread.copies, [&](const Copy& copy) {
    const bool arrives = copy.group < thread.groups - left;
    if (arrives) arrive(copy);
    return arrives;
  });
}

void seed_random(uint64_t seed) { random_state = seed; }

}  // namespace ltd::emulation
