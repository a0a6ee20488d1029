// Time on a fake device. Nothing runs by itself: whoever calls the driver does the work that has ended by then, in the
// order of its ends, with the times at which it ended. So copies and kernels take effect as late as a real device may
// let them, event times are exact, and no thread of the fake takes a core from what is tested.
#include <cstring>
#include <ctime>

#include "fake.h"

namespace fake {

double nowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

bool isSticky(Status status) {
  return status == 700 || status == 702 || (status >= 714 && status <= 719) || status == 721 || status == 810 || status == 911 || status == 226;
}

namespace {

constexpr size_t kMostArgs = 32;

void pointersOf(const Node& node, void** pointers) {
  unsigned char* at = const_cast<unsigned char*>(node.values.data());
  for (const size_t bytes : node.kernel->argBytes) {
    *pointers++ = at;
    at += (bytes + 7) / 8 * 8;
  }
}

double lengthOf(const Copy& copy) { return settings().copyNs + settings().copyNsPerByte * static_cast<double>(copy.bytes * copy.rows); }

double lengthOf(const Work& work) {
  if (work.kind == Work::kCopy) return lengthOf(work.copy);
  double ns = settings().launchNs;
  void* args[kMostArgs];
  for (const Node& node : work.graph->nodes) {
    if (node.kernel == nullptr) {
      ns += lengthOf(node.copy);
      continue;
    }
    pointersOf(node, args);
    ns += node.kernel->ns(args, node.grid);
  }
  return ns;
}

void begin(Work& work, double startNs) {
  work.begun = true;
  if (work.kind == Work::kGraph) {
    for (const Node& node : work.graph->nodes) {
      const Status fault = node.kernel == nullptr ? 0 : kernelFault(node.kernel->name);
      if (fault != 0) work.fault = fault;
    }
  }
  if (work.fault == kHang) work.hangsUntil = releases();
  work.endNs = startNs + (work.kind == Work::kRecord ? 0 : lengthOf(work));
}

// When the first work of the stream will end; kNever while it waits for another stream.
double nextEnd(Stream& stream) {
  if (stream.queue.empty()) return kNever;
  Work& work = stream.queue.front();
  if (work.kind == Work::kWait) {
    if (work.event->pending > 0) return kNever;
    return work.event->atNs > stream.atNs ? work.event->atNs : stream.atNs;
  }
  if (!work.begun) begin(work, work.issuedNs > stream.atNs ? work.issuedNs : stream.atNs);
  if (work.fault == kHang) {
    if (work.hangsUntil == releases()) return kNever;
    work.fault = 0;
    work.endNs = nowNs();
  }
  return work.endNs;
}

void copy(const Copy& of) {
  for (size_t row = 0; row < of.rows; row += 1) {
    memcpy(static_cast<char*>(of.to) + row * of.toPitch, static_cast<const char*>(of.from) + row * of.fromPitch, of.bytes);
  }
}

void finish(Stream& stream, double endNs) {
  Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  stream.atNs = endNs;
  if (work.kind == Work::kCopy) copy(work.copy);
  if (work.kind == Work::kRecord) {
    work.event->pending -= 1;
    work.event->recorded = true;
    work.event->atNs = endNs;
    if (work.event->destroyed && work.event->pending == 0) delete work.event;
  }
  if (work.kind != Work::kGraph) return;
  if (work.fault != 0) {
    stream.device->error = work.fault;
    return;
  }
  void* args[kMostArgs];
  for (const Node& node : work.graph->nodes) {
    if (node.kernel == nullptr) {
      copy(node.copy);
      continue;
    }
    pointersOf(node, args);
    const Status status = node.kernel->run(args, node.grid);
    if (status != 0) {
      stream.device->error = status;
      return;
    }
  }
}

}  // namespace

void advance(Device& device) {
  const double now = nowNs();
  while (device.error == 0) {
    Stream* first = nullptr;
    double firstNs = kNever;
    for (Stream* stream : device.streams) {
      const double ns = nextEnd(*stream);
      if (ns < firstNs) {
        first = stream;
        firstNs = ns;
      }
    }
    if (first == nullptr || firstNs > now) return;
    finish(*first, firstNs);
  }
}

}  // namespace fake
