#pragma once

namespace rubato {

// Lets the kernel delay the calling thread's timed sleeps by at most `ns` nanoseconds; 0 restores the thread's default.
// False where the system does not offer it or refused.
bool setTimerSlackNs(unsigned long ns);

}  // namespace rubato
