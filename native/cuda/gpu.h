#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "driver.h"
#include "event_clock.h"
#include "lanes.h"
#include "model.h"

namespace rubato {

class Attachment;

// One batch that is to run, as the dispatcher has issued it.
struct Plan {
  IssueRecord issue;
  double takenNs;  // on the scheduler's clock
};

// Plans of one scheduler for one device: single producer (the dispatch thread), single consumer (the device's thread).
class PlanLane {
 public:
  static constexpr uint32_t kCapacity = 64;
  bool push(const Plan& plan) {
    const uint32_t head = head_.load(std::memory_order_relaxed);
    if (head - tail_.load(std::memory_order_acquire) == kCapacity) return false;
    plans_[head % kCapacity] = plan;
    head_.store(head + 1);
    return true;
  }
  const Plan* first() const {
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    return head_.load() == tail ? nullptr : &plans_[tail % kCapacity];
  }
  // Counts the plans ever pushed (wraps).
  uint32_t pushed() const { return head_.load(); }
  void pop() { tail_.store(tail_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }

 private:
  alignas(kLineBytes) std::atomic<uint32_t> head_{0};
  alignas(kLineBytes) std::atomic<uint32_t> tail_{0};
  Plan plans_[kCapacity];
};

class Gpu;

// How something that was asked of a device has ended.
struct Outcome {
  std::string failure;  // "" when it is done
  std::string model;    // and the field of its description, when they are to blame
  std::string field;
  bool isLost = false;  // the device is lost, and to blame
};

// A model that takes no new batch, to be freed after its last.
struct Retired {
  std::shared_ptr<DeviceModel> model;
  bool isAsked;  // the owner waits for it
};

// A scheduler's place at a device. Apart from the lane, only the device's runner touches what changes.
struct Port {
  Attachment* owner = nullptr;
  std::shared_ptr<Gpu> gpu;
  int row = 0;             // the device's number in the scheduler
  bool pinsArena = false;  // registers the tensors' memory, for all devices of the process
  PlanLane lane;
  // The last two batches that it was given: a dispatcher that takes over for one that has died issues again what may not have been.
  int32_t givenModel[2] = {-1, -1};
  int32_t givenNumber[2] = {0, 0};
  std::vector<std::shared_ptr<DeviceModel>> models;  // by the scheduler's model number; null where there is none
  std::shared_ptr<DeviceModel> staged;               // loaded, and neither put in nor thrown away yet
  std::vector<Retired> retired;
  uint32_t seen = 0;  // plans pushed when this turn began
  int inFlight = 0;
  bool leaving = false;
  std::atomic<int> staging{0};  // until the runner has what the keeper loads: it must not leave before
  bool isPinned = false;        // its device's keeper
  bool isMapped = false;        // `arenaOnDevice` was asked for
  DevicePtr arenaOnDevice = 0;  // where kernels find the tensors' memory; 0 where they cannot,
  std::string whyNot;           // for this reason
  // Its owner:
  bool isAttached = true;
  bool isParked = false;         // has left, and is kept for the memory that it has pinned
  std::shared_ptr<Gpu> ending;  // the device, when this port was its last user

  bool wasGiven(const IssueRecord& issue) const {
    return (givenModel[0] == issue.model && givenNumber[0] == issue.number) || (givenModel[1] == issue.model && givenNumber[1] == issue.number);
  }
  void noteGiven(const IssueRecord& issue) {
    givenModel[1] = givenModel[0];
    givenNumber[1] = givenNumber[0];
    givenModel[0] = issue.model;
    givenNumber[0] = issue.number;
  }
};

// The stream manager of one device, for all schedulers of the process. Two threads make every call to the driver: the
// runner has the batches, and the keeper whatever may take long: it opens the device, loads and frees models, pins memory.
// The batch of a plan passes through three streams,
//
//   copy in    cells → inputs        as soon as a set of buffers is free, beside the batch before (copier.h says how)
//   compute    graph of the bucket   when the plan is ready
//   copy out   outputs → cells       when the compute is seen to have ended
//
// The copy out is not queued ahead: what a hanging kernel leaves behind must never be written to cells that have been
// given back meanwhile.
//
// A call that does not return costs the thread that made it, and the device: the watchdog (gpu_table.cc) starts another
// thread in its place, which ends everything that the device had and makes no more calls.
class Gpu : public std::enable_shared_from_this<Gpu> {
 public:
  Gpu(const Driver& driver, int ordinal, double callLimitNs);
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  // Starts the threads. They hold the device until they have ended.
  void begin();
  // Loads the port's models, one of `specs` per model; then tells its owner (`loaded`).
  void attach(Port* port, std::vector<std::shared_ptr<const ModelSpec>> specs);
  // When its batches have ended, frees what it has on the device and tells its owner (`detached`).
  void detach(Port* port);
  // These tell the owner as well (`changed`).
  void stage(Port* port, std::shared_ptr<const ModelSpec> spec);
  // Puts the staged model in place of number's, or throws it away; what is not used any more is free by then.
  void settle(Port* port, size_t number, bool keep);
  // Frees a model after its last batch.
  void retire(Port* port, size_t number);
  void retireAll(Port* port);
  // There are new plans.
  void wake();
  // Ends the threads. Nothing may be attached any more.
  void stop();
  bool hasEnded() const { return ended_; }
  // Whether a call has not returned: what it was given may still be written to.
  bool isStuck() const { return stuck_; }
  // Why the device was lost; empty while it lives. Any thread.
  std::string fault();
  int ordinal() const { return ordinal_; }
  // The watchdog, every now and then.
  void look(double now, double passedNs);

 private:
  static constexpr uint32_t kDepth = 4;
  enum class Stage { kCopying, kComputing, kReturning, kDraining };
  struct Batch {
    Port* port = nullptr;
    Plan plan{};
    DeviceModel* model = nullptr;
    int set = 0;
    Stage stage = Stage::kCopying;
    Handle copied = nullptr, started = nullptr, computed = nullptr, returned = nullptr;
    double readyNs = 0;     // host clock, as all below
    double launchedNs = 0;
    double dueNs = 0;       // the expected end, once it is the first to compute
    double startNs = 0, endNs = 0;
    BatchCells cells;
  };

  // What the keeper is to do. One that finds the device lost, or hangs, is ended by `lost`.
  struct Job {
    double limitNs;  // for each of its calls
    std::function<void()> work;
    std::function<void()> lost;
  };

  void spawn(void (Gpu::*part)());
  void keep();
  void keepInstead();
  void doJobs();
  bool start();
  void finish();
  void addJob(Job job);
  std::shared_ptr<Job> nextJob();
  void wakeKeeper();
  void loseByKeeper(const std::string& why);
  Outcome lostOutcome();
  void finishLoading(Port* port, std::vector<std::shared_ptr<DeviceModel>> models, Outcome outcome);

  void run();
  void runInstead();
  void serve();
  bool doCommands();
  bool step();
  bool admit();
  bool copyIn(Batch& batch);
  bool findCells(Batch& batch);
  bool copy(Batch& batch, bool out);
  void mapArena(Port* port);
  void noteModel(Port* port, size_t number);
  bool launch(double now);
  bool takeComputed(double now);
  bool takeReturned(double now);
  bool readTimes(Batch& batch, double now);
  void fail(Batch& batch, const std::string& why);
  bool isDrained();
  void watch(double now);
  void lose(const std::string& why);
  void die(const std::string& why);
  void takeFault();
  bool loseAll();
  bool freeRetired();
  bool finishLeaving();
  Outcome load(const std::shared_ptr<DeviceModel>& model);
  std::string pin(Port* port);
  void noteGrace();
  void rest();
  double restNs(double now);
  bool ok(Status status, const char* call);
  void submit(std::function<void()> command);
  Batch& at(uint32_t position) { return batches_[position % kDepth]; }

  const Driver& driver_;
  const int ordinal_;
  // Set by the keeper before the runner starts.
  int capability_ = 0;  // 8.6 is 86
  Handle context_ = nullptr;
  Handle in_ = nullptr, compute_ = nullptr, out_ = nullptr;
  bool started_ = false;
  std::string startProblem_;

  // The keeper's.
  Handle load_ = nullptr;
  std::shared_ptr<Job> job_;  // shared with the stack of who does it: a stuck call goes on using it
  bool runnerBegun_ = false;

  // The runner's, by way of the keeper, which starts it and cleans up behind it.
  EventClock clock_;
  std::vector<Port*> ports_;
  size_t turn_ = 0;  // whose plan is looked at first
  Batch batches_[kDepth];
  uint32_t head_ = 0, tail_ = 0;
  bool draining_ = false;  // a batch that failed waits for the streams to be idle
  bool blocked_ = false;   // a report found no room
  bool dead_ = false;
  std::string problem_;  // what the last call that failed said
  const bool maySpin_;

  CallWatch keeperCalls_, runnerCalls_;
  std::atomic<double> keeperLimitNs_;
  std::atomic<double> graceNs_{0};      // the longest of its schedulers
  std::atomic<double> busyUntilNs_{0};  // when what the device has is to have ended
  std::atomic<bool> stuck_{false}, ended_{false};

  std::mutex mutex_;  // what follows
  std::vector<std::function<void()>> commands_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool runnerEnded_ = false;
  std::string fault_;
  std::atomic<bool> commanded_{false};
  bool stopping_ = false;
  int32_t keeperWord_ = 0;  // counts what the keeper is woken for
  alignas(kLineBytes) int32_t sleeping_ = 0;
};

// The running device of an ordinal, started when nobody has it yet; null with the reason why not. Given back by releaseGpu.
std::shared_ptr<Gpu> acquireGpu(const std::string& library, int ordinal, double callLimitNs, std::string* reason);
// The last one to give a device back ends its threads, and gets it to see when they have ended; others get null. A device
// that was lost stays lost until the process ends.
std::shared_ptr<Gpu> releaseGpu(const std::string& library, std::shared_ptr<Gpu> gpu);

}  // namespace rubato
