// What a masked position shows: the mask token, a random gene or itself (80 / 10 / 10 as in BERT, Devlin et al. 2019),
// decided for each token or for the whole group at once.
#pragma once

#include <cstdint>

#include "bounded.h"
#include "host_device.h"
#include "philox.h"

namespace corrmask {

constexpr int64_t kIgnoredLabel = -100;

struct CorruptionParameters {
  int64_t mask_token_id;
  int64_t gene_lo, gene_hi;  // random genes come from [gene_lo, gene_hi)
  int64_t mask_threshold, random_threshold;
  bool unit_is_group;
};

// `decision` is w0 of the token's draw, or of its owner's where the group decides; `choice` is w1 of the token's. No
// branch: it would be guessed wrong for every fifth position.
CORRMASK_HOST_DEVICE uint32_t corrupted_token(uint32_t token, uint32_t decision, uint32_t choice,
                                              const CorruptionParameters& parameters) {
  const uint32_t n_genes = static_cast<uint32_t>(parameters.gene_hi - parameters.gene_lo);
  const uint32_t random =
      static_cast<uint32_t>(parameters.gene_lo) + static_cast<uint32_t>(static_cast<uint64_t>(choice) * n_genes >> 32);
  const bool is_random = happens(decision, parameters.mask_threshold + parameters.random_threshold);
  const uint32_t unmasked = is_random ? random : token;
  return happens(decision, parameters.mask_threshold) ? static_cast<uint32_t>(parameters.mask_token_id) : unmasked;
}

// What the masked positions of one cell show: `shown`, in the order of `masked`.
template <class Machine, class Token>
CORRMASK_HOST_DEVICE void corrupt_cell(const Token* tokens,    // [length]
                                       const int32_t* owner,   // [length]
                                       const int32_t* masked,  // [n_masked] positions
                                       int64_t n_masked, const CellDraws& draws, const CorruptionParameters& parameters,
                                       Token* shown  // [n_masked, rounded up to kDrawBatch]
) {
  for (int64_t i = 0; i < n_masked; ++i) shown[i] = tokens[masked[i]];
  WordBatch of_token, of_owner;
  for (int64_t first = 0; first < n_masked; first += kDrawBatch) {
    const int n = n_masked - first < kDrawBatch ? static_cast<int>(n_masked - first) : kDrawBatch;
    for (int lane = 0; lane < kDrawBatch; ++lane) of_token.w2[lane] = static_cast<uint32_t>(shown[first + lane]);
    Machine::at_each(draws, kStreamCorruption, of_token, n);
    if (parameters.unit_is_group) {
      for (int lane = 0; lane < n; ++lane) of_owner.w2[lane] = static_cast<uint32_t>(owner[masked[first + lane]]);
      Machine::at_each(draws, kStreamCorruption, of_owner, n);
    }
    const uint32_t* decision = parameters.unit_is_group ? of_owner.w0 : of_token.w0;
    for (int lane = 0; lane < kDrawBatch; ++lane) {
      shown[first + lane] = static_cast<Token>(
          corrupted_token(static_cast<uint32_t>(shown[first + lane]), decision[lane], of_token.w1[lane], parameters));
    }
  }
}

}  // namespace corrmask
