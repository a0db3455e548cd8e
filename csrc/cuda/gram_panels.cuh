// The panels of the Gram matrix that a launch adds to, and what undoes the shifts of the genes.
#pragma once

#include "expression_runs.cuh"

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

// What undoes the shifts of both sides: the sum of (z + s)(z' + s') less that of z z', z and z' being what was summed
// in the block whose last run is r.
__device__ inline double unshift(const Runs& runs, int64_t r, int64_t low, int64_t high) {
  if (low >= runs.n_genes) return 0;
  const double shift = runs.shift[r * runs.n_genes + low], other = runs.shift[r * runs.n_genes + high];
  const double shifted_sum =
      runs.sum[r * runs.n_genes + low] - static_cast<double>(runs.run[r].cells_of_block()) * shift;
  return shift * runs.sum[r * runs.n_genes + high] + other * shifted_sum;
}

}  // namespace corrmask
