// Puts the entries of a cell in rank order: a radix sort of the leading bits that differ, and an insertion sort of the
// few that these bits leave in the wrong order. The order is exact whatever the keys are.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "../portable/rank_encoding.h"
#include "clones.h"

namespace corrmask {

struct KeyRange {
  uint64_t smallest, largest;  // bounds of the keys that are ranked
};

// From the upper halves of the keys, whose extremes the compiler finds by vectors.
CORRMASK_CLONES static KeyRange range_of(const uint64_t* keys, int64_t n) {
  uint32_t smallest = UINT32_MAX, largest = 0;
  for (int64_t e = 0; e < n; ++e) {
    const uint32_t upper = static_cast<uint32_t>(keys[e] >> 32);
    const uint32_t ranked =
        upper <= static_cast<uint32_t>(kLargestRankKey >> 32) ? upper : 0;  // NaN's may pass, which costs bits alone
    smallest = std::min(smallest, upper);
    largest = std::max(largest, ranked);
  }
  return {uint64_t{smallest} << 32, uint64_t{largest} << 32 | UINT32_MAX};
}

class RankSorter {
 public:
  // Ranks the entries with keys up to kLargestRankKey: by descending key, then ascending column. Returns how many there
  // are; order(0), order(1), ... are their places.
  template <class Index>
  uint32_t sort(const uint64_t* keys, const Index* columns, int64_t n_entries) {
    if (static_cast<int64_t>(items_.size()) < n_entries) {
      items_.resize(n_entries);
      other_.resize(n_entries);
    }
    const uint32_t n = n_entries < kSmall ? collect(keys, n_entries) : sort_leading_bits(keys, n_entries);
    const auto before = [&](const Item& a, const Item& b) {
      return ranks_before(keys[a.place], columns[a.place], keys[b.place], columns[b.place]);
    };
    // What stands in order already costs no branch that could be guessed wrong; a cell that is far from it is sorted
    // anew.
    int64_t moves_left = 8 * int64_t{n};
    for (uint32_t r = 1; r < n; ++r) {
      if (!before(items_[r], items_[r - 1])) continue;
      const Item item = items_[r];
      uint32_t place = r;
      do {
        items_[place] = items_[place - 1];
        --place;
      } while (place > 0 && before(item, items_[place - 1]));
      items_[place] = item;
      moves_left -= r - place;
      if (moves_left >= 0) continue;
      std::sort(items_.begin(), items_.begin() + n, before);
      break;
    }
    return n;
  }

  uint32_t order(int64_t rank) const { return items_[rank].place; }

 private:
  struct Item {
    uint32_t prefix, place;
  };
  static constexpr int kDigit = 10;
  static constexpr uint32_t kMask = (1u << kDigit) - 1;
  static constexpr int64_t kSmall = 128;

  uint32_t collect(const uint64_t* keys, int64_t n_entries) {
    uint32_t n = 0;
    for (int64_t e = 0; e < n_entries; ++e) {
      items_[n] = {0, static_cast<uint32_t>(e)};
      n += keys[e] <= kLargestRankKey;
    }
    return n;
  }

  uint32_t sort_leading_bits(const uint64_t* keys, int64_t n_entries) {
    const KeyRange range = range_of(keys, n_entries);
    const int shift = std::max(0, static_cast<int>(std::bit_width(range.largest - range.smallest)) - 2 * kDigit);
    low_.fill(0);
    high_.fill(0);
    uint32_t n = 0;
    for (int64_t e = 0; e < n_entries; ++e) {
      const uint32_t ranked = keys[e] <= kLargestRankKey;
      const uint32_t prefix =
          static_cast<uint32_t>((range.largest - keys[e]) >> shift);  // ascending: largest key first
      items_[n] = {prefix, static_cast<uint32_t>(e)};
      n += ranked;
      low_[prefix & kMask] += ranked;
      high_[prefix >> kDigit & kMask] += ranked;
    }
    uint32_t before_low = 0, before_high = 0;
    for (uint32_t digit = 0; digit <= kMask; ++digit) {
      before_low += std::exchange(low_[digit], before_low);
      before_high += std::exchange(high_[digit], before_high);
    }
    for (uint32_t i = 0; i < n; ++i) other_[low_[items_[i].prefix & kMask]++] = items_[i];
    for (uint32_t i = 0; i < n; ++i) items_[high_[other_[i].prefix >> kDigit]++] = other_[i];
    return n;
  }

  std::vector<Item> items_, other_;
  std::array<uint32_t, kMask + 1> low_, high_;
};

}  // namespace corrmask
