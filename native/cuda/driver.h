#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "call_watch.h"

namespace rubato {

using Status = int;
using DevicePtr = uint64_t;
using Handle = void*;  // the driver's contexts, streams, events, modules, functions and graphs

constexpr Status kSuccess = 0;
constexpr Status kOutOfMemory = 2;
constexpr Status kNoBinaryForGpu = 209;
constexpr Status kNotReady = 600;
constexpr Status kAlreadyRegistered = 712;

struct Copy2D {
  size_t fromX, fromY;
  int fromType;
  const void* fromHost;
  DevicePtr fromDevice;
  Handle fromArray;
  size_t fromPitch, toX, toY;
  int toType;
  void* toHost;
  DevicePtr toDevice;
  Handle toArray;
  size_t toPitch, bytes, rows;
};
constexpr int kHostMemory = 1;
constexpr int kDeviceMemory = 2;
constexpr int kCapabilityMajor = 75;  // attributes of a device
constexpr int kCapabilityMinor = 76;
constexpr unsigned kPortable = 1;  // for registered host memory: all devices may use it,
constexpr unsigned kMapped = 2;    // kernels as well

// An entry point. Whoever calls it is seen to be inside by the watch of its thread.
template <typename Entry>
struct Call;
template <typename... Args>
struct Call<Status(Args...)> {
  Status (*entry)(Args...) = nullptr;
  const char* name = "";
  Status operator()(Args... args) const {
    const InCall inside(name);
    return entry(args...);
  }
};

// The driver's entry points that are used, by the types of its stable C interface.
struct Driver {
  Call<Status(unsigned flags)> init;
  Status (*getErrorName)(Status, const char**);
  Status (*getErrorString)(Status, const char**);
  Call<Status(int*)> deviceGetCount;
  Call<Status(int*, int ordinal)> deviceGet;
  Call<Status(int*, int attribute, int device)> deviceGetAttribute;
  Call<Status(Handle*, int device)> primaryCtxRetain;
  Call<Status(int device)> primaryCtxRelease;
  Call<Status(Handle)> ctxSetCurrent;
  Call<Status(Handle*, unsigned flags, int priority)> streamCreate;
  Call<Status(Handle)> streamDestroy;
  Call<Status(Handle)> streamQuery;
  Call<Status(Handle stream, Handle event, unsigned flags)> streamWaitEvent;
  Call<Status(Handle, int mode)> streamBeginCapture;
  Call<Status(Handle, Handle* graph)> streamEndCapture;
  Call<Status(Handle*, unsigned flags)> eventCreate;
  Call<Status(Handle)> eventDestroy;
  Call<Status(Handle event, Handle stream)> eventRecord;
  Call<Status(Handle)> eventQuery;
  Call<Status(float* ms, Handle start, Handle end)> eventElapsedTime;
  Call<Status(DevicePtr*, size_t)> memAlloc;
  Call<Status(DevicePtr)> memFree;
  Call<Status(void*, size_t, unsigned flags)> memHostRegister;
  Call<Status(void*)> memHostUnregister;
  Call<Status(DevicePtr*, void*, unsigned flags)> memHostGetDevicePointer;
  Call<Status(DevicePtr, const void*, size_t)> memcpyHtoD;
  Call<Status(const Copy2D*, Handle stream)> memcpy2DAsync;
  Call<Status(Handle*, const void*)> moduleLoadData;
  Call<Status(Handle)> moduleUnload;
  Call<Status(Handle*, Handle module, const char*)> moduleGetFunction;
  Call<Status(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Handle stream, void** args, void** extra)> launchKernel;
  Call<Status(Handle* exec, Handle graph, unsigned long long flags)> graphInstantiate;
  Call<Status(Handle exec, Handle stream)> graphLaunch;
  Call<Status(Handle)> graphExecDestroy;
  Call<Status(Handle)> graphDestroy;

  int devices = 0;  // that it sees

  // "CUDA_ERROR_OUT_OF_MEMORY (2: out of memory)"; a status that the driver cannot name keeps its number.
  std::string nameOf(Status) const;
};

// The started driver of a library, loaded once per process; null with the reason why not. One that does not start within
// `limitNs` goes on trying, and may be there when it is asked for again.
const Driver* loadDriver(const std::string& library, double limitNs, std::string* reason);

// Whether the driver documents that nothing works on this device any more before the process is started again.
bool isFatal(Status);

}  // namespace rubato
