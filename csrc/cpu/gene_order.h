// Which gene stands at each place of the panels of the Gram matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "../checks.h"

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

}  // namespace corrmask
