#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <vector>

#include "../portable/value_binning.h"
#include "csr_rows.h"
#include "large_pages.h"
#include "machines.h"
#include "rank_sort.h"

namespace corrmask {

namespace {

// Spreads the values at `places`, n that are equal, over the bins between below and up_to.
template <class Machine, class Index>
CORRMASK_HOST_DEVICE void spread(const uint32_t* places, int64_t n, const Index* column, int64_t below, int64_t up_to,
                                 const CellDraws& draws, int32_t* bins) {
  WordBatch words;
  for (int64_t first = 0; first < n; first += kDrawBatch) {
    const int n_drawn = static_cast<int>(std::min<int64_t>(kDrawBatch, n - first));
    for (int lane = 0; lane < kDrawBatch; ++lane) {
      words.w2[lane] = lane < n_drawn ? static_cast<uint32_t>(column[places[first + lane]]) : 0;
    }
    Machine::at_each(draws, kStreamBinning, words, n_drawn);
    for (int lane = 0; lane < n_drawn; ++lane) bins[places[first + lane]] = bin_of(below, up_to, words.w0[lane]);
  }
}

// What a thread keeps from cell to cell.
struct BinSpace {
  RankSpace ranks;
  std::vector<double> edges;
};

template <class Index, class Value>
struct BinCell {
  // Returns false where a value is negative or not finite.
  template <InstructionSet kSet>
  CORRMASK_HOST_DEVICE static bool run(const Index* column, const Value* value, int64_t n_entries, int64_t n_bins,
                                       const CellDraws& draws, BinSpace& space, int32_t* __restrict bins) {
    space.ranks.hold(n_entries);
    uint64_t* __restrict keys = space.ranks.keys.data();
    KeyRange range;
    uint64_t n_faulty = 0;
    for (int64_t e = 0; e < n_entries; ++e) {
      const double x = static_cast<double>(value[e]);
      const uint64_t key = rank_key(x, 1.0);
      n_faulty += !((x >= 0) & (x <= std::numeric_limits<double>::max()));
      range.add(key);
      keys[e] = key;
    }
    if (n_faulty > 0) return false;
    const auto before = [=](uint32_t a, uint32_t b) { return keys[a] > keys[b]; };
    const int64_t n = rank_entries<kSet, true>(range, n_entries, space.ranks, before);
    if (n < n_entries) std::fill_n(bins, n_entries, 0);
    if (n == 0) return true;
    uint32_t* order = space.ranks.order.data();
    std::reverse(order, order + n);  // ascending
    const auto value_at = [=](int64_t i) { return std::bit_cast<double>(keys[order[i]]); };
    const int64_t n_edges = n_bins - 1;
    space.edges.resize(n_edges);
    double* edges = space.edges.data();
    for (int64_t k = 0; k < n_edges; ++k) edges[k] = quantile_edge(k, n_edges, n, value_at);
    for (int64_t i = 0, below = 0, up_to = 0; i < n;) {
      const double x = value_at(i);
      while (below < n_edges && edges[below] < x) ++below;
      up_to = std::max(up_to, below);
      while (up_to < n_edges && edges[up_to] <= x) ++up_to;
      const int64_t first = i;
      if (up_to - below > 1) {
        while (i < n && value_at(i) == x) ++i;
        spread<typename MachineOf<kSet>::Type>(order + first, i - first, column, below, up_to, draws, bins);
      } else {  // no draws: up to the next edge, or behind all that equal this one
        const double end = up_to < n_edges ? edges[up_to] : std::numeric_limits<double>::infinity();
        const bool on_edge = up_to > below;
        for (; i < n && (on_edge ? value_at(i) == x : value_at(i) < end); ++i) {
          bins[order[i]] = static_cast<int32_t>(up_to);
        }
      }
    }
    return true;
  }
};

}  // namespace

Tensor bin_values_cpu(const Tensor& indptr, const Tensor& indices, const Tensor& values, const Tensor& cell_ids,
                      const Tensor& seed, const Tensor& epoch, int64_t n_bins) {
  constexpr const char* kOp = "bin_values";
  check_csr(kOp, indptr, indices, values, "values");
  check_tensor(cell_ids, kOp, "cell_ids", ScalarType::Long, 1);
  const int64_t n_cells = indptr.size(0) - 1;
  check(cell_ids.size(0) == n_cells, kOp, "'cell_ids' must be [", n_cells, "], got [", cell_ids.size(0), "]");
  check_scalar(seed, kOp, "seed");
  check_scalar(epoch, kOp, "epoch");
  const int64_t* row_start = data<int64_t>(indptr);
  const int64_t* cell = data<int64_t>(cell_ids);
  for (int64_t i = 0; i < n_cells; ++i) {
    check(cell[i] >= 0, kOp, "'cell_ids' must not be negative, got ", cell[i], " in row ", i);
  }
  check_draws(*data<int64_t>(seed), *data<int64_t>(epoch), kOp);
  const uint64_t seed_value = static_cast<uint64_t>(*data<int64_t>(seed));
  const uint32_t epoch_value = static_cast<uint32_t>(*data<int64_t>(epoch));
  Tensor bins = torch::stable::empty({indices.size(0)}, ScalarType::Int);
  int32_t* bin = mutable_data<int32_t>(bins);
  ask_for_large_pages(bin, bins.numel() * static_cast<int64_t>(sizeof *bin));
  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(values, kOp, "values", [&](auto value_zero) {
      using Index = decltype(index_zero);
      using Value = decltype(value_zero);
      const Index* column = data<Index>(indices);
      const Value* value = data<Value>(values);
      const auto bin_cell = for_this_machine<BinCell<Index, Value>>(kOp);
      std::atomic<int64_t> faulty_row{-1};
      torch::stable::parallel_for(0, n_cells, 16, [&](int64_t begin, int64_t end) {
        BinSpace space;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = row_start[i], n_entries = row_start[i + 1] - first;
          const CellDraws draws(seed_value, static_cast<uint64_t>(cell[i]), epoch_value);
          if (!bin_cell(column + first, value + first, n_entries, n_bins, draws, space, bin + first)) {
            faulty_row = i;
          }
        }
      });
      check(faulty_row < 0, kOp, "'values' must be finite and 0 or more, they are not in row ", faulty_row.load());
    });
  });
  return bins;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("bin_values", TORCH_BOX(&corrmask::bin_values_cpu));
}
