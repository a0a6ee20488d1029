#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "driver.h"
#include "module.h"

namespace rubato {

struct ModelSpec;
struct TensorSpec;

// Where the requests of a batch lie in the tensors' memory.
struct BatchCells {
  // Consecutive requests whose cells lie at equal distances.
  struct Run {
    size_t offset, stride;
    uint32_t from, count;
  };
  std::vector<int32_t> cells;  // by request, in units of 64 bytes; -1 for one that has brought no tensors
  std::vector<Run> runs;       // of those that have

  void clear();
  void add(int32_t cell, size_t cellBytes);
};

// The tensors' memory as the host and as the device see it; `device` is 0 where kernels cannot reach it.
struct Arena {
  uint8_t* host;
  DevicePtr device;
};

enum class Copies : uint32_t { kAuto, kKernel, kCopy };

// From how many runs on a batch is copied by the kernel.
constexpr uint32_t kNeverByKernel = UINT32_MAX;
struct KernelFrom {
  uint32_t bucket;
  uint32_t in = kNeverByKernel, out = kNeverByKernel;
};

// How the tensors of a model's batches get from their cells to the device's buffers and back: by the copy engines, one 2D
// copy for each run and tensor, or by one launch of a kernel that reads and writes the cells where they are. The engines
// leave the compute units alone and are as fast as the bus when a batch is of one run; the kernel does not mind how
// many there are. Which is faster depends on machine, sizes and runs: it is measured when the model is loaded.
class Copier {
 public:
  Copier(const Driver& driver, const ModelSpec& spec);
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Loads the kernels and decides, on a stream and buffers that no batch uses. `failure` says what went wrong.
  Status load(int capability, Handle stream, const std::vector<DevicePtr>& inputs, const std::vector<DevicePtr>& outputs, std::string* failure);
  void unload(bool usable);

  bool wantsKernel(bool out, const BatchCells& of) const;
  // Begins to copy; `call` is the one whose status is answered.
  Status copy(bool out, bool byKernel, const BatchCells& of, const Arena& arena, const std::vector<DevicePtr>& buffers, Handle stream, const char** call) const;
  // From now on by the copy engines alone.
  void giveUpKernel(const std::string& why);

  const std::vector<KernelFrom>& kernelFrom() const { return from_; }
  // What has decided: "measured", "model.json", or why the kernels cannot be used.
  const std::string& decidedBy() const { return decidedBy_; }

 private:
  // Of a batch: in one run, in as many as it has requests, by the kernel.
  struct Times {
    double one, each, kernel;
  };
  struct Bench;

  Status loadKernels(int capability, std::string* what);
  Status measure(Handle stream, const std::vector<DevicePtr>& inputs, const std::vector<DevicePtr>& outputs, std::string* what, bool* isOver);
  Status measureSize(Bench& bench, bool out, uint32_t size, Times* times, const char** call) const;
  Status time(Bench& bench, bool out, bool byKernel, const BatchCells& of, double* ns, const char** call) const;
  Status copyRuns(bool out, const BatchCells& of, const Arena& arena, const std::vector<DevicePtr>& buffers, Handle stream) const;
  Status launch(bool out, const BatchCells& of, const Arena& arena, const std::vector<DevicePtr>& buffers, Handle stream) const;

  const Driver& driver_;
  const ModelSpec& spec_;
  Handle module_ = nullptr, gather_ = nullptr, scatter_ = nullptr;
  std::vector<KernelFrom> from_;  // by bucket
  std::string decidedBy_ = "model.json";
};

}  // namespace rubato
