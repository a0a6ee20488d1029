#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace rubato {

// Tells other threads whether a thread is inside the driver, and lets one of them go on in its place when a call does not
// return. Inside, the thread touches nothing of ours, so who has taken over has all that was the thread's; should the call
// return after all, the thread stops for ever before it touches anything.
class CallWatch {
 public:
  // The thread itself.
  uint64_t enter(const char* call) {
    call_.store(call, std::memory_order_relaxed);
    const uint64_t inside = (word_.load(std::memory_order_relaxed) | 1) + 2;
    word_.store(inside, std::memory_order_release);
    return inside;
  }
  void leave(uint64_t inside) {
    if (word_.compare_exchange_strong(inside, inside + 1, std::memory_order_acq_rel)) return;
    for (;;) pause();
  }

  // One other thread, which looks again every now and then: for how long it has seen the thread in this one call.
  double insideNs(double passedNs) {
    const uint64_t word = word_.load(std::memory_order_acquire);
    insideNs_ = word == seen_ && word % 2 == 1 ? insideNs_ + passedNs : 0;
    seen_ = word;
    return insideNs_;
  }
  // False when the call that was seen last has returned.
  bool takeOver() {
    uint64_t inside = seen_;
    return inside % 2 == 1 && word_.compare_exchange_strong(inside, inside + 1, std::memory_order_acq_rel);
  }
  // As the driver's manual names it, without the version of its interface.
  std::string call() const {
    const std::string call = call_.load(std::memory_order_relaxed);
    return call.substr(0, call.find("_v2"));
  }

 private:
  std::atomic<uint64_t> word_{0};  // odd while inside, another number for each call
  std::atomic<const char*> call_{""};
  uint64_t seen_ = 0;
  double insideNs_ = 0;
};

// The watch of the calling thread, null where nobody watches.
inline thread_local CallWatch* watchOfThread = nullptr;

class InCall {
 public:
  explicit InCall(const char* call) : watch_(watchOfThread) {
    if (watch_ != nullptr) inside_ = watch_->enter(call);
  }
  ~InCall() {
    if (watch_ != nullptr) watch_->leave(inside_);
  }
  InCall(const InCall&) = delete;
  InCall& operator=(const InCall&) = delete;

 private:
  CallWatch* const watch_;
  uint64_t inside_ = 0;
};

}  // namespace rubato
