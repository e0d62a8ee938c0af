// What the lookup's bindings add to the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace ltd {

void bind_lookup(pybind11::module_& module);

}  // namespace ltd
