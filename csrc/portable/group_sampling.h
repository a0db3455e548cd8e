// Which positions of one cell are masked, and by whom: groups of correlated genes, within an exact budget.
//
// A seed position is drawn; with probability `expand` its token brings the members of its group that are in the cell,
// in the group's order, until the budget is met. Everything is a function of (seed, epoch, cell id, tokens, groups,
// parameters).
#pragma once

#include <cstdint>
#include <type_traits>

#include "bounded.h"
#include "group_members.h"
#include "host_device.h"
#include "philox.h"

namespace corrmask {

constexpr int32_t kVisible = -1;  // owner of a position that stays visible

struct SamplingParameters {
  uint64_t seed;
  uint32_t epoch;
  int64_t rate_ppm;   // 1 .. 10**6
  int64_t expand;     // threshold
  int64_t max_group;  // most members a seed may bring
  bool rotate;
};

// What a cell needs beside its tokens.
template <class Entry>
struct CellScratch {
  TokenPlaces<Entry> places;
  int32_t* eligible;  // [length]
  int32_t* masked;    // [length] masked positions, in the order in which they were masked
};

struct SampledCell {
  int64_t n_masked;
  int fault;
};

CORRMASK_HOST_DEVICE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

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

// The eligible positions of a cell, in order.
struct EligiblePositions {
  const int32_t* listed;  // [n], or null where they follow one another
  int64_t first, n;

  CORRMASK_HOST_DEVICE int32_t at(int64_t e) const {
    return listed == nullptr ? static_cast<int32_t>(first + e) : listed[e];
  }
};

// Most cells hold genes alone, perhaps between special tokens: nothing needs to be listed for them.
template <class Token>
CORRMASK_HOST_DEVICE EligiblePositions find_eligible(const Token* tokens,  // [length]
                                                     int64_t length, const GroupTable& table,
                                                     int32_t* listed,  // [length]
                                                     int* fault) {
  const auto is_token = [&](int64_t position) {
    const int64_t token = static_cast<int64_t>(tokens[position]);
    return token >= 0 && token < table.vocabulary;
  };
  const auto is_special = [&](int64_t position) { return table.token_group[tokens[position]] == kSpecialToken; };
  int64_t begin = 0, end = length;
  while (begin < end && is_token(begin) && is_special(begin)) ++begin;
  while (begin < end && is_token(end - 1) && is_special(end - 1)) --end;
  if (all_within(tokens + begin, end - begin, table.gene_lo, table.gene_hi)) return {nullptr, begin, end - begin};
  int64_t n = 0;
  for (int64_t position = begin; position < end; ++position) {
    if (!is_token(position)) {
      *fault |= kTokenOutOfRange;
    } else if (!is_special(position)) {
      listed[n++] = static_cast<int32_t>(position);
    }
  }
  return {listed, 0, n};
}

// Enters where each token stands, from the end, so that of a repeated token the lowest position stays.
template <class Token, class Entry>
CORRMASK_HOST_DEVICE void fill_places(const Token* tokens, const EligiblePositions& eligible,
                                      const TokenPlaces<Entry>& table) {
  if (eligible.listed == nullptr) {
    const Token* const first = tokens + eligible.first;
    Entry entry = table.entry(eligible.first + eligible.n);
    CORRMASK_UNROLL for (const Token* token = first + eligible.n; token != first;) table.entries[*--token] = --entry;
  } else {
    for (int64_t e = eligible.n - 1; e >= 0; --e) {
      table.entries[tokens[eligible.listed[e]]] = table.entry(eligible.listed[e]);
    }
  }
}

// Keeps those of n <= 16 places whose tokens come along, and returns how many they are.
template <class Machine, class Token>
CORRMASK_HOST_DEVICE int keep_taken(const Token* tokens, int32_t* places, int n, const CellDraws& draws,
                                    const int64_t* take) {
  WordBatch w;
  for (int lane = 0; lane < kDrawStep; ++lane) w.w2[lane] = lane < n ? static_cast<uint32_t>(tokens[places[lane]]) : 0;
  Machine::at_each(draws, kStreamPartners, w, n);
  int kept = 0;
  for (int lane = 0; lane < n; ++lane) {
    places[kept] = places[lane];
    kept += happens(w.w0[lane], take[tokens[places[lane]]]) ? 1 : 0;
  }
  return kept;
}

// Masks those of n places that are visible yet, in turn, up to `most`, and returns how many they are. Whether one is
// masked already is anyone's guess as well, so there is no branch on it.
CORRMASK_HOST_DEVICE int64_t mask_places(const int32_t* places, int n, int64_t most, int32_t seed, int32_t* masked,
                                         int32_t* owner) {
  static_assert(kVisible == -1);
  int64_t n_masked = 0;
  const auto mask_if_visible = [&](int32_t place) {
    const int32_t before = owner[place], is_visible = before >> 31;  // all bits or none
    owner[place] = before ^ ((before ^ seed) & is_visible);
    masked[n_masked] = place;
    n_masked -= is_visible;
  };
  if (n <= most) {
    for (int i = 0; i < n; ++i) mask_if_visible(places[i]);
  } else {
    for (int i = 0; i < n && n_masked < most; ++i) mask_if_visible(places[i]);
  }
  return n_masked;
}

constexpr int kMostSeedsAhead = 2 * kDrawBatch;

// Seeds ahead of their turn, in order, and the groups that they would bring.
struct SeedsAhead {
  int n = 0;
  int32_t position[kMostSeedsAhead], group[kMostSeedsAhead];
  GroupWalk walk[kMostSeedsAhead];

  // Draws number t to t + n_draws - 1; what the seeds will read is on its way then.
  template <class Machine, class Token>
  CORRMASK_HOST_DEVICE void draw(int64_t t, int n_draws, const Token* tokens, const EligiblePositions& eligible,
                                 const CellDraws& draws, const GroupTable& table, const SamplingParameters& parameters,
                                 bool expands, int* fault) {
    WordBatch w;
    for (int lane = 0; lane < kDrawBatch; ++lane) w.w2[lane] = static_cast<uint32_t>(t + lane);
    Machine::at_each(draws, kStreamGroupSeeds, w, n_draws);
    const int n_before = n;
    for (int lane = 0; lane < n_draws; ++lane) {
      const int32_t drawn = eligible.at(bounded(w.w0[lane], eligible.n));
      position[n] = drawn;
      if (expands) {
        group[n] = happens(w.w2[lane], parameters.expand) ? table.token_group[tokens[drawn]] : kNoGroup;
        w.w3[n - n_before] = w.w3[lane];
        CORRMASK_PREFETCH(table.group_indptr + group[n]);
      }
      n += table.accept == nullptr || happens(w.w1[lane], table.accept[tokens[drawn]]);
    }
    if (!expands) return;
    for (int s = n_before; s < n; ++s) {
      walk[s] = walk_of(group[s], w.w3[s - n_before], table, parameters.rotate, fault);
      CORRMASK_PREFETCH(walk[s].members);
      CORRMASK_PREFETCH(walk[s].members + kWalkBatch - 1);
    }
  }
};

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
  const EligiblePositions eligible = find_eligible(tokens, length, table, scratch.eligible, &fault);
  if (eligible.n == 0) return {0, fault};
  const bool expands = parameters.expand > 0 && table.n_members > 0 && parameters.max_group > 0;
  const int64_t budget = masking_budget(eligible.n, parameters.rate_ppm), n_draws = 32 * eligible.n + 64;
  int64_t n_masked = 0;
  bool knows_places = false;
  SeedsAhead seeds;
  int32_t places[kMostSeedsAhead][kWalkBatch];
  int n_found[kMostSeedsAhead];
  int64_t n_sought[kMostSeedsAhead];
  const auto look_for_members = [&](int s, int64_t r) {
    const GroupWalk& walk = seeds.walk[s];
    const int64_t unwrapped = walk.size - walk.start, at = r < unwrapped ? walk.start + r : r - unwrapped;
    const int64_t left = (at < walk.start ? walk.start : walk.size) - at;
    const int n = left < kWalkBatch ? static_cast<int>(left) : kWalkBatch;
    bool outside = false;
    n_found[s] = find_members<Machine>(walk.members + at, n, scratch.places, table.vocabulary, places[s], &outside);
    n_sought[s] = r + n;
    if (outside) fault |= kGroupOutOfRange;
  };
  for (int64_t t = 0; t < n_draws && n_masked < budget;) {
    // As many draws at a time as groups of five would need.
    const int64_t wanted = (budget - n_masked) / (expands ? 5 : 1) / kDrawStep * kDrawStep + kDrawStep;
    int64_t left = smaller(smaller(wanted, kMostSeedsAhead), n_draws - t);
    for (seeds.n = 0; left > 0;) {
      const int n = static_cast<int>(smaller(left, kDrawBatch));
      seeds.draw<Machine>(t, n, tokens, eligible, draws, table, parameters, expands, &fault);
      t += n;
      left -= n;
    }
    if (expands && !knows_places) {  // not before what the seeds will read is on its way
      fill_places(tokens, eligible, scratch.places);
      knows_places = true;
    }
    // Where members stand does not depend on what is masked by then.
    for (int s = 0; s < seeds.n && expands; ++s) {
      if (seeds.walk[s].size > 0) look_for_members(s, 0);
    }
    for (int s = 0; s < seeds.n; ++s) {
      const int32_t position = seeds.position[s];
      if (owner[position] != kVisible) continue;
      const int32_t seed = static_cast<int32_t>(tokens[position]);
      owner[position] = seed;
      scratch.masked[n_masked++] = position;
      if (n_masked == budget) break;
      if (!expands || seeds.walk[s].size == 0) continue;
      for (int64_t room = parameters.max_group;;) {
        if (table.take != nullptr) {
          n_found[s] = keep_taken<Machine>(tokens, places[s], n_found[s], draws, table.take);
        }
        const int64_t more = mask_places(places[s], n_found[s], smaller(budget - n_masked, room), seed,
                                         scratch.masked + n_masked, owner);
        n_masked += more;
        room -= more;
        if (n_sought[s] == seeds.walk[s].size || room == 0 || n_masked == budget) break;
        look_for_members(s, n_sought[s]);
      }
      if (n_masked == budget) break;
    }
  }
  for (int64_t e = 0; e < eligible.n && n_masked < budget; ++e) {
    const int32_t position = eligible.at(e);
    if (owner[position] != kVisible) continue;
    owner[position] = static_cast<int32_t>(tokens[position]);
    scratch.masked[n_masked++] = position;
  }
  return {n_masked, fault};
}

}  // namespace corrmask
