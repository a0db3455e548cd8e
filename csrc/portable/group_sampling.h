// Which positions of one cell are masked, and by whom: groups of correlated genes, within an exact budget.
//
// A seed position is drawn; with probability `expand` its token brings the members of its group that are in the cell,
// in the group's order, until the budget is met. Everything is a function of (seed, epoch, cell id, tokens, groups,
// parameters).
#pragma once

#include <cstdint>
#include <type_traits>

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

// What a cell needs beside its tokens. Entry is unsigned: half its bits are the cell's tag, half a position, so that
// nothing has to be cleared between cells. Its half holds every length.
template <class Entry>
struct CellScratch {
  static constexpr int kPlaceBits = 4 * sizeof(Entry);

  Entry* place_of;    // [vocabulary] tag and position of each token; one with another tag is of another cell
  Entry tag;          // not the tag of any entry that is there
  int32_t* eligible;  // [length]
  int32_t* masked;    // [length] masked positions, in the order in which they were masked
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

// Whether all tokens are in [lo, hi), by the sign bits of token - lo and hi - 1 - token: loops that compare are not
// made vectors of.
template <class Token>
CORRMASK_HOST_DEVICE bool all_within(const Token* tokens, int64_t length, int64_t lo, int64_t hi) {
  using Wide = std::conditional_t<sizeof(Token) == 8, uint64_t, uint32_t>;
  constexpr Wide kSign = Wide{1} << (8 * sizeof(Wide) - 1);
  if (lo >= hi || hi > INT32_MAX) return false;
  const Wide first = static_cast<Wide>(lo), last = static_cast<Wide>(hi - 1);
  Wide signs = 0;
  for (int64_t position = 0; position < length; ++position) {
    const Wide token = static_cast<Wide>(tokens[position]);
    signs |= (token - first) | (last - token);
  }
  return (signs & kSign) == 0;
}

// The group of a seed as its members are looked for: in turn, from `start` on.
struct GroupWalk {
  const int32_t* members;  // [size]
  int64_t size, start;     // size -1: the group is outside the table
};

constexpr int kWalkBatch = 16;

// Bit r is set where member first + r of a walk is in the cell, at places[r]; without a branch on it, which would be
// anyone's guess. `outside` is set where a member is no token.
template <class Machine, class Entry>
CORRMASK_HOST_DEVICE uint32_t find_members(const GroupWalk& walk, int64_t first, const CellScratch<Entry>& scratch,
                                           int64_t vocabulary, int32_t* places, bool* outside) {
  if constexpr (Machine::template kFindsMembers<Entry>) {
    if (walk.start == 0 && walk.size - first >= kWalkBatch) {
      return Machine::find_members(walk.members + first, scratch.place_of, scratch.tag, vocabulary, places, outside);
    }
  }
  uint32_t found = 0;
  bool any_outside = false;
  for (int r = 0; r < kWalkBatch; ++r) {
    int64_t at = first + r < walk.size ? first + r : walk.size - 1;
    at += walk.start;
    const int32_t member = walk.members[at < walk.size ? at : at - walk.size];
    const bool is_token = static_cast<uint32_t>(member) < static_cast<uint64_t>(vocabulary);
    any_outside |= !is_token;
    const Entry entry = scratch.place_of[is_token ? member : 0];
    places[r] = static_cast<int32_t>(entry & ((Entry{1} << CellScratch<Entry>::kPlaceBits) - 1));
    found |= static_cast<uint32_t>((entry >> CellScratch<Entry>::kPlaceBits == scratch.tag) & is_token) << r;
  }
  *outside = any_outside;
  const int64_t left = walk.size - first;
  return left < kWalkBatch ? found & ((1u << left) - 1) : found;
}

// Fills owner[0 .. length-1], which arrives as kVisible everywhere, and scratch.masked. A token outside the vocabulary
// is ineligible and reported; so is a group or member outside the table. Machine is PlainMachine or one that gives the
// same.
template <class Machine, class Token, class Entry>
CORRMASK_HOST_DEVICE SampledCell sample_groups_in_cell(const Token* tokens,  // [length]
                                                       int64_t length, const CellDraws& draws, const GroupTable& table,
                                                       const SamplingParameters& parameters,
                                                       const CellScratch<Entry>& scratch,
                                                       int32_t* owner  // [length]
) {
  int fault = kSound;
  const bool all_eligible = all_within(tokens, length, table.gene_lo, table.gene_hi);
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
      scratch.place_of[tokens[position]] =
          static_cast<Entry>(scratch.tag << CellScratch<Entry>::kPlaceBits | static_cast<Entry>(position));
    }
  }

  const int64_t budget = masking_budget(n_eligible, parameters.rate_ppm);
  int64_t n_masked = 0;
  const int64_t n_draws = 32 * n_eligible + 64;
  WordBatch w;
  int32_t seeds[kDrawBatch], places[kDrawBatch][kWalkBatch];
  GroupWalk walks[kDrawBatch];
  uint32_t found[kDrawBatch];
  for (int64_t t = 0; t < n_draws && n_masked < budget; t += kDrawBatch) {
    for (int lane = 0; lane < kDrawBatch; ++lane) w.w2[lane] = static_cast<uint32_t>(t + lane);
    Machine::at_each(draws, kStreamGroupSeeds, w);
    // All lanes ahead of their turn: what they will read is on its way, and where members stand does not depend on what
    // is masked by then.
    for (int lane = 0; lane < kDrawBatch; ++lane) {
      const int64_t e = bounded(w.w0[lane], n_eligible);
      seeds[lane] = all_eligible ? static_cast<int32_t>(e) : scratch.eligible[e];
    }
    if (expands) {
      for (int lane = 0; lane < kDrawBatch; ++lane) {
        const int32_t group = table.token_group[tokens[seeds[lane]]];
        walks[lane] = {nullptr, 0, 0};
        if (group < 0) continue;
        walks[lane].size = -1;
        if (group >= table.n_groups) continue;
        const int64_t first = table.group_indptr[group], size = table.group_indptr[group + 1] - first;
        if (first < 0 || size < 0 || first + size > table.n_members) continue;
        walks[lane] = {table.group_tokens + first, size, parameters.rotate && size > 0 ? bounded(w.w3[lane], size) : 0};
        CORRMASK_PREFETCH(walks[lane].members);
      }
      bool outside = false;
      for (int lane = 0; lane < kDrawBatch; ++lane) {
        if (walks[lane].size <= 0) continue;
        found[lane] = find_members<Machine>(walks[lane], 0, scratch, table.vocabulary, places[lane], &outside);
        if (outside) fault |= kGroupOutOfRange;
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
      if (!expands || walks[lane].size == 0 || !happens(w.w2[lane], parameters.expand)) continue;
      if (walks[lane].size < 0) {
        fault |= kGroupOutOfRange;
        continue;
      }
      int64_t taken = 0;
      bool outside = false;
      for (int64_t first = 0;;) {
        for (uint32_t left = found[lane]; left != 0 && n_masked < budget && taken < parameters.max_group;
             left &= left - 1) {
          const int32_t place = places[lane][lowest_bit(left)];
          const int32_t partner = static_cast<int32_t>(tokens[place]);
          if (owner[place] != kVisible) continue;
          if (table.take != nullptr &&
              !happens(draws.at(static_cast<uint32_t>(partner), kStreamPartners).w0, table.take[partner])) {
            continue;
          }
          owner[place] = seed_token;
          scratch.masked[n_masked++] = place;
          ++taken;
        }
        first += kWalkBatch;
        if (first >= walks[lane].size || n_masked == budget || taken == parameters.max_group) break;
        found[lane] = find_members<Machine>(walks[lane], first, scratch, table.vocabulary, places[lane], &outside);
        if (outside) fault |= kGroupOutOfRange;
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
