// libfakecuda.so: the CUDA driver's entry points that rubato uses, on host memory, with faults on order. For tests only:
// RUBATO_CUDA_LIBRARY names it, nothing links it. Several GPUs, streams, events with times, captured graphs, registered
// host memory, modules from PTX text or cubins whose kernels are the C++ functions of kernels.cc. control.cc has the commands.
//
// All state lies behind one lock, which no call holds while it waits.
#include <elf.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "fake.h"

using namespace fake;

#define API extern "C" __attribute__((visibility("default"))) Status
#define ENTER(call)                                                 \
  static std::atomic<uint64_t>& calls = counter(#call);             \
  if (const Status ordered = enter(calls, #call)) return ordered;

namespace {

constexpr int kMostDevices = 64;

struct Function {
  const Kernel* kernel;
};
struct Module {
  std::map<std::string, Function> functions;
};
struct State {
  std::mutex mutex;
  bool initialized = false;
  Device devices[kMostDevices];
  struct Region {
    size_t bytes;
    bool isMapped;
  };
  std::map<uintptr_t, Region> registered;
};

State& state() {
  static State* const all = new State;
  return *all;
}

thread_local Device* current = nullptr;

// Holds the lock, with the work of the calling thread's device done up to now; `status` says what is wrong with it.
struct Entered {
  std::lock_guard<std::mutex> lock{state().mutex};
  Status status = 0;
  Entered() {
    if (current == nullptr || current->retained == 0) {
      status = kInvalidContext;
      return;
    }
    advance(*current);
    status = current->error;
  }
};

void count(const char* what, int by) { counter(what) += static_cast<uint64_t>(static_cast<int64_t>(by)); }

size_t lengthOf(size_t bytes) { return bytes; }
size_t lengthOf(const State::Region& region) { return region.bytes; }

// The range that holds these bytes, null when none does.
template <typename Range>
const Range* rangeOf(const std::map<uintptr_t, Range>& ranges, uintptr_t at, size_t bytes) {
  auto after = ranges.upper_bound(at);
  if (after == ranges.begin()) return nullptr;
  --after;
  return at + bytes <= after->first + lengthOf(after->second) ? &after->second : nullptr;
}

template <typename Range>
bool within(const std::map<uintptr_t, Range>& ranges, const void* address, size_t bytes) {
  return rangeOf(ranges, reinterpret_cast<uintptr_t>(address), bytes) != nullptr;
}

// What kernels see of host memory they see here: an address that is none of the host's, so that neither is taken for the other.
constexpr uintptr_t kMappedAt = uintptr_t{1} << 60;

void enqueue(Stream* stream, Work&& work) {
  work.issuedNs = nowNs();
  stream->queue.push_back(std::move(work));
}

Status enqueueCopy(Stream* stream, const Copy& copy, const void* device, size_t deviceSpan, const void* host, size_t hostSpan) {
  if (!within(stream->device->memory, device, deviceSpan)) return kInvalidValue;
  static std::atomic<uint64_t>& pageable = counter("pageable");
  if (!within(state().registered, host, hostSpan)) pageable += 1;
  if (stream->capture != nullptr) {
    Node node;
    node.copy = copy;
    stream->capture->nodes.push_back(std::move(node));
    return 0;
  }
  Work work{Work::kCopy};
  work.copy = copy;
  enqueue(stream, std::move(work));
  return 0;
}

}  // namespace

char* fake::fromMapped(uint64_t address, size_t bytes) {
  const uintptr_t at = address - kMappedAt;
  const State::Region* region = address < kMappedAt ? nullptr : rangeOf(state().registered, at, bytes);
  return region != nullptr && region->isMapped ? reinterpret_cast<char*>(at) : nullptr;
}

// ------------------------------------------------------------------ the driver and its devices

API cuInit(unsigned) {
  ENTER(cuInit);
  if (settings().devices == 0) return 100;
  state().initialized = true;
  return 0;
}

API cuDriverGetVersion(int* version) {
  ENTER(cuDriverGetVersion);
  *version = settings().version;
  return 0;
}

API cuDeviceGetCount(int* devices) {
  ENTER(cuDeviceGetCount);
  if (!state().initialized) return kNotInitialized;
  *devices = std::min<int>(settings().devices, kMostDevices);
  return 0;
}

API cuDeviceGet(int* device, int ordinal) {
  ENTER(cuDeviceGet);
  if (ordinal < 0 || ordinal >= settings().devices || ordinal >= kMostDevices) return kInvalidDevice;
  *device = ordinal;
  return 0;
}

API cuDeviceGetAttribute(int* value, int attribute, int device) {
  ENTER(cuDeviceGetAttribute);
  if (device < 0 || device >= settings().devices) return kInvalidDevice;
  if (attribute != 75 && attribute != 76) return kInvalidValue;
  *value = attribute == 75 ? settings().capability / 10 : settings().capability % 10;
  return 0;
}

API cuDeviceGetName(char* name, int bytes, int device) {
  ENTER(cuDeviceGetName);
  const std::string text = "Fake GPU " + std::to_string(device);
  strncpy(name, text.c_str(), static_cast<size_t>(bytes));
  return 0;
}

API cuDeviceTotalMem_v2(size_t* bytes, int) {
  ENTER(cuDeviceTotalMem_v2);
  *bytes = settings().memoryBytes;
  return 0;
}

API cuGetErrorName(Status status, const char** text) {
  static const std::map<Status, const char*> names = {
      {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"},
      {200, "CUDA_ERROR_INVALID_IMAGE"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"}, {500, "CUDA_ERROR_NOT_FOUND"},
      {600, "CUDA_ERROR_NOT_READY"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
      {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION"}, {719, "CUDA_ERROR_LAUNCH_FAILED"}, {999, "CUDA_ERROR_UNKNOWN"}};
  const auto found = names.find(status);
  *text = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : 0;
}

API cuGetErrorString(Status, const char** text) {
  *text = "as ordered";
  return 0;
}

API cuDevicePrimaryCtxRetain(void** context, int device) {
  ENTER(cuDevicePrimaryCtxRetain);
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (device < 0 || device >= settings().devices) return kInvalidDevice;
  Device& of = state().devices[device];
  of.ordinal = device;
  of.retained += 1;
  count("contexts", 1);
  *context = &of;
  return 0;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER(cuDevicePrimaryCtxRelease_v2);
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().devices[device].retained -= 1;
  count("contexts", -1);
  return 0;
}

API cuCtxSetCurrent(void* context) {
  ENTER(cuCtxSetCurrent);
  current = static_cast<Device*>(context);
  return 0;
}

// ------------------------------------------------------------------ streams and events

API cuStreamCreateWithPriority(Stream** stream, unsigned, int) {
  ENTER(cuStreamCreateWithPriority);
  Entered entered;
  if (entered.status != 0) return entered.status;
  *stream = new Stream{current, {}, 0, nullptr};
  current->streams.push_back(*stream);
  count("streams", 1);
  return 0;
}

API cuStreamDestroy_v2(Stream* stream) {
  ENTER(cuStreamDestroy_v2);
  Entered entered;
  auto& all = stream->device->streams;
  all.erase(std::remove(all.begin(), all.end(), stream), all.end());
  delete stream;
  count("streams", -1);
  return 0;
}

API cuStreamQuery(Stream* stream) {
  ENTER(cuStreamQuery);
  Entered entered;
  if (entered.status != 0) return entered.status;
  return stream->queue.empty() ? 0 : kNotReady;
}

API cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
  ENTER(cuStreamWaitEvent);
  Entered entered;
  if (entered.status != 0) return entered.status;
  Work work{Work::kWait};
  work.event = event;
  enqueue(stream, std::move(work));
  return 0;
}

API cuEventCreate(Event** event, unsigned) {
  ENTER(cuEventCreate);
  *event = new Event;
  count("events", 1);
  return 0;
}

API cuEventDestroy_v2(Event* event) {
  ENTER(cuEventDestroy_v2);
  Entered entered;
  count("events", -1);
  if (event->pending > 0) event->destroyed = true;
  else delete event;
  return 0;
}

API cuEventRecord(Event* event, Stream* stream) {
  ENTER(cuEventRecord);
  Entered entered;
  if (entered.status != 0) return entered.status;
  event->pending += 1;
  Work work{Work::kRecord};
  work.event = event;
  enqueue(stream, std::move(work));
  return 0;
}

API cuEventQuery(Event* event) {
  ENTER(cuEventQuery);
  Entered entered;
  if (entered.status != 0) return entered.status;
  return event->pending > 0 ? kNotReady : 0;
}

API cuEventElapsedTime(float* ms, Event* start, Event* end) {
  ENTER(cuEventElapsedTime);
  Entered entered;
  if (entered.status != 0) return entered.status;
  if (start->pending > 0 || end->pending > 0) return kNotReady;
  if (!start->recorded || !end->recorded) return kInvalidHandle;
  *ms = static_cast<float>((end->atNs - start->atNs) / 1e6);
  return 0;
}

// ------------------------------------------------------------------ memory

API cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  ENTER(cuMemAlloc_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  if (bytes == 0) return kInvalidValue;
  if (current->used + bytes > settings().memoryBytes) return kOutOfMemory;
  void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (memory == nullptr) return kOutOfMemory;
  memset(memory, 0xff, bytes);  // not a number: what nobody has written must not look like a result
  current->used += bytes;
  current->memory[reinterpret_cast<uintptr_t>(memory)] = bytes;
  count("memory", 1);
  *address = reinterpret_cast<uint64_t>(memory);
  return 0;
}

API cuMemFree_v2(uint64_t address) {
  ENTER(cuMemFree_v2);
  Entered entered;
  const auto found = current->memory.find(address);
  if (found == current->memory.end()) return kInvalidValue;
  current->used -= found->second;
  current->memory.erase(found);
  free(reinterpret_cast<void*>(address));
  count("memory", -1);
  return entered.status;
}

API cuMemHostRegister_v2(void* address, size_t bytes, unsigned flags) {
  ENTER(cuMemHostRegister_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  const uintptr_t from = reinterpret_cast<uintptr_t>(address);
  if (from % 4096 != 0 || bytes % 4096 != 0) return kInvalidValue;
  for (const auto& [at, region] : state().registered) {
    if (from < at + region.bytes && at < from + bytes) return kAlreadyRegistered;
  }
  state().registered[from] = {bytes, (flags & 2) != 0};
  count("registered", 1);
  return 0;
}

API cuMemAllocHost_v2(void** address, size_t bytes) {
  ENTER(cuMemAllocHost_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  const size_t whole = (bytes + 4095) / 4096 * 4096;
  void* memory = bytes == 0 ? nullptr : aligned_alloc(4096, whole);
  if (memory == nullptr) return bytes == 0 ? kInvalidValue : kOutOfMemory;
  state().registered[reinterpret_cast<uintptr_t>(memory)] = {whole, true};
  count("registered", 1);
  *address = memory;
  return 0;
}

API cuMemFreeHost(void* address) {
  ENTER(cuMemFreeHost);
  Entered entered;
  if (state().registered.erase(reinterpret_cast<uintptr_t>(address)) == 0) return kInvalidValue;
  free(address);
  count("registered", -1);
  return 0;
}

API cuMemHostUnregister(void* address) {
  ENTER(cuMemHostUnregister);
  Entered entered;
  if (state().registered.erase(reinterpret_cast<uintptr_t>(address)) == 0) return kNotRegistered;
  count("registered", -1);
  return 0;
}

API cuMemHostGetDevicePointer_v2(uint64_t* device, void* address, unsigned) {
  ENTER(cuMemHostGetDevicePointer_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (fake::fromMapped(at + kMappedAt, 1) == nullptr) return kInvalidValue;
  *device = at + kMappedAt;
  return 0;
}

API cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
  ENTER(cuMemcpyHtoD_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  if (!within(current->memory, reinterpret_cast<void*>(to), bytes)) return kInvalidValue;
  memcpy(reinterpret_cast<void*>(to), from, bytes);
  return 0;
}

struct Copy2D {
  size_t fromX, fromY;
  int fromType;
  const void* fromHost;
  uint64_t fromDevice;
  void* fromArray;
  size_t fromPitch, toX, toY;
  int toType;
  void* toHost;
  uint64_t toDevice;
  void* toArray;
  size_t toPitch, bytes, rows;
};

API cuMemcpy2DAsync_v2(const Copy2D* of, Stream* stream) {
  ENTER(cuMemcpy2DAsync_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  if (of->bytes == 0 || of->rows == 0 || of->fromX + of->fromY + of->toX + of->toY != 0) return kInvalidValue;
  if (of->bytes > of->fromPitch || of->bytes > of->toPitch) return kInvalidValue;
  const size_t fromSpan = (of->rows - 1) * of->fromPitch + of->bytes;
  const size_t toSpan = (of->rows - 1) * of->toPitch + of->bytes;
  if (of->fromType == 1 && of->toType == 2) {
    void* to = reinterpret_cast<void*>(of->toDevice);
    return enqueueCopy(stream, {to, of->fromHost, of->toPitch, of->fromPitch, of->bytes, of->rows}, to, toSpan, of->fromHost, fromSpan);
  }
  if (of->fromType == 2 && of->toType == 1) {
    const void* from = reinterpret_cast<const void*>(of->fromDevice);
    return enqueueCopy(stream, {of->toHost, from, of->toPitch, of->fromPitch, of->bytes, of->rows}, from, fromSpan, of->toHost, toSpan);
  }
  return kInvalidValue;
}

// ------------------------------------------------------------------ modules, kernels, graphs

namespace {

Status readPtx(const std::string& text, std::vector<std::string>* kernels) {
  const size_t version = text.find(".version ");
  if (version == std::string::npos) return kInvalidImage;
  // PTX 6.0 came with CUDA 9.0, 7.0 with 11.0, 8.0 with 12.0: the driver refuses what is newer than itself.
  const int major = atoi(text.c_str() + version + 9);
  if ((major + (major == 6 ? 3 : 4)) * 1000 > settings().version) return kUnsupportedPtx;
  for (size_t at = text.find(".entry "); at != std::string::npos; at = text.find(".entry ", at + 1)) {
    const size_t end = text.find_first_of("( \t\n", at + 7);
    kernels->push_back(text.substr(at + 7, end - at - 7));
  }
  return 0;
}

// An ELF file of the compilers of CUDA 11 and 12 (ABI version 7): each kernel has a section of code, .text.NAME.
Status readCubin(const char* image, std::vector<std::string>* kernels) {
  Elf64_Ehdr header;
  memcpy(&header, image, sizeof header);
  if (header.e_machine != 190 || header.e_ident[EI_ABIVERSION] != 7 || settings().version < 11000) return kInvalidImage;
  const int chip = header.e_flags & 0xff;
  const int capability = settings().capability;
  if (chip / 10 != capability / 10 || chip > capability) return kNoBinaryForGpu;
  const auto section = [&](size_t index) {
    Elf64_Shdr of;
    memcpy(&of, image + header.e_shoff + index * header.e_shentsize, sizeof of);
    return of;
  };
  const char* names = image + section(header.e_shstrndx).sh_offset;
  for (size_t i = 0; i < header.e_shnum; i += 1) {
    const std::string name = names + section(i).sh_name;
    if (name.compare(0, 6, ".text.") == 0) kernels->push_back(name.substr(6));
  }
  return 0;
}

}  // namespace

API cuModuleLoadData(Module** module, const void* image) {
  ENTER(cuModuleLoadData);
  Entered entered;
  if (entered.status != 0) return entered.status;
  std::vector<std::string> kernels;
  const Status status = memcmp(image, "\x7f" "ELF", 4) == 0 ? readCubin(static_cast<const char*>(image), &kernels) : readPtx(static_cast<const char*>(image), &kernels);
  if (status != 0) return status;
  *module = new Module;
  for (const std::string& name : kernels) {
    if (const Kernel* kernel = findKernel(name)) (*module)->functions[name] = {kernel};
  }
  count("modules", 1);
  return 0;
}

API cuModuleUnload(Module* module) {
  ENTER(cuModuleUnload);
  delete module;
  count("modules", -1);
  return 0;
}

API cuModuleGetFunction(Function** function, Module* module, const char* name) {
  ENTER(cuModuleGetFunction);
  const auto found = module->functions.find(name);
  if (found == module->functions.end()) return kNotFound;
  *function = &found->second;
  return 0;
}

API cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, Stream* stream, void** args, void**) {
  ENTER(cuLaunchKernel);
  Entered entered;
  if (entered.status != 0) return entered.status;
  if (gx == 0 || gy == 0 || gz == 0 || bx * by * bz == 0 || bx * by * bz > 1024) return kInvalidValue;
  Node node{function->kernel, {{gx, gy, gz}, {bx, by, bz}}, {}, {}};
  for (const size_t bytes : function->kernel->argBytes) {
    const size_t at = node.values.size();
    node.values.resize(at + (bytes + 7) / 8 * 8);
    memcpy(&node.values[at], *args++, bytes);
  }
  if (stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(node));
    return 0;
  }
  auto graph = std::make_shared<Graph>();
  graph->nodes.push_back(std::move(node));
  Work work{Work::kGraph};
  work.graph = std::move(graph);
  enqueue(stream, std::move(work));
  return 0;
}

API cuStreamBeginCapture_v2(Stream* stream, int) {
  ENTER(cuStreamBeginCapture_v2);
  Entered entered;
  if (entered.status != 0) return entered.status;
  stream->capture = std::make_shared<Graph>();
  return 0;
}

using GraphHandle = std::shared_ptr<const Graph>;

API cuStreamEndCapture(Stream* stream, GraphHandle** graph) {
  ENTER(cuStreamEndCapture);
  Entered entered;
  if (stream->capture == nullptr) return kInvalidValue;
  *graph = new GraphHandle(std::move(stream->capture));
  stream->capture = nullptr;
  count("graphs", 1);
  return entered.status;
}

API cuGraphInstantiateWithFlags(GraphHandle** exec, GraphHandle* graph, unsigned long long) {
  ENTER(cuGraphInstantiateWithFlags);
  *exec = new GraphHandle(*graph);
  count("graphs", 1);
  return 0;
}

API cuGraphLaunch(GraphHandle* exec, Stream* stream) {
  ENTER(cuGraphLaunch);
  Entered entered;
  if (entered.status != 0) return entered.status;
  Work work{Work::kGraph};
  work.graph = *exec;
  enqueue(stream, std::move(work));
  return 0;
}

API cuGraphExecDestroy(GraphHandle* exec) {
  ENTER(cuGraphExecDestroy);
  const std::lock_guard<std::mutex> lock(state().mutex);
  delete exec;
  count("graphs", -1);
  return 0;
}

API cuGraphDestroy(GraphHandle* graph) {
  ENTER(cuGraphDestroy);
  const std::lock_guard<std::mutex> lock(state().mutex);
  delete graph;
  count("graphs", -1);
  return 0;
}
