// y = a + b, one thread per element.
#include "device.h"

KERNEL void vecadd(const float* a, const float* b, float* y, int count) {
  const int i = blockX() * widthX() + threadX();
  if (i < count) y[i] = a[i] + b[i];
}
