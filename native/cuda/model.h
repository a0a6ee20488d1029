#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "copier.h"
#include "driver.h"
#include "module.h"

namespace rubato {

// What an argument of a kernel is: a buffer, by its place in one of the lists of the spec, or a number.
struct ArgSpec {
  enum Kind { kInput, kOutput, kScratch, kWeight, kInt, kFloat } kind;
  double value;
};

struct LaunchSpec {
  std::string kernel;
  unsigned grid[3];
  unsigned block[3];
  unsigned sharedBytes;
  std::vector<ArgSpec> args;
};

struct TensorSpec {
  size_t cellOffset;  // in the cell of a request
  size_t bytes;       // of one request
};

// Batches of up to `size` run the launches that were made for exactly so many.
struct BucketSpec {
  uint32_t size;
  std::vector<LaunchSpec> launches;
};

struct ModelSpec {
  std::string name;
  std::vector<ModuleImage> modules;      // the same kernels, one at least
  std::vector<ModuleImage> copyModules;  // those of kernels/gather.cu, unless `copies` is kCopy
  Copies copies = Copies::kCopy;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<size_t> scratchBytes;  // per request
  std::vector<std::string> weights;
  std::vector<BucketSpec> buckets;  // by size
  size_t cellBytes = 0;             // of a request, inputs and outputs
};

// What became of a model on a device, for whoever asks.
struct LoadedModel {
  std::string name;
  std::string module;  // the file whose kernels run
  std::vector<KernelFrom> kernelFrom;
  std::string decidedBy;
};

// Buffers of one batch: the next one's inputs are copied while the one before computes.
constexpr int kSets = 2;

// A model on one device. All calls come from the device's thread, with its context current.
class DeviceModel {
 public:
  DeviceModel(const Driver& driver, std::shared_ptr<const ModelSpec> spec) : driver_(driver), spec_(std::move(spec)), copier_(driver, *spec_) {}
  DeviceModel(const DeviceModel&) = delete;
  DeviceModel& operator=(const DeviceModel&) = delete;

  // Loads the module for a chip of this compute capability (8.6 is 86) and the weights, allocates the buffers, captures a
  // graph per bucket and set on the stream, and measures how to copy. Answers what went wrong and, unless
  // a kernel hangs, leaves nothing behind then; or "".
  std::string load(Handle stream, int capability);
  // Only when its streams are idle. `usable`: the device still takes calls; otherwise its memory is lost with it.
  void unload(bool usable);

  // Of a load that failed: what the driver said, and the field of the description that it was about.
  Status lastStatus() const { return lastStatus_; }
  const std::string& failedField() const { return field_; }

  const ModelSpec& spec() const { return *spec_; }
  LoadedModel loadedAs() const { return {spec_->name, file_, copier_.kernelFrom(), copier_.decidedBy()}; }
  const std::vector<DevicePtr>& inputs(int set) const { return inputs_[set]; }
  const std::vector<DevicePtr>& outputs(int set) const { return outputs_[set]; }
  Copier& copier() { return copier_; }
  Handle graphFor(int set, uint32_t size) const;
  uint32_t maxBatch() const { return spec_->buckets.back().size; }

  // Which set the next batch takes, and which are in use.
  int nextSet = 0;
  bool inUse[kSets] = {};

 private:
  std::string loadAll(Handle stream, int capability);
  std::string allocate(DevicePtr* to, size_t bytes, const std::string& what);
  std::string capture(Handle stream, int set, const BucketSpec& bucket, Handle* exec);
  std::string launch(Handle stream, int set, const LaunchSpec& spec);
  std::string problem(const std::string& what, Status status);

  const Driver& driver_;
  const std::shared_ptr<const ModelSpec> spec_;
  Copier copier_;
  std::string file_;
  Handle module_ = nullptr;
  Status lastStatus_ = kSuccess;
  std::string field_;  // that is being loaded
  std::vector<DevicePtr> owned_;
  std::vector<DevicePtr> inputs_[kSets], outputs_[kSets], scratch_[kSets], weights_;
  std::vector<Handle> graphs_[kSets];  // by bucket
};

}  // namespace rubato
