// Tensor cores on a CPU, for csrc/cuda/tensor_core.cuh: who holds what as the PTX ISA has it (mma.m16n8k16),
// the sum of a product cut to float32 towards zero, which is the most that hardware was seen to lose.
#pragma once

#include "cuda_on_cpu.h"

namespace emulation {

// What all lanes of a warp give: low [16, 8] and high [8, 8], in words.
struct Operands {
  uint32_t low[kLanes][4], high[kLanes][2];

  // Leaves what this lane gives, and waits for the others. Two are kept, since a lane may come to the next product
  // before another has read this one's.
  static const Operands& meet(const uint32_t (&own_low)[4], const uint32_t (&own_high)[2]) {
    static std::vector<Operands> all;
    const unsigned warp = thread() / kLanes, lane = thread() % kLanes;
    if (all.size() < 2 * block->warps.size()) all.resize(2 * block->warps.size());
    Operands& given = all[2 * warp + block->warps[warp].generation % 2];
    std::copy_n(own_low, 4, given.low[lane]);
    std::copy_n(own_high, 2, given.high[lane]);
    meet_warp(0xffffffffu, 0, "mma");
    return given;
  }

  // Word `at` (0 .. 7) of row `row` of low: of lane 4 (row % 8) + at % 4, register (row >= 8) + 2 (at >= 4).
  uint32_t low_word(int row, int at) const { return low[4 * (row % 8) + at % 4][row / 8 + 2 * (at / 4)]; }

  // Word `at` of column `column` of high: of lane 4 column + at % 4, register (at >= 4).
  uint32_t high_word(int column, int at) const { return high[4 * column + at % 4][at / 4]; }
};

inline float cut_to_float(double value) {
  const float nearest = static_cast<float>(value);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(value) ? std::nextafterf(nearest, 0.f) : nearest;
}

inline double half_number(uint32_t bits) {
  return static_cast<double>(from_bits<_Float16>(bits & 0xffffu));
}

}  // namespace emulation

inline uint32_t bits_of_half(float value) {
  return static_cast<uint32_t>(emulation::bits_of(static_cast<_Float16>(value)));
}
inline float half_of_bits(uint32_t bits) {
  return static_cast<float>(emulation::half_number(bits));
}

// sum[0 .. 3] of rows g, g, g + 8, g + 8 and columns 2 t, 2 t + 1, 2 t, 2 t + 1.
inline void mma_f16(float (&sum)[4], const uint32_t (&low)[4], const uint32_t (&high)[2], const float (&before)[4]) {
  using emulation::half_number;
  const emulation::Operands& operands = emulation::Operands::meet(low, high);
  const int lane = static_cast<int>(emulation::thread()) % emulation::kLanes;
  for (int k = 0; k < 4; ++k) {
    double total = static_cast<double>(before[k]);
    for (int at = 0; at < 8; ++at) {
      const uint32_t a = operands.low_word(lane / 4 + 8 * (k / 2), at);
      const uint32_t b = operands.high_word(2 * (lane % 4) + k % 2, at);
      total += half_number(a) * half_number(b) + half_number(a >> 16) * half_number(b >> 16);
    }
    sum[k] = emulation::cut_to_float(total);
  }
}
