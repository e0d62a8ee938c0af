#include "common/team.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ltd {
namespace {

using Clock = std::chrono::steady_clock;
using Word = std::atomic<uint32_t>;

// How long a thread watches for what it waits for before it sleeps: about as long as waking it takes. Longer than a
// phase's last items mostly take, far shorter than a time slice.
constexpr std::chrono::microseconds kPhasePatience{50};
// Between jobs: a decoder's next one is seldom farther away.
constexpr std::chrono::microseconds kJobPatience{100};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps until somebody wakes those who sleep at the word, unless it is not `value` any more. May wake for no reason.
// A thread that sleeps leaves the processor to others and has it back when it is woken; sched_yield() would give away a
// whole time slice, again and again.
void sleep_while(const Word& word, uint32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  if (word.load(std::memory_order_relaxed) == value) std::this_thread::sleep_for(kPhasePatience);
#endif
}

void wake([[maybe_unused]] const Word& word, [[maybe_unused]] int count) {
#if defined(__linux__)
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
#endif
}

// Watches until ready() or the patience is over; whether it is ready.
template <typename Ready>
bool watch(std::chrono::microseconds patience, Ready&& ready) {
  constexpr int kLooksPerClock = 16;
  Clock::time_point end{};
  for (;;) {
    for (int look = 0; look < kLooksPerClock; ++look) {
      if (ready()) return true;
      relax();
    }
    const auto now = Clock::now();
    if (end == Clock::time_point{}) end = now + patience;
    if (now >= end) return ready();
  }
}

// One phase of a job, on a cache line of its own.
//
// What items write is seen in the next phase: finish() releases it, all further additions to the same word carry it on,
// and wait() acquires the last. A claim needs no order, since who claims has waited for the phase before.
class alignas(64) Phase {
 public:
  void set_count(int64_t count) { count_ = static_cast<uint32_t>(count); }

  // Takes the next items; [0, 0) when none is left. A thread's part of what is left at a time ("guided
  // self-scheduling", Polychronopoulos and Kuck, 1987): items mostly follow each other in memory, and the last ones end
  // together. But never so many that the others would wait long for a thread that is away.
  std::pair<int64_t, int64_t> take(int64_t threads) {
    uint32_t first = next_.load(std::memory_order_relaxed);
    while (first < count_) {
      const uint32_t size = std::clamp<uint32_t>((count_ - first) / static_cast<uint32_t>(threads), 1, kMostItems);
      if (next_.compare_exchange_weak(first, first + size, std::memory_order_relaxed)) return {first, first + size};
    }
    return {0, 0};
  }

  void finish(int64_t items) {
    const uint32_t before = done_.fetch_add(static_cast<uint32_t>(items), std::memory_order_acq_rel);
    if (before + items == (count_ | kSleepers)) wake(done_, INT32_MAX);
  }

  void wait() {
    const auto is_done = [&] { return (done_.load(std::memory_order_acquire) & ~kSleepers) == count_; };
    if (is_done() || watch(kPhasePatience, is_done)) return;
    while (!is_done()) {
      const uint32_t marked = done_.fetch_or(kSleepers, std::memory_order_acq_rel) | kSleepers;
      if ((marked & ~kSleepers) != count_) sleep_while(done_, marked);
    }
  }

 private:
  static constexpr uint32_t kMostItems = 64;
  static constexpr uint32_t kSleepers = 1u << 31;  // in done_: somebody sleeps, and must be woken at the end

  uint32_t count_ = 0;
  Word next_{0};
  Word done_{0};
};

// Threads keep it alive: one that is late still looks at its counters after its caller has gone on.
class Job {
 public:
  Job(int threads, const int64_t* counts, int64_t phases, RunShare run, const void* context)
      : threads_(threads), phases_(phases), run_(run), context_(context) {
    for (int64_t p = 0; p < phases; ++p) phases_[p].set_count(counts[p]);
  }

  void lead() { work(0); }

  void help() {
    const int number = joined_.fetch_add(1, std::memory_order_relaxed);
    if (number < threads_) work(number);
  }

 private:
  void work(int number) {
    for (size_t p = 0; p < phases_.size(); ++p) {
      int64_t done = 0;
      for (;;) {
        const auto [first, last] = phases_[p].take(threads_);
        if (first == last) break;
        run_(context_, static_cast<int64_t>(p), {number, first, last, done == 0});
        done += last - first;
      }
      if (done > 0) phases_[p].finish(done);
      phases_[p].wait();
    }
  }

  const int threads_;
  std::vector<Phase> phases_;
  const RunShare run_;
  const void* const context_;
  std::atomic<int> joined_{1};
};

// The threads that help one other thread.
class Crew {
 public:
  ~Crew() {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    call(INT32_MAX);
    for (std::thread& helper : helpers_) helper.join();
  }

  void run(int threads, const int64_t* counts, int64_t phases, RunShare run, const void* context) {
    grow(threads - 1);
    const auto job = std::make_shared<Job>(threads, counts, phases, run, context);
    offer(job);
    call(threads - 1);
    job->lead();
    offer(nullptr);
  }

 private:
  // There may be fewer if the system gives no more: the work is done by those there are.
  void grow(int helpers) {
    if (static_cast<int>(helpers_.size()) >= helpers) return;
    // A signal is for the threads of the program.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (static_cast<int>(helpers_.size()) < helpers) {
        helpers_.emplace_back([this, round = round_.load()] { help(round); });
      }
    } catch (const std::system_error&) {
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void offer(std::shared_ptr<Job> job) {
    const std::lock_guard lock(mutex_);
    job_.swap(job);
  }

  // The helpers look for a job once more. Either a helper that goes to sleep sees the new round, or it is counted here.
  void call(int helpers) {
    round_.fetch_add(1);
    if (sleepers_.load() > 0) wake(round_, helpers);
  }

  void help(uint32_t round) {
    for (;;) {
      const auto is_called = [&] { return round_.load(std::memory_order_acquire) != round; };
      while (!watch(kJobPatience, is_called)) {
        sleepers_.fetch_add(1);
        sleep_while(round_, round);
        sleepers_.fetch_sub(1);
      }
      round = round_.load();
      std::shared_ptr<Job> job;
      {
        const std::lock_guard lock(mutex_);
        if (is_over_) return;
        job = job_;
      }
      if (job != nullptr) job->help();
    }
  }

  std::mutex mutex_;
  std::shared_ptr<Job> job_;  // none between jobs
  bool is_over_ = false;
  Word round_{0};
  Word sleepers_{0};
  std::vector<std::thread> helpers_;
};

// How often this process is a fork of a process that had the library.
std::atomic<int> forks{0};

// The calling thread's crew; a forked process has its parent's without the threads, and leaves it alone.
Crew& own_crew() {
  struct Owner {
    std::unique_ptr<Crew> crew;
    int made_after = 0;

    ~Owner() { drop_if_forked(); }
    void drop_if_forked() {
      if (made_after != forks.load()) static_cast<void>(crew.release());
    }
  };
  [[maybe_unused]] static const int is_counting = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
  thread_local Owner owner;
  owner.drop_if_forked();
  if (owner.crew == nullptr) {
    owner.crew = std::make_unique<Crew>();
    owner.made_after = forks.load();
  }
  return *owner.crew;
}

}  // namespace

void run_phases(int threads, const int64_t* counts, int64_t phases, RunShare run, const void* context) {
  if (threads > 1) return own_crew().run(threads, counts, phases, run, context);
  for (int64_t p = 0; p < phases; ++p) {
    if (counts[p] > 0) run(context, p, {0, 0, counts[p], true});
  }
}

}  // namespace ltd
