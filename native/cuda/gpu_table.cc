// The devices of the process, and the watchdog that finds calls to the driver that do not return.
#include <algorithm>
#include <chrono>
#include <map>
#include <thread>

#include "gpu.h"

namespace rubato {
namespace {

// A call is found to hang at most two looks late, for 0.1 % of a core.
constexpr auto kLookEvery = std::chrono::milliseconds(20);
// More than that between two looks, and the whole process stood still: that is no fault of a call.
constexpr double kLongestLookNs = 40e6;

struct Table {
  struct Row {
    std::shared_ptr<Gpu> gpu;
    int users = 0;
  };
  using Key = std::pair<std::string, int>;
  std::mutex mutex;
  std::map<Key, Row> rows;
  std::vector<std::pair<Key, std::shared_ptr<Gpu>>> ending;
  std::map<Key, std::string> lost;
  bool isWatched = false;
};

// Never destroyed: a thread that hangs in the driver outlives everything.
Table& table() {
  static Table* const all = new Table;
  return *all;
}

// Ends when there is no device any more.
void watchDevices() {
  double before = monotonicNs();
  for (;;) {
    std::this_thread::sleep_for(kLookEvery);
    const double now = monotonicNs();
    const double passedNs = std::min(now - before, kLongestLookNs);
    before = now;
    Table& all = table();
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (auto& [key, row] : all.rows) row.gpu->look(now, passedNs);
    for (auto& [key, gpu] : all.ending) {
      gpu->look(now, passedNs);
      if (gpu->isStuck()) all.lost[key] = gpu->fault();
    }
    const auto isOver = [](const auto& each) { return each.second->hasEnded() || each.second->isStuck(); };
    all.ending.erase(std::remove_if(all.ending.begin(), all.ending.end(), isOver), all.ending.end());
    if (!all.rows.empty() || !all.ending.empty()) continue;
    all.isWatched = false;
    return;
  }
}

}  // namespace

std::shared_ptr<Gpu> acquireGpu(const std::string& library, int ordinal, double callLimitNs, std::string* reason) {
  const Driver* driver = loadDriver(library, callLimitNs, reason);
  if (driver == nullptr) return nullptr;
  if (ordinal < 0 || ordinal >= driver->devices) {
    *reason = "there is no GPU " + std::to_string(ordinal) + ", the driver sees " + std::to_string(driver->devices);
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
  if (row.gpu == nullptr) {
    row.gpu = std::shared_ptr<Gpu>(new Gpu(*driver, ordinal, callLimitNs));
    row.gpu->begin();
  }
  row.users += 1;
  if (!all.isWatched) std::thread(watchDevices).detach();
  all.isWatched = true;
  return row.gpu;
}

std::shared_ptr<Gpu> releaseGpu(const std::string& library, std::shared_ptr<Gpu> gpu) {
  Table& all = table();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto key = std::make_pair(library, gpu->ordinal());
  Table::Row& row = all.rows[key];
  row.users -= 1;
  if (row.users > 0) return nullptr;
  const std::string fault = gpu->fault();
  if (!fault.empty()) all.lost[key] = fault;
  all.rows.erase(key);
  all.ending.emplace_back(key, gpu);
  gpu->stop();
  return gpu;
}

}  // namespace rubato
