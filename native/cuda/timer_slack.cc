#include "timer_slack.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

namespace rubato {

bool setTimerSlackNs([[maybe_unused]] unsigned long ns) {
#if defined(__linux__)
  return prctl(PR_SET_TIMERSLACK, ns, 0UL, 0UL, 0UL) == 0;
#else
  return false;
#endif
}

}  // namespace rubato
