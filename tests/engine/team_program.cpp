// What tests/engine/test_team.py runs: random jobs whose items depend on all items of the phase before, with threads
// that sleep at random. `team_program WHAT` ends with 0 if all results are those of one thread.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/team.h"

namespace {

using Values = std::vector<std::vector<uint64_t>>;  // of every item of every phase

constexpr int kJobs = 100;

uint64_t mixed(uint64_t value) {
  value = (value ^ (value >> 31)) * 0x9e3779b97f4a7c15u;
  return value ^ (value >> 29);
}

// Some items are long, and some of their threads are away in the middle.
void dawdle(uint64_t random) {
  if (random % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random / 64 % 300));
  if (random % 8 == 1) std::this_thread::yield();
}

// Runs phases of so many items; the memory is the job's own and gone behind it, as a caller's is.
std::vector<uint64_t> run_job(const std::vector<int64_t>& counts, int threads, uint64_t seed) {
  const auto values = std::make_unique<Values>();
  for (const int64_t count : counts) values->emplace_back(count);
  std::vector<int> taken(threads + 1);  // a thread's own memory: nobody else has its number
  ltd::in_phases(threads, counts.data(), std::ssize(counts), [&](int64_t phase, const ltd::Share& share) {
    uint64_t sum = seed;
    for (int64_t p = phase - 1; p >= 0 && sum == seed; --p) {
      for (const uint64_t value : (*values)[p]) sum += value;
    }
    for (int64_t item = share.first; item < share.last; ++item) {
      ++taken[share.thread];
      dawdle(mixed(sum + item + threads));
      (*values)[phase][item] += mixed(sum + item);  // twice would show
    }
  });
  int64_t all = 0;
  for (const int64_t count : counts) all += count;
  for (const int number : taken) all -= number;
  std::vector<uint64_t> result{static_cast<uint64_t>(all)};  // 0: none twice, none left out
  for (const auto& phase : *values) result.insert(result.end(), phase.begin(), phase.end());
  return result;
}

bool run_jobs(int jobs, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (int job = 0; job < jobs; ++job) {
    std::vector<int64_t> counts(1 + random() % 20);
    for (int64_t& count : counts) count = random() % 4 == 0 ? random() % 2 : random() % 50;
    const uint64_t start = random();
    const int threads = static_cast<int>(2 + random() % 7);
    if (run_job(counts, threads, start) == run_job(counts, 1, start)) continue;
    std::fprintf(stderr, "job %d of seed %llu differs with %d threads\n", job, (unsigned long long)seed, threads);
    return false;
  }
  return true;
}

// Callers have threads of their own, which end with them.
bool run_callers() {
  bool right[4] = {};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) callers.emplace_back([&right, c] { right[c] = run_jobs(kJobs / 4, 100 + c); });
  for (std::thread& caller : callers) caller.join();
  return right[0] && right[1] && right[2] && right[3];
}

// A child has none of its parent's threads.
bool run_forked() {
  if (!run_jobs(20, 1)) return false;
  const pid_t child = fork();
  if (child == 0) std::exit(run_jobs(20, 2) ? 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  const pid_t idle = fork();  // that never runs a job ends as well
  if (idle == 0) std::exit(0);
  int idle_status = 0;
  waitpid(idle, &idle_status, 0);
  return status == 0 && idle_status == 0 && run_jobs(20, 3);
}

// The system gives no more threads: their stacks find no room.
bool run_without_threads() {
  const rlimit none{1 << 20, RLIM_INFINITY};
  return setrlimit(RLIMIT_AS, &none) == 0 && run_jobs(20, 4);
}

}  // namespace

int main(int, char** arguments) {
  const std::string what = arguments[1];
  const bool right = what == "jobs"      ? run_jobs(kJobs, 0)
                     : what == "callers" ? run_callers()
                     : what == "forked"  ? run_forked()
                                         : run_without_threads();
  return right ? 0 : 1;
}
