// The life of a device's thread, and what it does for whoever uses the device. The way of a batch is in gpu_batches.cc.
#include "gpu.h"

#include <ctime>
#include <map>

#include "attachment.h"
#include "timer_slack.h"

namespace rubato {

double monotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

Gpu::Gpu(const Driver& driver, int ordinal) : driver_(driver), ordinal_(ordinal), maySpin_(std::thread::hardware_concurrency() > 2) {
  thread_ = std::thread([this] { run(); });
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
  thread_.join();
}

std::string Gpu::fault() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fault_;
}

bool Gpu::ok(Status status, const char* call) {
  if (status == kSuccess) return true;
  problem_ = std::string(call) + " failed with " + driver_.nameOf(status);
  if (isFatal(status)) die(problem_);
  return false;
}

void Gpu::run() {
  setTimerSlackNs(1);
  started_ = start();
  dead_ = !started_;
  // Ends by `stop`.
  while (!stopping_) {
    bool worked = doCommands();
    worked |= step();
    if (!worked) rest();
  }
  finish();
}

bool Gpu::start() {
  constexpr unsigned kNonBlocking = 1;
  int device = 0;
  if (!ok(driver_.deviceGet(&device, ordinal_), "cuDeviceGet")) return false;
  if (!ok(driver_.primaryCtxRetain(&context_, device), "cuDevicePrimaryCtxRetain")) return false;
  if (!ok(driver_.ctxSetCurrent(context_), "cuCtxSetCurrent")) return false;
  for (Handle* stream : {&in_, &compute_, &out_}) {
    if (!ok(driver_.streamCreate(stream, kNonBlocking), "cuStreamCreate")) return false;
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
  if ((dead_ && started_) || context_ == nullptr) return;
  for (Batch& batch : batches_) {
    for (Handle event : {batch.copied, batch.started, batch.computed, batch.returned}) if (event != nullptr) driver_.eventDestroy(event);
  }
  if (clock_.anchor() != nullptr) driver_.eventDestroy(clock_.anchor());
  for (Handle stream : {in_, compute_, out_}) if (stream != nullptr) driver_.streamDestroy(stream);
  driver_.primaryCtxRelease(ordinal_);
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

void Gpu::attach(Port* port, std::vector<std::shared_ptr<const ModelSpec>> specs) {
  submit([this, port, specs = std::move(specs)] { load(port, specs); });
}

void Gpu::load(Port* port, const std::vector<std::shared_ptr<const ModelSpec>>& specs) {
  const std::string at = "GPU " + std::to_string(ordinal_) + ": ";
  std::string failure = !started_ ? problem_ : dead_ ? fault() : "";
  for (const auto& spec : specs) {
    if (!failure.empty()) break;
    auto model = spec == nullptr ? nullptr : std::make_unique<DeviceModel>(driver_, spec);
    if (model != nullptr) failure = model->load(compute_);
    if (failure.empty()) port->models.push_back(std::move(model));
  }
  if (failure.empty() && port->pinsArena) failure = pin(port);
  ports_.push_back(port);
  port->owner->loaded(failure.empty() ? "" : at + failure);
}

// Pages are pinned whole. One that another region has pinned already leaves this one as it is: copies are then slower.
std::string Gpu::pin(Port* port) {
  constexpr unsigned kPortable = 1;
  constexpr uintptr_t kPage = 4096;
  const Places& places = port->owner->places();
  if (places.arenaBytes == 0) return "";
  const uintptr_t from = reinterpret_cast<uintptr_t>(places.arena) / kPage * kPage;
  const uintptr_t to = (reinterpret_cast<uintptr_t>(places.arena) + places.arenaBytes + kPage - 1) / kPage * kPage;
  const Status status = driver_.memHostRegister(reinterpret_cast<void*>(from), to - from, kPortable);
  port->isPinned = status == kSuccess;
  if (status == kSuccess || status == kAlreadyRegistered) return "";
  ok(status, "cuMemHostRegister");
  return "pinning " + std::to_string(to - from) + " bytes of tensors: " + problem_;
}

void Gpu::detach(Port* port) {
  submit([port] { port->leaving = true; });
}

bool Gpu::finishLeaving() {
  for (size_t i = 0; i < ports_.size(); i += 1) {
    Port* port = ports_[i];
    if (!port->leaving || port->inFlight > 0) continue;
    while (port->lane.first() != nullptr) port->lane.pop();
    for (auto& model : port->models) if (model != nullptr) model->unload(!dead_);
    if (port->isPinned && !dead_) driver_.memHostUnregister(reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(port->owner->places().arena) / 4096 * 4096));
    const auto owner = port->owner->shared_from_this();  // may otherwise end while it is told
    ports_.erase(ports_.begin() + static_cast<std::ptrdiff_t>(i));
    owner->detached();
    return true;
  }
  return false;
}

void Gpu::die(const std::string& why) {
  if (dead_) return;
  dead_ = true;
  const std::string text = why + "; it takes a new process to use GPU " + std::to_string(ordinal_) + " again";
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    fault_ = text;
  }
  for (Port* port : ports_) port->owner->noteFault(port->row, text, true);
}

// ------------------------------------------------------------------ the devices of the process

namespace {

struct Table {
  struct Row {
    std::shared_ptr<Gpu> gpu;
    int users = 0;
  };
  std::mutex mutex;
  std::map<std::pair<std::string, int>, Row> rows;
  std::map<std::pair<std::string, int>, std::string> lost;
};

// Never destroyed: a thread that hangs in the driver outlives everything.
Table& table() {
  static Table* const all = new Table;
  return *all;
}

}  // namespace

std::shared_ptr<Gpu> acquireGpu(const std::string& library, int ordinal, std::string* reason) {
  const Driver* driver = loadDriver(library, reason);
  if (driver == nullptr) return nullptr;
  int count = 0;
  const Status status = driver->deviceGetCount(&count);
  if (status != kSuccess || ordinal < 0 || ordinal >= count) {
    *reason = status == kSuccess ? "there is no GPU " + std::to_string(ordinal) + ", the driver sees " + std::to_string(count) : "cuDeviceGetCount failed with " + driver->nameOf(status);
    return nullptr;
  }
  Table& all = table();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto key = std::make_pair(library, ordinal);
  const auto lost = all.lost.find(key);
  if (lost != all.lost.end()) {
    *reason = "GPU " + std::to_string(ordinal) + " was lost: " + lost->second;
    return nullptr;
  }
  Table::Row& row = all.rows[key];
  if (row.gpu == nullptr) row.gpu = std::shared_ptr<Gpu>(new Gpu(*driver, ordinal));
  row.users += 1;
  return row.gpu;
}

void releaseGpu(const std::string& library, std::shared_ptr<Gpu> gpu) {
  Table& all = table();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto key = std::make_pair(library, gpu->ordinal());
  Table::Row& row = all.rows[key];
  row.users -= 1;
  if (row.users > 0) return;
  const std::string fault = gpu->fault();
  if (!fault.empty()) all.lost[key] = fault;
  all.rows.erase(key);
  gpu->stop();  // idle: its thread ends within a turn
}

}  // namespace rubato
