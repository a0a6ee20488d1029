// Requests between their cells in the host's memory, where they lie scattered, and a batch's buffers on the device, where
// they lie one after the other. A launch takes up to SLOTS requests and TENSORS tensors of each: blocks are
// (parts of a tensor) × (requests) × (tensors). native/cuda/copier.h fills in the task.
#include "device.h"

#define SLOTS 512
#define TENSORS 16

struct Tensor {
  unsigned long long device;  // the batch's buffer
  unsigned long long offset;  // in a cell
  unsigned long long bytes;   // of one request
};

struct Task {
  unsigned long long arena;  // as the device sees it
  unsigned from;             // where in the batch the first of these requests lies
  int cells[SLOTS];          // in units of 64 bytes; -1 for a request without tensors
  Tensor tensors[TENSORS];
};

typedef unsigned Vector __attribute__((vector_size(16)));

template <typename Unit>
DEVICE void copyUnits(char* to, const char* from, unsigned long long bytes) {
  const unsigned long long count = bytes / sizeof(Unit);
  for (unsigned long long i = blockX() * widthX() + threadX(); i < count; i += gridX() * widthX()) ((Unit*)to)[i] = ((const Unit*)from)[i];
}

// In the largest units that both sides and the length allow: a bus of small ones is slow.
DEVICE void copyBytes(char* to, const char* from, unsigned long long bytes) {
  const unsigned long long odd = (unsigned long long)to | (unsigned long long)from | bytes;
  if (odd % 16 == 0) copyUnits<Vector>(to, from, bytes);
  else if (odd % 4 == 0) copyUnits<unsigned>(to, from, bytes);
  else copyUnits<char>(to, from, bytes);
}

KERNEL void gather(BY_VALUE(Task) task) {
  const int cell = task.cells[blockY()];
  if (cell < 0) return;
  const Tensor& tensor = task.tensors[blockZ()];
  copyBytes((char*)tensor.device + (task.from + blockY()) * tensor.bytes, (const char*)task.arena + cell * 64ull + tensor.offset, tensor.bytes);
}

KERNEL void scatter(BY_VALUE(Task) task) {
  const int cell = task.cells[blockY()];
  if (cell < 0) return;
  const Tensor& tensor = task.tensors[blockZ()];
  copyBytes((char*)task.arena + cell * 64ull + tensor.offset, (const char*)tensor.device + (task.from + blockY()) * tensor.bytes, tensor.bytes);
}
