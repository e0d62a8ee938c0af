#include "policy/summary_state.h"

#include "policy/state_sums.h"

namespace ltd::LTD_ISA {

void summary_state(const SummaryState& a) { sum_states(a); }

}  // namespace ltd::LTD_ISA
