// A symmetric matrix of genes as panels: the genes stand in an order of their own (by frequency), 128 to a panel, and
// panel p holds the entries of its genes with every gene from its first one on, gene after gene:
//
//   entry (i, j), i <= j, stands at  panel_start(p) + (j - 128 p) * 128 + (i - 128 p),   p = i / 128
//
// so that what 128 genes share with one other gene is contiguous. n * n / 2 + 64 n entries for n genes; those of the
// diagonal blocks with i > j are never read.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace corrmask {

constexpr int64_t kPanel = 128;

CORRMASK_HOST_DEVICE constexpr int64_t panel_count(int64_t n_genes) {
  return (n_genes + kPanel - 1) / kPanel;
}

CORRMASK_HOST_DEVICE constexpr int64_t panel_start(int64_t panel, int64_t n_genes) {
  return kPanel * (panel * n_genes - kPanel * (panel * (panel - 1) / 2));
}

CORRMASK_HOST_DEVICE constexpr int64_t panels_size(int64_t n_genes) {
  return panel_start(panel_count(n_genes), n_genes);
}

static_assert(panels_size(100'000) > INT32_MAX, "offsets are of 64 bits");

}  // namespace corrmask
