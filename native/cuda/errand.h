#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "call_watch.h"
#include "event_clock.h"
#include "lanes.h"

namespace rubato {

// Calls to the driver that somebody waits for who cannot be replaced, as the thread that makes the scheduler: they have a
// thread of their own, which is left to itself when they take too long. What it makes is its own until it has ended.
template <typename Result>
class Errand {
 public:
  static std::shared_ptr<Errand> begin(std::function<void(Result*)> work) {
    const std::shared_ptr<Errand> errand(new Errand);
    std::thread([errand, work = std::move(work)] {
      watchOfThread = &errand->calls_;
      work(&errand->result_);
      storeWord(&errand->ended_, 1);
      futexWake(&errand->ended_);
    }).detach();
    return errand;
  }
  Errand(const Errand&) = delete;
  Errand& operator=(const Errand&) = delete;

  // Waits until `limitNs` after it has begun: who asks for it again is not held up again. Null when it has not ended.
  Result* wait(double limitNs) {
    while (loadWord(&ended_) == 0) {
      const double leftNs = begunNs_ + limitNs - monotonicNs();
      if (leftNs <= 0) return nullptr;
      futexWait(&ended_, 0, leftNs);
    }
    return &result_;
  }
  // What to say then.
  std::string complaint(double limitNs) const { return calls_.call() + " did not return within " + std::to_string(static_cast<long>(limitNs / 1e6)) + " ms"; }

 private:
  Errand() = default;

  const double begunNs_ = monotonicNs();
  CallWatch calls_;
  Result result_{};
  int32_t ended_ = 0;
};

}  // namespace rubato
