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

// Place of the highest bit that is set; there is one.
__device__ __forceinline__ int highest_bit(unsigned bits) {
  return 31 - __clz(static_cast<int>(bits));
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

// The sum of `value` over the threads before this one, and over all of the block. `sums` [32] is shared. In one thread
// after another's place, so of integers alone.
__device__ inline int64_t sum_before(int64_t value, int64_t* sums, int64_t* total) {
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarp;
  const int n_warps = static_cast<int>(blockDim.x) / kWarp;
  int64_t up_to = value;
  for (int by = 1; by < kWarp; by *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, up_to, by);
    if (lane >= by) up_to += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) sums[warp] = up_to;
  __syncthreads();
  int64_t before = 0;
  *total = 0;
  for (int w = 0; w < n_warps; ++w) {
    if (w < warp) before += sums[w];
    *total += sums[w];
  }
  return before + up_to - value;
}

// A seed or an epoch: given to the launch, or read from the device as the kernel runs (so that a CUDA graph can be
// replayed with another).
struct ScalarArgument {
  const int64_t* at;  // or null
  int64_t value;

  __device__ __forceinline__ int64_t get() const { return at == nullptr ? value : *at; }
};

}  // namespace corrmask
