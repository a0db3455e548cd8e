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

CORRMASK_HOST_DEVICE int64_t corrupted_token(const CellDraws& draws, int32_t token, int32_t owner,
                                             const CorruptionParameters& parameters) {
  const Words of_token = draws.at(static_cast<uint32_t>(token), kStreamCorruption);
  const uint32_t decision = parameters.unit_is_group && owner != token
                                ? draws.at(static_cast<uint32_t>(owner), kStreamCorruption).w0
                                : of_token.w0;
  if (happens(decision, parameters.mask_threshold)) return parameters.mask_token_id;
  if (happens(decision, parameters.mask_threshold + parameters.random_threshold)) {
    return parameters.gene_lo + bounded(of_token.w1, parameters.gene_hi - parameters.gene_lo);
  }
  return token;
}

}  // namespace corrmask
