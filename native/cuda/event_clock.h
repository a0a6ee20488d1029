#pragma once

#include <algorithm>
#include <ctime>

#include "driver.h"

namespace rubato {

inline double monotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// Maps the times of a device's events onto the monotonic clock of the host.
//
// An anchor is an event whose host time is known. Elapsed times are floats of milliseconds, good for a microsecond over
// ten seconds at most, so the anchor moves on to a recent event twice a second. An end is always seen late, never
// early: the least lag since the last anchor is taken to be the error of the mapping, which also corrects drift.
class EventClock {
 public:
  // `event` has been recorded and was seen done at `nowNs`.
  void anchorAt(Handle event, double nowNs) {
    anchor_ = event;
    anchorNs_ = nowNs;
    sinceNs_ = nowNs;
    leastLagNs_ = kNoLag;
  }

  // Host time of `event`, which was seen done at `seenNs`.
  Status read(const Driver& driver, Handle event, double seenNs, double* ns) {
    float ms = 0;
    const Status status = driver.eventElapsedTime(&ms, anchor_, event);
    if (status != kSuccess) return status;
    const double atNs = anchorNs_ + static_cast<double>(ms) * 1e6;
    leastLagNs_ = std::min(leastLagNs_, seenNs - atNs);
    if (leastLagNs_ < 0) {
      anchorNs_ += leastLagNs_;  // an end cannot lie ahead of us
      leastLagNs_ = 0;
    }
    *ns = std::min(atNs, seenNs);
    return kSuccess;
  }

  bool isStale(double nowNs) const { return nowNs - sinceNs_ > kAnchorForNs; }

  // Takes over `event`, which lies at `atNs`, and gives the old anchor back.
  Handle moveTo(Handle event, double atNs, double nowNs) {
    const Handle old = anchor_;
    const double lagNs = leastLagNs_ == kNoLag ? 0 : leastLagNs_;
    anchorAt(event, std::min(atNs + lagNs, nowNs));
    sinceNs_ = nowNs;
    return old;
  }

  Handle anchor() const { return anchor_; }

 private:
  static constexpr double kAnchorForNs = 0.5e9;
  static constexpr double kNoLag = 1e18;

  Handle anchor_ = nullptr;
  double anchorNs_ = 0;
  double sinceNs_ = 0;
  double leastLagNs_ = kNoLag;
};

}  // namespace rubato
