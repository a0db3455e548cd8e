// Rank-value encoding, a block to a cell.
#pragma once

#include "cell_sort.cuh"

namespace corrmask {

// Cells of one range of sizes; `global_items` is null, or has room for range.most items, padded to a power of two, for
// each block. Entries whose column is out of range, whose count or median is not positive or whose gene has no token
// are not ranked.
template <class Index, class Count>
__global__ void __launch_bounds__(512)
    rank_encode_kernel(SparseRows<Index, Count> rows, EntryRange range, const double* medians,  // [n_genes]
                       const int32_t* gene_tokens,                                              // [n_genes]
                       int64_t n_genes, int64_t max_len, int32_t pad_id,
                       int32_t* input_ids,  // [n_cells, max_len]
                       int64_t* lengths,    // [n_cells]
                       uint64_t* global_items, int64_t items_per_block) {
  CORRMASK_DYNAMIC_SHARED(shared);
  uint64_t* items =
      global_items == nullptr ? reinterpret_cast<uint64_t*>(shared) : global_items + items_per_block * blockIdx.x;
  for (int64_t cell = blockIdx.x; cell < rows.n_cells; cell += gridDim.x) {
    const int64_t first = rows.start[cell], n_entries = rows.start[cell + 1] - first;
    if (!range.takes(n_entries)) continue;
    const int64_t n = n_entries < range.most ? n_entries : range.most;
    const Index* column = rows.column + first;
    const Count* count = rows.value + first;
    const auto key_of = [&](int64_t e) {
      const int64_t gene = column[e];
      if (gene < 0 || gene >= n_genes || gene_tokens[gene] < 0 || !(medians[gene] > 0)) return ~uint64_t{0};
      return rank_key(static_cast<double>(count[e]), medians[gene]);
    };
    const auto column_of = [&](int64_t e) { return static_cast<int64_t>(column[e]); };
    uint64_t place_mask;
    const int64_t n_ranked = rank_entries(items, n < 0 ? 0 : n, key_of, column_of, &place_mask);
    const int64_t kept = n_ranked < max_len ? n_ranked : max_len;
    int32_t* row = input_ids + cell * max_len;
    for (int64_t r = threadIdx.x; r < max_len; r += blockDim.x) {
      row[r] = r < kept ? gene_tokens[column[items[r] & place_mask]] : pad_id;
    }
    if (threadIdx.x == 0) lengths[cell] = kept;
    __syncthreads();  // before the next cell takes the memory
  }
}

}  // namespace corrmask
