// Drives the stream manager as a dispatch thread does, without Node.js: for the sanitizers and for its speed.
//
//   stress LIBRARY speed                batches per second through one device, and the CPU time of each side, for batches
//                                       in one piece and scattered, copied by the engines and by the kernel
//   stress LIBRARY faults SEED SECONDS  several devices and schedulers, random faults; every batch must end once, and
//                                       every result must be right. Models and GPUs come and go meanwhile, and schedulers are
//                                       closed in the middle of that
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <thread>
#include <utility>

#include "../attachment.h"

using namespace rubato;

namespace {

constexpr uint32_t kSlots = 4096;
constexpr uint32_t kRows = 256;
constexpr uint32_t kStride = 16;
constexpr uint32_t kFloats = 16;
constexpr double kPatientNs = 60e9;  // no call takes that long, whatever else the machine does
constexpr size_t kCell = 3 * kFloats * sizeof(float);  // a, b, y

[[noreturn]] void fail(const char* what, long value = 0) {
  fprintf(stderr, "stress: %s (%ld)\n", what, value);
  exit(1);
}

double cpuNs(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

struct Control {
  int (*send)(const char*, char*, int);
  explicit Control(const char* library) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_NODELETE);
    send = handle == nullptr ? nullptr : reinterpret_cast<int (*)(const char*, char*, int)>(dlsym(handle, "fakecuda_control"));
    if (send == nullptr) fail("the library is no fake driver");
  }
  void operator()(const std::string& command) const {
    char answer[64];
    if (send(command.c_str(), answer, sizeof answer) != 0) fail(command.c_str());
  }
  long count(const std::string& name) const {
    char answer[64] = "";
    send(("count " + name).c_str(), answer, sizeof answer);
    return atol(answer);
  }
};

std::shared_ptr<ModelSpec> vecadd(Copies copies) {
  auto model = std::make_shared<ModelSpec>();
  model->name = "vecadd";
  model->modules = {{"vecadd.ptx", 0, ".version 6.0\n.visible .entry vecadd(\n"}};
  model->copyModules = {{"gather.ptx", 0, ".version 6.0\n.visible .entry gather(\n.visible .entry scatter(\n"}};
  model->copies = copies;
  model->cellBytes = kCell;
  model->inputs = {{0, 64}, {64, 64}};
  model->outputs = {{128, 64}};
  for (uint32_t size = 1; size <= kStride; size *= 2) {
    LaunchSpec launch{"vecadd", {size, 1, 1}, {kFloats, 1, 1}, 0, {{ArgSpec::kInput, 0}, {ArgSpec::kInput, 1}, {ArgSpec::kOutput, 0}, {ArgSpec::kInt, double(size * kFloats)}}};
    model->buckets.push_back({size, {launch}});
  }
  return model;
}

// A scheduler of one shard: its memory, the dispatcher's ends of the lanes, and which rows are under way.
class Scheduler {
 public:
  explicit Scheduler(uint32_t gpus, double graceNs = kPatientNs) : gpus_(gpus), buffer_(1 << 20), arena_((kSlots * kCell + 4096) / 4096 * 4096), held_(kRows) {
    places_.buffer = buffer_.data();
    places_.bufferBytes = buffer_.size();
    places_.arena = arena_.data();
    places_.arenaBytes = arena_.size();
    places_.issues = 0;
    places_.issueCapacity = 256;
    places_.done = 16384;
    places_.doneCapacity = 256;
    places_.bell = 32768;
    places_.cells = 65536;
    places_.slots = kSlots;
    places_.shards.push_back({131072, kStride, kRows});
    places_.originNs = monotonicNs();
    places_.gpus = gpus;
    places_.graceNs = graceNs;
    places_.callLimitNs = graceNs;
    issues_.attach(buffer_.data() + places_.issues, places_.issueCapacity);
    done_.attach(buffer_.data() + places_.done, places_.doneCapacity);
    int32_t* cells = reinterpret_cast<int32_t*>(buffer_.data() + places_.cells);
    for (uint32_t slot = 0; slot < kSlots; slot += 1) cells[slot] = static_cast<int32_t>(slot * kCell / 64) + 1;
  }

  bool open(const char* library, const std::vector<DeviceSpec>& devices, Copies copies) {
    attachment_ = std::make_shared<Attachment>(places_);
    attachment_->open(library, devices, {vecadd(copies)});
    std::string failure;
    Attachment::State state;
    while ((state = attachment_->state(&failure)) == Attachment::State::kOpening) std::this_thread::yield();
    return state == Attachment::State::kReady;
  }

  // Issues one batch, unless all rows are under way; the row tells its slots.
  bool issue(uint32_t gpu, uint32_t size, bool scattered) {
    uint32_t row = 0;
    while (row < kRows && held_[(next_ + row) % kRows] != 0) row += 1;
    if (row == kRows) return false;
    row = next_ = (next_ + row) % kRows;
    int32_t* slots = reinterpret_cast<int32_t*>(buffer_.data() + places_.shards[0].batchSlots) + row * kStride;
    for (uint32_t i = 0; i < size; i += 1) {
      slots[i] = static_cast<int32_t>(row * kStride + (scattered ? (i * 11) % kStride : i));
      float* cell = reinterpret_cast<float*>(arena_.data() + static_cast<size_t>(slots[i]) * kCell);
      cell[0] = static_cast<float>(number_ % 1000);
      cell[kFloats] = static_cast<float>(i);
      cell[2 * kFloats] = -1;
    }
    held_[row] = ++number_;
    sizes_[row] = size;
    IssueRecord record = {static_cast<int32_t>(gpu), 0, static_cast<int32_t>(row), 0, number_, static_cast<int32_t>(size), 0, 1000, 0};
    if (!issues_.push(record)) fail("the issue lane is full");
    return true;
  }

  // Takes what has ended; returns how many batches.
  uint32_t drain() {
    const uint32_t ready = done_.ready();
    for (uint32_t k = 0; k < ready; k += 1) {
      const DoneRecord& done = done_.at(k);
      const uint32_t row = static_cast<uint32_t>(done.row);
      if (row >= kRows || held_[row] != done.number) fail("a batch ended that was not under way", done.number);
      if (done.startNs > done.endNs || done.endNs > monotonicNs() - places_.originNs) fail("times that cannot be", done.number);
      if (done.status == kStatusOk) check(row, done.number);
      else failed += 1;
      held_[row] = 0;
    }
    done_.release(ready);
    return ready;
  }

  // Whether all of its memory must stay, for a call that has not returned.
  bool close() {
    attachment_->close();
    std::string stuck;
    Attachment::End end;
    while ((end = attachment_->settle(&stuck)) == Attachment::End::kNotYet) std::this_thread::yield();
    if (end == Attachment::End::kStuck) return true;
    attachment_ = nullptr;
    return false;
  }

  // A model comes, and is thrown away or takes the place of the one that runs.
  void change(Copies copies, bool isKept) {
    Outcome outcome;
    attachment_->stage(vecadd(copies));
    while (attachment_->isChanging(&outcome)) turn();
    attachment_->settleStaged(0, isKept && outcome.failure.empty());
    while (attachment_->isChanging(&outcome)) turn();
  }

  // A change begins that nobody sees the end of: the scheduler is closed some turns later, and perhaps hears of the next
  // change only then. Batches may run.
  void closeInside(std::mt19937& random, const DeviceSpec& another) {
    Outcome outcome;
    beginChange(random, another);
    for (unsigned turns = random() % 8; turns > 0 && attachment_->isChanging(&outcome); turns -= 1) turn();
    attachment_->close();
    if (random() % 2 == 0) return;
    while (attachment_->isChanging(&outcome)) std::this_thread::yield();
    beginChange(random, another);
  }
  void beginChange(std::mt19937& random, const DeviceSpec& another) {
    switch (random() % 6) {
      case 0: return attachment_->removeModel(0);
      case 1: return attachment_->addDevice(another);
      case 2: return attachment_->removeDevice(0);
      case 3: return attachment_->removeDevice(1);
      case 4: return attachment_->settleStaged(0, false);
      default: return attachment_->stage(vecadd(static_cast<Copies>(random() % 3)));
    }
  }

  // One more GPU comes, and goes again.
  void comeAndGo(const DeviceSpec& another) {
    Outcome outcome;
    attachment_->addDevice(another);
    while (attachment_->isChanging(&outcome)) turn();
    attachment_->removeDevice(another.row);
    while (attachment_->isChanging(&outcome)) turn();
  }

  // Devices wait for room in the lane.
  void turn() {
    attachment_->take();
    ended_ += drain();
    std::this_thread::yield();
  }
  // Batches that have ended in `turn` since the last time.
  uint32_t takeEnded() { return std::exchange(ended_, 0); }

  Attachment& attachment() { return *attachment_; }
  uint32_t gpus() const { return gpus_; }
  long failed = 0;

 private:
  void check(uint32_t row, int32_t number) const {
    const int32_t* slots = reinterpret_cast<const int32_t*>(buffer_.data() + places_.shards[0].batchSlots) + row * kStride;
    for (uint32_t i = 0; i < sizes_[row]; i += 1) {
      const float* cell = reinterpret_cast<const float*>(arena_.data() + static_cast<size_t>(slots[i]) * kCell);
      if (cell[2 * kFloats] != static_cast<float>((number - 1) % 1000) + static_cast<float>(i)) fail("a result is wrong", number);
    }
  }

  const uint32_t gpus_;
  std::vector<uint8_t> buffer_, arena_;
  Places places_;
  Ring<IssueRecord> issues_;
  Ring<DoneRecord> done_;
  std::shared_ptr<Attachment> attachment_;
  std::vector<int32_t> held_;
  uint32_t sizes_[kRows] = {};
  uint32_t next_ = 0;
  int32_t number_ = 0;
  uint32_t ended_ = 0;
};

void speed(const char* library, Copies copies, bool scattered) {
  constexpr long kBatches = 400000;
  constexpr long kUnderWay = 32;
  Scheduler scheduler(1);
  if (!scheduler.open(library, {{0, 0}}, copies)) fail("the device did not open");
  const double startOwn = cpuNs(CLOCK_THREAD_CPUTIME_ID);
  const double startNs = monotonicNs();
  const double startCpu = cpuNs(CLOCK_PROCESS_CPUTIME_ID);
  double takeNs = 0;
  long issued = 0, ended = 0;
  while (ended < kBatches) {
    const long before = issued;
    while (issued < kBatches && issued - ended < kUnderWay && scheduler.issue(0, 4, scattered)) issued += 1;
    if (issued > before) {
      const double from = cpuNs(CLOCK_THREAD_CPUTIME_ID);
      scheduler.attachment().take();
      takeNs += cpuNs(CLOCK_THREAD_CPUTIME_ID) - from;
    }
    const uint32_t now = scheduler.drain();
    ended += now;
    if (now == 0) std::this_thread::yield();
  }
  const double wall = monotonicNs() - startNs;
  const double all = cpuNs(CLOCK_PROCESS_CPUTIME_ID) - startCpu;
  const double own = cpuNs(CLOCK_THREAD_CPUTIME_ID) - startOwn;
  if (scheduler.close()) fail("a call is stuck");
  if (scheduler.failed > 0) fail("batches failed", scheduler.failed);
  printf("{\"copies\": \"%s\", \"scattered\": %s, \"batchesPerSecond\": %.0f, \"takeNsPerBatch\": %.0f, \"deviceThreadNsPerBatch\": %.0f}\n", copies == Copies::kCopy ? "copy" : "kernel", scattered ? "true" : "false", kBatches / wall * 1e9, takeNs / kBatches, (all - own) / kBatches);
}

void faults(const char* library, unsigned seed, double seconds) {
  const Control control(library);
  control("set devices 64");
  const char* calls[] = {"cuMemcpy2DAsync_v2", "cuGraphLaunch", "cuEventRecord", "cuStreamWaitEvent", "cuEventElapsedTime", "cuLaunchKernel", "cuMemHostGetDevicePointer_v2", "cuMemAlloc_v2", "cuModuleLoadData"};
  std::mt19937 random(seed);
  const double untilNs = monotonicNs() + seconds * 1e9;
  long rounds = 0, batches = 0, failed = 0, closedInside = 0;
  int firstAlive = 0;
  static std::vector<std::unique_ptr<Scheduler>>& stuck = *new std::vector<std::unique_ptr<Scheduler>>;
  while (monotonicNs() < untilNs) {
    // Two schedulers share their devices; sometimes one of these is lost, and the next round takes others.
    const bool loses = firstAlive < 58 && rounds % 8 == 4;
    const double graceNs = loses ? 50e6 : kPatientNs;
    std::unique_ptr<Scheduler> schedulers[2] = {std::make_unique<Scheduler>(3, graceNs), std::make_unique<Scheduler>(3, graceNs)};
    const DeviceSpec another = {firstAlive + 2, 2};
    bool isOpen[2];
    if (random() % 8 == 0) control(std::string("fail ") + calls[random() % 9] + " " + std::to_string(1 + random() % 20) + " 2");
    for (int s = 0; s < 2; s += 1) isOpen[s] = schedulers[s]->open(library, {{firstAlive, 0}, {firstAlive + 1, 1}}, static_cast<Copies>(random() % 3));
    const std::string losses[] = {"kernel vecadd 50 719", "kernel vecadd 50 hang", std::string("stall ") + calls[random() % 9] + " " + std::to_string(1 + random() % 50)};
    if (loses) control(losses[random() % 3]);
    // In the middle of its batches and of a change, or when all have ended.
    const long closesAt = random() % 2 == 0 ? random() % 2000 : 0;
    long underWay[2] = {0, 0};
    for (long turn = 0; turn < 2000 || underWay[0] + underWay[1] > 0; turn += 1) {
      if (closesAt > 0 && turn == closesAt) {
        for (int s = 0; s < 2; s += 1) if (isOpen[s]) schedulers[s]->closeInside(random, another);
        closedInside += 1;
        break;
      }
      for (int s = 0; s < 2; s += 1) {
        if (!isOpen[s]) continue;
        const uint32_t count = turn < 2000 ? random() % 4 : 0;
        for (uint32_t k = 0; k < count && underWay[s] < 100; k += 1) {
          if (schedulers[s]->issue(random() % 2, 1 + random() % kStride, random() % 2 == 0)) underWay[s] += 1;
        }
        schedulers[s]->attachment().take();
        const uint32_t ended = schedulers[s]->drain();
        underWay[s] -= ended;
        batches += ended;
      }
      for (int s = 0; s < 2; s += 1) {
        if (isOpen[s] && turn < 2000 && turn % 500 == 100) schedulers[s]->comeAndGo(another);
        if (isOpen[s] && turn < 2000 && turn % 250 == 0) schedulers[s]->change(static_cast<Copies>(random() % 3), random() % 2 == 0);
        const uint32_t ended = schedulers[s]->takeEnded();
        underWay[s] -= ended;
        batches += ended;
      }
      if (turn == 1000 && random() % 4 == 0) control(std::string("fail ") + calls[random() % 6] + " 1 2 3");
      if (turn >= 2000) std::this_thread::yield();
    }
    for (auto& scheduler : schedulers) {
      const bool isStuck = scheduler->close();
      failed += scheduler->failed;
      if (isStuck) stuck.push_back(std::move(scheduler));
    }
    control("reset");
    if (loses) firstAlive += 3;
    rounds += 1;
  }
  // What a lost device holds takes a new process.
  if (firstAlive == 0 && (control.count("memory") != 0 || control.count("events") != 0 || control.count("contexts") != 0)) fail("something was not given back", control.count("memory"));
  printf("%ld rounds, %ld of them closed in the middle of a change, %ld batches of which %ld failed as ordered, %d devices left behind, %zu schedulers stuck\n", rounds, closedInside, batches, failed, firstAlive, stuck.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[2], "speed") == 0) for (const bool scattered : {false, true}) for (const Copies copies : {Copies::kCopy, Copies::kKernel}) speed(argv[1], copies, scattered);
  else if (argc == 5 && strcmp(argv[2], "faults") == 0) faults(argv[1], static_cast<unsigned>(atoi(argv[3])), atof(argv[4]));
  else fail("usage: stress LIBRARY speed | faults SEED SECONDS");
  return 0;
}
