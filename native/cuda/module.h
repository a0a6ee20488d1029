#pragma once

#include <string>
#include <vector>

#include "driver.h"

namespace rubato {

// Compiled kernels, as the driver loads them.
struct ModuleImage {
  std::string file;  // where they came from, for messages
  int chip;          // compiled for this one alone (86: compute capability 8.6); 0 for PTX, and for what only the driver looks into
  std::string bytes;
};

// Loads the first that the device takes: what was compiled for its chip or an older one of the same generation, newest
// first, then the rest. `taken` is the one that was loaded, or whose failure is answered.
Status loadModule(const Driver& driver, const std::vector<ModuleImage>& images, int capability, Handle* module, const ModuleImage** taken);

}  // namespace rubato
