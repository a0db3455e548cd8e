// Where genes stand in the panels of the Gram matrix, and which panels are here.
#pragma once

#include <cstdint>
#include <vector>

#include "../checks.h"
#include "../portable/panels.h"

namespace corrmask {

// gene_at[ranks[gene]] = gene; raises where `ranks` is no permutation of 0 .. n - 1.
inline std::vector<int32_t> genes_by_rank(const char* op, const int32_t* ranks, int64_t n) {
  std::vector<int32_t> gene_at(n, -1);
  for (int64_t gene = 0; gene < n; ++gene) {
    check(ranks[gene] >= 0 && ranks[gene] < n && gene_at[ranks[gene]] < 0, op, "'ranks' must be a permutation of 0 .. ",
          n - 1, ", got ", ranks[gene], " for gene ", gene);
    gene_at[ranks[gene]] = static_cast<int32_t>(gene);
  }
  return gene_at;
}

// Panels first .. last - 1: all of them, or those of one pass.
struct PanelRange {
  int64_t first, last;
};

// The panels from `first` on that fill `size` entries; raises where none do.
inline PanelRange panel_range(const char* op, int64_t size, int64_t n_genes, int64_t first) {
  const int64_t n = panel_count(n_genes);
  check(first >= 0 && first <= n, op, "'first_panel' must be in 0 .. ", n, ", got ", first);
  int64_t last = first;
  while (last < n && panel_start(last, n_genes) - panel_start(first, n_genes) < size) ++last;
  check(panel_start(last, n_genes) - panel_start(first, n_genes) == size, op, "'gram' must hold whole panels of ",
        n_genes, " genes from panel ", first, " on, got [", size, "]");
  return {first, last};
}

}  // namespace corrmask
