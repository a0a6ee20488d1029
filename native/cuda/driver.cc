#include "driver.h"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>

#include "errand.h"

namespace rubato {
namespace {

template <typename Function>
bool resolve(void* library, const char* symbol, Function* into, std::string* reason) {
  *into = reinterpret_cast<Function>(dlsym(library, symbol));
  if (*into == nullptr) *reason = "the driver library lacks " + std::string(symbol);
  return *into != nullptr;
}

template <typename... Args>
bool resolve(void* library, const char* symbol, Call<Status(Args...)>* into, std::string* reason) {
  into->name = symbol;
  return resolve(library, symbol, &into->entry, reason);
}

bool resolveAll(void* library, Driver* to, std::string* reason) {
  return resolve(library, "cuInit", &to->init, reason) && resolve(library, "cuGetErrorName", &to->getErrorName, reason) &&
         resolve(library, "cuGetErrorString", &to->getErrorString, reason) && resolve(library, "cuDeviceGetCount", &to->deviceGetCount, reason) &&
         resolve(library, "cuDeviceGet", &to->deviceGet, reason) && resolve(library, "cuDeviceGetAttribute", &to->deviceGetAttribute, reason) &&
         resolve(library, "cuDevicePrimaryCtxRetain", &to->primaryCtxRetain, reason) &&
         resolve(library, "cuDevicePrimaryCtxRelease_v2", &to->primaryCtxRelease, reason) && resolve(library, "cuCtxSetCurrent", &to->ctxSetCurrent, reason) &&
         resolve(library, "cuStreamCreateWithPriority", &to->streamCreate, reason) && resolve(library, "cuStreamDestroy_v2", &to->streamDestroy, reason) &&
         resolve(library, "cuStreamQuery", &to->streamQuery, reason) && resolve(library, "cuStreamWaitEvent", &to->streamWaitEvent, reason) &&
         resolve(library, "cuStreamBeginCapture_v2", &to->streamBeginCapture, reason) && resolve(library, "cuStreamEndCapture", &to->streamEndCapture, reason) &&
         resolve(library, "cuEventCreate", &to->eventCreate, reason) && resolve(library, "cuEventDestroy_v2", &to->eventDestroy, reason) &&
         resolve(library, "cuEventRecord", &to->eventRecord, reason) && resolve(library, "cuEventQuery", &to->eventQuery, reason) &&
         resolve(library, "cuEventElapsedTime", &to->eventElapsedTime, reason) && resolve(library, "cuMemAlloc_v2", &to->memAlloc, reason) &&
         resolve(library, "cuMemFree_v2", &to->memFree, reason) && resolve(library, "cuMemHostRegister_v2", &to->memHostRegister, reason) &&
         resolve(library, "cuMemHostUnregister", &to->memHostUnregister, reason) && resolve(library, "cuMemHostGetDevicePointer_v2", &to->memHostGetDevicePointer, reason) &&
         resolve(library, "cuMemcpyHtoD_v2", &to->memcpyHtoD, reason) &&
         resolve(library, "cuMemcpy2DAsync_v2", &to->memcpy2DAsync, reason) && resolve(library, "cuModuleLoadData", &to->moduleLoadData, reason) &&
         resolve(library, "cuModuleUnload", &to->moduleUnload, reason) && resolve(library, "cuModuleGetFunction", &to->moduleGetFunction, reason) &&
         resolve(library, "cuLaunchKernel", &to->launchKernel, reason) && resolve(library, "cuGraphInstantiateWithFlags", &to->graphInstantiate, reason) &&
         resolve(library, "cuGraphLaunch", &to->graphLaunch, reason) && resolve(library, "cuGraphExecDestroy", &to->graphExecDestroy, reason) &&
         resolve(library, "cuGraphDestroy", &to->graphDestroy, reason);
}

struct Loaded {
  Driver driver;
  std::string reason;  // why it cannot be used
};

std::string start(const std::string& library, Driver* driver) {
  void* handle = nullptr;
  {
    const InCall inside("dlopen");
    handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  }
  if (handle == nullptr) {
    const char* text = dlerror();
    return "no CUDA driver: " + std::string(text != nullptr ? text : library);
  }
  std::string reason;
  if (!resolveAll(handle, driver, &reason)) return reason;
  Status status = driver->init(0);
  if (status != kSuccess) return "cuInit failed with " + driver->nameOf(status);
  status = driver->deviceGetCount(&driver->devices);
  return status == kSuccess ? "" : "cuDeviceGetCount failed with " + driver->nameOf(status);
}

}  // namespace

std::string Driver::nameOf(Status status) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (getErrorName(status, &name) != kSuccess || name == nullptr) return "CUDA error " + std::to_string(status);
  const bool worded = getErrorString(status, &text) == kSuccess && text != nullptr;
  return std::string(name) + " (" + std::to_string(status) + (worded ? ": " + std::string(text) : "") + ")";
}

const Driver* loadDriver(const std::string& library, double limitNs, std::string* reason) {
  // Never destroyed: a device's thread may still use them while the process ends.
  static std::mutex* const mutex = new std::mutex;
  static auto* const all = new std::map<std::string, std::shared_ptr<Errand<Loaded>>>;
  std::shared_ptr<Errand<Loaded>> loading;
  {
    const std::lock_guard<std::mutex> lock(*mutex);
    auto& known = (*all)[library];
    if (known == nullptr) known = Errand<Loaded>::begin([library](Loaded* to) { to->reason = start(library, &to->driver); });
    loading = known;
  }
  const Loaded* loaded = loading->wait(limitNs);
  if (loaded != nullptr && loaded->reason.empty()) return &loaded->driver;
  *reason = loaded == nullptr ? loading->complaint(limitNs) : loaded->reason;
  if (loaded == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(*mutex);
  auto& known = (*all)[library];
  if (known == loading) known = nullptr;  // the next one tries again
  return nullptr;
}

bool isFatal(Status status) {
  switch (status) {
    case 4: case 46: case 201: case 214: case 226: case 700: case 702: case 709: case 714: case 715: case 716: case 717: case 718: case 719:
    case 721: case 810: case 911: case 999:
      return true;
    default:
      return false;
  }
}

}  // namespace rubato
