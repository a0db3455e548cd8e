// Products of float32 values by tensor cores, which take shorter numbers: a value, scaled by a power of two that its
// gene has, is cut into two float16 pieces that add up to its first 22 bits, and three products of pieces are summed,
// the fourth being below 2**-22 of the whole (Ootomo and Yokota, IJHPCA 2022).
//
// The largest value of a gene is scaled to 2**14 .. 2**15: pieces do not overflow, and where a small value loses bits
// it is by less than 2**-39 of the largest.
//
// Tensor cores cut sums where others round, so no sum grows there: each product of 16 cells starts from zero, its small
// pieces first, and is added to what stands in a register by an addition that rounds.
//
// Layout of the fragments: PTX ISA, mma.m16n8k16. A word holds two cells of one gene, that with the even number in the
// lower half. With g = lane / 4 and t = lane % 4, of 8 words of each gene, a lane gives
//   low[0 .. 3]  words t, t, t + 4, t + 4 of genes g, g + 8, g, g + 8
//   high[0, 1]   words t, t + 4 of gene g
// and receives sum[0 .. 3] of low genes g, g, g + 8, g + 8 and high genes 2 t, 2 t + 1, 2 t, 2 t + 1.
#pragma once

#include <cstdint>

#include "../portable/host_device.h"

#ifndef CORRMASK_EMULATED_CUDA
#include <cuda_fp16.h>
#endif

namespace corrmask {

#ifndef CORRMASK_EMULATED_CUDA
// 16 bytes into shared memory without a register in between. What a thread asks for between two calls of close_copies
// is a group; it is there for this thread once it waits until at most n_open groups behind it are under way.
__device__ __forceinline__ void copy_async(uint4* shared, const uint4* global) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global)
      : "memory");
}

__device__ __forceinline__ void close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int n_open>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n_open) : "memory");
}

// sum = low * high + before.
__device__ __forceinline__ void mma_f16(float (&sum)[4], const uint32_t (&low)[4], const uint32_t (&high)[2],
                                        const float (&before)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
      : "r"(low[0]), "r"(low[1]), "r"(low[2]), "r"(low[3]), "r"(high[0]), "r"(high[1]), "f"(before[0]), "f"(before[1]),
        "f"(before[2]), "f"(before[3]));
}

__device__ __forceinline__ uint32_t bits_of_half(float value) {
  return __half_as_ushort(__float2half_rn(value));
}

__device__ __forceinline__ float half_of_bits(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
#endif

// What brings the largest value of a gene, given by its bits, to 2**14 .. 2**15, and what undoes it: powers of two.
__device__ __forceinline__ float scale_of(uint32_t largest) {
  const uint32_t exponent = largest >> 23;
  return __uint_as_float((268 - (exponent < 15 ? 15 : exponent)) << 23);
}

__device__ __forceinline__ float unit_of(uint32_t largest) {
  const uint32_t exponent = largest >> 23;
  return __uint_as_float(((exponent < 15 ? 15 : exponent) - 14) << 23);
}

// The bits of a value rounded to float16; the value becomes what is left.
__device__ __forceinline__ uint32_t take_half(float& value) {
  const uint32_t bits = bits_of_half(value);
  value -= half_of_bits(bits);
  return bits;
}

// A word of two cells' pieces; the cells become what is left.
__device__ __forceinline__ uint32_t take_piece(float (&cells)[2]) {
  const uint32_t first = take_half(cells[0]);
  return first | take_half(cells[1]) << 16;
}

}  // namespace corrmask
