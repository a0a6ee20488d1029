// The lanes and the doorbell of src/ringbuf, and the records of src/protocol/records.ts that pass through them, as native
// threads see them. What opens a scheduler hands over where the fields lie, and is refused when that is not as here.
#pragma once

#include <atomic>
#include <cstdint>

namespace rubato {

constexpr uint32_t kLineBytes = 128;

struct IssueRecord {
  int32_t gpu, shard, row, model, number, size;
  double readyNs, lengthNs, grantedNs;
};
struct DoneRecord {
  int32_t gpu, shard, row, number, model, status;
  double startNs, endNs, controlNs;
};
static_assert(sizeof(IssueRecord) == 48 && sizeof(DoneRecord) == 48, "as defineRecord lays them out");

constexpr int32_t kStatusOk = 0;
constexpr int32_t kStatusFailed = 1;
constexpr int32_t kStatusLost = 2;  // failed, and its device is gone for good

// A word that JavaScript touches by Atomics, which are sequentially consistent.
inline int32_t loadWord(const int32_t* at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
inline void storeWord(int32_t* at, int32_t value) { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); }

void futexWake(int32_t* word);
// Sleeps while the word is `seen`, at most `ns`.
void futexWait(int32_t* word, int32_t seen, double ns);

// A ring of src/ringbuf/spsc-ring.ts: head, tail and records.
template <typename Record>
class Ring {
 public:
  void attach(uint8_t* at, uint32_t capacity) {
    head_ = reinterpret_cast<int32_t*>(at);
    tail_ = reinterpret_cast<int32_t*>(at + kLineBytes);
    records_ = reinterpret_cast<Record*>(at + 2 * kLineBytes);
    mask_ = capacity - 1;
  }
  // Consumer.
  uint32_t ready() const { return static_cast<uint32_t>(loadWord(head_)) - static_cast<uint32_t>(*tail_); }
  const Record& at(uint32_t index) const { return records_[(static_cast<uint32_t>(*tail_) + index) & mask_]; }
  void release(uint32_t count) { storeWord(tail_, static_cast<int32_t>(static_cast<uint32_t>(*tail_) + count)); }
  // Producer. False when it is full.
  bool push(const Record& record) {
    const uint32_t head = static_cast<uint32_t>(*head_);
    if (head - static_cast<uint32_t>(loadWord(tail_)) > mask_) return false;
    records_[head & mask_] = record;
    storeWord(head_, static_cast<int32_t>(head + 1));
    return true;
  }

 private:
  int32_t* head_ = nullptr;
  int32_t* tail_ = nullptr;
  Record* records_ = nullptr;
  uint32_t mask_ = 0;
};

// src/ringbuf/doorbell.ts. A sleeper in Atomics.wait cannot be woken from here: whoever waits for native news sleeps in
// the futex on the second word.
inline void ringBell(int32_t* bell) {
  constexpr int32_t kAwake = 0;
  constexpr int32_t kSleepsInFutex = 2;
  int32_t state = loadWord(bell);
  if (state != kSleepsInFutex) return;
  if (!__atomic_compare_exchange_n(bell, &state, kAwake, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return;
  __atomic_fetch_add(bell + 1, 1, __ATOMIC_SEQ_CST);
  futexWake(bell + 1);
}

}  // namespace rubato
