// The launches of a kernel that sorts cells: those of many entries in memory of their own, since how many there are is
// known on the device alone.
#pragma once

#include "cell_sort.cuh"
#include "launch.cuh"

namespace corrmask {

constexpr int64_t kItemsInTier[] = {4096, 8192};  // 32 and 64 KB of shared memory: of 99 that each GPU can give a block
constexpr int64_t kBlocksInTier[] = {kLargestGrid, 2048};
constexpr int64_t kItemsInGlobalTier = int64_t{1} << 23;  // 64 MB, of all its blocks together
constexpr int64_t kMostEntries = int64_t{1} << 20;        // of one cell

// Calls launch(range, blocks, threads, shared bytes of the items, global items or null, items per block) for each tier
// that cells of at most `most_entries` entries can be in. What a cell holds past kMostEntries is left out.
template <class Launch>
void launch_tiers(const Tensor& like, int64_t n_cells, int64_t most_entries, const Launch& launch) {
  int64_t above = -1;
  for (int tier = 0; tier < 2; ++tier) {
    const int64_t most = kItemsInTier[tier];
    const bool last = most_entries <= most;
    launch(EntryRange{above, most, last}, std::min(n_cells, kBlocksInTier[tier]), tier == 0 ? 256 : 512, 8 * most,
           nullptr, int64_t{0});
    if (last) return;
    above = most;
  }
  most_entries = std::min(most_entries, kMostEntries);
  int64_t items = 1;
  while (items < most_entries) items *= 2;
  const int64_t n_blocks = std::min(n_cells, kItemsInGlobalTier / items);
  const Tensor scratch = empty_on(like, {n_blocks * items}, ScalarType::Long);
  launch(EntryRange{above, most_entries, true}, n_blocks, 512, int64_t{0},
         static_cast<uint64_t*>(scratch.mutable_data_ptr()), items);
}

}  // namespace corrmask
