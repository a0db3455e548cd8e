// The kernels of covariance_update on emulated threads, for ctypes: launched as csrc/cuda/covariance_update.cu does.
#include "tensor_core_on_cpu.h"
// after it:
#include "../../csrc/cuda/covariance_update.cuh"

using namespace corrmask;

namespace {

constexpr unsigned kThreads = 64;

// Memory that holds nothing that a kernel may count on.
template <class T>
struct Scratch {
  std::vector<unsigned char> bytes;

  explicit Scratch(int64_t n) : bytes(n * sizeof(T) + 64, 0xA5) {}
  operator T*() { return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(bytes.data() + 63) / 64 * 64); }
};

template <class Split, class Index, class Count>
void run(const CountRows<Index, Count>& rows, const int64_t* levels, int64_t n_levels, Panels panels, double* sums,
         double* squares, int64_t* expressed, int64_t most_dense, int64_t* chosen) {
  const int64_t n_genes = rows.n_genes, n_tails = std::min(n_levels, rows.n_cells);
  const int64_t most_runs = rows.n_cells / kRun + n_tails, most_parts = rows.n_cells / kPart + n_tails;
  Scratch<int64_t> level_start(n_levels + 1), order(rows.n_cells), n(4), run_start(most_runs + 1);
  Scratch<int64_t> gene_start(most_runs * (n_genes + 1));
  Scratch<Run> table(most_runs);
  Scratch<Part> parts(most_parts);
  Scratch<double> total(rows.n_cells), part_sum(most_parts * n_genes), part_square(most_parts * n_genes);
  Scratch<int32_t> part_count(most_parts * n_genes), positive(most_parts * n_genes);
  Scratch<double> sum(most_runs * n_genes), shift(most_runs * n_genes);
  Scratch<Entry> entries(2 * rows.nnz);
  Scratch<float> dense(most_dense * rows.n_cells * kPanel);
  Scratch<RareEntry> rare(rows.nnz);
  Scratch<int64_t> rare_start(rows.n_cells);
  Scratch<int32_t> n_rare(rows.n_cells);
  const Runs runs{n_genes, 2 * rows.nnz, most_runs,  most_parts, most_dense,  level_start, order,      total,
                  table,   parts,        n,          part_sum,   part_square, part_count,  positive,   sum,
                  shift,   run_start,    gene_start, entries,    dense,       rare,        rare_start, n_rare};
  const unsigned n_level_blocks = static_cast<unsigned>(std::min<int64_t>(n_levels, 3));
  const unsigned n_run_blocks = static_cast<unsigned>(most_runs), n_part_blocks = static_cast<unsigned>(most_parts);
  using emulation::launch;
  launch(n_level_blocks, kThreads, 0, [&] { count_levels_kernel(levels, rows.n_cells, n_levels, level_start); });
  launch(1, kWarp, 0, [&] { cut_runs_kernel(n_levels, runs); });
  launch(n_level_blocks, kThreads, 0, [&] { order_cells_kernel(levels, rows.n_cells, n_levels, runs); });
  launch(2, kThreads, 0, [&] { total_cells_kernel(rows, runs.total); });
  launch(n_part_blocks, kThreads, 0, [&] { count_parts_kernel(rows, runs); });
  launch(2, kThreads, 0, [&] { sum_blocks_kernel(runs, sums, squares, expressed, panels.first == 0); });
  launch(n_run_blocks, kThreads, 0, [&] { place_genes_kernel(runs); });
  launch(1, kThreads, 0, [&] { place_runs_kernel(runs); });
  launch(static_cast<unsigned>(panel_count(n_genes)), kThreads, 0, [&] { judge_panels_kernel(runs, rows.n_cells); });
  launch(n_part_blocks, kThreads, 0, [&] { fill_parts_kernel(rows, runs); });
  launch(2, kThreads, 0, [&] { list_rare_kernel(rows, runs); });
  const int64_t n_panels = panels.last - panels.first;
  launch(static_cast<unsigned>(most_runs * most_dense), kThreads, 0, [&] { fill_dense_kernel(runs, rows.n_cells); });
  launch(static_cast<unsigned>(n_panels * most_dense), kTileThreads, 0,
         [&] { add_tiles_kernel<Split>(runs, panels, rows.n_cells, n_panels, 2 * kRun); });
  constexpr int64_t kGroup = kGenesPerWarp * (kThreads / kWarp);
  const int64_t n_strips = n_panels * (kPanel / kStrip), n_groups = (n_genes + kGroup - 1) / kGroup;
  launch(static_cast<unsigned>(n_strips * n_groups), kThreads, kRun * kPitch * sizeof(float),
         [&] { add_strips_kernel<kThreads>(runs, panels, n_strips, 2 * kRun); });
  launch(3, kThreads, 0, [&] { add_rare_kernel(runs, panels); });
  for (int i = 0; i < 3; ++i) chosen[i] = n[i == 0 ? 0 : i + 1];
}

}  // namespace

#define UPDATE(name, Split, Index, Count)                                                                              \
  extern "C" __attribute__((visibility("default"))) void name(                                                         \
      double* gram, double* sums, double* squares, int64_t* expressed, const int32_t* ranks, const int64_t* indptr,    \
      const Index* indices, const Count* counts, const int64_t* levels, int64_t n_cells, int64_t nnz,                  \
      int64_t n_columns, int64_t n_genes, int64_t n_levels, double target_sum, int64_t first_panel,                    \
      int64_t last_panel, int64_t most_dense, uint64_t schedule, int64_t* chosen) {                                    \
    emulation::schedule = schedule;                                                                                    \
    run<Split, Index, Count>({indptr, indices, counts, ranks, n_cells, nnz, n_columns, n_genes, target_sum}, levels,   \
                             n_levels, {gram, n_genes, first_panel, last_panel}, sums, squares, expressed, most_dense, \
                             chosen);                                                                                  \
  }

// The sum of the pieces of a value, and the largest of them but the first.
template <class Split>
double put_together(float value, double* second) {
  float left[Split::kCellsPerWord] = {};
  left[0] = value;
  double sum = 0;
  for (int p = 0; p < Split::kPieces; ++p) {
    const uint32_t word = Split::take(left);
    const double piece = emulation::number(Split::kCellsPerWord == 2 ? word << 16 : word);
    if (p == 1) *second = piece;
    sum += piece;
  }
  return sum;
}

extern "C" __attribute__((visibility("default"))) void pieces(const float* values, int64_t n, double* bf16x3,
                                                              double* tf32x2, double* second) {
  for (int64_t i = 0; i < n; ++i) {
    bf16x3[i] = put_together<Bf16x3>(values[i], second + 2 * i);
    tf32x2[i] = put_together<Tf32x2>(values[i], second + 2 * i + 1);
  }
}

UPDATE(update_bf16x3_int32_float64, Bf16x3, int32_t, double)
UPDATE(update_tf32x2_int32_float64, Tf32x2, int32_t, double)
UPDATE(update_bf16x3_int64_float32, Bf16x3, int64_t, float)
UPDATE(update_bf16x3_int32_int32, Bf16x3, int32_t, int32_t)
UPDATE(update_bf16x3_int64_int64, Bf16x3, int64_t, int64_t)
