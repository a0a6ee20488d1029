// The CUDA driver as seen through dlopen: no CUDA header and nothing to link, so that the addon builds with a plain
// C++ compiler and loads on a machine without a GPU.

#include "driver_probe.h"

namespace rubato {

const char* const kDefaultDriverLibrary = "libcuda.so.1";

}  // namespace rubato

#if defined(__linux__)

#include <dlfcn.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

#include "driver.h"
#include "errand.h"

namespace rubato {
namespace {

constexpr Status kNoDevice = 100;
constexpr int kNameBytes = 256;

// The few entry points used here: a driver that lacks one of the others still tells what there is.
struct Entries {
  Call<Status(unsigned flags)> init;
  Call<Status(int* version)> driverGetVersion;
  Call<Status(int* count)> deviceGetCount;
  Call<Status(int* device, int ordinal)> deviceGet;
  Call<Status(char* name, int bytes, int device)> deviceGetName;
  Call<Status(int* value, int attribute, int device)> deviceGetAttribute;
  Call<Status(size_t* bytes, int device)> deviceTotalMem;
  Call<Status(Status status, const char** text)> getErrorName;
  Call<Status(Status status, const char** text)> getErrorString;
};

// dlerror() answers null when nothing failed, and a library may export a symbol whose value is null.
std::string dlErrorOr(const char* otherwise) {
  const char* text = dlerror();
  return text != nullptr ? text : otherwise;
}

template <typename... Args>
bool resolve(void* library, const char* symbol, Call<Status(Args...)>* into, std::string* reason) {
  dlerror();
  void* address = dlsym(library, symbol);
  if (address == nullptr) {
    *reason = "the driver library lacks " + std::string(symbol) + ": " + dlErrorOr("the symbol is null");
    return false;
  }
  into->entry = reinterpret_cast<Status (*)(Args...)>(address);
  into->name = symbol;
  return true;
}

bool resolveAll(void* library, Entries* driver, std::string* reason) {
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
std::string failure(const Entries& driver, const std::string& call, Status status) {
  const char* name = nullptr;
  const char* text = nullptr;
  const bool named = driver.getErrorName(status, &name) == kSuccess && name != nullptr;
  const bool worded = driver.getErrorString(status, &text) == kSuccess && text != nullptr;
  std::string reason = call + " failed with " + std::to_string(status);
  if (named) reason += " (" + std::string(name) + (worded ? ": " + std::string(text) : "") + ")";
  return reason;
}

// Reads one device into the list; answers why not, or an empty string.
std::string readDevice(const Entries& driver, int index, std::vector<ProbedDevice>* devices) {
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

std::string readAll(const Entries& driver, DriverProbe* probe) {
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

void probe(const std::string& libraryPath, DriverProbe* to) {
  void* library = nullptr;
  {
    const InCall inside("dlopen");
    // NODELETE: a driver that has started its own threads must not be unmapped under them by the dlclose below.
    library = dlopen(libraryPath.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  }
  if (library == nullptr) {
    to->reason = "no CUDA driver: " + dlErrorOr("dlopen gave no reason");
    return;
  }
  Entries driver;
  if (resolveAll(library, &driver, &to->reason)) to->reason = readAll(driver, to);
  to->available = to->reason.empty();
  if (!to->available) to->devices.clear();
  if (dlclose(library) != 0) dlerror();  // the answers stand; the library merely stays open
}

}  // namespace

DriverProbe probeDriver(const std::string& libraryPath, double limitNs) {
  // Never destroyed, as a thread that hangs. Who asks while another one waits for the same library waits with it.
  static std::mutex* const mutex = new std::mutex;
  static auto* const all = new std::map<std::string, std::shared_ptr<Errand<DriverProbe>>>;
  std::shared_ptr<Errand<DriverProbe>> probing;
  {
    const std::lock_guard<std::mutex> lock(*mutex);
    auto& known = (*all)[libraryPath];
    if (known == nullptr) known = Errand<DriverProbe>::begin([libraryPath](DriverProbe* to) { probe(libraryPath, to); });
    probing = known;
  }
  const DriverProbe* done = probing->wait(limitNs);
  if (done == nullptr) {
    DriverProbe none;
    none.reason = "the driver does not answer: " + probing->complaint(limitNs);
    return none;
  }
  const std::lock_guard<std::mutex> lock(*mutex);
  auto& known = (*all)[libraryPath];
  if (known == probing) known = nullptr;  // the next one looks again
  return *done;
}

}  // namespace rubato

#else

namespace rubato {

DriverProbe probeDriver(const std::string&, double) {
  DriverProbe probe;
  probe.reason = "not supported: CUDA is used on Linux only";
  return probe;
}

}  // namespace rubato

#endif
