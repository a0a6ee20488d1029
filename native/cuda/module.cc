#include "module.h"

#include <algorithm>

namespace rubato {

Status loadModule(const Driver& driver, const std::vector<ModuleImage>& images, int capability, Handle* module, const ModuleImage** taken) {
  std::vector<const ModuleImage*> fitting;
  for (const ModuleImage& image : images) {
    if (image.chip == 0 || (image.chip / 10 == capability / 10 && image.chip <= capability)) fitting.push_back(&image);
  }
  std::stable_sort(fitting.begin(), fitting.end(), [](const ModuleImage* a, const ModuleImage* b) { return a->chip > b->chip; });
  *module = nullptr;
  Status status = kNoBinaryForGpu;
  *taken = &images[0];
  for (const ModuleImage* image : fitting) {
    *taken = image;
    status = driver.moduleLoadData(module, image->bytes.c_str());
    // A driver that is older than the compiler refuses what that has made; PTX of an old version it takes.
    if (status == kSuccess || isFatal(status)) break;
  }
  if (status != kSuccess) *module = nullptr;
  return status;
}

}  // namespace rubato
