// Words that the kernels share. Kernels stand in .cuh files without torch, so that tests/emulation can run them on a
// CPU.
#pragma once

#include <cstdint>

#include "../portable/host_device.h"

#ifndef CORRMASK_DYNAMIC_SHARED
#define CORRMASK_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace corrmask {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

// The lanes below this one whose bit is set.
__device__ __forceinline__ int rank_among(unsigned votes, int lane) {
  return __popc(votes & ((1u << lane) - 1));
}

// Place of set bit k, counted from the lowest; there are more than k.
__device__ __forceinline__ int nth_bit(unsigned bits, int k) {
  int place = 0;
  for (int width = 16; width > 0; width /= 2) {
    const int below = __popc(bits & ((1u << width) - 1));
    if (k >= below) {
      k -= below;
      bits >>= width;
      place += width;
    }
  }
  return place;
}

// A seed or an epoch: given to the launch, or read from the device as the kernel runs (so that a CUDA graph can be
// replayed with another).
struct ScalarArgument {
  const int64_t* at;  // or null
  int64_t value;

  __device__ __forceinline__ int64_t get() const { return at == nullptr ? value : *at; }
};

}  // namespace corrmask
