#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rubato {

using Status = int;
using DevicePtr = uint64_t;
using Handle = void*;  // the driver's contexts, streams, events, modules, functions and graphs

constexpr Status kSuccess = 0;
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

// The driver's entry points that are used, by the types of its stable C interface.
struct Driver {
  Status (*init)(unsigned flags);
  Status (*getErrorName)(Status, const char**);
  Status (*getErrorString)(Status, const char**);
  Status (*deviceGetCount)(int*);
  Status (*deviceGet)(int*, int ordinal);
  Status (*primaryCtxRetain)(Handle*, int device);
  Status (*primaryCtxRelease)(int device);
  Status (*ctxSetCurrent)(Handle);
  Status (*streamCreate)(Handle*, unsigned flags);
  Status (*streamDestroy)(Handle);
  Status (*streamQuery)(Handle);
  Status (*streamWaitEvent)(Handle stream, Handle event, unsigned flags);
  Status (*streamBeginCapture)(Handle, int mode);
  Status (*streamEndCapture)(Handle, Handle* graph);
  Status (*eventCreate)(Handle*, unsigned flags);
  Status (*eventDestroy)(Handle);
  Status (*eventRecord)(Handle event, Handle stream);
  Status (*eventQuery)(Handle);
  Status (*eventElapsedTime)(float* ms, Handle start, Handle end);
  Status (*memAlloc)(DevicePtr*, size_t);
  Status (*memFree)(DevicePtr);
  Status (*memHostRegister)(void*, size_t, unsigned flags);
  Status (*memHostUnregister)(void*);
  Status (*memcpyHtoD)(DevicePtr, const void*, size_t);
  Status (*memcpy2DAsync)(const Copy2D*, Handle stream);
  Status (*moduleLoadData)(Handle*, const void*);
  Status (*moduleUnload)(Handle);
  Status (*moduleGetFunction)(Handle*, Handle module, const char*);
  Status (*launchKernel)(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Handle stream, void** args, void** extra);
  Status (*graphInstantiate)(Handle* exec, Handle graph, unsigned long long flags);
  Status (*graphLaunch)(Handle exec, Handle stream);
  Status (*graphExecDestroy)(Handle);
  Status (*graphDestroy)(Handle);

  // "CUDA_ERROR_OUT_OF_MEMORY (2: out of memory)"; a status that the driver cannot name keeps its number.
  std::string nameOf(Status) const;
};

// The started driver of a library, loaded once per process; null with the reason why not.
const Driver* loadDriver(const std::string& library, std::string* reason);

// Whether the driver documents that nothing works on this device any more before the process is started again.
bool isFatal(Status);

}  // namespace rubato
