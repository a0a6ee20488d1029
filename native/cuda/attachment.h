#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gpu.h"

namespace rubato {

// Where a scheduler's shared memory has what the devices need. Offsets are bytes of `buffer`.
struct Places {
  uint8_t* buffer = nullptr;
  size_t bufferBytes = 0;
  uint8_t* arena = nullptr;
  size_t arenaBytes = 0;
  size_t issues = 0, done = 0, bell = 0, cells = 0;
  uint32_t issueCapacity = 0, doneCapacity = 0;
  uint32_t slots = 0;
  struct Shard {
    size_t batchSlots;
    uint32_t stride;
    uint32_t rows;
  };
  std::vector<Shard> shards;
  double originNs = 0;  // the scheduler's time 0 on the monotonic clock
  double graceNs = 0;   // how long after its expected end a batch may go on
};

struct DeviceSpec {
  int ordinal;
  int row;  // its number in the scheduler
};

// One scheduler's dealings with its devices. Made and closed by the thread that made the scheduler, fed by its dispatch
// thread; the devices' threads report to it.
class Attachment : public std::enable_shared_from_this<Attachment> {
 public:
  enum class State { kOpening, kReady, kFailed, kClosing, kClosed };

  explicit Attachment(Places places) : places_(std::move(places)) {}
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  void open(const std::string& library, const std::vector<DeviceSpec>& devices, const std::vector<std::shared_ptr<const ModelSpec>>& models);
  State state(std::string* failure);
  // Takes what the dispatcher has issued; returns how many batches. Dispatch thread only.
  uint32_t take();
  // Batches that were taken and whose end is not in the lane.
  int32_t running() const { return running_; }
  // From now on nothing is reported and the shared lanes are not touched. Closed when every device has let go.
  void close();
  // Ends what nobody needs any more, when it is closed: then true.
  bool settle();
  // What went wrong last at the device of a row, and whether the device is lost; "" when nothing has.
  std::string fault(int row, bool* isLost);

  // The devices' threads:
  const Places& places() const { return places_; }
  void loaded(const std::string& failure);
  void detached();
  // False when there is no room for it now.
  bool report(const Port* port, const Plan& plan, int32_t status, double startNs, double endNs);
  void noteFault(int row, const std::string& what, bool isLost);
  double hostNs(double schedulerNs) const { return schedulerNs + places_.originNs; }

 private:
  struct Fault {
    std::string what;
    bool isLost = false;
  };
  Port* portOf(int row);

  const Places places_;
  std::string library_;
  Ring<IssueRecord> issues_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::vector<Port*> portOfRow_;
  std::atomic<int32_t> running_{0};

  std::mutex mutex_;  // what follows
  Ring<DoneRecord> done_;
  State state_ = State::kOpening;
  std::string failure_;
  size_t opening_ = 0;   // devices that are still loading
  size_t attached_ = 0;  // devices that have not let go
  bool silent_ = false;
  std::vector<Fault> faults_;  // by row
};

}  // namespace rubato
