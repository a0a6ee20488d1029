// Keeps the device busy for batch × nsPerRequest + nsFixed, then hands its input back. One block.
#include "device.h"

DEVICE unsigned long long clockNs() {
  unsigned long long ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

KERNEL void spin(const float* x, float* y, int batch, int nsPerRequest, int nsFixed) {
  const unsigned long long startNs = clockNs();
  const unsigned long long lengthNs = (unsigned long long)batch * nsPerRequest + nsFixed;
  for (int i = threadX(); i < batch; i += widthX()) y[i] = x[i];
  while (clockNs() - startNs < lengthNs) {
  }
}
