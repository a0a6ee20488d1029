// The life of a device's threads, and what they do for whoever uses the device. The way of a batch is in gpu_batches.cc.
#include "gpu.h"

#include <algorithm>
#include <utility>

#include "attachment.h"
#include "timer_slack.h"

namespace rubato {
namespace {

constexpr uintptr_t kPage = 4096;

}  // namespace

Gpu::Gpu(const Driver& driver, int ordinal, double callLimitNs) : driver_(driver), ordinal_(ordinal), maySpin_(std::thread::hardware_concurrency() > 2), keeperLimitNs_(callLimitNs) {}

void Gpu::begin() { spawn(&Gpu::keep); }

// Detached: one that is stuck in the driver can never be joined. Who waits for the end looks at `hasEnded`.
void Gpu::spawn(void (Gpu::*part)()) {
  std::thread([self = shared_from_this(), part] { ((*self).*part)(); }).detach();
}

std::string Gpu::fault() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fault_;
}

// The first reason stands. Any thread; the runner is to hear of it (`takeFault`).
void Gpu::lose(const std::string& why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (fault_.empty()) fault_ = why + "; it takes a new process to use GPU " + std::to_string(ordinal_) + " again";
}

bool Gpu::ok(Status status, const char* call) {
  if (status == kSuccess) return true;
  problem_ = std::string(call) + " failed with " + driver_.nameOf(status);
  if (isFatal(status)) die(problem_);
  return false;
}

// ------------------------------------------------------------------ the keeper

void Gpu::keep() {
  watchOfThread = &keeperCalls_;
  started_ = start();
  if (!started_) startProblem_ = problem_;
  dead_ = !started_;
  runnerBegun_ = true;
  spawn(&Gpu::run);
  doJobs();
}

// In the place of a keeper whose call does not return.
void Gpu::keepInstead() {
  submit([this] { takeFault(); });
  if (job_ != nullptr) job_->lost();
  if (!runnerBegun_) {
    runnerBegun_ = true;
    dead_ = true;
    spawn(&Gpu::run);
  }
  doJobs();
}

void Gpu::addJob(Job job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::shared_ptr<Job>(new Job(std::move(job))));
  }
  wakeKeeper();
}

// A futex instead of a condition variable, whose waiting is a symbol that libstdc++ has had only for a while.
void Gpu::wakeKeeper() {
  __atomic_fetch_add(&keeperWord_, 1, __ATOMIC_SEQ_CST);
  futexWake(&keeperWord_);
}

// Null when the runner has ended and nothing is left.
std::shared_ptr<Gpu::Job> Gpu::nextJob() {
  for (;;) {
    const int32_t seen = loadWord(&keeperWord_);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!jobs_.empty()) {
        std::shared_ptr<Job> job = jobs_.front();
        jobs_.pop_front();
        return job;
      }
      if (runnerEnded_) return nullptr;
    }
    futexWait(&keeperWord_, seen, 1e9);
  }
}

// Ends when the runner has ended, which adds no more then.
void Gpu::doJobs() {
  for (;;) {
    const std::shared_ptr<Job> job = nextJob();
    if (job == nullptr) break;
    bool isLost = !started_;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      isLost |= !fault_.empty();
    }
    job_ = job;
    keeperLimitNs_ = job->limitNs;
    if (isLost) job->lost();
    else job->work();
    job_ = nullptr;
  }
  finish();
  ended_ = true;
}

bool Gpu::start() {
  constexpr unsigned kNonBlocking = 1;
  int device = 0;
  if (!ok(driver_.deviceGet(&device, ordinal_), "cuDeviceGet")) return false;
  if (!ok(driver_.primaryCtxRetain(&context_, device), "cuDevicePrimaryCtxRetain")) return false;
  if (!ok(driver_.ctxSetCurrent(context_), "cuCtxSetCurrent")) return false;
  int major = 0, minor = 0;
  if (!ok(driver_.deviceGetAttribute(&major, kCapabilityMajor, device), "cuDeviceGetAttribute")) return false;
  if (!ok(driver_.deviceGetAttribute(&minor, kCapabilityMinor, device), "cuDeviceGetAttribute")) return false;
  capability_ = 10 * major + minor;
  // A kernel that copies must not queue behind the blocks of a batch that computes: lower numbers go first, bounded by the driver.
  constexpr int kFirst = -100;
  for (Handle* stream : {&in_, &compute_, &out_, &load_}) {
    if (!ok(driver_.streamCreate(stream, kNonBlocking, stream == &compute_ ? 0 : kFirst), "cuStreamCreateWithPriority")) return false;
  }
  for (Batch& batch : batches_) {
    for (Handle* event : {&batch.copied, &batch.started, &batch.computed, &batch.returned}) {
      if (!ok(driver_.eventCreate(event, 0), "cuEventCreate")) return false;
    }
  }
  Handle anchor = nullptr;
  if (!ok(driver_.eventCreate(&anchor, 0), "cuEventCreate")) return false;
  clock_.anchorAt(anchor, monotonicNs());
  if (!ok(driver_.eventRecord(anchor, compute_), "cuEventRecord")) return false;
  const double untilNs = monotonicNs() + 1e9;
  Status status = kNotReady;
  while ((status = driver_.eventQuery(anchor)) == kNotReady && monotonicNs() < untilNs) std::this_thread::yield();
  if (!ok(status, "cuEventQuery")) return false;
  clock_.anchorAt(anchor, monotonicNs());
  return true;
}

// Of a lost device nothing can be given back: that takes a new process.
void Gpu::finish() {
  if (!fault().empty() || context_ == nullptr) return;
  for (Batch& batch : batches_) {
    for (Handle event : {batch.copied, batch.started, batch.computed, batch.returned}) if (event != nullptr) driver_.eventDestroy(event);
  }
  if (clock_.anchor() != nullptr) driver_.eventDestroy(clock_.anchor());
  for (Handle stream : {in_, compute_, out_, load_}) if (stream != nullptr) driver_.streamDestroy(stream);
  driver_.primaryCtxRelease(ordinal_);
}

void Gpu::loseByKeeper(const std::string& why) {
  lose(why);
  submit([this] { takeFault(); });
}

Outcome Gpu::lostOutcome() {
  const std::string why = fault();
  return {"GPU " + std::to_string(ordinal_) + ": " + (why.empty() ? startProblem_ : why), "", "", true};
}

Outcome Gpu::load(const std::shared_ptr<DeviceModel>& model) {
  const std::string failure = model->load(load_, capability_);
  if (failure.empty()) return {};
  const bool isLost = isFatal(model->lastStatus());
  if (isLost) loseByKeeper(failure);
  return {"GPU " + std::to_string(ordinal_) + ": " + failure, model->spec().name, model->failedField(), isLost};
}

void Gpu::attach(Port* port, std::vector<std::shared_ptr<const ModelSpec>> specs) {
  const auto work = [this, port, specs = std::move(specs)] {
    Outcome outcome;
    std::vector<std::shared_ptr<DeviceModel>> models;
    for (const auto& spec : specs) {
      if (!outcome.failure.empty()) break;
      auto model = spec == nullptr ? nullptr : std::shared_ptr<DeviceModel>(new DeviceModel(driver_, spec));
      if (model != nullptr) outcome = load(model);
      if (outcome.failure.empty()) models.push_back(std::move(model));
    }
    if (outcome.failure.empty() && port->pinsArena) {
      const std::string failure = pin(port);
      if (!failure.empty()) outcome.failure = "GPU " + std::to_string(ordinal_) + ": " + failure;
    }
    finishLoading(port, std::move(models), std::move(outcome));
  };
  addJob({port->owner->places().callLimitNs, work, [this, port] { finishLoading(port, {}, lostOutcome()); }});
}

// The port is known to the runner in any case, so that it leaves as any other.
void Gpu::finishLoading(Port* port, std::vector<std::shared_ptr<DeviceModel>> models, Outcome outcome) {
  submit([this, port, models = std::move(models), outcome = std::move(outcome)] {
    port->models = models;
    for (size_t number = 0; number < models.size(); number += 1) noteModel(port, number);
    ports_.push_back(port);
    noteGrace();
    port->owner->loaded(dead_ && outcome.failure.empty() ? lostOutcome() : outcome);
  });
}

// Pages are pinned whole. One that another region has pinned already leaves this one as it is: copies are then slower, and
// kernels cannot reach it.
std::string Gpu::pin(Port* port) {
  const Places& places = port->owner->places();
  if (places.arenaBytes == 0) return "";
  const uintptr_t from = reinterpret_cast<uintptr_t>(places.arena) / kPage * kPage;
  const uintptr_t to = (reinterpret_cast<uintptr_t>(places.arena) + places.arenaBytes + kPage - 1) / kPage * kPage;
  const Status status = driver_.memHostRegister(reinterpret_cast<void*>(from), to - from, kPortable | kMapped);
  port->isPinned = status == kSuccess;
  port->owner->notePinned(port->isPinned);
  if (status == kSuccess || status == kAlreadyRegistered) return "";
  const std::string failure = "pinning " + std::to_string(to - from) + " bytes of tensors: cuMemHostRegister failed with " + driver_.nameOf(status);
  if (isFatal(status)) loseByKeeper(failure);
  return failure;
}

void Gpu::stage(Port* port, std::shared_ptr<const ModelSpec> spec) {
  const auto model = std::shared_ptr<DeviceModel>(new DeviceModel(driver_, std::move(spec)));
  port->staging += 1;
  const auto tell = [port](const Outcome& outcome) {
    port->staging -= 1;
    port->owner->changed(outcome);
  };
  const auto work = [this, port, model, tell] {
    const Outcome outcome = load(model);
    submit([this, port, model, tell, outcome] {
      if (outcome.failure.empty()) port->staged = model;
      tell(dead_ && outcome.failure.empty() ? lostOutcome() : outcome);
    });
  };
  // By way of the runner, which has noted the loss by then.
  addJob({port->owner->places().callLimitNs, work, [this, tell] { submit([this, tell] { tell(lostOutcome()); }); }});
}

void Gpu::settle(Port* port, size_t number, bool keep) {
  submit([this, port, number, keep] {
    if (port->models.size() <= number) port->models.resize(number + 1);
    if (keep) std::swap(port->models[number], port->staged);
    noteModel(port, number);
    port->retired.push_back({std::move(port->staged), true});
    port->staged = nullptr;
  });
}

void Gpu::retire(Port* port, size_t number) {
  submit([this, port, number] {
    if (port->models.size() <= number) port->models.resize(number + 1);
    port->retired.push_back({std::move(port->models[number]), true});
    port->models[number] = nullptr;
    noteModel(port, number);
  });
}

void Gpu::retireAll(Port* port) {
  submit([port] {
    for (auto& model : port->models) port->retired.push_back({std::move(model), false});
    port->models.clear();
    port->retired.push_back({nullptr, true});  // told last: the keeper frees in order
  });
}

// Asked at the first batch that wants it: the device that pins the memory may have been the last to be ready.
void Gpu::mapArena(Port* port) {
  port->isMapped = true;
  const uintptr_t arena = reinterpret_cast<uintptr_t>(port->owner->places().arena);
  DevicePtr pages = 0;
  if (!port->owner->isPinned()) {
    port->whyNot = "the tensors' memory shares a page with another region, and is not pinned";
  } else if (ok(driver_.memHostGetDevicePointer(&pages, reinterpret_cast<void*>(arena / kPage * kPage), 0), "cuMemHostGetDevicePointer")) {
    port->arenaOnDevice = pages + arena % kPage;
    return;
  } else {
    port->whyNot = problem_;
  }
  for (size_t number = 0; number < port->models.size(); number += 1) noteModel(port, number);
}

// What is a model number's from now on. One that comes where kernels have been found not to reach the tensors copies without.
void Gpu::noteModel(Port* port, size_t number) {
  DeviceModel* model = port->models[number].get();
  if (model != nullptr && !port->whyNot.empty()) model->copier().giveUpKernel(port->whyNot);
  port->owner->noteModel(port->row, number, model);
}

void Gpu::detach(Port* port) {
  submit([port] { port->leaving = true; });
}

// ------------------------------------------------------------------ the runner

void Gpu::run() {
  watchOfThread = &runnerCalls_;
  setTimerSlackNs(1);
  if (started_) ok(driver_.ctxSetCurrent(context_), "cuCtxSetCurrent");
  serve();
}

// In the place of a runner whose call does not return.
void Gpu::runInstead() {
  takeFault();
  serve();
}

// Ends by `stop`.
void Gpu::serve() {
  while (!stopping_) {
    bool worked = doCommands();
    worked |= step();
    if (!worked) rest();
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    runnerEnded_ = true;
  }
  wakeKeeper();
}

void Gpu::submit(std::function<void()> command) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    commands_.push_back(std::move(command));
    commanded_ = true;
  }
  wake();
}

void Gpu::wake() {
  if (loadWord(&sleeping_) != 0 && __atomic_exchange_n(&sleeping_, 0, __ATOMIC_SEQ_CST) != 0) futexWake(&sleeping_);
}

void Gpu::stop() {
  submit([this] { stopping_ = true; });
}

bool Gpu::doCommands() {
  if (!commanded_) return false;
  std::vector<std::function<void()>> commands;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    commands.swap(commands_);
    commanded_ = false;
  }
  for (auto& command : commands) command();
  return true;
}

void Gpu::noteGrace() {
  double grace = 0;
  for (const Port* port : ports_) grace = std::max(grace, port->owner->places().graceNs);
  graceNs_ = grace;
}

void Gpu::die(const std::string& why) {
  lose(why);
  takeFault();
}

void Gpu::takeFault() {
  dead_ = true;
  const std::string why = fault();
  for (Port* port : ports_) port->owner->noteFault(port->row, why, true);
}

// Frees by the keeper, since a device may want to be idle for that.
bool Gpu::freeRetired() {
  bool worked = false;
  for (Port* port : ports_) {
    for (size_t i = 0; i < port->retired.size();) {
      const auto [model, isAsked] = port->retired[i];
      if (!dead_ && (model == nullptr ? i > 0 : model->inUse[0] || model->inUse[1])) {
        i += 1;
        continue;
      }
      port->retired.erase(port->retired.begin() + static_cast<std::ptrdiff_t>(i));
      const auto tell = [port, isAsked = isAsked] { if (isAsked) port->owner->changed({}); };
      const auto work = [model = model, tell] {
        if (model != nullptr) model->unload(true);
        tell();
      };
      addJob({port->owner->places().graceNs, work, tell});
      worked = true;
    }
  }
  return worked;
}

bool Gpu::finishLeaving() {
  for (size_t i = 0; i < ports_.size(); i += 1) {
    Port* port = ports_[i];
    if (!port->leaving || port->inFlight > 0 || port->staging > 0) continue;
    while (port->lane.first() != nullptr) port->lane.pop();
    std::vector<std::shared_ptr<DeviceModel>> models = std::move(port->models);
    models.push_back(std::move(port->staged));
    for (Retired& retired : port->retired) models.push_back(std::move(retired.model));
    port->retired.clear();
    ports_.erase(ports_.begin() + static_cast<std::ptrdiff_t>(i));
    noteGrace();
    const auto owner = port->owner->shared_from_this();  // may otherwise end while it is told
    const auto tell = [owner, port] { owner->detached(port); };
    const auto work = [this, owner, port, models = std::move(models), tell] {
      for (const auto& model : models) if (model != nullptr) model->unload(true);
      if (port->isPinned) driver_.memHostUnregister(reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(owner->places().arena) / kPage * kPage));
      tell();
    };
    addJob({owner->places().graceNs, work, tell});
    return true;
  }
  return false;
}

// ------------------------------------------------------------------ the watchdog

void Gpu::look(double now, double passedNs) {
  const auto hangs = [&](CallWatch& calls, double limitNs, double notBeforeNs) {
    if (calls.insideNs(passedNs) <= limitNs || now <= notBeforeNs || !calls.takeOver()) return false;
    lose(calls.call() + " has not returned for " + std::to_string(static_cast<long>(limitNs / 1e6)) + " ms");
    stuck_ = true;  // who sees it asks why
    return true;
  };
  const double grace = graceNs_;
  if (hangs(keeperCalls_, keeperLimitNs_, 0)) spawn(&Gpu::keepInstead);
  if (hangs(runnerCalls_, grace, busyUntilNs_ + grace)) spawn(&Gpu::runInstead);
}

}  // namespace rubato
