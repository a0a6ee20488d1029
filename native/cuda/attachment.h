#pragma once

#include <atomic>
#include <map>
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
  uint32_t gpus = 0;  // rows that there can be
  struct Shard {
    size_t batchSlots;
    uint32_t stride;
    uint32_t rows;
  };
  std::vector<Shard> shards;
  double originNs = 0;     // the scheduler's time 0 on the monotonic clock
  double graceNs = 0;      // how long after its expected end a batch may go on
  double callLimitNs = 0;  // how long a call that opens a device or loads a model may take
};

struct DeviceSpec {
  int ordinal;
  int row;  // its number in the scheduler
};

// Stands in the cell word of a request whose cell a lost device may still write to: nobody may ever use that cell again.
constexpr int32_t kKeptCell = -1;

// One scheduler's dealings with its devices. Made, changed and closed by the thread that made the scheduler, fed by its
// dispatch thread; the devices' threads report to it.
class Attachment : public std::enable_shared_from_this<Attachment> {
 public:
  enum class State { kOpening, kReady, kFailed, kClosing, kClosed };

  enum class End { kNotYet, kDone, kStuck };

  explicit Attachment(Places places);
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
  // Ends what nobody needs any more, when it is closed. Stuck: a call to the driver has not returned, and may still use
  // all that it was given; then this object and the scheduler's memory must stay.
  End settle(std::string* stuck);

  // Changes, one after the other: each is begun, and over when it is no longer `isChanging`.
  // Loads a model to all devices, which do not use it before it is put in, or throw it away.
  void stage(std::shared_ptr<const ModelSpec> spec);
  void settleStaged(size_t model, bool keep);
  void removeModel(size_t model);
  // The device loads all models. One that failed is there, and has to be removed.
  void addDevice(const DeviceSpec& device);
  void removeDevice(int row);
  bool isChanging(Outcome* outcome);

  // What went wrong last at the device of a row, and whether the device is lost; "" when nothing has.
  std::string fault(int row, bool* isLost);
  // What the device of a row has loaded; nothing for another row.
  std::vector<LoadedModel> models(int row);
  // How long the device of a row has had a batch in all, from starts to ends; what lies beside another one is counted once.
  double busyNs(int row);

  // The devices' threads:
  const Places& places() const { return places_; }
  // Whether the tensors' memory is pinned, all of it.
  void notePinned(bool isPinned) { isPinned_ = isPinned; }
  bool isPinned() const { return isPinned_; }
  // What a model number stands for from now on; null: nothing.
  void noteModel(int row, size_t number, const DeviceModel* model);
  void loaded(const Outcome& outcome);
  void changed(const Outcome& outcome);
  void detached(Port* port);
  // A device that is lost may still write to the cells of this batch.
  void keepCells(const IssueRecord& issue);
  // False when there is no room for it now.
  bool report(const Port* port, const Plan& plan, int32_t status, double startNs, double endNs);
  void noteFault(int row, const std::string& what, bool isLost);
  double hostNs(double schedulerNs) const { return schedulerNs + places_.originNs; }

 private:
  struct Fault {
    std::string what;
    bool isLost = false;
  };
  struct Busy {
    double ns = 0;
    double untilNs = 0;
  };
  Port* portOf(int row);
  Port* addPort(const DeviceSpec& device, std::string* reason);
  template <typename Ask>
  void askAll(Ask ask);
  void beginChange(size_t answers);
  bool letGo(Port& port);
  void noteStuck(Gpu& gpu);

  const Places places_;
  std::string library_;
  Ring<IssueRecord> issues_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::vector<std::atomic<Port*>> portOfRow_;
  std::atomic<int32_t> running_{0};
  std::atomic<bool> isPinned_{false};
  std::vector<std::shared_ptr<const ModelSpec>> specs_;  // what a device that comes later loads
  std::shared_ptr<const ModelSpec> stagedSpec_;
  Port* leaver_ = nullptr;
  std::string stuck_;  // the call that has not returned

  std::mutex mutex_;  // what follows
  Ring<DoneRecord> done_;
  State state_ = State::kOpening;
  std::string failure_;
  size_t opening_ = 0;   // devices that are still loading
  size_t attached_ = 0;  // devices that have not let go
  Port* pinner_ = nullptr;
  size_t awaited_ = 0;  // devices that have not said how the change went
  bool isDoneSomewhere_ = false;
  Outcome change_;
  bool silent_ = false;
  std::vector<Fault> faults_;  // by row
  std::vector<Busy> busy_;     // by row
  std::map<int, std::map<size_t, LoadedModel>> models_;  // by row and model number
};

}  // namespace rubato
