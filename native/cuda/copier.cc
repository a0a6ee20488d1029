#include "copier.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "event_clock.h"
#include "model.h"

namespace rubato {
namespace {

// As in kernels/gather.cu.
constexpr uint32_t kMostSlots = 512;
constexpr uint32_t kMostTensors = 16;
constexpr size_t kCellUnit = 64;
struct Task {
  uint64_t arena;
  uint32_t from;
  int32_t cells[kMostSlots];
  struct {
    uint64_t device, offset, bytes;
  } tensors[kMostTensors];
};
static_assert(sizeof(Task) == 2448, "the kernels were compiled for this");

constexpr unsigned kThreads = 256;
constexpr size_t kBytesPerBlock = 16 * kThreads;
constexpr size_t kMostBlocks = 64;  // per request and tensor: more do not make the bus faster

// The kernel takes compute units from the batch that runs, so it has to be clearly faster.
constexpr double kMargin = 1.1;
constexpr int kTries = 5;
constexpr size_t kMostMeasuredBytes = size_t{16} << 20;  // the bus is what counts by then: larger buckets take more in proportion
constexpr size_t kPage = 4096;
constexpr double kHangsNs = 1e9;
constexpr double kEndsWithinNs = 4e9;  // after that: kernels of others may hold the device

}  // namespace

void BatchCells::clear() {
  cells.clear();
  runs.clear();
}

void BatchCells::add(int32_t cell, size_t cellBytes) {
  const uint32_t i = static_cast<uint32_t>(cells.size());
  cells.push_back(cell);
  if (cell < 0) return;
  const size_t offset = static_cast<size_t>(cell) * kCellUnit;
  Run* last = runs.empty() ? nullptr : &runs.back();
  if (last != nullptr && last->from + last->count == i) {
    const size_t end = last->offset + (last->count - 1) * last->stride;
    if (last->count == 1 && offset > end) last->stride = offset - end;
    if (offset == end + last->stride) {
      last->count += 1;
      return;
    }
  }
  runs.push_back({offset, cellBytes, i, 1});
}

Copier::Copier(const Driver& driver, const ModelSpec& spec) : driver_(driver), spec_(spec) {
  for (const BucketSpec& bucket : spec.buckets) from_.push_back({bucket.size});
}

// ------------------------------------------------------------------ copying

bool Copier::wantsKernel(bool out, const BatchCells& of) const {
  size_t bucket = 0;
  while (from_[bucket].bucket < of.cells.size()) bucket += 1;
  return of.runs.size() >= (out ? from_[bucket].out : from_[bucket].in);
}

Status Copier::copy(bool out, bool byKernel, const BatchCells& of, const Arena& arena, const std::vector<DevicePtr>& buffers, Handle stream, const char** call) const {
  *call = byKernel ? "cuLaunchKernel" : "cuMemcpy2DAsync";
  return byKernel ? launch(out, of, arena, buffers, stream) : copyRuns(out, of, arena, buffers, stream);
}

Status Copier::copyRuns(bool out, const BatchCells& of, const Arena& arena, const std::vector<DevicePtr>& buffers, Handle stream) const {
  const auto& tensors = out ? spec_.outputs : spec_.inputs;
  for (size_t t = 0; t < tensors.size(); t += 1) {
    const size_t bytes = tensors[t].bytes;
    for (const BatchCells::Run& run : of.runs) {
      Copy2D copy{};
      uint8_t* host = arena.host + run.offset + tensors[t].cellOffset;
      copy.fromType = out ? kDeviceMemory : kHostMemory;
      copy.toType = out ? kHostMemory : kDeviceMemory;
      (out ? copy.fromDevice : copy.toDevice) = buffers[t] + run.from * bytes;
      (out ? copy.fromPitch : copy.toPitch) = bytes;
      (out ? copy.toPitch : copy.fromPitch) = run.stride;
      if (out) copy.toHost = host;
      else copy.fromHost = host;
      copy.bytes = bytes;
      copy.rows = run.count;
      const Status status = driver_.memcpy2DAsync(&copy, stream);
      if (status != kSuccess) return status;
    }
  }
  return kSuccess;
}

Status Copier::launch(bool out, const BatchCells& of, const Arena& arena, const std::vector<DevicePtr>& buffers, Handle stream) const {
  const auto& tensors = out ? spec_.outputs : spec_.inputs;
  Task task;
  void* args[] = {&task};
  task.arena = arena.device;
  for (size_t from = 0; from < of.cells.size(); from += kMostSlots) {
    const size_t count = std::min<size_t>(kMostSlots, of.cells.size() - from);
    task.from = static_cast<uint32_t>(from);
    memcpy(task.cells, &of.cells[from], count * sizeof(int32_t));
    for (size_t first = 0; first < tensors.size(); first += kMostTensors) {
      const size_t several = std::min<size_t>(kMostTensors, tensors.size() - first);
      size_t most = 0;
      for (size_t t = 0; t < several; t += 1) {
        const TensorSpec& tensor = tensors[first + t];
        task.tensors[t] = {buffers[first + t], tensor.cellOffset, tensor.bytes};
        most = std::max(most, tensor.bytes);
      }
      const size_t blocks = std::min(kMostBlocks, (most + kBytesPerBlock - 1) / kBytesPerBlock);
      const Status status = driver_.launchKernel(out ? scatter_ : gather_, static_cast<unsigned>(blocks), static_cast<unsigned>(count), static_cast<unsigned>(several), kThreads, 1, 1, 0, stream, args, nullptr);
      if (status != kSuccess) return status;
    }
  }
  return kSuccess;
}

// ------------------------------------------------------------------ deciding

Status Copier::load(int capability, Handle stream, const std::vector<DevicePtr>& inputs, const std::vector<DevicePtr>& outputs, std::string* failure) {
  if (spec_.copies == Copies::kCopy) return kSuccess;
  std::string what;
  bool isOver = true;
  Status status = loadKernels(capability, &what);
  if (status == kSuccess && spec_.copies == Copies::kAuto) status = measure(stream, inputs, outputs, &what, &isOver);
  if (status == kSuccess && spec_.copies == Copies::kKernel) for (KernelFrom& from : from_) from.in = from.out = 1;
  if (status == kSuccess) return kSuccess;
  const std::string why = what + (status == kNotReady ? " has not ended within a second" : " failed with " + driver_.nameOf(status));
  if (spec_.copies == Copies::kKernel || !isOver || isFatal(status)) {
    *failure = why;
    return status;
  }
  giveUpKernel(why);
  return kSuccess;
}

void Copier::giveUpKernel(const std::string& why) {
  if (spec_.copies == Copies::kCopy) return;
  for (KernelFrom& from : from_) from.in = from.out = kNeverByKernel;
  decidedBy_ = why;
}

void Copier::unload(bool usable) {
  if (usable && module_ != nullptr) driver_.moduleUnload(module_);
  module_ = nullptr;
}

Status Copier::loadKernels(int capability, std::string* what) {
  const ModuleImage* taken = nullptr;
  Status status = loadModule(driver_, spec_.copyModules, capability, &module_, &taken);
  *what = "loading " + taken->file;
  if (status != kSuccess) return status;
  *what = "finding 'gather' and 'scatter' in " + taken->file;
  status = driver_.moduleGetFunction(&gather_, module_, "gather");
  return status == kSuccess ? driver_.moduleGetFunction(&scatter_, module_, "scatter") : status;
}

// Cells of our own, since those of the scheduler may be in use, and what it takes to time.
struct Copier::Bench {
  Handle stream;
  const std::vector<DevicePtr>* buffers[2];
  Arena cells{nullptr, 0};
  Handle start = nullptr, end = nullptr;
};

Status Copier::measure(Handle stream, const std::vector<DevicePtr>& inputs, const std::vector<DevicePtr>& outputs, std::string* what, bool* isOver) {
  const uint32_t small = spec_.buckets.front().size;
  const uint32_t fits = static_cast<uint32_t>(std::max<size_t>(small, kMostMeasuredBytes / spec_.cellBytes));
  const uint32_t large = std::min(spec_.buckets.back().size, fits);
  const size_t bytes = (large * spec_.cellBytes + kPage - 1) / kPage * kPage;
  Bench bench{stream, {&inputs, &outputs}};
  bench.cells.host = static_cast<uint8_t*>(aligned_alloc(kPage, bytes));
  if (bench.cells.host == nullptr) return kOutOfMemory;
  memset(bench.cells.host, 0, bytes);
  const char* call = "cuMemHostRegister";
  Status status = driver_.memHostRegister(bench.cells.host, bytes, kPortable | kMapped);
  const bool isPinned = status == kSuccess;
  const auto next = [&](const char* name, Status result) {
    call = name;
    status = result;
  };
  if (status == kSuccess) next("cuMemHostGetDevicePointer", driver_.memHostGetDevicePointer(&bench.cells.device, bench.cells.host, 0));
  if (status == kSuccess) next("cuEventCreate", driver_.eventCreate(&bench.start, 0));
  if (status == kSuccess) next("cuEventCreate", driver_.eventCreate(&bench.end, 0));
  for (const bool out : {false, true}) {
    Times least{}, most{};
    if (status == kSuccess) status = measureSize(bench, out, small, &least, &call);
    if (status == kSuccess) status = measureSize(bench, out, large, &most, &call);
    if (status != kSuccess) break;
    for (KernelFrom& from : from_) {
      const double share = large == small ? 0 : static_cast<double>(from.bucket - small) / (large - small);
      const auto at = [&](double a, double b) { return a + (b - a) * share; };
      const double one = at(least.one, most.one), each = at(least.each, most.each), kernel = kMargin * at(least.kernel, most.kernel);
      uint32_t runs = kNeverByKernel;
      if (kernel < one) runs = 1;
      else if (kernel < each) runs = 2 + static_cast<uint32_t>((kernel - one) / (each - one) * (from.bucket - 1));
      (out ? from.out : from.in) = runs;
    }
  }
  *what = "measuring how to copy: " + std::string(call);
  if (bench.start != nullptr) driver_.eventDestroy(bench.start);
  if (bench.end != nullptr) driver_.eventDestroy(bench.end);
  // What was begun may still write to the cells, and to buffers that batches are to use.
  const double untilNs = monotonicNs() + kEndsWithinNs;
  while (status != kSuccess && driver_.streamQuery(stream) == kNotReady && *isOver) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    *isOver = monotonicNs() < untilNs;
  }
  if (!*isOver) return kNotReady;
  if (isFatal(status)) return status;
  if (isPinned) driver_.memHostUnregister(bench.cells.host);
  free(bench.cells.host);
  if (status == kSuccess) decidedBy_ = "measured";
  return status;
}

Status Copier::measureSize(Bench& bench, bool out, uint32_t size, Times* times, const char** call) const {
  BatchCells together, apart;
  for (uint32_t i = 0; i < size; i += 1) {
    const auto cellAt = [&](uint32_t place) { return static_cast<int32_t>(place * spec_.cellBytes / kCellUnit); };
    together.add(cellAt(i), spec_.cellBytes);
    apart.add(cellAt(size - 1 - i), spec_.cellBytes);  // backwards makes a run of each
  }
  Status status = time(bench, out, false, together, &times->one, call);
  if (status == kSuccess) status = time(bench, out, false, apart, &times->each, call);
  if (status == kSuccess) status = time(bench, out, true, apart, &times->kernel, call);
  return status;
}

// The shortest of some tries, from the first event to the last.
Status Copier::time(Bench& bench, bool out, bool byKernel, const BatchCells& of, double* ns, const char** call) const {
  *ns = INFINITY;
  for (int k = 0; k < kTries; k += 1) {
    *call = "cuEventRecord";
    Status status = driver_.eventRecord(bench.start, bench.stream);
    if (status == kSuccess) status = copy(out, byKernel, of, bench.cells, *bench.buffers[out ? 1 : 0], bench.stream, call);
    if (status != kSuccess) return status;
    *call = "cuEventRecord";
    status = driver_.eventRecord(bench.end, bench.stream);
    if (status != kSuccess) return status;
    *call = byKernel ? "a kernel" : "a copy";
    const double untilNs = monotonicNs() + kHangsNs;
    while ((status = driver_.eventQuery(bench.end)) == kNotReady && monotonicNs() < untilNs) std::this_thread::yield();
    if (status != kSuccess) return status;
    *call = "cuEventElapsedTime";
    float ms = 0;
    status = driver_.eventElapsedTime(&ms, bench.start, bench.end);
    if (status != kSuccess) return status;
    *ns = std::min(*ns, static_cast<double>(ms) * 1e6);
  }
  return kSuccess;
}

}  // namespace rubato
