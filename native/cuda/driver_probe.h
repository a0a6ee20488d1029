#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rubato {

struct ProbedDevice {
  int index;
  std::string name;
  uint64_t memoryBytes;
  std::string capability;  // as "8.6"
};

struct DriverProbe {
  bool available = false;
  std::string reason;         // why CUDA cannot be used; empty when it can
  std::string driverVersion;  // the newest CUDA that the driver serves, as "13.0"; empty when unknown
  std::vector<ProbedDevice> devices;
};

// Where the driver lives when the caller names no other place.
extern const char* const kDefaultDriverLibrary;
// It may take seconds to wake many GPUs.
constexpr double kDefaultProbeLimitMs = 60e3;

// Opens the driver library and asks what is there. Creates no context and allocates no GPU memory.
// Never throws; every status of the driver is looked at and ends in `reason`, and so does a call that has not returned
// within `limitNs`.
DriverProbe probeDriver(const std::string& libraryPath, double limitNs);

}  // namespace rubato
