// Products of float32 values by tensor cores, which take shorter numbers: a value is cut into pieces that add up to it,
// and the products of pieces that matter are summed (Ootomo and Yokota, IJHPCA 2022). Pieces i and j of both sides
// matter where i + j < kPieces: what is left out is below 2**-22 of the product.
//
//   Bf16x3   three pieces of 8 bits: all 24 bits of the value, six products
//   Tf32x2   two of 11 bits: 22 bits, three products, each in two steps of half as many cells
//
// Tensor cores cut sums where others round, so no sum grows there: each product of 16 (8) cells starts from zero, its
// small pieces first, and is added to what stands in a register by an addition that rounds.
//
// Layout of the fragments: PTX ISA, mma.m16n8k16 and mma.m16n8k8. A word holds the cells of one gene that stand side by
// side in a fragment. With g = lane / 4 and t = lane % 4, of 8 rows of words by gene, a lane gives
//   low[0 .. 3]  rows t, t, t + 4, t + 4 of genes g, g + 8, g, g + 8
//   high[0, 1]   rows t, t + 4 of gene g
// and receives sum[0 .. 3] of low genes g, g, g + 8, g + 8 and high genes 2 t, 2 t + 1, 2 t, 2 t + 1.
#pragma once

#include <cstdint>

#include "../portable/host_device.h"

namespace corrmask {

#ifndef CORRMASK_EMULATED_CUDA
// 16 bytes into shared memory, or zeros, without a register in between; there for this thread once it has waited.
__device__ __forceinline__ void copy_async(float4* shared, const float4* global, bool is_there) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global), "r"(is_there ? 16 : 0)
      : "memory");
}

__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ void mma_bf16(float (&sum)[4], const uint32_t (&low)[4], const uint32_t (&high)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(low[0]), "r"(low[1]), "r"(low[2]), "r"(low[3]), "r"(high[0]), "r"(high[1]));
}

__device__ __forceinline__ void mma_tf32(float (&sum)[4], const uint32_t (&low)[4], const uint32_t (&high)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(low[0]), "r"(low[1]), "r"(low[2]), "r"(low[3]), "r"(high[0]), "r"(high[1]));
}
#endif

// The bits of a value rounded to a number that lacks the last `n_dropped` of them; the value becomes what is left.
template <int n_dropped>
__device__ __forceinline__ uint32_t take_piece(float& value) {
  const uint32_t bits = (__float_as_uint(value) + (1u << (n_dropped - 1))) & ~((1u << n_dropped) - 1);
  value -= __uint_as_float(bits);
  return bits;
}

struct Bf16x3 {
  static constexpr int kPieces = 3, kCellsPerWord = 2;

  static __device__ __forceinline__ uint32_t take(float (&cells)[kCellsPerWord]) {
    const uint32_t first = take_piece<16>(cells[0]) >> 16;
    return first | take_piece<16>(cells[1]);
  }

  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&low)[4],
                                                  const uint32_t (&high)[2]) {
    mma_bf16(sum, low, high);
  }
};

struct Tf32x2 {
  static constexpr int kPieces = 2, kCellsPerWord = 1;

  static __device__ __forceinline__ uint32_t take(float (&cells)[kCellsPerWord]) { return take_piece<13>(cells[0]); }

  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&low)[4],
                                                  const uint32_t (&high)[2]) {
    mma_tf32(sum, low, high);
  }
};

}  // namespace corrmask
