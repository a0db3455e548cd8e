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

// `decision` is w0 of the token's draw, or of its owner's where the group decides; `choice` is w1 of the token's.
CORRMASK_HOST_DEVICE int64_t corrupted_token(int64_t token, uint32_t decision, uint32_t choice,
                                             const CorruptionParameters& parameters) {
  if (happens(decision, parameters.mask_threshold)) return parameters.mask_token_id;
  if (happens(decision, parameters.mask_threshold + parameters.random_threshold)) {
    return parameters.gene_lo + bounded(choice, parameters.gene_hi - parameters.gene_lo);
  }
  return token;
}

// Corrupts the masked positions of one cell and writes their labels.
template <class Machine, class Token>
CORRMASK_HOST_DEVICE void corrupt_cell(const Token* tokens,    // [length]
                                       const int32_t* owner,   // [length]
                                       const int32_t* masked,  // [n_masked] positions
                                       int64_t n_masked, const CellDraws& draws, const CorruptionParameters& parameters,
                                       Token* corrupted,  // [length]
                                       int64_t* labels    // [length]
) {
  WordBatch of_token, of_owner;
  for (int64_t first = 0; first < n_masked; first += kDrawBatch) {
    const int n = n_masked - first < kDrawBatch ? static_cast<int>(n_masked - first) : kDrawBatch;
    for (int lane = 0; lane < kDrawBatch; ++lane) {
      const int32_t position = masked[first + (lane < n ? lane : 0)];
      of_token.w2[lane] = static_cast<uint32_t>(tokens[position]);
      of_owner.w2[lane] = static_cast<uint32_t>(owner[position]);
    }
    Machine::at_each(draws, kStreamCorruption, of_token);
    if (parameters.unit_is_group) Machine::at_each(draws, kStreamCorruption, of_owner);
    for (int lane = 0; lane < n; ++lane) {
      const int32_t position = masked[first + lane];
      const int64_t token = static_cast<int64_t>(tokens[position]);
      const uint32_t decision = parameters.unit_is_group ? of_owner.w0[lane] : of_token.w0[lane];
      corrupted[position] = static_cast<Token>(corrupted_token(token, decision, of_token.w1[lane], parameters));
      labels[position] = token;
    }
  }
}

}  // namespace corrmask
