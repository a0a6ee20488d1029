// What the parts of the fake driver share. See fakecuda.cc.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace fake {

using Status = int;
constexpr Status kInvalidValue = 1;
constexpr Status kOutOfMemory = 2;
constexpr Status kNotInitialized = 3;
constexpr Status kInvalidDevice = 101;
constexpr Status kInvalidImage = 200;
constexpr Status kInvalidContext = 201;
constexpr Status kNoBinaryForGpu = 209;
constexpr Status kUnsupportedPtx = 222;
constexpr Status kInvalidHandle = 400;
constexpr Status kNotFound = 500;
constexpr Status kNotReady = 600;
constexpr Status kIllegalAddress = 700;
constexpr Status kAlreadyRegistered = 712;
constexpr Status kNotRegistered = 713;

constexpr double kNever = std::numeric_limits<double>::infinity();

struct Grid {
  unsigned grid[3];
  unsigned block[3];
};

// A kernel in C++: `ns` is how long the device is busy with it, `run` its effect, which becomes visible at its end, and the
// error that it ends with, 0 as a rule.
struct Kernel {
  const char* name;
  std::vector<size_t> argBytes;
  double (*ns)(void* const* args, const Grid& grid);
  Status (*run)(void* const* args, const Grid& grid);
};
// Where the host finds what a kernel sees at this address of registered memory; null where there is none.
char* fromMapped(uint64_t address, size_t bytes);
const Kernel* findKernel(const std::string& name);

// ------------------------------------------------------------------ faults and figures (control.cc)

struct Settings {
  std::atomic<int> devices{1};
  std::atomic<int> version{12040};
  std::atomic<int> capability{80};
  std::atomic<size_t> memoryBytes{size_t{1} << 30};
  std::atomic<double> copyNs{0};         // of every copy
  std::atomic<double> copyNsPerByte{0};  // and of its bytes
  std::atomic<double> launchNs{0};       // of every kernel or graph
};
Settings& settings();

// Counts a call, and answers the error that it is to give: 0 as a rule. A call that is to hang does so in here.
Status enter(std::atomic<uint64_t>& count, const char* call);
std::atomic<uint64_t>& counter(const char* name);
// What a kernel that is about to start is to do: 0 run, an error to end with, or kHang.
constexpr Status kHang = -1;
Status kernelFault(const char* name);
// Counts the times that hanging kernels and calls were let go.
uint64_t releases();

// ------------------------------------------------------------------ a device (engine.cc)

struct Event {
  int pending = 0;  // records that are queued
  bool recorded = false;
  bool destroyed = false;
  double atNs = 0;
};

struct Copy {
  void* to;
  const void* from;
  size_t toPitch, fromPitch, bytes, rows;
};

// What a graph does one after the other: the launch of a kernel or, where that is null, a copy.
struct Node {
  const Kernel* kernel = nullptr;
  Grid grid{};
  std::vector<unsigned char> values{};  // the arguments, each at a multiple of 8 bytes
  Copy copy{};
};

struct Graph {
  std::vector<Node> nodes;
};

struct Work {
  enum Kind { kCopy, kGraph, kRecord, kWait } kind;
  double issuedNs = 0;
  Copy copy{};
  std::shared_ptr<const Graph> graph{};
  Event* event = nullptr;
  // Set when it has begun.
  bool begun = false;
  double endNs = 0;
  Status fault = 0;
  uint64_t hangsUntil = 0;
};

struct Device;

struct Stream {
  Device* device;
  std::deque<Work> queue;
  double atNs = 0;
  std::shared_ptr<Graph> capture;
};

struct Device {
  int ordinal = 0;
  int retained = 0;
  Status error = 0;  // sticky
  size_t used = 0;
  std::map<uintptr_t, size_t> memory;
  std::vector<Stream*> streams;
};

double nowNs();
// Does all work of the device that has ended by now, in the order of its ends. Called with the lock held.
void advance(Device& device);
bool isSticky(Status status);

}  // namespace fake
