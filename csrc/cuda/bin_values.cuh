// Value binning, a block to a cell.
#pragma once

#include "../portable/value_binning.h"
#include "cell_sort.cuh"

namespace corrmask {

// Cells of one range of sizes; shared memory holds the edges, n_bins - 1 doubles, and behind them the items unless
// `global_items` has room for them. Values that are not finite and positive are in bin 0.
template <class Index, class Value>
__global__ void __launch_bounds__(512)
    bin_values_kernel(SparseRows<Index, Value> rows, EntryRange range, const int64_t* cell_ids,  // [n_cells]
                      ScalarArgument seed, ScalarArgument epoch, int64_t n_bins,
                      int32_t* bins,  // [nnz]
                      uint64_t* global_items, int64_t items_per_block) {
  CORRMASK_DYNAMIC_SHARED(shared);
  const int64_t n_edges = n_bins - 1;
  double* edges = reinterpret_cast<double*>(shared);
  uint64_t* items = global_items == nullptr ? reinterpret_cast<uint64_t*>(edges + n_edges)
                                            : global_items + items_per_block * blockIdx.x;
  for (int64_t cell = blockIdx.x; cell < rows.n_cells; cell += gridDim.x) {
    const int64_t first = rows.start[cell], n_entries = rows.start[cell + 1] - first;
    if (!range.takes(n_entries) || n_entries <= 0) continue;
    const int64_t n = n_entries < range.most ? n_entries : range.most;
    const Index* column = rows.column + first;
    const Value* value = rows.value + first;
    const auto key_of = [&](int64_t e) {
      const double x = static_cast<double>(value[e]);
      return x - x == 0 ? rank_key(x, 1.0) : ~uint64_t{0};
    };
    const auto column_of = [&](int64_t e) { return static_cast<int64_t>(column[e]); };
    uint64_t place_mask;
    const int64_t n_ranked = rank_entries(items, n, key_of, column_of, &place_mask);
    const auto ascending = [&](int64_t i) { return static_cast<int64_t>(items[n_ranked - 1 - i] & place_mask); };
    for (int64_t e = threadIdx.x; e < n_entries; e += blockDim.x) bins[first + e] = 0;
    for (int64_t k = threadIdx.x; k < n_edges && n_ranked > 0; k += blockDim.x) {
      edges[k] =
          quantile_edge(k, n_edges, n_ranked, [&](int64_t i) { return static_cast<double>(value[ascending(i)]); });
    }
    __syncthreads();
    const CellDraws draws(static_cast<uint64_t>(seed.get()), static_cast<uint64_t>(cell_ids[cell]),
                          static_cast<uint32_t>(epoch.get()));
    for (int64_t i = threadIdx.x; i < n_ranked; i += blockDim.x) {
      const int64_t e = ascending(i);
      const double x = static_cast<double>(value[e]);
      int64_t below = 0;
      while (below < n_edges && edges[below] < x) ++below;
      int64_t up_to = below;
      while (up_to < n_edges && edges[up_to] <= x) ++up_to;
      const bool is_drawn = up_to - below > 1;
      const uint32_t word = is_drawn ? draws.at(static_cast<uint32_t>(column[e]), kStreamBinning).w0 : 0;
      bins[first + e] = bin_of(below, up_to, word);
    }
    __syncthreads();  // before the next cell takes the memory
  }
}

}  // namespace corrmask
