// What kernels read of a policy's network.
#pragma once

#include "emulation/run.h"
#include "policy/network.h"

namespace ltd::emulation {

inline void may_read_network(Memory& memory, const PolicyNetwork& network) {
  for (int i = 0; i < network.layer_count; ++i) {
    const PolicyLayer& layer = network.layers[i];
    memory.may_read(layer.weight, layer.inputs * layer.outputs);
    memory.may_read(layer.bias, layer.outputs);
  }
}

}  // namespace ltd::emulation
