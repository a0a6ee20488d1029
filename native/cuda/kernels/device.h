// What the kernels need of CUDA, so that a plain clang compiles them without the toolkit (scripts/kernels.mjs).
#pragma once

#define KERNEL extern "C" __attribute__((global))
#define DEVICE static inline __attribute__((device))
#define SHARED __attribute__((shared))

DEVICE unsigned threadX() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE unsigned threadY() { return __nvvm_read_ptx_sreg_tid_y(); }
DEVICE unsigned blockX() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE unsigned blockY() { return __nvvm_read_ptx_sreg_ctaid_y(); }
DEVICE unsigned widthX() { return __nvvm_read_ptx_sreg_ntid_x(); }
DEVICE void barrier() { __syncthreads(); }
