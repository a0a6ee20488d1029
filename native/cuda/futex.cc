#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

#include "lanes.h"

namespace rubato {

void futexWake(int32_t* word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }

void futexWait(int32_t* word, int32_t seen, double ns) {
  if (!(ns > 0)) return;
  timespec limit;
  limit.tv_sec = static_cast<time_t>(ns / 1e9);
  limit.tv_nsec = static_cast<long>(ns - static_cast<double>(limit.tv_sec) * 1e9);
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &limit, nullptr, 0);
}

}  // namespace rubato
