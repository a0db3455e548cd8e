// The panels of the Gram matrix that a launch adds to, and the kernel that undoes the shifts of the genes.
#pragma once

#include "gene_entries.cuh"

namespace corrmask {

// The panels of the matrix that are here: all of them, or those of one pass.
struct Panels {
  double* gram;
  int64_t n_genes, first, last;

  // What gene `other` shares with the first gene of a panel.
  __device__ double* at(int64_t panel, int64_t other) const {
    return gram + (panel_start(panel, n_genes) - panel_start(first, n_genes) + (other - panel * kPanel) * kPanel);
  }
};

// One warp to a panel and a gene, a lane to every 32nd gene of the panel, block after block of the cells: what undoes
// the shifts of both sides, the sum of (z + s)(z' + s') less that of z z', z and z' being what was summed.
static __global__ void undo_shifts_kernel(Runs runs, Panels panels) {
  const int64_t warps_per_block = blockDim.x / kWarp, n_genes = runs.n_genes, n_blocks = runs.n->blocks;
  const int64_t panel = panels.first + blockIdx.y, first = panel * kPanel;
  uint32_t any_low = 0;
  for (int64_t low = first + lane_id(); low < first + kPanel && low < n_genes; low += kWarp) {
    any_low |= runs.is_shifted[low];
  }
  const bool is_panel_shifted = __any_sync(kAllLanes, any_low != 0);
  for (int64_t high = first + blockIdx.x * warps_per_block + threadIdx.x / kWarp; high < n_genes;
       high += gridDim.x * warps_per_block) {
    if (!is_panel_shifted && runs.is_shifted[high] == 0) continue;
    for (int64_t low = first + lane_id(); low < first + kPanel && low < n_genes; low += kWarp) {
      double sum = 0;
      for (int64_t b = 0; b < n_blocks; ++b) {
        const double shift = runs.shift[b * n_genes + low], other = runs.shift[b * n_genes + high];
        const double n_cells = static_cast<double>(runs.block[b].n_cells);
        sum += shift * runs.sum[b * n_genes + high] + other * (runs.sum[b * n_genes + low] - n_cells * shift);
      }
      panels.at(panel, high)[low - first] += sum;
    }
  }
}

}  // namespace corrmask
