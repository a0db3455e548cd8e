// Which panels of the Gram matrix a tensor holds.
#pragma once

#include "checks.h"
#include "portable/panels.h"

namespace corrmask {

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
