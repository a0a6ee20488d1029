// The kernels of native/cuda/kernels as C++ functions, found by name. Arguments and results as there; those that copy are
// run from their source.
#include <cstring>

#include "../kernels/gather.cu"
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
Status spin(void* const* args, const Grid&) {
  const float* x = arg<const float*>(args, 0);
  float* y = arg<float*>(args, 1);
  for (int i = 0; i < arg<int>(args, 2); i += 1) y[i] = x[i];
  return 0;
}

// vecadd(a, b, y, count): as many threads as the grid has, as on a device.
Status vecadd(void* const* args, const Grid& grid) {
  const float* a = arg<const float*>(args, 0);
  const float* b = arg<const float*>(args, 1);
  float* y = arg<float*>(args, 2);
  const unsigned count = static_cast<unsigned>(arg<int>(args, 3));
  const unsigned threads = grid.grid[0] * grid.block[0];
  for (unsigned i = 0; i < threads && i < count; i += 1) y[i] = a[i] + b[i];
  return 0;
}

// mlp_layer(x, w, bias, y, batch, inputs, outputs, relu): y = x·w + bias
Status mlpLayer(void* const* args, const Grid& grid) {
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
  return 0;
}

double copyNs(void* const* args, const Grid& grid) {
  const Task& task = *static_cast<const Task*>(args[0]);
  double bytes = 0;
  for (unsigned t = 0; t < grid.grid[2]; t += 1) bytes += static_cast<double>(task.tensors[t].bytes * grid.grid[1]);
  return bytes * settings().copyNsPerByte;
}

// gather(task), scatter(task), from their source. A cell that the device cannot reach is an illegal address.
template <void (*kernel)(const Task&)>
Status copyCells(void* const* args, const Grid& grid) {
  Task task = *static_cast<const Task*>(args[0]);
  const uint64_t arena = task.arena;
  here.gridX = grid.grid[0];
  here.widthX = grid.block[0];
  for (here.blockZ = 0; here.blockZ < grid.grid[2]; here.blockZ += 1) {
    const Tensor& tensor = task.tensors[here.blockZ];
    for (here.blockY = 0; here.blockY < grid.grid[1]; here.blockY += 1) {
      const int cell = task.cells[here.blockY];
      if (cell >= 0) {
        const uint64_t offset = uint64_t{64} * static_cast<unsigned>(cell) + tensor.offset;
        const char* host = fromMapped(arena + offset, tensor.bytes);
        if (host == nullptr) return kIllegalAddress;
        task.arena = reinterpret_cast<uint64_t>(host) - offset;
      }
      for (here.blockX = 0; here.blockX < here.gridX; here.blockX += 1) {
        // Those that are beyond the bytes have nothing to do in any unit.
        for (here.threadX = 0; here.threadX < here.widthX && uint64_t{here.blockX} * here.widthX + here.threadX < tensor.bytes; here.threadX += 1) kernel(task);
      }
    }
  }
  return 0;
}

const Kernel kKernels[] = {
    {"spin", {8, 8, 4, 4, 4}, spinNs, spin},
    {"vecadd", {8, 8, 8, 4}, noTime, vecadd},
    {"gather", {sizeof(Task)}, copyNs, copyCells<gather>},
    {"scatter", {sizeof(Task)}, copyNs, copyCells<scatter>},
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
