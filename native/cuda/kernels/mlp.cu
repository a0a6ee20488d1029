// One layer of a perceptron, y = x·w + bias, then max(0, y) where relu is not 0. Rows are requests. A block of 16 × 16
// threads makes a tile of y; both factors pass through shared memory a tile at a time.
#include "device.h"

#define TILE 16

KERNEL void mlp_layer(const float* x, const float* w, const float* bias, float* y, int batch, int inputs, int outputs, int relu) {
  SHARED static float xs[TILE][TILE];
  SHARED static float ws[TILE][TILE];
  const int column = blockX() * TILE + threadX();
  const int row = blockY() * TILE + threadY();
  float sum = column < outputs ? bias[column] : 0.0f;
  for (int from = 0; from < inputs; from += TILE) {
    const int k = from + threadX();
    const int l = from + threadY();
    xs[threadY()][threadX()] = row < batch && k < inputs ? x[row * inputs + k] : 0.0f;
    ws[threadY()][threadX()] = l < inputs && column < outputs ? w[l * outputs + column] : 0.0f;
    barrier();
    for (int i = 0; i < TILE; i += 1) sum += xs[threadY()][i] * ws[i][threadX()];
    barrier();
  }
  if (row < batch && column < outputs) y[row * outputs + column] = relu != 0 && sum < 0.0f ? 0.0f : sum;
}
