// Included before everything else (binding.gyp). glibc 2.34 moved these functions from libdl into libc, under a new
// version. Bound to the old one, which every later glibc still has, a binary built today also loads on glibc 2.28, the
// oldest that Node.js itself runs on. scripts/prebuild.mjs checks the outcome.
#pragma once

#if defined(__linux__)
#include <features.h>
#endif

#if defined(__GLIBC__) && defined(__x86_64__)
#define RUBATO_OLD_GLIBC "GLIBC_2.2.5"
#elif defined(__GLIBC__) && defined(__aarch64__)
#define RUBATO_OLD_GLIBC "GLIBC_2.17"
#endif

#if defined(RUBATO_OLD_GLIBC)
__asm__(".symver dlopen, dlopen@" RUBATO_OLD_GLIBC);
__asm__(".symver dlsym, dlsym@" RUBATO_OLD_GLIBC);
__asm__(".symver dlclose, dlclose@" RUBATO_OLD_GLIBC);
__asm__(".symver dlerror, dlerror@" RUBATO_OLD_GLIBC);
#endif

// What a newer libstdc++ asks for in its headers and an older one, or its glibc, lacks: glibc_floor.cc has our own. (And
// std::make_shared asks for a new symbol where there is no RTTI: shared_ptr(new T) does not.)
#if defined(__GLIBC__) && defined(__cplusplus)
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
namespace std {
__attribute__((visibility("hidden"))) void __throw_bad_array_new_length() __attribute__((noreturn));
}
#endif
