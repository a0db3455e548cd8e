// Which positions of one cell are masked, and by whom: groups of correlated genes, within an exact budget.
//
// A seed position is drawn; with probability `expand` its token brings the members of its group that are in the cell,
// in the group's order, until the budget is met. Everything is a function of (seed, epoch, cell id, tokens, groups,
// parameters).
#pragma once

#include <cstdint>

#include "bounded.h"
#include "host_device.h"
#include "philox.h"

namespace corrmask {

constexpr int32_t kNoGroup = -1;
constexpr int32_t kSpecialToken = -2;  // never masked
constexpr int32_t kVisible = -1;       // owner of a position that stays visible

struct GroupTable {
  const int32_t* token_group;   // [vocabulary]
  const int64_t* group_indptr;  // [n_groups + 1]
  const int32_t* group_tokens;  // [n_members]
  const int64_t* accept;        // [vocabulary] thresholds, or null
  const int64_t* take;          // [vocabulary] thresholds, or null
  int64_t vocabulary, n_groups, n_members;
};

struct SamplingParameters {
  uint64_t seed;
  uint32_t epoch;
  int64_t rate_ppm;   // 1 .. 10**6
  int64_t expand;     // threshold
  int64_t max_group;  // most members a seed may bring
  bool rotate;
};

// What a cell needs beside its tokens. `present` is all zero between cells; a set bit means: this token is in the cell,
// eligible, and its (lowest) position is not masked yet; only then does `first_position` hold anything.
struct CellScratch {
  uint64_t* present;        // [(vocabulary + 63) / 64]
  int32_t* first_position;  // [vocabulary]
  int32_t* eligible;        // [at least the cell's length]
};

enum SamplingFault : int { kSound = 0, kTokenOutOfRange = 1, kGroupOutOfRange = 2 };

// max(1, rate * n) rounded half up, and never more than n.
CORRMASK_HOST_DEVICE int64_t masking_budget(int64_t n_eligible, int64_t rate_ppm) {
  const int64_t rounded = (n_eligible * rate_ppm + 500000) / 1000000;
  const int64_t at_least_one = rounded > 1 ? rounded : 1;
  return at_least_one < n_eligible ? at_least_one : n_eligible;
}

CORRMASK_HOST_DEVICE bool is_present(const CellScratch& scratch, int64_t token) {
  return (scratch.present[token >> 6] >> (token & 63)) & 1u;
}

CORRMASK_HOST_DEVICE void set_present(const CellScratch& scratch, int64_t token) {
  scratch.present[token >> 6] |= uint64_t{1} << (token & 63);
}

CORRMASK_HOST_DEVICE void clear_present(const CellScratch& scratch, int64_t token) {
  scratch.present[token >> 6] &= ~(uint64_t{1} << (token & 63));
}

// Fills owner[0 .. length-1], which arrives as kVisible everywhere. A token outside the vocabulary is ineligible and
// reported; so is a group or member outside the table.
template <class Token>
CORRMASK_HOST_DEVICE int sample_groups_in_cell(const Token* tokens,  // [length]
                                               int64_t length, uint64_t cell, const GroupTable& table,
                                               const SamplingParameters& parameters, const CellScratch& scratch,
                                               int32_t* owner  // [length]
) {
  int fault = kSound;
  int64_t n_eligible = 0;
  for (int64_t position = 0; position < length; ++position) {
    const int64_t token = static_cast<int64_t>(tokens[position]);
    if (token < 0 || token >= table.vocabulary) {
      fault |= kTokenOutOfRange;
      continue;
    }
    if (table.token_group[token] == kSpecialToken) continue;
    scratch.eligible[n_eligible++] = static_cast<int32_t>(position);
    if (!is_present(scratch, token)) {
      set_present(scratch, token);
      scratch.first_position[token] = static_cast<int32_t>(position);
    }
  }

  if (n_eligible > 0) {
    const CellDraws draws(parameters.seed, cell, parameters.epoch);
    int64_t left = masking_budget(n_eligible, parameters.rate_ppm);
    const int64_t n_draws = 32 * n_eligible + 64;
    for (int64_t t = 0; t < n_draws && left > 0; ++t) {
      const Words w = draws.at(static_cast<uint32_t>(t), kStreamGroupSeeds);
      const int32_t position = scratch.eligible[bounded(w.w0, n_eligible)];
      if (owner[position] != kVisible) continue;
      const int32_t seed_token = static_cast<int32_t>(tokens[position]);
      if (table.accept != nullptr && !happens(w.w1, table.accept[seed_token])) continue;
      owner[position] = seed_token;
      if (scratch.first_position[seed_token] == position) clear_present(scratch, seed_token);
      if (--left == 0) break;
      const int32_t group = table.token_group[seed_token];
      if (group < 0 || !happens(w.w2, parameters.expand)) continue;
      if (group >= table.n_groups) {
        fault |= kGroupOutOfRange;
        continue;
      }
      const int64_t first = table.group_indptr[group];
      const int64_t size = table.group_indptr[group + 1] - first;
      if (first < 0 || size < 0 || first + size > table.n_members) {
        fault |= kGroupOutOfRange;
        continue;
      }
      const int64_t start = parameters.rotate ? bounded(w.w3, size) : 0;
      int64_t taken = 0;
      for (int64_t r = 0; r < size && taken < parameters.max_group; ++r) {
        const int64_t member = start + r < size ? start + r : start + r - size;
        const int32_t partner = table.group_tokens[first + member];
        if (partner < 0 || partner >= table.vocabulary) {
          fault |= kGroupOutOfRange;
          continue;
        }
        if (!is_present(scratch, partner)) continue;
        if (table.take != nullptr &&
            !happens(draws.at(static_cast<uint32_t>(partner), kStreamPartners).w0, table.take[partner])) {
          continue;
        }
        owner[scratch.first_position[partner]] = seed_token;
        clear_present(scratch, partner);
        ++taken;
        if (--left == 0) break;
      }
    }
    for (int64_t e = 0; e < n_eligible && left > 0; ++e) {
      const int32_t position = scratch.eligible[e];
      if (owner[position] != kVisible) continue;
      owner[position] = static_cast<int32_t>(tokens[position]);
      --left;
    }
  }

  for (int64_t word = 0; word < (table.vocabulary + 63) / 64; ++word) scratch.present[word] = 0;
  return fault;
}

}  // namespace corrmask
