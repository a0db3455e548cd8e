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

constexpr int32_t kSpecialToken = -2;  // never masked
constexpr int32_t kVisible = -1;       // owner of a position that stays visible

struct GroupTable {
  const int32_t* token_group;   // [vocabulary]
  const int64_t* group_indptr;  // [n_groups + 1]
  const int32_t* group_tokens;  // [n_members]
  const int64_t* accept;        // [vocabulary] thresholds, or null
  const int64_t* take;          // [vocabulary] thresholds, or null
  int64_t vocabulary, n_groups, n_members;
  int64_t gene_lo, gene_hi;  // a range of tokens without special ones: cells within it need no closer look
};

struct SamplingParameters {
  uint64_t seed;
  uint32_t epoch;
  int64_t rate_ppm;   // 1 .. 10**6
  int64_t expand;     // threshold
  int64_t max_group;  // most members a seed may bring
  bool rotate;
};

// What a cell needs beside its tokens; nothing has to be cleared between cells.
template <class Position>
struct CellScratch {
  Position* first_position;  // [vocabulary] any values: an entry counts only if the cell has the token there
  int32_t* eligible;         // [length]
  int32_t* masked;           // [length] masked positions, in the order in which they were masked
};

enum SamplingFault : int { kSound = 0, kTokenOutOfRange = 1, kGroupOutOfRange = 2 };

struct SampledCell {
  int64_t n_masked;
  int fault;
};

// max(1, rate * n) rounded half up, and never more than n.
CORRMASK_HOST_DEVICE int64_t masking_budget(int64_t n_eligible, int64_t rate_ppm) {
  const int64_t rounded = (n_eligible * rate_ppm + 500000) / 1000000;
  const int64_t at_least_one = rounded > 1 ? rounded : 1;
  return at_least_one < n_eligible ? at_least_one : n_eligible;
}

// Fills owner[0 .. length-1], which arrives as kVisible everywhere, and scratch.masked. A token outside the vocabulary
// is ineligible and reported; so is a group or member outside the table. Position is unsigned and
// holds every length; Draws is PlainDraws or one that gives the same.
template <class Draws, class Token, class Position>
CORRMASK_HOST_DEVICE SampledCell sample_groups_in_cell(const Token* tokens,  // [length]
                                                       int64_t length, const CellDraws& draws, const GroupTable& table,
                                                       const SamplingParameters& parameters,
                                                       const CellScratch<Position>& scratch,
                                                       int32_t* owner  // [length]
) {
  int fault = kSound;
  int64_t n_outside = 0;
  for (int64_t position = 0; position < length; ++position) {
    const int64_t token = static_cast<int64_t>(tokens[position]);
    n_outside += token < table.gene_lo || token >= table.gene_hi;
  }
  const bool all_eligible = n_outside == 0;
  int64_t n_eligible = length;
  if (!all_eligible) {
    n_eligible = 0;
    for (int64_t position = 0; position < length; ++position) {
      const int64_t token = static_cast<int64_t>(tokens[position]);
      if (token < 0 || token >= table.vocabulary) {
        fault |= kTokenOutOfRange;
      } else if (table.token_group[token] != kSpecialToken) {
        scratch.eligible[n_eligible++] = static_cast<int32_t>(position);
      }
    }
  }
  if (n_eligible == 0) return {0, fault};

  const bool expands = parameters.expand > 0 && table.n_members > 0 && parameters.max_group > 0;
  if (expands) {  // from the end, so that of a repeated token the lowest position stays
    for (int64_t e = n_eligible - 1; e >= 0; --e) {
      const int64_t position = all_eligible ? e : scratch.eligible[e];
      scratch.first_position[tokens[position]] = static_cast<Position>(position);
    }
  }

  const int64_t budget = masking_budget(n_eligible, parameters.rate_ppm);
  int64_t n_masked = 0;
  const int64_t n_draws = 32 * n_eligible + 64;
  WordBatch w;
  int32_t seeds[kDrawBatch];
  int64_t group_start[kDrawBatch], group_size[kDrawBatch];
  for (int64_t t = 0; t < n_draws && n_masked < budget; t += kDrawBatch) {
    for (int lane = 0; lane < kDrawBatch; ++lane) w.w2[lane] = static_cast<uint32_t>(t + lane);
    Draws::at_each(draws, kStreamGroupSeeds, w);
    // All lanes ahead of their turn, so that what they will read is on its way.
    for (int lane = 0; lane < kDrawBatch; ++lane) {
      const int64_t e = bounded(w.w0[lane], n_eligible);
      seeds[lane] = all_eligible ? static_cast<int32_t>(e) : scratch.eligible[e];
    }
    if (expands) {
      for (int lane = 0; lane < kDrawBatch; ++lane) {
        const int32_t group = table.token_group[tokens[seeds[lane]]];
        group_start[lane] = group_size[lane] = 0;
        if (group < 0) continue;
        if (group >= table.n_groups) {
          group_size[lane] = -1;
          continue;
        }
        group_start[lane] = table.group_indptr[group];
        group_size[lane] = table.group_indptr[group + 1] - group_start[lane];
        if (group_start[lane] < 0 || group_size[lane] < 0 || group_start[lane] + group_size[lane] > table.n_members) {
          group_size[lane] = -1;
          continue;
        }
        CORRMASK_PREFETCH(table.group_tokens + group_start[lane]);
      }
    }
    const int n_lanes = n_draws - t < kDrawBatch ? static_cast<int>(n_draws - t) : kDrawBatch;
    for (int lane = 0; lane < n_lanes; ++lane) {
      const int32_t position = seeds[lane];
      if (owner[position] != kVisible) continue;
      const int32_t seed_token = static_cast<int32_t>(tokens[position]);
      if (table.accept != nullptr && !happens(w.w1[lane], table.accept[seed_token])) continue;
      owner[position] = seed_token;
      scratch.masked[n_masked++] = position;
      if (n_masked == budget) break;
      if (!expands || group_size[lane] == 0 || !happens(w.w2[lane], parameters.expand)) continue;
      const int64_t size = group_size[lane];
      if (size < 0) {
        fault |= kGroupOutOfRange;
        continue;
      }
      const int32_t* members = table.group_tokens + group_start[lane];
      const int64_t start = parameters.rotate ? bounded(w.w3[lane], size) : 0;
      int64_t taken = 0;
      for (int64_t first = 0; first < size && n_masked < budget && taken < parameters.max_group; first += kDrawBatch) {
        // Who of the next members is in the cell and visible, without a branch on it: that is anyone's guess.
        int32_t found[kDrawBatch];
        int n_found = 0;
        const int64_t last = first + kDrawBatch < size ? first + kDrawBatch : size;
        for (int64_t r = first; r < last; ++r) {
          const int32_t partner = members[start + r < size ? start + r : start + r - size];
          if (static_cast<uint32_t>(partner) >= static_cast<uint64_t>(table.vocabulary)) {
            fault |= kGroupOutOfRange;
            continue;
          }
          int64_t place = scratch.first_position[partner];
          place = place < length ? place : 0;  // not this cell's entry then, unless the token does stand there
          found[n_found] = static_cast<int32_t>(place);
          n_found += (static_cast<int64_t>(tokens[place]) == partner) & (owner[place] == kVisible);
        }
        for (int f = 0; f < n_found; ++f) {
          const int32_t place = found[f];
          const int32_t partner = static_cast<int32_t>(tokens[place]);
          // A special token has no entry of its own in the table, and a member may be listed twice.
          if (table.token_group[partner] == kSpecialToken || owner[place] != kVisible) continue;
          if (table.take != nullptr &&
              !happens(draws.at(static_cast<uint32_t>(partner), kStreamPartners).w0, table.take[partner])) {
            continue;
          }
          owner[place] = seed_token;
          scratch.masked[n_masked++] = place;
          if (n_masked == budget || ++taken == parameters.max_group) break;
        }
      }
      if (n_masked == budget) break;
    }
  }
  for (int64_t e = 0; e < n_eligible && n_masked < budget; ++e) {
    const int32_t position = all_eligible ? static_cast<int32_t>(e) : scratch.eligible[e];
    if (owner[position] != kVisible) continue;
    owner[position] = static_cast<int32_t>(tokens[position]);
    scratch.masked[n_masked++] = position;
  }
  return {n_masked, fault};
}

}  // namespace corrmask
