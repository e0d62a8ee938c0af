// Work that the threads of a team take from counters, so that whoever runs goes on.
//
// A job is phases one after the other, a phase is items in any order: a thread takes the next few items until none is
// left, and goes on to the next phase when all of this one's are done, whoever did them. Threads that the machine gives
// to somebody else hold up what they had taken and nothing more: who comes late goes on where the others are, and a job
// does not wait for who does not come at all. Which thread has what is chance; results must not depend on it.
//
// The threads belong to the thread that calls, as those of OpenMP do: they are started when first needed, sleep between
// jobs, and end with it. A process that was forked starts its own.
#pragma once

#include <array>
#include <memory>
#include <type_traits>

#include "common/types.h"

namespace ltd {

// What a thread has taken: items first ... last - 1 of a phase.
struct Share {
  int64_t thread;  // 0 ... threads - 1: the number of its memory
  int64_t first;
  int64_t last;
  bool is_first;  // of what this thread takes in this phase
};

// A job's work: runs what was taken. `context` is the caller's, which waits until all items are done: a thread that has
// taken none looks at nothing of the caller's.
using RunShare = void (*)(const void* context, int64_t phase, const Share& share);

// Runs phases of counts[0], counts[1] ... items with up to so many threads; returns when all are done.
void run_phases(int threads, const int64_t* counts, int64_t phases, RunShare run, const void* context);

namespace {

// Calls body(phase, share) for all items of all phases. It must not throw.
template <typename Body>
LTD_INLINE void in_phases(int threads, const int64_t* counts, int64_t phases, const Body& body) {
  run_phases(
      threads, counts, phases,
      [](const void* context, int64_t phase, const Share& share) {
        (*static_cast<const Body*>(context))(phase, share);
      },
      &body);
}

// Calls body(item) for items 0 ... count - 1.
template <typename Body>
LTD_INLINE void for_items(int threads, int64_t count, const Body& body) {
  const auto run = [&](int64_t, const Share& share) {
    for (int64_t item = share.first; item < share.last; ++item) body(item);
  };
  threads > 1 && count > 1 ? in_phases(threads, &count, 1, run) : run(0, {0, 0, count, true});
}

}  // namespace
}  // namespace ltd
