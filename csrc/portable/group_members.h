// Groups of tokens, and where their members stand in a cell.
#pragma once

#include <cstdint>

#include "bounded.h"
#include "host_device.h"

namespace corrmask {

constexpr int32_t kNoGroup = -1;
constexpr int32_t kSpecialToken = -2;  // never masked

struct GroupTable {
  const int32_t* token_group;   // [vocabulary]
  const int64_t* group_indptr;  // [n_groups + 1]
  const int32_t* group_tokens;  // [n_members]
  const int64_t* accept;        // [vocabulary] thresholds, or null
  const int64_t* take;          // [vocabulary] thresholds, or null
  int64_t vocabulary, n_groups, n_members;
  int64_t gene_lo, gene_hi;  // a range of tokens without special ones: cells within it need no closer look
};

enum SamplingFault : int { kSound = 0, kTokenOutOfRange = 1, kGroupOutOfRange = 2 };

// Where each token of a cell stands. An entry holds the tag of its cell above and a position below, so that nothing has
// to be cleared between cells: an entry with another tag is of another cell.
template <class Entry>
struct TokenPlaces {
  Entry* entries;  // [vocabulary]
  Entry tag;       // not 0, and not the tag of any entry that is there
  int place_bits;  // every position fits into them, and the tag above them

  CORRMASK_HOST_DEVICE Entry entry(int64_t position) const {
    return static_cast<Entry>((static_cast<uint32_t>(tag) << place_bits) + static_cast<uint32_t>(position));
  }
};

// The group of a seed as its members are looked for: in turn, from `start` on.
struct GroupWalk {
  const int32_t* members;  // [size]
  int64_t size, start;
};

CORRMASK_HOST_DEVICE GroupWalk walk_of(int32_t group, uint32_t word, const GroupTable& table, bool rotate, int* fault) {
  if (group < 0) return {table.group_tokens, 0, 0};
  if (group < table.n_groups) {
    const int64_t first = table.group_indptr[group], size = table.group_indptr[group + 1] - first;
    if (first >= 0 && size >= 0 && first + size <= table.n_members) {
      return {table.group_tokens + first, size, rotate && size > 0 ? bounded(word, size) : 0};
    }
  }
  *fault |= kGroupOutOfRange;
  return {table.group_tokens, 0, 0};
}

constexpr int kWalkBatch = 16;

// Writes to `places` where those of n <= 16 members stand that are in the cell, and returns how many they are; beyond
// them up to 16 places are overwritten. There is no branch on what is there, which would be anyone's guess. Members
// that are no tokens set `outside`.
template <class Machine, class Entry>
CORRMASK_HOST_DEVICE int find_members(const int32_t* members, int n, const TokenPlaces<Entry>& table,
                                      int64_t vocabulary, int32_t* places, bool* outside) {
  if constexpr (Machine::kFindsMembers) {
    return Machine::find_members(members, n, table, vocabulary, places, outside);
  } else {
    const uint32_t place_mask = (uint32_t{1} << table.place_bits) - 1;
    int found = 0;
    bool any_outside = false;
    for (int r = 0; r < n; ++r) {
      const int32_t member = members[r];
      const bool is_token = static_cast<uint32_t>(member) < static_cast<uint64_t>(vocabulary);
      any_outside |= !is_token;
      const uint32_t entry = table.entries[is_token ? member : 0];
      places[found] = static_cast<int32_t>(entry & place_mask);
      found += static_cast<int>((entry >> table.place_bits == table.tag) & is_token);
    }
    *outside |= any_outside;
    return found;
  }
}

}  // namespace corrmask
