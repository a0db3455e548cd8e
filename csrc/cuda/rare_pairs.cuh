// Rare genes among themselves, cell by cell: a pair of them is seldom in one cell, so that products in full would be
// products with nothing.
#pragma once

#include "gram_panels.cuh"

namespace corrmask {

// One warp to a rare gene: what it shares with those before it, and with itself, in each of its cells, one after
// another, in float64. No two lanes are at one of them, and none of these genes is shifted.
static __global__ void add_rare_kernel(Runs runs, Panels panels) {
  const int64_t warps_per_block = blockDim.x / kWarp, n_runs = runs.n_runs();
  const int lane = lane_id();
  for (int64_t gene = runs.n_frequent() * kPanel + blockIdx.x * warps_per_block + threadIdx.x / kWarp;
       gene < runs.n_genes; gene += gridDim.x * warps_per_block) {
    for (int64_t r = 0; r < n_runs; ++r) {
      const int64_t end = runs.begin(r, gene + 1);
      for (int64_t first = runs.begin(r, gene); first < end; first += kWarp) {
        Entry own{0, 0};
        int64_t its_start = 0;
        int32_t its_n = 0;
        if (first + lane < end) {
          own = runs.entries[first + lane];
          const int64_t cell = runs.order[runs.run[r].first + own.row];
          its_start = runs.rare_start[cell];
          its_n = runs.n_rare[cell];
        }
        const int n_cells = end - first < kWarp ? static_cast<int>(end - first) : kWarp;
        for (int k = 0; k < n_cells; ++k) {
          const double value = static_cast<double>(__shfl_sync(kAllLanes, own.value, k));
          const RareEntry* others = runs.rare + __shfl_sync(kAllLanes, its_start, k);
          const int32_t n = __shfl_sync(kAllLanes, its_n, k);
          for (int32_t at = lane; at < n; at += kWarp) {
            const RareEntry other = others[at];
            const int64_t panel = other.gene / kPanel;
            if (other.gene > gene || panel < panels.first || panel >= panels.last) continue;
            panels.at(panel, gene)[other.gene % kPanel] += value * static_cast<double>(other.value);
          }
          __syncwarp();
        }
      }
    }
  }
}

}  // namespace corrmask
