// Puts the genes of a cell in rank order: a radix sort of the leading bits that differ, and a comparison sort of the
// few that these bits leave together. The order is exact whatever the keys are.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "../portable/rank_encoding.h"

namespace corrmask {

class RankSorter {
 public:
  // Afterwards order(0), order(1), ... are the places in genes[0 .. n-1] in rank order.
  void sort(const RankedGene* genes, uint32_t n) {
    if (items_.size() < n) {
      items_.resize(n);
      other_.resize(n);
    }
    if (n < kSmall) {
      for (uint32_t i = 0; i < n; ++i) items_[i] = {0, i};
      sort_run(genes, 0, n);
      return;
    }
    uint64_t largest = 0, smallest = ~uint64_t{0};
    for (uint32_t i = 0; i < n; ++i) {
      largest = std::max(largest, genes[i].key);
      smallest = std::min(smallest, genes[i].key);
    }
    int shift = 0;
    while (((largest - smallest) >> shift) >> (2 * kDigit) != 0) ++shift;
    low_.fill(0);
    high_.fill(0);
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t prefix = static_cast<uint32_t>((largest - genes[i].key) >> shift);  // ascending: largest key first
      items_[i] = {prefix, i};
      ++low_[prefix & kMask];
      ++high_[prefix >> kDigit];
    }
    uint32_t before_low = 0, before_high = 0;
    for (uint32_t digit = 0; digit <= kMask; ++digit) {
      before_low += std::exchange(low_[digit], before_low);
      before_high += std::exchange(high_[digit], before_high);
    }
    for (uint32_t i = 0; i < n; ++i) other_[low_[items_[i].prefix & kMask]++] = items_[i];
    for (uint32_t i = 0; i < n; ++i) items_[high_[other_[i].prefix >> kDigit]++] = other_[i];
    for (uint32_t first = 0, last; first < n; first = last) {
      last = first + 1;
      while (last < n && items_[last].prefix == items_[first].prefix) ++last;
      if (last - first > 1) sort_run(genes, first, last);
    }
  }

  uint32_t order(int64_t rank) const { return items_[rank].place; }

 private:
  struct Item {
    uint32_t prefix, place;
  };
  static constexpr int kDigit = 11;
  static constexpr uint32_t kMask = (1u << kDigit) - 1;
  static constexpr uint32_t kSmall = 128;

  void sort_run(const RankedGene* genes, uint32_t first, uint32_t last) {
    const auto before = [&](const Item& a, const Item& b) { return ranks_before(genes[a.place], genes[b.place]); };
    // Equal keys stand by column already where the row does.
    if (!std::is_sorted(items_.begin() + first, items_.begin() + last, before)) {
      std::sort(items_.begin() + first, items_.begin() + last, before);
    }
  }

  std::vector<Item> items_, other_;
  std::array<uint32_t, kMask + 1> low_, high_;
};

}  // namespace corrmask
