// What lets one header serve g++ and nvcc.
#pragma once

#if defined(__CUDACC__)
#define CORRMASK_HOST_DEVICE __host__ __device__ inline
#define CORRMASK_PREFETCH(address)
#else
// Always inlined, so that it is compiled for the instruction set of the function that calls it.
#define CORRMASK_HOST_DEVICE __attribute__((always_inline)) inline
#define CORRMASK_PREFETCH(address) __builtin_prefetch(address)
#endif
