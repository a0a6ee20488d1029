// What the kernels need of CUDA, so that a plain clang compiles them without the toolkit (scripts/kernels.mjs).
#pragma once

#if defined(__CUDA__)

#define KERNEL extern "C" __attribute__((global))
#define DEVICE static inline __attribute__((device))
#define SHARED __attribute__((shared))
#define BY_VALUE(type) const type

DEVICE unsigned threadX() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE unsigned threadY() { return __nvvm_read_ptx_sreg_tid_y(); }
DEVICE unsigned blockX() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE unsigned blockY() { return __nvvm_read_ptx_sreg_ctaid_y(); }
DEVICE unsigned blockZ() { return __nvvm_read_ptx_sreg_ctaid_z(); }
DEVICE unsigned widthX() { return __nvvm_read_ptx_sreg_ntid_x(); }
DEVICE unsigned gridX() { return __nvvm_read_ptx_sreg_nctaid_x(); }
DEVICE void barrier() { __syncthreads(); }

#else  // the fake driver runs a kernel's source on the host, one thread after the other

#define KERNEL static
#define DEVICE static inline
#define BY_VALUE(type) const type&

static thread_local struct {
  unsigned threadX, blockX, blockY, blockZ, widthX, gridX;
} here;

DEVICE unsigned threadX() { return here.threadX; }
DEVICE unsigned blockX() { return here.blockX; }
DEVICE unsigned blockY() { return here.blockY; }
DEVICE unsigned blockZ() { return here.blockZ; }
DEVICE unsigned widthX() { return here.widthX; }
DEVICE unsigned gridX() { return here.gridX; }

#endif
