// What lets one header serve g++ and nvcc.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CORRMASK_HOST_DEVICE __host__ __device__ inline
#define CORRMASK_PREFETCH(address)
#define CORRMASK_UNROLL
#else
// Always inlined, so that it is compiled for the instruction set of the function that calls it.
#define CORRMASK_HOST_DEVICE __attribute__((always_inline)) inline
#define CORRMASK_PREFETCH(address) __builtin_prefetch(address)
#define CORRMASK_UNROLL _Pragma("GCC unroll 8")
#endif

namespace corrmask {

// Place of the lowest bit that is set; there is one.
CORRMASK_HOST_DEVICE int lowest_bit(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

}  // namespace corrmask
