#include "attachment.h"

#include <algorithm>

namespace rubato {

void Attachment::open(const std::string& library, const std::vector<DeviceSpec>& devices, const std::vector<std::shared_ptr<const ModelSpec>>& models) {
  library_ = library;
  issues_.attach(places_.buffer + places_.issues, places_.issueCapacity);
  done_.attach(places_.buffer + places_.done, places_.doneCapacity);
  for (const DeviceSpec& device : devices) {
    auto port = std::make_unique<Port>();
    port->owner = this;
    port->row = device.row;
    port->pinsArena = ports_.empty();
    port->gpu = acquireGpu(library, device.ordinal, &failure_);
    if (port->gpu == nullptr) {
      state_ = State::kFailed;
      return;
    }
    const size_t row = static_cast<size_t>(device.row);
    if (portOfRow_.size() <= row) portOfRow_.resize(row + 1, nullptr);
    portOfRow_[row] = port.get();
    ports_.push_back(std::move(port));
  }
  faults_.resize(portOfRow_.size());
  opening_ = attached_ = ports_.size();
  for (auto& port : ports_) port->gpu->attach(port.get(), models);
}

Attachment::State Attachment::state(std::string* failure) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *failure = failure_;
  return state_;
}

void Attachment::loaded(const std::string& failure) {
  const std::lock_guard<std::mutex> lock(mutex_);
  opening_ -= 1;
  if (failure_.empty()) failure_ = failure;
  if (opening_ == 0 && state_ == State::kOpening) state_ = failure_.empty() ? State::kReady : State::kFailed;
}

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
  issues_.release(taken);
  for (auto& port : ports_) {
    if (port->lane.first() != nullptr) port->gpu->wake();
  }
  return taken;
}

Port* Attachment::portOf(int row) {
  return row >= 0 && static_cast<size_t>(row) < portOfRow_.size() ? portOfRow_[static_cast<size_t>(row)] : nullptr;
}

bool Attachment::report(const Port* port, const Plan& plan, int32_t status, double startNs, double endNs) {
  const IssueRecord& issue = plan.issue;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (silent_) return true;
  const DoneRecord record = {port->row, issue.shard, issue.row, issue.number, issue.model, status, startNs - places_.originNs, endNs - places_.originNs, plan.takenNs - issue.grantedNs};
  if (!done_.push(record)) return false;
  running_ -= 1;
  ringBell(reinterpret_cast<int32_t*>(places_.buffer + places_.bell));
  return true;
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

void Attachment::close() {
  std::vector<Port*> first;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state_ == State::kClosing || state_ == State::kClosed) return;
    silent_ = true;
    state_ = attached_ == 0 ? State::kClosed : State::kClosing;
    for (auto& port : ports_) {
      if (attached_ > 0 && (!port->pinsArena || attached_ == 1)) first.push_back(port.get());
    }
  }
  for (Port* port : first) port->gpu->detach(port);
}

// The memory of the tensors is unpinned last, when no device can touch it any more.
void Attachment::detached() {
  Port* last = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    attached_ -= 1;
    if (attached_ == 1) last = ports_[0].get();
    if (attached_ == 0) state_ = State::kClosed;
  }
  if (last != nullptr) last->gpu->detach(last);
}

bool Attachment::settle() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state_ != State::kClosed) return false;
  }
  for (auto& port : ports_) {
    if (port->gpu != nullptr) releaseGpu(library_, std::move(port->gpu));
  }
  return true;
}

}  // namespace rubato
