// The way of a batch through a device.
#include <sched.h>

#include "attachment.h"
#include "gpu.h"

namespace rubato {
namespace {

// A batch that ends within this is waited for without sleep.
constexpr double kNearNs = 100e3;
// One that is late by more is looked at now and then.
constexpr double kLateNs = 300e3;
constexpr double kLookNs = 50e3;
constexpr double kIdleNs = 1e9;

}  // namespace

bool Gpu::step() {
  blocked_ = false;
  for (Port* port : ports_) port->seen = port->lane.pushed();
  if (dead_) {
    const bool lost = loseAll();
    const bool freed = !blocked_ && freeRetired();
    return finishLeaving() || freed || lost;
  }
  bool worked = admit();
  if (head_ != tail_) {
    const double now = monotonicNs();
    worked |= launch(now);
    worked |= takeComputed(now);
    worked |= takeReturned(now);
    if (!dead_ && head_ != tail_) watch(now);
  }
  worked |= freeRetired();
  return worked | finishLeaving();
}

// ------------------------------------------------------------------ copy in

bool Gpu::admit() {
  bool worked = false;
  for (size_t k = 0; k < ports_.size() && !dead_ && !draining_; k += 1) {
    Port* port = ports_[(turn_ + k) % ports_.size()];
    const Plan* plan = port->leaving || tail_ - head_ == kDepth ? nullptr : port->lane.first();
    if (plan == nullptr) continue;
    const size_t number = static_cast<size_t>(plan->issue.model);
    DeviceModel* model = number < port->models.size() ? port->models[number].get() : nullptr;
    const bool fits = model != nullptr && plan->issue.size > 0 && static_cast<uint32_t>(plan->issue.size) <= model->maxBatch();
    if (!fits) {
      // As if it had run: whatever holds a GPU must end.
      port->owner->noteFault(port->row, "a batch of " + std::to_string(plan->issue.size) + " for a model that is not loaded for it", false);
      const double now = monotonicNs();
      blocked_ = !port->owner->report(port, *plan, kStatusFailed, now, now);
      if (!blocked_) port->lane.pop();
      continue;
    }
    if (model->inUse[model->nextSet]) continue;
    Batch& batch = at(tail_);
    batch.port = port;
    batch.plan = *plan;
    batch.model = model;
    batch.set = model->nextSet;
    batch.stage = Stage::kCopying;
    batch.readyNs = port->owner->hostNs(plan->issue.readyNs);
    batch.dueNs = 0;
    model->inUse[batch.set] = true;
    model->nextSet = (model->nextSet + 1) % kSets;
    port->lane.pop();
    port->inFlight += 1;
    tail_ += 1;
    worked = true;
    if (!copyIn(batch)) fail(batch, problem_);
  }
  if (worked) turn_ += 1;
  return worked;
}

bool Gpu::copyIn(Batch& batch) {
  return findCells(batch) && copy(batch, false) && ok(driver_.eventRecord(batch.copied, in_), "cuEventRecord");
}

// The cells of the batch, from its shard's batch table.
bool Gpu::findCells(Batch& batch) {
  const Places& places = batch.port->owner->places();
  const IssueRecord& issue = batch.plan.issue;
  const Places::Shard& shard = places.shards[static_cast<size_t>(issue.shard)];
  const int32_t* slots = reinterpret_cast<const int32_t*>(places.buffer + shard.batchSlots) + static_cast<size_t>(issue.row) * shard.stride;
  const int32_t* cells = reinterpret_cast<const int32_t*>(places.buffer + places.cells);
  const size_t cellBytes = batch.model->spec().cellBytes;
  batch.cells.clear();
  for (uint32_t i = 0; i < static_cast<uint32_t>(issue.size); i += 1) {
    const uint32_t slot = static_cast<uint32_t>(slots[i]);
    const int64_t cell = slot < places.slots ? int64_t{cells[slot]} - 1 : -2;
    // -1: it has brought no tensors
    if (cell < -1 || (cell >= 0 && static_cast<size_t>(cell) * 64 + cellBytes > places.arenaBytes)) {
      problem_ = "slot " + std::to_string(slot) + " has no cell in the tensors' memory";
      return false;
    }
    batch.cells.add(static_cast<int32_t>(cell), cellBytes);
  }
  return true;
}

bool Gpu::copy(Batch& batch, bool out) {
  Port* port = batch.port;
  Copier& copier = batch.model->copier();
  const bool wantsKernel = copier.wantsKernel(out, batch.cells);
  if (wantsKernel && !port->isMapped) mapArena(port);
  if (dead_) return false;
  const bool byKernel = wantsKernel && port->arenaOnDevice != 0;
  const Arena arena = {port->owner->places().arena, port->arenaOnDevice};
  const auto& buffers = out ? batch.model->outputs(batch.set) : batch.model->inputs(batch.set);
  const char* call = "";
  const Status status = copier.copy(out, byKernel, batch.cells, arena, buffers, out ? out_ : in_, &call);
  return ok(status, call);
}

// ------------------------------------------------------------------ compute, copy out

// In order: a batch does not overtake one that came before it. Those before a batch that failed go on, or it would wait
// for them for ever; those after it wait.
bool Gpu::launch(double now) {
  bool worked = false;
  for (uint32_t position = head_; position != tail_ && !dead_; position += 1) {
    Batch& batch = at(position);
    if (batch.stage == Stage::kDraining) break;
    if (batch.stage != Stage::kCopying) continue;
    if (batch.readyNs > now) break;
    batch.launchedNs = monotonicNs();
    double busyNs = 0;
    for (uint32_t other = head_; other != tail_; other += 1) busyNs += at(other).plan.issue.lengthNs;
    busyUntilNs_ = batch.launchedNs + busyNs;
    const Handle graph = batch.model->graphFor(batch.set, static_cast<uint32_t>(batch.plan.issue.size));
    const bool launched = ok(driver_.streamWaitEvent(compute_, batch.copied, 0), "cuStreamWaitEvent") && ok(driver_.eventRecord(batch.started, compute_), "cuEventRecord") &&
                          ok(driver_.graphLaunch(graph, compute_), "cuGraphLaunch") && ok(driver_.eventRecord(batch.computed, compute_), "cuEventRecord");
    batch.stage = Stage::kComputing;
    if (!launched) fail(batch, problem_);
    worked = true;
  }
  return worked;
}

bool Gpu::takeComputed(double now) {
  for (uint32_t position = head_; position != tail_ && !dead_; position += 1) {
    Batch& batch = at(position);
    if (batch.stage == Stage::kReturning) continue;
    if (batch.stage != Stage::kComputing) return false;
    if (batch.dueNs == 0) batch.dueNs = now + batch.plan.issue.lengthNs;
    const Status status = driver_.eventQuery(batch.computed);
    if (status == kNotReady) return false;
    batch.stage = Stage::kReturning;
    const bool returned = ok(status, "cuEventQuery") && copy(batch, true) && ok(driver_.eventRecord(batch.returned, out_), "cuEventRecord");
    if (!returned) fail(batch, problem_);
    return true;
  }
  return false;
}

bool Gpu::takeReturned(double now) {
  if (dead_) return false;
  Batch& batch = at(head_);
  int32_t result = kStatusOk;
  if (batch.stage == Stage::kDraining) {
    if (!isDrained()) return false;
    result = kStatusFailed;
    batch.startNs = batch.launchedNs > 0 ? batch.launchedNs : now;
    batch.endNs = monotonicNs();
  } else if (batch.stage == Stage::kReturning) {
    // Read once: a report that finds no room comes here again.
    if (batch.endNs == 0) {
      const Status status = driver_.eventQuery(batch.returned);
      if (status == kNotReady) return false;
      if (!ok(status, "cuEventQuery") || !readTimes(batch, monotonicNs())) {
        if (!dead_) fail(batch, problem_);
        return true;
      }
    }
  } else {
    return false;
  }
  if (!batch.port->owner->report(batch.port, batch.plan, result, batch.startNs, batch.endNs)) {
    blocked_ = true;
    return false;
  }
  if (batch.stage == Stage::kDraining) draining_ = false;
  batch.model->inUse[batch.set] = false;
  batch.port->inFlight -= 1;
  batch.launchedNs = batch.endNs = 0;
  head_ += 1;
  return true;
}

bool Gpu::readTimes(Batch& batch, double now) {
  float ms = 0;
  double endNs = 0;
  if (!ok(clock_.read(driver_, batch.returned, now, &endNs), "cuEventElapsedTime")) return false;
  if (!ok(driver_.eventElapsedTime(&ms, batch.started, batch.returned), "cuEventElapsedTime")) return false;
  const double startNs = endNs - static_cast<double>(ms) * 1e6;
  // Neither may lie where it cannot have been, whatever the mapping's error.
  batch.startNs = std::max(startNs, batch.launchedNs);
  batch.endNs = std::max(endNs, batch.startNs);
  if (clock_.isStale(now)) batch.returned = clock_.moveTo(batch.returned, endNs, now);
  return true;
}

// ------------------------------------------------------------------ what goes wrong

// The batch fails when nothing on the device touches its cells any more; until then nothing new is begun.
void Gpu::fail(Batch& batch, const std::string& why) {
  if (dead_) return;
  batch.stage = Stage::kDraining;
  if (batch.dueNs == 0) batch.dueNs = monotonicNs() + batch.plan.issue.lengthNs;
  draining_ = true;
  batch.port->owner->noteFault(batch.port->row, why, false);
}

bool Gpu::isDrained() {
  for (Handle stream : {in_, compute_, out_}) {
    const Status status = driver_.streamQuery(stream);
    if (status == kNotReady || !ok(status, "cuStreamQuery")) return false;
  }
  return true;
}

void Gpu::watch(double now) {
  const Batch& batch = at(head_);
  const double grace = batch.port->owner->places().graceNs;
  if (batch.dueNs == 0 || now <= batch.dueNs + grace) return;
  die("a batch of " + std::to_string(batch.plan.issue.size) + " of model '" + batch.model->spec().name + "' has not ended " + std::to_string(static_cast<long>(grace / 1e6)) + " ms after its time");
}

// Of a lost device: every batch that it has, and every one that still comes, ends as failed.
bool Gpu::loseAll() {
  const double now = monotonicNs();
  bool worked = false;
  while (head_ != tail_) {
    Batch& batch = at(head_);
    // Copies out that are under way may still end, at any time.
    if (batch.stage == Stage::kReturning || batch.stage == Stage::kDraining) batch.port->owner->keepCells(batch.plan.issue);
    blocked_ = !batch.port->owner->report(batch.port, batch.plan, kStatusLost, batch.launchedNs > 0 ? batch.launchedNs : now, now);
    if (blocked_) return worked;
    batch.port->inFlight -= 1;
    head_ += 1;
    worked = true;
  }
  for (Port* port : ports_) {
    while (const Plan* plan = port->lane.first()) {
      blocked_ = !port->owner->report(port, *plan, kStatusLost, now, now);
      if (blocked_) return worked;
      port->lane.pop();
      worked = true;
    }
  }
  return worked;
}

// ------------------------------------------------------------------ waiting

// Sleeps until something may have happened, or is woken. Near the end of a batch it looks again at once.
void Gpu::rest() {
  const double ns = restNs(monotonicNs());
  if (ns == 0) {
    if (!maySpin_) sched_yield();
    return;
  }
  storeWord(&sleeping_, 1);
  // Whoever came before the store has not woken us. A plan that was there and had to wait is no news.
  bool news = commanded_;
  for (const Port* port : ports_) news |= port->lane.pushed() != port->seen;
  if (!news) futexWait(&sleeping_, 1, ns);
  storeWord(&sleeping_, 0);
}

double Gpu::restNs(double now) {
  if (blocked_) return kLookNs;
  double least = kIdleNs;
  for (uint32_t position = head_; position != tail_; position += 1) {
    const Batch& batch = at(position);
    const double leftNs = (batch.stage == Stage::kCopying ? batch.readyNs : batch.stage == Stage::kComputing && batch.dueNs > 0 ? batch.dueNs : now) - now;
    if (leftNs > kNearNs) least = std::min(least, leftNs - kNearNs);
    else if (leftNs < -kLateNs || batch.stage == Stage::kDraining) least = std::min(least, kLookNs);
    else if (batch.stage != Stage::kComputing || batch.dueNs > 0) return 0;  // another one is before it
  }
  return least;
}

}  // namespace rubato
