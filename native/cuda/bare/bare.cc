// What the driver itself can do, for comparison with the stream manager: our models' graphs without a scheduler, and copies
// from memory that was registered, as the tensors' is, beside memory that the driver has allocated.
//
//   bare LIBRARY graph MS < MODEL     one graph of copy in, kernels and copy out: launched one by one, then back to back, for MS each
//   bare LIBRARY copies BYTES…        GB/s in both directions, the two kinds of memory taking turns
//
// The model comes as words, as bench/cuda/bare.ts writes them:
//
//   module CHIP PATH | input BYTES | output BYTES | scratch BYTES | weight BYTES      sizes of the whole batch
//   launch KERNEL gx gy gz bx by bz shared COUNT (kind value)×COUNT                  in their order
//   end
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "../event_clock.h"
#include "../model.h"

using namespace rubato;

namespace {

constexpr double kLoadLimitNs = 60e9;
constexpr int kUnderWay = 32;

[[noreturn]] void fail(const std::string& what) {
  fprintf(stderr, "bare: %s\n", what.c_str());
  exit(1);
}

struct Device {
  const Driver* driver;
  Handle stream = nullptr, start = nullptr, end = nullptr;
  int capability = 0;

  explicit Device(const std::string& library) {
    std::string reason;
    driver = loadDriver(library, kLoadLimitNs, &reason);
    if (driver == nullptr) fail(reason);
    int device = 0, major = 0, minor = 0;
    Handle context = nullptr;
    must(driver->deviceGet(&device, 0), "cuDeviceGet");
    must(driver->primaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    must(driver->ctxSetCurrent(context), "cuCtxSetCurrent");
    must(driver->deviceGetAttribute(&major, kCapabilityMajor, device), "cuDeviceGetAttribute");
    must(driver->deviceGetAttribute(&minor, kCapabilityMinor, device), "cuDeviceGetAttribute");
    capability = 10 * major + minor;
    must(driver->streamCreate(&stream, 1, 0), "cuStreamCreateWithPriority");
    must(driver->eventCreate(&start, 0), "cuEventCreate");
    must(driver->eventCreate(&end, 0), "cuEventCreate");
  }

  void must(Status status, const char* call) const {
    if (status != kSuccess) fail(std::string(call) + " failed with " + driver->nameOf(status));
  }
  void record(Handle event) const { must(driver->eventRecord(event, stream), "cuEventRecord"); }
  void await(Handle event) const {
    Status status;
    while ((status = driver->eventQuery(event)) == kNotReady) {
    }
    must(status, "cuEventQuery");
  }
  DevicePtr allocate(size_t bytes) const {
    DevicePtr at = 0;
    must(driver->memAlloc(&at, bytes), "cuMemAlloc");
    return at;
  }
  void copy(bool out, void* host, DevicePtr device, size_t bytes) const {
    Copy2D copy{};
    copy.fromType = out ? kDeviceMemory : kHostMemory;
    copy.toType = out ? kHostMemory : kDeviceMemory;
    if (out) copy.toHost = host;
    else copy.fromHost = host;
    (out ? copy.fromDevice : copy.toDevice) = device;
    copy.fromPitch = copy.toPitch = copy.bytes = bytes;
    copy.rows = 1;
    must(driver->memcpy2DAsync(&copy, stream), "cuMemcpy2DAsync");
  }
  // Memory as the tensors': pages of our own, registered.
  void* registered(size_t bytes) const {
    const size_t whole = (bytes + 4095) / 4096 * 4096;
    void* memory = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory");
    memset(memory, 1, whole);
    must(driver->memHostRegister(memory, whole, kPortable | kMapped), "cuMemHostRegister");
    return memory;
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ------------------------------------------------------------------ graphs

struct Model {
  std::vector<ModuleImage> modules;
  std::vector<size_t> inputs, outputs, scratch, weights;
  std::vector<LaunchSpec> launches;
};

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Model readModel(std::istream& from) {
  Model model;
  std::string word;
  while (from >> word && word != "end") {
    if (word == "module") {
      int chip = 0;
      std::string path;
      from >> chip >> std::ws;
      std::getline(from, path);
      model.modules.push_back({path, chip, readFile(path)});
    } else if (word == "launch") {
      LaunchSpec launch{};
      size_t count = 0;
      from >> launch.kernel;
      for (unsigned& axis : launch.grid) from >> axis;
      for (unsigned& axis : launch.block) from >> axis;
      from >> launch.sharedBytes >> count;
      for (size_t i = 0; i < count && from; i += 1) {
        int kind = 0;
        double value = 0;
        from >> kind >> value;
        launch.args.push_back({static_cast<ArgSpec::Kind>(kind), value});
      }
      model.launches.push_back(launch);
    } else {
      size_t bytes = 0;
      from >> bytes;
      if (word == "input") model.inputs.push_back(bytes);
      else if (word == "output") model.outputs.push_back(bytes);
      else if (word == "scratch") model.scratch.push_back(bytes);
      else if (word == "weight") model.weights.push_back(bytes);
      else fail("not understood: " + word);
    }
  }
  if (!from || model.modules.empty()) fail("the description of the model is not complete");
  return model;
}

Handle capture(const Device& device, const Model& model) {
  const Driver& driver = *device.driver;
  Handle module = nullptr;
  const ModuleImage* taken = nullptr;
  device.must(loadModule(driver, model.modules, device.capability, &module, &taken), "cuModuleLoadData");
  const auto allocateAll = [&](const std::vector<size_t>& sizes) {
    std::vector<DevicePtr> all;
    for (const size_t bytes : sizes) all.push_back(device.allocate(bytes));
    return all;
  };
  // By kind of argument. What the weights are makes no difference to the time.
  const std::vector<DevicePtr> buffers[] = {allocateAll(model.inputs), allocateAll(model.outputs), allocateAll(model.scratch), allocateAll(model.weights)};
  for (size_t i = 0; i < model.weights.size(); i += 1) device.must(driver.memcpyHtoD(buffers[ArgSpec::kWeight][i], std::string(model.weights[i], '\0').data(), model.weights[i]), "cuMemcpyHtoD");
  std::vector<void*> in, out;
  for (const size_t bytes : model.inputs) in.push_back(device.registered(bytes));
  for (const size_t bytes : model.outputs) out.push_back(device.registered(bytes));

  constexpr int kThreadLocal = 1;
  device.must(driver.streamBeginCapture(device.stream, kThreadLocal), "cuStreamBeginCapture");
  for (size_t i = 0; i < in.size(); i += 1) device.copy(false, in[i], buffers[ArgSpec::kInput][i], model.inputs[i]);
  for (const LaunchSpec& launch : model.launches) {
    Handle function = nullptr;
    device.must(driver.moduleGetFunction(&function, module, launch.kernel.c_str()), "cuModuleGetFunction");
    std::vector<uint64_t> values(launch.args.size());
    std::vector<void*> pointers(launch.args.size());
    for (size_t i = 0; i < launch.args.size(); i += 1) {
      const ArgSpec& arg = launch.args[i];
      const int32_t whole = static_cast<int32_t>(arg.value);
      const float real = static_cast<float>(arg.value);
      pointers[i] = &values[i];
      if (arg.kind <= ArgSpec::kWeight) values[i] = buffers[arg.kind].at(static_cast<size_t>(arg.value));
      else if (arg.kind == ArgSpec::kInt) memcpy(&values[i], &whole, sizeof whole);
      else memcpy(&values[i], &real, sizeof real);
    }
    device.must(driver.launchKernel(function, launch.grid[0], launch.grid[1], launch.grid[2], launch.block[0], launch.block[1], launch.block[2], launch.sharedBytes, device.stream, pointers.data(), nullptr), "cuLaunchKernel");
  }
  for (size_t i = 0; i < out.size(); i += 1) device.copy(true, out[i], buffers[ArgSpec::kOutput][i], model.outputs[i]);
  Handle graph = nullptr, exec = nullptr;
  device.must(driver.streamEndCapture(device.stream, &graph), "cuStreamEndCapture");
  device.must(driver.graphInstantiate(&exec, graph, 0), "cuGraphInstantiate");
  return exec;
}

// Each is waited for before the next is launched. Host times, ns.
std::vector<double> oneByOne(const Device& device, Handle graph, double forNs) {
  std::vector<double> times;
  const double untilNs = monotonicNs() + forNs;
  for (double from = monotonicNs(); from < untilNs; from = monotonicNs()) {
    device.must(device.driver->graphLaunch(graph, device.stream), "cuGraphLaunch");
    device.record(device.end);
    device.await(device.end);
    times.push_back(monotonicNs() - from);
  }
  return times;
}

// Between kUnderWay and twice as many are queued at any time. Launches per second.
double backToBack(const Device& device, Handle graph, double forNs) {
  const Handle marks[] = {device.start, device.end};
  const double from = monotonicNs();
  long groups = 0;
  for (; groups < 2 || monotonicNs() < from + forNs; groups += 1) {
    for (int k = 0; k < kUnderWay; k += 1) device.must(device.driver->graphLaunch(graph, device.stream), "cuGraphLaunch");
    device.record(marks[groups % 2]);
    if (groups > 0) device.await(marks[(groups + 1) % 2]);
  }
  device.await(marks[(groups + 1) % 2]);
  return static_cast<double>(groups * kUnderWay) / (monotonicNs() - from) * 1e9;
}

void graphs(const Device& device, double forNs) {
  const Handle graph = capture(device, readModel(std::cin));
  oneByOne(device, graph, 0.2 * forNs);  // warms up
  std::vector<double> times = oneByOne(device, graph, forNs);
  const double perSecond = backToBack(device, graph, forNs);
  std::sort(times.begin(), times.end());
  printf("{\"oneByOneUs\": {\"p50\": %.3f, \"p99\": %.3f, \"count\": %zu}, \"backToBackPerSecond\": %.1f}\n", times[times.size() / 2] / 1e3, times[times.size() * 99 / 100] / 1e3, times.size(), perSecond);
}

// ------------------------------------------------------------------ copies

constexpr int kRounds = 9;
constexpr size_t kBytesPerRound = size_t{64} << 20;

double gigabytesPerSecond(const Device& device, bool out, void* host, DevicePtr at, size_t bytes) {
  const size_t copies = std::clamp<size_t>(kBytesPerRound / bytes, 4, 64);
  device.record(device.start);
  for (size_t k = 0; k < copies; k += 1) device.copy(out, host, at, bytes);
  device.record(device.end);
  device.await(device.end);
  float ms = 0;
  device.must(device.driver->eventElapsedTime(&ms, device.start, device.end), "cuEventElapsedTime");
  return static_cast<double>(copies * bytes) / (static_cast<double>(ms) * 1e6);
}

void copies(const Device& device, void* library, const std::vector<size_t>& sizes) {
  const auto allocateHost = reinterpret_cast<Status (*)(void**, size_t)>(dlsym(library, "cuMemAllocHost_v2"));
  if (allocateHost == nullptr) fail("the driver library lacks cuMemAllocHost_v2");
  const size_t most = *std::max_element(sizes.begin(), sizes.end());
  const DevicePtr at = device.allocate(most);
  void* hosts[2] = {device.registered(most), nullptr};
  device.must(allocateHost(&hosts[1], most), "cuMemAllocHost");
  memset(hosts[1], 1, most);
  printf("[");
  for (size_t i = 0; i < sizes.size(); i += 1) {
    for (const bool out : {false, true}) {
      std::vector<double> speeds[2];
      for (int round = 0; round <= kRounds; round += 1) {
        for (const int kind : {0, 1}) {
          const double speed = gigabytesPerSecond(device, out, hosts[kind], at, sizes[i]);
          if (round > 0) speeds[kind].push_back(speed);  // the first one warms up
        }
      }
      printf("%s{\"bytes\": %zu, \"direction\": \"%s\", \"registeredGBps\": %.3f, \"allocatedGBps\": %.3f}", i == 0 && !out ? "" : ", ", sizes[i], out ? "out" : "in", median(speeds[0]), median(speeds[1]));
    }
  }
  printf("]\n");
}

}  // namespace

// What it has on the device goes with the process.
int main(int argc, char** argv) {
  const std::string mode = argc < 3 ? "" : argv[2];
  std::vector<size_t> numbers;
  for (int i = 3; i < argc; i += 1) numbers.push_back(strtoull(argv[i], nullptr, 10));
  const bool arePositive = !numbers.empty() && *std::min_element(numbers.begin(), numbers.end()) > 0;
  if (!arePositive || !(mode == "copies" || (mode == "graph" && numbers.size() == 1))) fail("usage: bare LIBRARY graph MS | copies BYTES…");
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a step that is ended takes it along
  const Device device(argv[1]);
  if (mode == "graph") graphs(device, static_cast<double>(numbers[0]) * 1e6);
  else copies(device, dlopen(argv[1], RTLD_NOW | RTLD_NODELETE), numbers);
  fflush(stdout);
  _exit(0);
}
