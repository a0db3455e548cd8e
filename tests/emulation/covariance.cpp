// The kernels of covariance_update on emulated threads, for ctypes: launched as csrc/cuda/covariance_update.cu does.
#include "tensor_core_on_cpu.h"
// after it:
#include "../../csrc/cuda/covariance_update.cuh"

using namespace corrmask;

namespace {

constexpr unsigned kThreads = 64, kStripThreads = 128;

// Memory that holds nothing that a kernel may count on.
template <class T>
struct Scratch {
  std::vector<unsigned char> bytes;

  explicit Scratch(int64_t n) : bytes(n * sizeof(T) + 64, 0xA5) {}
  operator T*() { return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(bytes.data() + 63) / 64 * 64); }
};

template <class Index, class Count>
void run(const CountRows<Index, Count>& rows, const int64_t* levels, int64_t n_levels, Panels panels, double* sums,
         double* squares, int64_t* expressed, int64_t most_dense, int64_t* chosen) {
  const int64_t n_genes = rows.n_genes, n_tails = std::min(n_levels, rows.n_cells);
  Runs runs{};
  runs.n_genes = n_genes;
  runs.nnz = rows.nnz;
  runs.most_runs = rows.n_cells / kRun + n_tails;
  runs.most_parts = rows.n_cells / kPart + n_tails;
  runs.most_blocks = rows.n_cells / (kRun * kRunsPerBlock) + n_tails;
  runs.most_steps = rows.n_cells / kStep + runs.most_runs;
  runs.most_dense = most_dense;
  Scratch<int64_t> level_start(n_levels + 1), order(rows.n_cells), y_start(runs.most_runs + 1);
  Scratch<int64_t> run_start(runs.most_runs + 1), gene_start(runs.most_runs * (n_genes + 1));
  Scratch<int64_t> part_start(runs.most_parts * n_genes), rare_start(rows.n_cells);
  Scratch<double> total(rows.n_cells), y(rows.nnz), sum(runs.most_blocks * n_genes), square(runs.most_blocks * n_genes);
  Scratch<double> shift(runs.most_blocks * n_genes);
  Scratch<int32_t> positive(runs.most_blocks * n_genes), n_rare(rows.n_cells);
  Scratch<Run> run(runs.most_runs);
  Scratch<Part> part(runs.most_parts);
  Scratch<Block> block(runs.most_blocks);
  Scratch<RunCounts> n(1);
  Scratch<Entry> entries(2 * rows.nnz);
  Scratch<uint4> dense(most_dense * runs.most_steps * kStepWords);
  Scratch<RareEntry> rare(rows.nnz);
  std::vector<unsigned long long> mask(runs.most_parts * n_genes);
  std::vector<uint32_t> largest(panel_count(n_genes) * kPanel), is_shifted(n_genes);
  runs.level_start = level_start;
  runs.order = order;
  runs.total = total;
  runs.run = run;
  runs.part = part;
  runs.block = block;
  runs.n = n;
  runs.mask = mask.data();
  runs.part_start = part_start;
  runs.y_start = y_start;
  runs.y = y;
  runs.sum = sum;
  runs.square = square;
  runs.positive = positive;
  runs.shift = shift;
  runs.is_shifted = is_shifted.data();
  runs.run_start = run_start;
  runs.gene_start = gene_start;
  runs.entries = entries;
  runs.largest = largest.data();
  runs.dense = dense;
  runs.rare = rare;
  runs.rare_start = rare_start;
  runs.n_rare = n_rare;
  const unsigned n_level_blocks = static_cast<unsigned>(std::min<int64_t>(n_levels, 3));
  const unsigned n_run_blocks = static_cast<unsigned>(runs.most_runs);
  using emulation::launch;
  launch(n_level_blocks, kThreads, 0, [&] { count_levels_kernel(levels, rows.n_cells, n_levels, level_start); });
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
