// Puts the entries of a cell in rank order: integers that hold the leading bits of a key and the entry's place are
// sorted by vectors, then the few that these bits leave in the wrong order by insertion. The order is exact whatever
// the keys are.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "../portable/rank_encoding.h"
#include "vector_sort.h"
#include "versions.h"

namespace corrmask {

// What a thread keeps from cell to cell.
struct RankSpace {
  std::vector<uint64_t> keys;   // of the entries
  std::vector<uint32_t> order;  // places of the entries that are ranked, in their order

  CORRMASK_HOST_DEVICE void hold(int64_t n_entries) {
    if (static_cast<int64_t>(keys.size()) >= n_entries) return;
    keys.resize(n_entries);
    order.resize(n_entries + VectorSort<16>::kTile);  // room for a whole number of tiles
  }
};

// Bounds of the keys that are ranked, the others being negative as signed integers (a positive NaN costs bits alone).
struct KeyRange {
  uint64_t smallest = UINT64_MAX;
  int64_t largest = 0;

  CORRMASK_HOST_DEVICE void add(uint64_t key) {
    smallest = std::min(smallest, key);
    largest = std::max(largest, static_cast<int64_t>(key));
  }
};

// What an integer holds: the leading bits of a key, turned over, and below them the place.
struct LeadingBits {
  uint32_t place_mask;
  bool are_all;  // nothing of the keys was left out
};

// Puts the ranked entries in the order of the bits for which an integer has room beside the place; returns how many
// there are.
template <InstructionSet kSet>
CORRMASK_HOST_DEVICE int64_t sort_leading_bits(const uint64_t* keys, KeyRange range, int64_t n_entries, uint32_t* order,
                                               LeadingBits* bits) {
  using Sort = VectorSort<lanes_of(kSet)>;
  const int place_bits = std::bit_width(static_cast<uint64_t>(n_entries));  // so that no place is all ones
  const uint64_t largest = static_cast<uint64_t>(range.largest);
  const int key_bits = std::bit_width(largest - std::min(range.smallest, largest));
  const int shift = std::max(0, key_bits + place_bits - 32);
  const uint64_t left_out = (uint64_t{1} << shift) - 1;
  uint32_t n_unranked = 0;
  uint64_t rest = 0;
  for (int64_t e = 0; e < n_entries; ++e) {
    const uint32_t unranked = uint32_t{0} - (keys[e] > kLargestRankKey);
    const uint64_t behind = largest - keys[e];  // ascending: largest key first
    order[e] = static_cast<uint32_t>(behind >> shift) << place_bits | static_cast<uint32_t>(e) | unranked;
    n_unranked -= unranked;
    rest |= behind & left_out;
  }
  *bits = {(uint32_t{1} << place_bits) - 1, rest == 0};
  const int64_t n_tiles = (n_entries + Sort::kTile - 1) / Sort::kTile;
  std::fill(order + n_entries, order + n_tiles * Sort::kTile, UINT32_MAX);
  Sort::sort(order, n_tiles);
  return n_entries - n_unranked;
}

// Insertion sort of items that are nearly in order, comparing where leading bits are alike. Returns false, the items in
// any order, where that takes too many moves.
template <class Before>
CORRMASK_HOST_DEVICE bool settle(uint32_t* order, int64_t n, uint32_t place_mask, const Before& before) {
  constexpr int64_t kBlock = 64;
  const auto stands_before = [&](uint32_t a, uint32_t b) { return before(a & place_mask, b & place_mask); };
  int64_t moves_left = 8 * n;
  for (int64_t first = 1; first < n; first += kBlock) {
    const int64_t last = std::min(first + kBlock, n);
    uint32_t n_alike = 0;
    for (int64_t r = first; r < last; ++r) n_alike += (order[r] ^ order[r - 1]) <= place_mask;
    if (n_alike == 0) continue;
    for (int64_t r = first; r < last; ++r) {
      const uint32_t item = order[r];
      if (!stands_before(item, order[r - 1])) continue;
      int64_t rank = r;
      do {
        order[rank] = order[rank - 1];
        --rank;
      } while (rank > 0 && stands_before(item, order[rank - 1]));
      order[rank] = item;
      moves_left -= r - rank;
    }
    if (moves_left < 0) return false;
  }
  return true;
}

// Ranks the entries with keys up to kLargestRankKey in the order before(place, place), which is that of descending
// keys; equal ones may be ordered by what else they have, or stand in any order. Returns how many are ranked;
// `space.order` gets their places.
template <InstructionSet kSet, bool kTiesInAnyOrder, class Before>
CORRMASK_HOST_DEVICE int64_t rank_entries(KeyRange range, int64_t n_entries, RankSpace& space, const Before& before) {
  constexpr int64_t kMost = 1 << 16;  // with more entries their places leave too few bits to the keys
  const uint64_t* keys = space.keys.data();
  uint32_t* order = space.order.data();
  int64_t n = 0;
  if (n_entries < kMost) {
    LeadingBits bits;
    n = sort_leading_bits<kSet>(keys, range, n_entries, order, &bits);
    const bool in_order = (kTiesInAnyOrder && bits.are_all) || settle(order, n, bits.place_mask, before);
    for (int64_t r = 0; r < n; ++r) order[r] &= bits.place_mask;
    if (in_order) return n;
  } else {
    for (int64_t e = 0; e < n_entries; ++e) {
      order[n] = static_cast<uint32_t>(e);
      n += keys[e] <= kLargestRankKey;
    }
  }
  std::sort(order, order + n, before);
  return n;
}

}  // namespace corrmask
