#include "covariance_update.cuh"

#include "../panel_range.h"
#include "launch.cuh"

namespace corrmask {

namespace {

constexpr int kThreads = 1024, kStripThreads = 512;
constexpr int64_t kDenseBytes = int64_t{1} << 30;                // the dense panels of a chunk take no more
constexpr int64_t kMostInTiles = 8'192, kMostInStrips = 32'768;  // cells that are summed in float32
static_assert(strip_bytes(kStripThreads) <= 99 * 1024, "what sm_86, sm_89 and sm_120 can give a block");
static_assert(kTileBytes <= 99 * 1024);

// Tensors of a chunk: they go when the operator returns, and their memory serves what is launched behind it.
struct Workspace {
  const Tensor& like;
  cudaStream_t stream;
  std::vector<Tensor> kept;

  template <class T>
  T* take(int64_t n) {
    n = std::max<int64_t>(n, 1);
    const int64_t n_words = (n * static_cast<int64_t>(sizeof(T)) + 7) / 8;
    kept.push_back(torch::stable::new_empty(like, {n_words}, ScalarType::Long));
    return static_cast<T*>(kept.back().mutable_data_ptr());
  }

  template <class T>
  T* take_zeros(int64_t n) {
    T* there = take<T>(n);
    check_cuda(cudaMemsetAsync(there, 0, n * sizeof(T), stream));
    return there;
  }
};

}  // namespace

void covariance_update_cuda(Tensor gram, Tensor sums, Tensor squares, Tensor expressed, const Tensor& ranks,
                            const Tensor& indptr, const Tensor& indices, const Tensor& counts, const Tensor& levels,
                            double target_sum, int64_t first_panel) {
  constexpr const char* kOp = "covariance_update";
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(sums, kOp, "sums", ScalarType::Double, 2);
  check_tensor(squares, kOp, "squares", ScalarType::Double, 1);
  check_tensor(expressed, kOp, "expressed", ScalarType::Long, 1);
  check_tensor(ranks, kOp, "ranks", ScalarType::Int, 1);
  check_tensor(indptr, kOp, "indptr", ScalarType::Long, 1);
  check_tensor(levels, kOp, "levels", ScalarType::Long, 1);
  check(indices.dim() == 1 && indices.is_contiguous() && counts.dim() == 1 && counts.is_contiguous(), kOp,
        "'indices' and 'counts' must be contiguous of one dimension");
  check(counts.size(0) == indices.size(0), kOp, "'counts' must have as many entries as 'indices'");
  const int64_t n_cells = indptr.size(0) - 1, n_levels = sums.size(0), n_genes = sums.size(1);
  const PanelRange range = panel_range(kOp, gram.size(0), n_genes, first_panel);
  check(squares.size(0) == n_genes && expressed.size(0) == n_genes, kOp, "'squares' and 'expressed' must be [", n_genes,
        "]");
  check(levels.size(0) == n_cells, kOp, "'levels' must be [", n_cells, "], one for each cell, got [", levels.size(0),
        "]");
  check(target_sum >= 0, kOp, "'target_sum' must not be negative, got ", target_sum);
  if (n_cells <= 0 || n_genes == 0 || n_levels == 0) return;

  const LaunchContext context(gram);
  const int64_t n_panels = range.last - range.first;
  const cudaStream_t stream = context.stream;
  Workspace space{gram, stream, {}};
  Runs runs = sized_runs(n_cells, n_levels, n_genes, indices.size(0));
  runs.most_dense = std::clamp<int64_t>(
      kDenseBytes / (runs.most_steps * kStepWords * static_cast<int64_t>(sizeof(uint4))), 1, panel_count(n_genes));
  take_memory(space, n_cells, n_levels, &runs);

  constexpr int kWarps = 8, kPlain = kWarps * kWarp;
  const unsigned level_blocks = blocks_for(n_levels, 1), run_blocks = static_cast<unsigned>(runs.most_runs);
  const unsigned cell_blocks = blocks_for(n_cells, kWarps), place_blocks = blocks_for(runs.most_parts * kPart, kWarps);
  count_levels_kernel<<<level_blocks, kThreads, 0, stream>>>(data<int64_t>(levels), n_cells, n_levels,
                                                             runs.level_start);
  cut_runs_kernel<<<1, kWarp, 0, stream>>>(n_levels, runs);
  order_cells_kernel<<<level_blocks, kThreads, 0, stream>>>(data<int64_t>(levels), n_cells, n_levels, runs);
  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(counts, kOp, "counts", [&](auto count_zero) {
      using Index = decltype(index_zero);
      using Count = decltype(count_zero);
      const CountRows<Index, Count> rows{data<int64_t>(indptr),
                                         data<Index>(indices),
                                         data<Count>(counts),
                                         data<int32_t>(ranks),
                                         n_cells,
                                         indices.size(0),
                                         ranks.size(0),
                                         n_genes,
                                         target_sum};
      total_cells_kernel<<<cell_blocks, kPlain, 0, stream>>>(rows, runs.total);
      mark_cells_kernel<<<place_blocks, kPlain, 0, stream>>>(rows, runs);
      count_entries_kernel<<<blocks_for(runs.most_blocks * n_genes, 128), 128, 0, stream>>>(runs);
      place_genes_kernel<<<run_blocks, kThreads, 0, stream>>>(runs);
      place_runs_kernel<<<1, kThreads, 0, stream>>>(runs);
      judge_panels_kernel<<<static_cast<unsigned>(panel_count(n_genes)), kPlain, 0, stream>>>(runs, n_cells);
      read_cells_kernel<<<place_blocks, kPlain, 0, stream>>>(rows, runs);
    });
  });
  list_entries_kernel<<<blocks_for(runs.most_blocks * n_genes, kWarps), kPlain, 0, stream>>>(runs);
  if (first_panel == 0) {
    add_sums_kernel<<<blocks_for(n_genes, 128), 128, 0, stream>>>(
        runs, mutable_data<double>(sums), mutable_data<double>(squares), mutable_data<int64_t>(expressed));
  }
  check_launch(kOp);
  if (n_panels == 0) return;
  const Panels panels{mutable_data<double>(gram), n_genes, range.first, range.last};
  fill_dense_kernel<<<static_cast<unsigned>(runs.most_runs * runs.most_dense * kSlices), 128, 0, stream>>>(runs);
  const int64_t n_highs = (runs.most_dense + kHighPanels - 1) / kHighPanels;
  allow_shared_bytes(&add_tiles_kernel, kTileBytes);
  add_tiles_kernel<<<static_cast<unsigned>(n_panels * n_highs), kTileThreads, kTileBytes, stream>>>(
      runs, panels, n_panels, kMostInTiles);
  constexpr int64_t kGroup = kGenesPerWarp * (kStripThreads / kWarp);
  const int64_t n_strips = n_panels * (kPanel / kStrip), n_groups = (n_genes + kGroup - 1) / kGroup;
  const auto add_strips = &add_strips_kernel<kStripThreads>;
  allow_shared_bytes(add_strips, strip_bytes(kStripThreads));
  add_strips<<<static_cast<unsigned>(n_strips * n_groups), kStripThreads, strip_bytes(kStripThreads), stream>>>(
      runs, panels, n_strips, kMostInStrips);
  add_rare_kernel<<<blocks_for(n_genes, kWarps), kPlain, 0, stream>>>(runs, panels);
  undo_shifts_kernel<<<dim3(blocks_for(n_genes, 4 * kWarps), static_cast<unsigned>(n_panels)), kPlain, 0, stream>>>(
      runs, panels);
  check_launch(kOp);
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("covariance_update", TORCH_BOX(&corrmask::covariance_update_cuda));
}
