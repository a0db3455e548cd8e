#include "covariance_update.cuh"

#include "../panel_range.h"
#include "launch.cuh"

namespace corrmask {

namespace {

using Split = Bf16x3;  // benchmarks/tile_pieces.cu times it beside Tf32x2
constexpr int kThreads = 1024;
constexpr int64_t kDenseBytes = int64_t{1} << 30;                // the dense panels of a chunk take no more
constexpr int64_t kMostInTiles = 4'096, kMostInStrips = 16'384;  // cells that are summed in float32
constexpr int64_t kStripBytes = kRun * kPitch * sizeof(float);
static_assert(kStripBytes <= 99 * 1024, "what sm_86, sm_89 and sm_120 can give a block");

// Tensors of a chunk: they go when the operator returns, and their memory serves what is launched behind it.
struct Workspace {
  const Tensor& like;
  std::vector<Tensor> kept;

  template <class T>
  T* take(int64_t n) {
    n = std::max<int64_t>(n, 1);
    const int64_t n_words = (n * static_cast<int64_t>(sizeof(T)) + 7) / 8;
    kept.push_back(torch::stable::new_empty(like, {n_words}, ScalarType::Long));
    return static_cast<T*>(kept.back().mutable_data_ptr());
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
  const int64_t n_tails = std::min(n_levels, n_cells);  // each level may end in a short run
  const int64_t most_runs = n_cells / kRun + n_tails, most_parts = n_cells / kPart + n_tails;
  const int64_t most_dense = std::clamp<int64_t>(kDenseBytes / (n_cells * kPanel * 4), 1, panel_count(n_genes));
  Workspace space{gram, {}};
  Runs runs{};
  runs.n_genes = n_genes;
  runs.capacity = 2 * indices.size(0);
  runs.most_runs = most_runs;
  runs.most_parts = most_parts;
  runs.most_dense = most_dense;
  runs.level_start = space.take<int64_t>(n_levels + 1);
  runs.order = space.take<int64_t>(n_cells);
  runs.total = space.take<double>(n_cells);
  runs.run = space.take<Run>(most_runs);
  runs.part = space.take<Part>(most_parts);
  runs.n = space.take<int64_t>(4);
  runs.part_sum = space.take<double>(most_parts * n_genes);
  runs.part_square = space.take<double>(most_parts * n_genes);
  runs.part_count = space.take<int32_t>(most_parts * n_genes);
  runs.positive = space.take<int32_t>(most_parts * n_genes);
  runs.sum = space.take<double>(most_runs * n_genes);
  runs.shift = space.take<double>(most_runs * n_genes);
  runs.run_start = space.take<int64_t>(most_runs + 1);
  runs.gene_start = space.take<int64_t>(most_runs * (n_genes + 1));
  runs.entries = space.take<Entry>(runs.capacity);
  runs.dense = space.take<float>(most_dense * n_cells * kPanel);
  runs.rare = space.take<RareEntry>(indices.size(0));
  runs.rare_start = space.take<int64_t>(n_cells);
  runs.n_rare = space.take<int32_t>(n_cells);

  const cudaStream_t stream = context.stream;
  const unsigned level_blocks = blocks_for(n_levels, 1), run_blocks = static_cast<unsigned>(most_runs);
  const unsigned part_blocks = static_cast<unsigned>(most_parts);
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
      total_cells_kernel<<<blocks_for(n_cells, 8), 8 * kWarp, 0, stream>>>(rows, runs.total);
      count_parts_kernel<<<part_blocks, kThreads, 0, stream>>>(rows, runs);
      sum_blocks_kernel<<<blocks_for(n_genes, 128), 128, 0, stream>>>(
          runs, mutable_data<double>(sums), mutable_data<double>(squares), mutable_data<int64_t>(expressed),
          first_panel == 0);
      place_genes_kernel<<<run_blocks, kThreads, 0, stream>>>(runs);
      place_runs_kernel<<<1, kThreads, 0, stream>>>(runs);
      judge_panels_kernel<<<static_cast<unsigned>(panel_count(n_genes)), 256, 0, stream>>>(runs, n_cells);
      fill_parts_kernel<<<part_blocks, kThreads, 0, stream>>>(rows, runs);
      list_rare_kernel<<<blocks_for(n_cells, 8), 8 * kWarp, 0, stream>>>(rows, runs);
    });
  });
  check_launch(kOp);
  if (n_panels == 0) return;
  const Panels panels{mutable_data<double>(gram), n_genes, range.first, range.last};
  fill_dense_kernel<<<static_cast<unsigned>(most_runs * most_dense), 256, 0, stream>>>(runs, n_cells);
  add_tiles_kernel<Split><<<static_cast<unsigned>(n_panels * most_dense), kTileThreads, 0, stream>>>(
      runs, panels, n_cells, n_panels, kMostInTiles);
  constexpr int64_t kGroup = kGenesPerWarp * (kThreads / kWarp);
  const int64_t n_strips = n_panels * (kPanel / kStrip), n_groups = (n_genes + kGroup - 1) / kGroup;
  const auto add_strips = &add_strips_kernel<kThreads>;
  allow_shared_bytes(add_strips, kStripBytes);
  add_strips<<<static_cast<unsigned>(n_strips * n_groups), kThreads, kStripBytes, stream>>>(runs, panels, n_strips,
                                                                                            kMostInStrips);
  add_rare_kernel<<<blocks_for(n_genes, 8), 8 * kWarp, 0, stream>>>(runs, panels);
  check_launch(kOp);
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("covariance_update", TORCH_BOX(&corrmask::covariance_update_cuda));
}
