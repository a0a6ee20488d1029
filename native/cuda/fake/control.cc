// Faults on order, settings and counters of the fake driver. One exported function takes commands as text, so that a test
// in any language can give them; those in the environment variable FAKECUDA, separated by ';', are carried out at load.
//
//   fail CALL NTH CODE [TIMES]    the NTH call from now (1 = the next) answers CODE, TIMES times (1)
//   kernel NAME NTH CODE|hang     the NTH start of the kernel from now traps with CODE, or never ends
//   stall CALL NTH                the NTH call from now does not return before `release`
//   release                       lets hanging kernels and calls go on
//   reset                         no faults any more, and release
//   set NAME VALUE                devices, version, capability, memory, copyns, copynsperbyte, launchns
//   count NAME                    answers how often a call was made, or how many there are of: memory, streams, events, …
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include "fake.h"

namespace fake {
namespace {

struct Rule {
  std::string name;
  bool isKernel;
  bool stalls;
  int64_t skip;
  int64_t times;
  Status code;
};

struct Faults {
  std::mutex mutex;
  std::vector<Rule> rules;
  std::atomic<bool> any{false};
  std::atomic<uint64_t> releases{0};
  std::map<std::string, std::unique_ptr<std::atomic<uint64_t>>> counters;
};

// Never destroyed: threads may call the driver while the process ends.
Faults& faults() {
  static Faults* const all = new Faults;
  return *all;
}

// The fault of this call or kernel start, if a rule says so now.
const Rule* hit(const char* name, bool isKernel, Rule* copy) {
  Faults& all = faults();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (Rule& rule : all.rules) {
    if (rule.isKernel != isKernel || rule.name != name) continue;
    if (rule.skip > 0) {
      rule.skip -= 1;
    } else if (rule.times > 0) {
      rule.times -= 1;
      *copy = rule;
      return copy;
    }
  }
  return nullptr;
}

bool set(const std::string& name, double value) {
  Settings& to = settings();
  if (name == "devices") to.devices = static_cast<int>(value);
  else if (name == "version") to.version = static_cast<int>(value);
  else if (name == "capability") to.capability = static_cast<int>(value);
  else if (name == "memory") to.memoryBytes = static_cast<size_t>(value);
  else if (name == "copyns") to.copyNs = value;
  else if (name == "copynsperbyte") to.copyNsPerByte = value;
  else if (name == "launchns") to.launchNs = value;
  else return false;
  return true;
}

bool addRule(std::istringstream& words, const std::string& verb) {
  Rule rule{"", verb == "kernel", verb == "stall", 0, 1, 0};
  int64_t nth = 0;
  std::string code = "0";
  if (!(words >> rule.name >> nth) || nth < 1) return false;
  if (!rule.stalls && !(words >> code)) return false;
  rule.skip = nth - 1;
  rule.code = code == "hang" ? kHang : atoi(code.c_str());
  words >> rule.times;
  if (words.fail()) rule.times = 1;
  Faults& all = faults();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.rules.push_back(rule);
  all.any = true;
  return true;
}

bool obey(const std::string& command, std::string* answer) {
  std::istringstream words(command);
  std::string verb, name;
  if (!(words >> verb)) return true;
  if (verb == "fail" || verb == "kernel" || verb == "stall") return addRule(words, verb);
  if (verb == "set") {
    double value = 0;
    return (words >> name >> value) && set(name, value);
  }
  if (verb == "count") {
    if (!(words >> name)) return false;
    *answer = std::to_string(counter(name.c_str()).load());
    return true;
  }
  if (verb != "release" && verb != "reset") return false;
  Faults& all = faults();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (verb == "reset") {
    all.rules.clear();
    all.any = false;
  }
  all.releases += 1;
  return true;
}

struct FromEnvironment {
  FromEnvironment() {
    const char* text = getenv("FAKECUDA");
    std::istringstream commands(text == nullptr ? "" : text);
    std::string command, answer;
    while (std::getline(commands, command, ';')) {
      if (!obey(command, &answer)) fprintf(stderr, "FAKECUDA: not understood: %s\n", command.c_str());
    }
  }
} const fromEnvironment;

}  // namespace

Settings& settings() {
  static Settings* const all = new Settings;
  return *all;
}

std::atomic<uint64_t>& counter(const char* name) {
  Faults& all = faults();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto& found = all.counters[name];
  if (found == nullptr) found = std::make_unique<std::atomic<uint64_t>>(0);
  return *found;
}

uint64_t releases() { return faults().releases; }

Status enter(std::atomic<uint64_t>& count, const char* call) {
  count += 1;
  Rule rule;
  if (!faults().any || hit(call, false, &rule) == nullptr) return 0;
  if (rule.stalls) {
    const uint64_t until = releases();
    while (releases() == until) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return rule.code;
}

Status kernelFault(const char* name) {
  Rule rule;
  if (!faults().any || hit(name, true, &rule) == nullptr) return 0;
  return rule.code;
}

}  // namespace fake

// 0, or 1 for a command that is not understood. `answer` gets at most `bytes` with the closing zero.
extern "C" __attribute__((visibility("default"))) int fakecuda_control(const char* command, char* answer, int bytes) {
  std::string text;
  const bool understood = fake::obey(command, &text);
  if (bytes > 0) snprintf(answer, static_cast<size_t>(bytes), "%s", text.c_str());
  return understood ? 0 : 1;
}
