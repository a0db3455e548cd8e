// The kernels of covariance_update on emulated threads, for ctypes: launched as csrc/cuda/covariance_update.cu does.
#include "tensor_core_on_cpu.h"
// after it:
#include "../../csrc/cuda/covariance_update.cuh"

using namespace corrmask;

namespace {

constexpr unsigned kThreads = 64, kStripThreads = 128;

// Memory that holds nothing that a kernel may count on, but for what is asked to be zero.
struct Space {
  std::vector<std::vector<unsigned char>> kept;

  template <class T>
  T* take(int64_t n) {
    kept.emplace_back(n * sizeof(T) + 64, 0xA5);
    return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(kept.back().data() + 63) / 64 * 64);
  }

  template <class T>
  T* take_zeros(int64_t n) {
    T* there = take<T>(n);
    std::memset(there, 0, n * sizeof(T));
    return there;
  }
};

template <class Index, class Count>
void run(const CountRows<Index, Count>& rows, const int64_t* levels, int64_t n_levels, Panels panels, double* sums,
         double* squares, int64_t* expressed, int64_t most_dense, int64_t* chosen) {
  const int64_t n_genes = rows.n_genes;
  Space space;
  Runs runs = sized_runs(rows.n_cells, n_levels, n_genes, rows.nnz);
  runs.most_dense = most_dense;
  take_memory(space, rows.n_cells, n_levels, &runs);
  const unsigned n_level_blocks = static_cast<unsigned>(std::min<int64_t>(n_levels, 3));
  const unsigned n_run_blocks = static_cast<unsigned>(runs.most_runs);
  using emulation::launch;
  launch(n_level_blocks, kThreads, 0, [&] { count_levels_kernel(levels, rows.n_cells, n_levels, runs.level_start); });
  launch(1, kWarp, 0, [&] { cut_runs_kernel(n_levels, runs); });
  launch(n_level_blocks, kThreads, 0, [&] { order_cells_kernel(levels, rows.n_cells, n_levels, runs); });
  launch(2, kThreads, 0, [&] { total_cells_kernel(rows, runs.total); });
  launch(3, kThreads, 0, [&] { mark_cells_kernel(rows, runs); });
  launch(2, kThreads, 0, [&] { count_entries_kernel(runs); });
  launch(n_run_blocks, kThreads, 0, [&] { place_genes_kernel(runs); });
  launch(1, kThreads, 0, [&] { place_runs_kernel(runs); });
  launch(static_cast<unsigned>(panel_count(n_genes)), kThreads, 0, [&] { judge_panels_kernel(runs, rows.n_cells); });
  launch(3, kThreads, 0, [&] { read_cells_kernel(rows, runs); });
  launch(3, kThreads, 0, [&] { list_entries_kernel(runs); });
  if (panels.first == 0) launch(2, kThreads, 0, [&] { add_sums_kernel(runs, sums, squares, expressed); });
  const int64_t n_panels = panels.last - panels.first, n_highs = (most_dense + kHighPanels - 1) / kHighPanels;
  launch(static_cast<unsigned>(runs.most_runs * most_dense * kSlices), kThreads, 0, [&] { fill_dense_kernel(runs); });
  launch(static_cast<unsigned>(n_panels * n_highs), kTileThreads, kTileBytes,
         [&] { add_tiles_kernel(runs, panels, n_panels, 2 * kRun); });
  constexpr int64_t kGroup = kGenesPerWarp * (kStripThreads / kWarp);
  const int64_t n_strips = n_panels * (kPanel / kStrip), n_groups = (n_genes + kGroup - 1) / kGroup;
  launch(static_cast<unsigned>(n_strips * n_groups), kStripThreads, strip_bytes(kStripThreads),
         [&] { add_strips_kernel<kStripThreads>(runs, panels, n_strips, 2 * kRun); });
  launch(3, kThreads, 0, [&] { add_rare_kernel(runs, panels); });
  launch(2, kThreads, 0, [&] { undo_shifts_kernel(runs, panels); }, static_cast<unsigned>(n_panels));
  chosen[0] = runs.n->runs;
  chosen[1] = runs.n->dense;
  chosen[2] = runs.n->frequent;
}

}  // namespace

#define UPDATE(name, Index, Count)                                                                                  \
  extern "C" __attribute__((visibility("default"))) void name(                                                      \
      double* gram, double* sums, double* squares, int64_t* expressed, const int32_t* ranks, const int64_t* indptr, \
      const Index* indices, const Count* counts, const int64_t* levels, int64_t n_cells, int64_t nnz,               \
      int64_t n_columns, int64_t n_genes, int64_t n_levels, double target_sum, int64_t first_panel,                 \
      int64_t last_panel, int64_t most_dense, uint64_t schedule, int64_t* chosen) {                                 \
    emulation::schedule = schedule;                                                                                 \
    run<Index, Count>({indptr, indices, counts, ranks, n_cells, nnz, n_columns, n_genes, target_sum}, levels,       \
                      n_levels, {gram, n_genes, first_panel, last_panel}, sums, squares, expressed, most_dense,     \
                      chosen);                                                                                      \
  }

// The sum of the pieces of each value, and the second of them, where `largest` is the largest of its gene.
extern "C" __attribute__((visibility("default"))) void pieces(const float* values, int64_t n, float largest,
                                                              double* sums, double* second) {
  const uint32_t bits = __float_as_uint(largest);
  const double unit = static_cast<double>(unit_of(bits));
  for (int64_t i = 0; i < n; ++i) {
    float left[2] = {values[i] * scale_of(bits), 0};
    const uint32_t first = take_piece(left) & 0xffffu, other = take_piece(left) & 0xffffu;
    second[i] = static_cast<double>(half_of_bits(other)) * unit;
    sums[i] = static_cast<double>(half_of_bits(first)) * unit + second[i];
  }
}

UPDATE(update_int32_float64, int32_t, double)
UPDATE(update_int64_float32, int64_t, float)
UPDATE(update_int32_int32, int32_t, int32_t)
UPDATE(update_int64_int64, int64_t, int64_t)
