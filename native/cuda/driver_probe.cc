// The CUDA driver as seen through dlopen: no CUDA header and nothing to link, so that the addon builds with a plain
// C++ compiler and loads on a machine without a GPU.

#include "driver_probe.h"

namespace rubato {

const char* const kDefaultDriverLibrary = "libcuda.so.1";

}  // namespace rubato

#if defined(__linux__)

#include <dlfcn.h>

#include <cstddef>

namespace rubato {
namespace {

// The few entry points used here, with the types of the driver's stable C interface: CUresult and CUdevice are ints.
using Status = int;
constexpr Status kSuccess = 0;
constexpr Status kNoDevice = 100;
constexpr int kNameBytes = 256;
constexpr int kCapabilityMajor = 75;  // an attribute, the minor one follows

struct Driver {
  Status (*init)(unsigned flags);
  Status (*driverGetVersion)(int* version);
  Status (*deviceGetCount)(int* count);
  Status (*deviceGet)(int* device, int ordinal);
  Status (*deviceGetName)(char* name, int bytes, int device);
  Status (*deviceGetAttribute)(int* value, int attribute, int device);
  Status (*deviceTotalMem)(size_t* bytes, int device);
  Status (*getErrorName)(Status status, const char** text);
  Status (*getErrorString)(Status status, const char** text);
};

// dlerror() answers null when nothing failed, and a library may export a symbol whose value is null.
std::string dlErrorOr(const char* otherwise) {
  const char* text = dlerror();
  return text != nullptr ? text : otherwise;
}

template <typename Function>
bool resolve(void* library, const char* symbol, Function* into, std::string* reason) {
  dlerror();
  void* address = dlsym(library, symbol);
  if (address == nullptr) {
    *reason = "the driver library lacks " + std::string(symbol) + ": " + dlErrorOr("the symbol is null");
    return false;
  }
  *into = reinterpret_cast<Function>(address);
  return true;
}

bool resolveAll(void* library, Driver* driver, std::string* reason) {
  return resolve(library, "cuInit", &driver->init, reason) &&
         resolve(library, "cuDriverGetVersion", &driver->driverGetVersion, reason) &&
         resolve(library, "cuDeviceGetCount", &driver->deviceGetCount, reason) &&
         resolve(library, "cuDeviceGet", &driver->deviceGet, reason) &&
         resolve(library, "cuDeviceGetName", &driver->deviceGetName, reason) &&
         resolve(library, "cuDeviceGetAttribute", &driver->deviceGetAttribute, reason) &&
         resolve(library, "cuDeviceTotalMem_v2", &driver->deviceTotalMem, reason) &&
         resolve(library, "cuGetErrorName", &driver->getErrorName, reason) &&
         resolve(library, "cuGetErrorString", &driver->getErrorString, reason);
}

// "cuInit failed with 999 (CUDA_ERROR_UNKNOWN: unknown error)"; a status that the driver cannot name keeps its number.
std::string failure(const Driver& driver, const std::string& call, Status status) {
  const char* name = nullptr;
  const char* text = nullptr;
  const bool named = driver.getErrorName(status, &name) == kSuccess && name != nullptr;
  const bool worded = driver.getErrorString(status, &text) == kSuccess && text != nullptr;
  std::string reason = call + " failed with " + std::to_string(status);
  if (named) reason += " (" + std::string(name) + (worded ? ": " + std::string(text) : "") + ")";
  return reason;
}

// Reads one device into the list; answers why not, or an empty string.
std::string readDevice(const Driver& driver, int index, std::vector<ProbedDevice>* devices) {
  const std::string ordinal = "(" + std::to_string(index) + ")";
  int device = 0;
  Status status = driver.deviceGet(&device, index);
  if (status != kSuccess) return failure(driver, "cuDeviceGet" + ordinal, status);

  char name[kNameBytes] = {};
  status = driver.deviceGetName(name, kNameBytes - 1, device);
  if (status != kSuccess) return failure(driver, "cuDeviceGetName" + ordinal, status);

  size_t bytes = 0;
  status = driver.deviceTotalMem(&bytes, device);
  if (status != kSuccess) return failure(driver, "cuDeviceTotalMem" + ordinal, status);

  int capability[2] = {};  // major, minor
  for (int part = 0; part < 2; part += 1) {
    status = driver.deviceGetAttribute(&capability[part], kCapabilityMajor + part, device);
    if (status != kSuccess) return failure(driver, "cuDeviceGetAttribute" + ordinal, status);
  }

  devices->push_back({index, name, static_cast<uint64_t>(bytes), std::to_string(capability[0]) + "." + std::to_string(capability[1])});
  return "";
}

std::string readAll(const Driver& driver, DriverProbe* probe) {
  // The version needs no cuInit: it is told also where initialisation fails, which is where it is needed.
  int version = 0;
  Status status = driver.driverGetVersion(&version);
  if (status != kSuccess) return failure(driver, "cuDriverGetVersion", status);
  probe->driverVersion = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);

  status = driver.init(0);
  if (status == kNoDevice) return "the driver is installed but sees no GPU: " + failure(driver, "cuInit", status);
  if (status != kSuccess) return failure(driver, "cuInit", status);

  int count = 0;
  status = driver.deviceGetCount(&count);
  if (status != kSuccess) return failure(driver, "cuDeviceGetCount", status);
  if (count <= 0) return "the driver is installed but sees no GPU: cuDeviceGetCount gave " + std::to_string(count);

  for (int index = 0; index < count; index += 1) {
    const std::string reason = readDevice(driver, index, &probe->devices);
    if (!reason.empty()) return reason;
  }
  return "";
}

}  // namespace

DriverProbe probeDriver(const std::string& libraryPath) {
  DriverProbe probe;
  // NODELETE: a driver that has started its own threads must not be unmapped under them by the dlclose below.
  void* library = dlopen(libraryPath.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    probe.reason = "no CUDA driver: " + dlErrorOr("dlopen gave no reason");
    return probe;
  }
  Driver driver = {};
  if (resolveAll(library, &driver, &probe.reason)) probe.reason = readAll(driver, &probe);
  probe.available = probe.reason.empty();
  if (!probe.available) probe.devices.clear();
  if (dlclose(library) != 0) dlerror();  // the answers stand; the library merely stays open
  return probe;
}

}  // namespace rubato

#else

namespace rubato {

DriverProbe probeDriver(const std::string&) {
  DriverProbe probe;
  probe.reason = "not supported: CUDA is used on Linux only";
  return probe;
}

}  // namespace rubato

#endif
