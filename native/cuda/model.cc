#include "model.h"

#include <cstring>

namespace rubato {

std::string DeviceModel::problem(const std::string& what, Status status) {
  lastStatus_ = status;
  return "model '" + spec_->name + "': " + what + " failed with " + driver_.nameOf(status);
}

std::string DeviceModel::load(Handle stream, int capability) {
  std::string failure = loadAll(stream, capability);
  // What a kernel that hangs may still write to stays, as a device that is lost keeps what it has.
  if (!failure.empty()) unload(lastStatus_ != kNotReady);
  return failure;
}

std::string DeviceModel::loadAll(Handle stream, int capability) {
  field_ = "module";
  const ModuleImage* taken = nullptr;
  Status status = loadModule(driver_, spec_->modules, capability, &module_, &taken);
  file_ = taken->file;
  if (status != kSuccess) return problem("loading the module " + file_, status);
  for (size_t i = 0; i < spec_->weights.size(); i += 1) {
    const std::string& bytes = spec_->weights[i];
    field_ = "weights";
    DevicePtr at = 0;
    std::string failure = allocate(&at, bytes.size(), "the weights");
    if (!failure.empty()) return failure;
    weights_.push_back(at);
    status = driver_.memcpyHtoD(at, bytes.data(), bytes.size());
    if (status != kSuccess) return problem("copying the weights", status);
  }
  for (int set = 0; set < kSets; set += 1) {
    const auto take = [&](std::vector<DevicePtr>& to, size_t bytes, const char* what) {
      DevicePtr at = 0;
      std::string failure = allocate(&at, bytes * maxBatch(), what);
      to.push_back(at);
      return failure;
    };
    std::string failure;
    field_ = "inputs";
    for (const TensorSpec& tensor : spec_->inputs) if (failure.empty()) failure = take(inputs_[set], tensor.bytes, "the inputs");
    if (failure.empty()) field_ = "outputs";
    for (const TensorSpec& tensor : spec_->outputs) if (failure.empty()) failure = take(outputs_[set], tensor.bytes, "the outputs");
    if (failure.empty()) field_ = "scratch";
    for (const size_t bytes : spec_->scratchBytes) if (failure.empty()) failure = take(scratch_[set], bytes, "the scratch memory");
    for (const BucketSpec& bucket : spec_->buckets) {
      if (!failure.empty()) break;
      field_ = "buckets";
      Handle exec = nullptr;
      failure = capture(stream, set, bucket, &exec);
      if (failure.empty()) graphs_[set].push_back(exec);
    }
    if (!failure.empty()) return failure;
  }
  field_ = "copies";
  std::string failure;
  lastStatus_ = copier_.load(capability, stream, inputs_[0], outputs_[0], &failure);
  return failure.empty() ? "" : "model '" + spec_->name + "': " + failure;
}

std::string DeviceModel::allocate(DevicePtr* to, size_t bytes, const std::string& what) {
  const Status status = driver_.memAlloc(to, bytes);
  if (status != kSuccess) return problem("allocating " + std::to_string(bytes) + " bytes for " + what, status);
  owned_.push_back(*to);
  return "";
}

std::string DeviceModel::capture(Handle stream, int set, const BucketSpec& bucket, Handle* exec) {
  constexpr int kThreadLocal = 1;
  Status status = driver_.streamBeginCapture(stream, kThreadLocal);
  if (status != kSuccess) return problem("capturing a graph", status);
  std::string failure;
  for (const LaunchSpec& spec : bucket.launches) {
    if (failure.empty()) failure = launch(stream, set, spec);
  }
  if (failure.empty()) field_ = "buckets";
  Handle graph = nullptr;
  status = driver_.streamEndCapture(stream, &graph);  // in any case: a stream left in capture takes nothing else
  if (status != kSuccess) return failure.empty() ? problem("capturing a graph", status) : failure;
  if (failure.empty()) {
    status = driver_.graphInstantiate(exec, graph, 0);
    if (status != kSuccess) failure = problem("making a graph for batches of " + std::to_string(bucket.size), status);
  }
  driver_.graphDestroy(graph);
  return failure;
}

std::string DeviceModel::launch(Handle stream, int set, const LaunchSpec& spec) {
  Handle function = nullptr;
  field_ = "launches";
  Status status = driver_.moduleGetFunction(&function, module_, spec.kernel.c_str());
  if (status != kSuccess) return problem("finding the kernel '" + spec.kernel + "' in " + file_, status);
  std::vector<uint64_t> values(spec.args.size());
  std::vector<void*> pointers(spec.args.size());
  for (size_t i = 0; i < spec.args.size(); i += 1) {
    const ArgSpec& arg = spec.args[i];
    const size_t index = static_cast<size_t>(arg.value);
    pointers[i] = &values[i];
    if (arg.kind == ArgSpec::kInput) values[i] = inputs_[set][index];
    if (arg.kind == ArgSpec::kOutput) values[i] = outputs_[set][index];
    if (arg.kind == ArgSpec::kScratch) values[i] = scratch_[set][index];
    if (arg.kind == ArgSpec::kWeight) values[i] = weights_[index];
    const int32_t whole = static_cast<int32_t>(arg.value);
    const float real = static_cast<float>(arg.value);
    if (arg.kind == ArgSpec::kInt) memcpy(&values[i], &whole, sizeof whole);
    if (arg.kind == ArgSpec::kFloat) memcpy(&values[i], &real, sizeof real);
  }
  status = driver_.launchKernel(function, spec.grid[0], spec.grid[1], spec.grid[2], spec.block[0], spec.block[1], spec.block[2], spec.sharedBytes, stream, pointers.data(), nullptr);
  return status == kSuccess ? "" : problem("launching the kernel '" + spec.kernel + "'", status);
}

void DeviceModel::unload(bool usable) {
  copier_.unload(usable);
  if (usable) {
    for (auto& graphs : graphs_) for (Handle graph : graphs) driver_.graphExecDestroy(graph);
    for (const DevicePtr at : owned_) driver_.memFree(at);
    if (module_ != nullptr) driver_.moduleUnload(module_);
  }
  for (int set = 0; set < kSets; set += 1) {
    graphs_[set].clear();
    inputs_[set].clear();
    outputs_[set].clear();
    scratch_[set].clear();
  }
  weights_.clear();
  owned_.clear();
  module_ = nullptr;
}

Handle DeviceModel::graphFor(int set, uint32_t size) const {
  size_t bucket = 0;
  while (spec_->buckets[bucket].size < size) bucket += 1;
  return graphs_[set][bucket];
}

}  // namespace rubato
