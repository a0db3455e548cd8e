#include "topk_edges.cuh"

#include "../panel_range.h"
#include "launch.cuh"

namespace corrmask {

void topk_edges_cuda(Tensor partners, Tensor weights, const Tensor& gram, const Tensor& ranks,
                     const Tensor& mean_factors, const Tensor& inverse_sd, int64_t first_panel, double min_corr,
                     bool positive) {
  constexpr const char* kOp = "topk_edges";
  check_tensor(partners, kOp, "partners", ScalarType::Int, 2);
  check_tensor(weights, kOp, "weights", ScalarType::Float, 2);
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(ranks, kOp, "ranks", ScalarType::Int, 1);
  check_tensor(mean_factors, kOp, "mean_factors", ScalarType::Double, 2);
  check_tensor(inverse_sd, kOp, "inverse_sd", ScalarType::Double, 1);
  const int64_t n = inverse_sd.size(0), n_levels = mean_factors.size(0), top_k = partners.size(1);
  check(partners.size(0) == n && weights.size(0) == n && weights.size(1) == top_k, kOp,
        "'partners' and 'weights' must be [", n, ", top_k]");
  check(ranks.size(0) == n, kOp, "'ranks' must be [", n, "], got [", ranks.size(0), "]");
  check(mean_factors.size(1) == n, kOp, "'mean_factors' must be [n_levels, ", n, "], got [..., ", mean_factors.size(1),
        "]");
  const PanelRange range = panel_range(kOp, gram.size(0), n, first_panel);
  if (range.first == range.last || top_k == 0) return;

  const LaunchContext context(gram);
  const Tensor gene_at = torch::stable::empty_like(ranks);
  const Tensor edges =
      torch::stable::new_empty(gram, {n * top_k * static_cast<int64_t>(sizeof(Edge))}, ScalarType::Byte);
  check(cudaMemsetAsync(gene_at.mutable_data_ptr(), 0xFF, n * sizeof(int32_t), context.stream) == cudaSuccess, kOp,
        "memory of the device cannot be set");  // -1
  genes_by_rank_kernel<<<blocks_for(n, 256), 256, 0, context.stream>>>(data<int32_t>(ranks), n,
                                                                       mutable_data<int32_t>(gene_at));
  const TopkArguments arguments{data<double>(gram),
                                data<double>(mean_factors),
                                data<double>(inverse_sd),
                                data<int32_t>(gene_at),
                                mutable_data<int32_t>(partners),
                                mutable_data<float>(weights),
                                mutable_data<Edge>(edges),
                                n,
                                n_levels,
                                top_k,
                                range.first,
                                range.last,
                                static_cast<float>(min_corr),
                                positive};
  const unsigned n_blocks = static_cast<unsigned>(panel_count(n) - range.first);
  topk_edges_kernel<<<n_blocks, static_cast<unsigned>(kPanel), 0, context.stream>>>(arguments);
  check_launch(kOp);
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("topk_edges", TORCH_BOX(&corrmask::topk_edges_cuda));
}
