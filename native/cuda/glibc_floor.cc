#include "glibc_floor.h"

#include <cstdlib>

#if defined(__GLIBC__)
// Tells shared_ptr that it may count without atomics: never, here.
char __libc_single_threaded = 0;

// Without exceptions the standard one would end the process as well.
void std::__throw_bad_array_new_length() { abort(); }
#endif
