#include <algorithm>
#include <atomic>
#include <vector>

#include "../portable/value_binning.h"
#include "avx2_machine.h"
#include "csr_rows.h"
#include "rank_sort.h"

namespace corrmask {

namespace {

using DrawAtEach = void (*)(const CellDraws&, Stream, WordBatch&, int n);

DrawAtEach draw_for_this_machine() {
#ifdef CORRMASK_HAS_AVX2_BUILD
  if (__builtin_cpu_supports("avx2")) return &Avx2Machine::at_each;
#endif
  return [](const CellDraws& draws, Stream stream, WordBatch& words, int n) {
    PlainMachine::at_each(draws, stream, words, n);
  };
}

// Values of one cell that share bins, until there are enough of them to draw for together.
class TieDraws {
 public:
  TieDraws(const CellDraws& draws, DrawAtEach draw, int32_t* bins) : draws_(draws), draw_(draw), bins_(bins) {}

  void add(int64_t entry, int32_t column, int64_t below, int64_t up_to) {
    waiting_[n_] = {entry, below, up_to};
    words_.w2[n_] = static_cast<uint32_t>(column);
    if (++n_ == kDrawBatch) flush();
  }

  void flush() {
    if (n_ == 0) return;
    for (int lane = n_; lane < kDrawBatch; ++lane) words_.w2[lane] = 0;
    draw_(draws_, kStreamBinning, words_, n_);
    for (int lane = 0; lane < n_; ++lane) {
      bins_[waiting_[lane].entry] = bin_of(waiting_[lane].below, waiting_[lane].up_to, words_.w0[lane]);
    }
    n_ = 0;
  }

 private:
  struct Waiting {
    int64_t entry, below, up_to;
  };
  const CellDraws& draws_;
  DrawAtEach draw_;
  int32_t* bins_;
  Waiting waiting_[kDrawBatch];
  WordBatch words_;
  int n_ = 0;
};

// What a thread keeps from cell to cell.
struct BinSpace {
  std::vector<uint64_t> keys;
  std::vector<double> edges;
  RankSorter sorter;
};

template <class Index, class Value>
void bin_cell(const Index* column, const Value* value, int64_t n_entries, int64_t n_bins, const CellDraws& draws,
              DrawAtEach draw, BinSpace& space, int32_t* bins) {
  if (static_cast<int64_t>(space.keys.size()) < n_entries) space.keys.resize(n_entries);
  for (int64_t e = 0; e < n_entries; ++e) space.keys[e] = rank_key(static_cast<double>(value[e]), 1.0);
  const uint32_t n = space.sorter.sort(space.keys.data(), column, n_entries);
  std::fill_n(bins, n_entries, 0);
  if (n == 0) return;
  const auto ascending = [&](int64_t i) { return space.sorter.order(n - 1 - i); };
  const auto value_at = [&](int64_t i) { return static_cast<double>(value[ascending(i)]); };
  const int64_t n_edges = n_bins - 1;
  space.edges.resize(n_edges);
  for (int64_t k = 0; k < n_edges; ++k) space.edges[k] = quantile_edge(k, n_edges, n, value_at);
  TieDraws ties(draws, draw, bins);
  int64_t below = 0, up_to = 0;
  double last = -1;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t entry = ascending(i);
    const double x = static_cast<double>(value[entry]);
    if (x != last) {
      while (below < n_edges && space.edges[below] < x) ++below;
      while (up_to < n_edges && space.edges[up_to] <= x) ++up_to;
      last = x;
    }
    if (up_to - below > 1) {
      ties.add(entry, static_cast<int32_t>(column[entry]), below, up_to);
    } else {
      bins[entry] = bin_of(below, up_to, 0);
    }
  }
  ties.flush();
}

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
  const uint64_t seed_value = static_cast<uint64_t>(*data<int64_t>(seed));
  const uint32_t epoch_value = static_cast<uint32_t>(*data<int64_t>(epoch));
  Tensor bins = torch::stable::empty({indices.size(0)}, ScalarType::Int);
  int32_t* bin = mutable_data<int32_t>(bins);
  const DrawAtEach draw = draw_for_this_machine();
  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(values, kOp, "values", [&](auto value_zero) {
      const auto* column = data<decltype(index_zero)>(indices);
      const auto* value = data<decltype(value_zero)>(values);
      std::atomic<int64_t> faulty_row{-1};
      torch::stable::parallel_for(0, n_cells, 16, [&](int64_t begin, int64_t end) {
        BinSpace space;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = row_start[i], n_entries = row_start[i + 1] - first;
          if (!std::all_of(value + first, value + first + n_entries, [](auto x) { return x >= 0 && x - x == 0; })) {
            faulty_row = i;
            continue;
          }
          const CellDraws draws(seed_value, static_cast<uint64_t>(cell[i]), epoch_value);
          bin_cell(column + first, value + first, n_entries, n_bins, draws, draw, space, bin + first);
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
