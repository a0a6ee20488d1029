#include "attachment.h"

#include <algorithm>
#include <utility>

namespace rubato {

Attachment::Attachment(Places places) : places_(std::move(places)), portOfRow_(places_.gpus) {
  for (auto& port : portOfRow_) port = nullptr;
  faults_.resize(places_.gpus);
  busy_.resize(places_.gpus);
}

void Attachment::open(const std::string& library, const std::vector<DeviceSpec>& devices, const std::vector<std::shared_ptr<const ModelSpec>>& models) {
  library_ = library;
  specs_ = models;
  issues_.attach(places_.buffer + places_.issues, places_.issueCapacity);
  done_.attach(places_.buffer + places_.done, places_.doneCapacity);
  for (const DeviceSpec& device : devices) {
    if (addPort(device, &failure_) == nullptr) {
      for (auto& port : ports_) port->isAttached = false;
      attached_ = 0;
      state_ = State::kFailed;
      return;
    }
  }
  opening_ = attached_;
  if (opening_ == 0) state_ = State::kReady;
  const size_t count = ports_.size();  // not changed by what is told from now on
  for (size_t i = 0; i < count; i += 1) ports_[i]->gpu->attach(ports_[i].get(), models);
}

Port* Attachment::addPort(const DeviceSpec& device, std::string* reason) {
  auto port = std::make_unique<Port>();
  port->owner = this;
  port->row = device.row;
  port->gpu = acquireGpu(library_, device.ordinal, places_.callLimitNs, reason);
  if (port->gpu == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  port->pinsArena = pinner_ == nullptr;
  if (port->pinsArena) pinner_ = port.get();
  faults_[static_cast<size_t>(device.row)] = {};
  busy_[static_cast<size_t>(device.row)] = {};
  models_.erase(device.row);
  attached_ += 1;
  portOfRow_[static_cast<size_t>(device.row)] = port.get();
  ports_.push_back(std::move(port));
  return ports_.back().get();
}

Attachment::State Attachment::state(std::string* failure) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *failure = failure_;
  return state_;
}

void Attachment::noteModel(int row, size_t number, const DeviceModel* model) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (model == nullptr) models_[row].erase(number);
  else models_[row][number] = model->loadedAs();
}

std::vector<LoadedModel> Attachment::models(int row) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<LoadedModel> all;
  const auto found = models_.find(row);
  if (found != models_.end()) for (const auto& [number, model] : found->second) all.push_back(model);
  return all;
}

double Attachment::busyNs(int row) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return row >= 0 && static_cast<size_t>(row) < busy_.size() ? busy_[static_cast<size_t>(row)].ns : 0;
}

void Attachment::loaded(const Outcome& outcome) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (opening_ > 0) {
      opening_ -= 1;
      if (failure_.empty()) failure_ = outcome.failure;
      if (opening_ == 0 && state_ == State::kOpening) state_ = failure_.empty() ? State::kReady : State::kFailed;
      return;
    }
  }
  changed(outcome);
}

// ------------------------------------------------------------------ batches

uint32_t Attachment::take() {
  const uint32_t ready = issues_.ready();
  if (ready == 0) return 0;
  const double takenNs = monotonicNs() - places_.originNs;
  uint32_t taken = 0;
  for (; taken < ready; taken += 1) {
    const IssueRecord& issue = issues_.at(taken);
    Port* port = portOf(issue.gpu);
    if (port == nullptr || port->wasGiven(issue)) continue;
    if (!port->lane.push({issue, takenNs})) break;
    port->noteGiven(issue);
    running_ += 1;
  }
  // When all are there: who is woken may take this core.
  for (uint32_t k = 0; k < taken; k += 1) {
    Port* port = portOf(issues_.at(k).gpu);
    if (port != nullptr && port->lane.first() != nullptr) port->gpu->wake();
  }
  issues_.release(taken);
  return taken;
}

Port* Attachment::portOf(int row) {
  return row >= 0 && static_cast<size_t>(row) < portOfRow_.size() ? portOfRow_[static_cast<size_t>(row)].load() : nullptr;
}

bool Attachment::report(const Port* port, const Plan& plan, int32_t status, double startNs, double endNs) {
  const IssueRecord& issue = plan.issue;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (silent_) return true;
  const DoneRecord record = {port->row, issue.shard, issue.row, issue.number, issue.model, status, startNs - places_.originNs, endNs - places_.originNs, plan.takenNs - issue.grantedNs};
  if (!done_.push(record)) return false;
  Busy& busy = busy_[static_cast<size_t>(port->row)];
  busy.ns += std::max(0.0, endNs - std::max(startNs, busy.untilNs));
  busy.untilNs = std::max(busy.untilNs, endNs);
  running_ -= 1;
  ringBell(reinterpret_cast<int32_t*>(places_.buffer + places_.bell));
  return true;
}

void Attachment::keepCells(const IssueRecord& issue) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (silent_) return;
  const Places::Shard& shard = places_.shards[static_cast<size_t>(issue.shard)];
  const int32_t* slots = reinterpret_cast<const int32_t*>(places_.buffer + shard.batchSlots) + static_cast<size_t>(issue.row) * shard.stride;
  int32_t* cells = reinterpret_cast<int32_t*>(places_.buffer + places_.cells);
  for (int32_t i = 0; i < issue.size; i += 1) {
    const uint32_t slot = static_cast<uint32_t>(slots[i]);
    if (slot < places_.slots && cells[slot] > 0) storeWord(&cells[slot], kKeptCell);
  }
}

void Attachment::noteFault(int row, const std::string& what, bool isLost) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Fault& fault = faults_[static_cast<size_t>(row)];
  if (!fault.isLost) fault = {what, isLost};
}

std::string Attachment::fault(int row, bool* isLost) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool known = row >= 0 && static_cast<size_t>(row) < faults_.size();
  *isLost = known && faults_[static_cast<size_t>(row)].isLost;
  return known ? faults_[static_cast<size_t>(row)].what : "";
}

// ------------------------------------------------------------------ changes

// Of every device that has not left. What each says is put together by `changed`.
template <typename Ask>
void Attachment::askAll(Ask ask) {
  std::vector<Port*> asked;
  // After `close` a model would be loaded to a device that has let go of everything. One that has left, stuck, is there without its device.
  for (auto& port : ports_) if (!silent_ && !port->isParked && port->gpu != nullptr) asked.push_back(port.get());
  beginChange(asked.size());
  for (Port* port : asked) ask(port);
}

void Attachment::beginChange(size_t answers) {
  const std::lock_guard<std::mutex> lock(mutex_);
  awaited_ = answers;
  isDoneSomewhere_ = answers == 0;
  change_ = {};
}

void Attachment::changed(const Outcome& outcome) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (awaited_ == 0) return;  // closing has ended what was under way
  awaited_ -= 1;
  if (outcome.failure.empty()) isDoneSomewhere_ = true;
  else if (change_.failure.empty() || (change_.isLost && !outcome.isLost)) change_ = outcome;
}

void Attachment::stage(std::shared_ptr<const ModelSpec> spec) {
  stagedSpec_ = spec;
  askAll([&](Port* port) { port->gpu->stage(port, spec); });
}

void Attachment::settleStaged(size_t model, bool keep) {
  if (keep) {
    if (specs_.size() <= model) specs_.resize(model + 1);
    specs_[model] = stagedSpec_;
  }
  stagedSpec_ = nullptr;
  askAll([&](Port* port) { port->gpu->settle(port, model, keep); });
}

void Attachment::removeModel(size_t model) {
  if (model < specs_.size()) specs_[model] = nullptr;
  askAll([&](Port* port) { port->gpu->retire(port, model); });
}

void Attachment::addDevice(const DeviceSpec& device) {
  std::string reason = "the scheduler is closed";
  Port* port = silent_ ? nullptr : addPort(device, &reason);
  beginChange(port == nullptr ? 0 : 1);
  if (port != nullptr) {
    port->gpu->attach(port, specs_);
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  change_.failure = reason;
  isDoneSomewhere_ = false;
}

// The device that has pinned the tensors' memory for all goes on holding it while there are others.
void Attachment::removeDevice(int row) {
  Port* port = silent_ ? nullptr : portOf(row);
  beginChange(port == nullptr ? 0 : 1);
  if (port == nullptr) return;
  portOfRow_[static_cast<size_t>(row)] = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    port->isParked = port == pinner_ && attached_ > 1;
    if (!port->isParked && port == pinner_) pinner_ = nullptr;
  }
  if (port->isParked) {
    port->gpu->retireAll(port);
    return;
  }
  leaver_ = port;
  port->gpu->detach(port);
}

bool Attachment::isChanging(Outcome* outcome) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (awaited_ > 0) return true;
    // One that is lost is no loss where another has done it.
    *outcome = change_.isLost && isDoneSomewhere_ ? Outcome{} : change_;
  }
  if (leaver_ == nullptr) return false;
  if (!letGo(*leaver_)) return true;
  const auto isLeaver = [this](const auto& port) { return port.get() == leaver_; };
  if (stuck_.empty()) ports_.erase(std::find_if(ports_.begin(), ports_.end(), isLeaver));
  leaver_ = nullptr;
  return false;
}

// ------------------------------------------------------------------ the end

void Attachment::close() {
  std::vector<Port*> first;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state_ == State::kClosing || state_ == State::kClosed) return;
    silent_ = true;
    state_ = attached_ == 0 ? State::kClosed : State::kClosing;
    for (auto& port : ports_) {
      if (port.get() == leaver_) continue;  // is on its way out already, and gone when it has left
      if (port->isAttached && (port.get() != pinner_ || attached_ == 1)) first.push_back(port.get());
    }
  }
  for (Port* port : first) port->gpu->detach(port);
}

// The memory of the tensors is unpinned last, when no device can touch it any more.
void Attachment::detached(Port* port) {
  Port* last = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    port->isAttached = false;
    attached_ -= 1;
    if (state_ == State::kClosing) {
      if (attached_ == 1 && pinner_ != nullptr && pinner_->isAttached) last = pinner_;
      if (attached_ == 0) state_ = State::kClosed;
    }
  }
  changed({});
  if (last != nullptr) last->gpu->detach(last);
}

// Whether the device has ended, or goes on for others. One that is stuck never does.
bool Attachment::letGo(Port& port) {
  if (port.gpu != nullptr) {
    noteStuck(*port.gpu);
    port.ending = releaseGpu(library_, std::move(port.gpu));
  }
  if (port.ending == nullptr) return true;
  noteStuck(*port.ending);
  return port.ending->hasEnded() || port.ending->isStuck();
}

void Attachment::noteStuck(Gpu& gpu) {
  if (stuck_.empty() && gpu.isStuck()) stuck_ = "GPU " + std::to_string(gpu.ordinal()) + ": " + gpu.fault();
}

Attachment::End Attachment::settle(std::string* stuck) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state_ != State::kClosed) return End::kNotYet;
  }
  bool all = true;
  for (auto& port : ports_) all &= letGo(*port);
  *stuck = stuck_;
  if (!all) return End::kNotYet;
  return stuck_.empty() ? End::kDone : End::kStuck;
}

}  // namespace rubato
