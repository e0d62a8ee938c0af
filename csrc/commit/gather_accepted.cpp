#include "commit/gather_accepted.h"

#include <cstring>

namespace ltd {

void gather_accepted(const GatherAccepted& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t gained = a.gained[b];
    if (gained > 0) a.roots[b] = a.tokens[b][gained - 1];
    a.report[b][0] = gained;
    a.report[b][1] = a.roots[b];
    for (int64_t i = 0; i < a.places; ++i) {
      a.report[b][2 + i] = i < gained ? a.tokens[b][i] : 0;
      if (a.gathered.data == nullptr) continue;
      if (i < gained) {
        std::memcpy(a.gathered.at(b, i), a.features.at(b, a.path[b][i]), a.row_bytes);
      } else {
        std::memset(a.gathered.at(b, i), 0, a.row_bytes);
      }
    }
  }
}

}  // namespace ltd
