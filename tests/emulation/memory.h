// What the emulation's parts tell each other about memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ltd::emulation {

// Whether this lies in a shared variable of the running block.
bool is_shared(uintptr_t address, size_t bytes);

bool is_in_kernel();

}  // namespace ltd::emulation
