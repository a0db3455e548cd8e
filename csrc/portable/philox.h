// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
// 1, 2, 3" (SC'11), as a pure function: no state anywhere, so that a mask can be replayed on any device.
//
// Worked value (Random123's known answers): key {0, 0}, counter {0, 0, 0, 0}
//   -> {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}
#pragma once

#include <cstdint>

#include "host_device.h"

namespace corrmask {

struct PhiloxKey {
  uint32_t k0, k1;
};

struct Words {
  uint32_t w0, w1, w2, w3;
};

// What a draw is for; each stream has its own sequence in every cell and epoch. Training takes 3 (the order of cells)
// and 4 (dropout), value collators 6 (which genes of a long cell stay); 7 to 15 are free.
enum Stream : uint32_t { kStreamGroupSeeds = 0, kStreamCorruption = 1, kStreamPartners = 2, kStreamBinning = 5 };

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

CORRMASK_HOST_DEVICE Words philox4x32(PhiloxKey key, Words counter) {
  uint32_t c0 = counter.w0, c1 = counter.w1, c2 = counter.w2, c3 = counter.w3;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0;
    const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key.k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key.k1;
    c3 = static_cast<uint32_t>(product0);
    key.k0 += kPhiloxWeyl0;
    key.k1 += kPhiloxWeyl1;
  }
  return {c0, c1, c2, c3};
}

constexpr int kDrawBatch = 32, kDrawStep = 16;

// Words of several counters side by side.
struct WordBatch {
  uint32_t w0[kDrawBatch], w1[kDrawBatch], w2[kDrawBatch], w3[kDrawBatch];
};

// The draws of one cell in one epoch.
struct CellDraws {
  PhiloxKey key;
  uint32_t cell_lo, cell_hi, epoch;

  CORRMASK_HOST_DEVICE CellDraws(uint64_t seed, uint64_t cell, uint32_t epoch_)
      : key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        cell_lo(static_cast<uint32_t>(cell)),
        cell_hi(static_cast<uint32_t>(cell >> 32)),
        epoch(epoch_) {}

  CORRMASK_HOST_DEVICE Words at(uint32_t index, Stream stream) const {
    return philox4x32(key, {cell_lo, cell_hi, index, (epoch << 4) | stream});
  }
};

// The draws at several indices, one after another; cpu/ has machines that are faster, with the same bits.
struct PlainMachine {
  static constexpr bool kFindsMembers = false;

  // Words of the first n lanes (or more of them); `words.w2` holds their indices when it arrives.
  CORRMASK_HOST_DEVICE static void at_each(const CellDraws& draws, Stream stream, WordBatch& words,
                                           int n = kDrawBatch) {
    for (int lane = 0; lane < n; ++lane) {
      const Words w = draws.at(words.w2[lane], stream);
      words.w0[lane] = w.w0;
      words.w1[lane] = w.w1;
      words.w2[lane] = w.w2;
      words.w3[lane] = w.w3;
    }
  }
};

}  // namespace corrmask
