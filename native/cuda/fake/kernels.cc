// The kernels of native/cuda/kernels as C++ functions, found by name. Arguments and results as there.
#include <cstring>

#include "fake.h"

namespace fake {
namespace {

template <typename T>
T arg(void* const* args, size_t index) {
  T value;
  memcpy(&value, args[index], sizeof value);
  return value;
}

double noTime(void* const*, const Grid&) { return 0; }

// spin(x, y, batch, nsPerRequest, nsFixed)
double spinNs(void* const* args, const Grid&) {
  return static_cast<double>(arg<int>(args, 2)) * arg<int>(args, 3) + arg<int>(args, 4);
}
void spin(void* const* args, const Grid&) {
  const float* x = arg<const float*>(args, 0);
  float* y = arg<float*>(args, 1);
  for (int i = 0; i < arg<int>(args, 2); i += 1) y[i] = x[i];
}

// vecadd(a, b, y, count): as many threads as the grid has, as on a device.
void vecadd(void* const* args, const Grid& grid) {
  const float* a = arg<const float*>(args, 0);
  const float* b = arg<const float*>(args, 1);
  float* y = arg<float*>(args, 2);
  const unsigned count = static_cast<unsigned>(arg<int>(args, 3));
  const unsigned threads = grid.grid[0] * grid.block[0];
  for (unsigned i = 0; i < threads && i < count; i += 1) y[i] = a[i] + b[i];
}

// mlp_layer(x, w, bias, y, batch, inputs, outputs, relu): y = x·w + bias
void mlpLayer(void* const* args, const Grid& grid) {
  const float* x = arg<const float*>(args, 0);
  const float* w = arg<const float*>(args, 1);
  const float* bias = arg<const float*>(args, 2);
  float* y = arg<float*>(args, 3);
  const unsigned batch = static_cast<unsigned>(arg<int>(args, 4));
  const unsigned inputs = static_cast<unsigned>(arg<int>(args, 5));
  const unsigned outputs = static_cast<unsigned>(arg<int>(args, 6));
  const bool relu = arg<int>(args, 7) != 0;
  const unsigned rows = grid.grid[1] * grid.block[1];
  const unsigned columns = grid.grid[0] * grid.block[0];
  for (unsigned row = 0; row < rows && row < batch; row += 1) {
    for (unsigned column = 0; column < columns && column < outputs; column += 1) {
      float sum = bias[column];
      for (unsigned k = 0; k < inputs; k += 1) sum += x[row * inputs + k] * w[k * outputs + column];
      y[row * outputs + column] = relu && sum < 0 ? 0 : sum;
    }
  }
}

const Kernel kKernels[] = {
    {"spin", {8, 8, 4, 4, 4}, spinNs, spin},
    {"vecadd", {8, 8, 8, 4}, noTime, vecadd},
    {"mlp_layer", {8, 8, 8, 8, 4, 4, 4, 4}, noTime, mlpLayer},
};

}  // namespace

const Kernel* findKernel(const std::string& name) {
  for (const Kernel& kernel : kKernels) {
    if (name == kernel.name) return &kernel;
  }
  return nullptr;
}

}  // namespace fake
