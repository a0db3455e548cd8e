#include <tuple>

#include "cell_launch.cuh"

namespace corrmask {

std::tuple<Tensor, Tensor> mask_tokens_cuda(const Tensor& input_ids, const Tensor& lengths, const Tensor& cell_ids,
                                            const Tensor& token_group, const Tensor& group_indptr,
                                            const Tensor& group_tokens, const Tensor& seed, const Tensor& epoch,
                                            int64_t rate_ppm, int64_t expand, const std::optional<Tensor>& accept,
                                            const std::optional<Tensor>& take, int64_t max_group, bool rotate,
                                            int64_t mask_token_id, int64_t gene_lo, int64_t gene_hi,
                                            int64_t mask_threshold, int64_t random_threshold, bool unit_is_group) {
  constexpr const char* kOp = "mask_tokens";
  const CellArguments cells(kOp, input_ids, lengths, cell_ids, token_group, group_indptr, group_tokens, seed, epoch,
                            rate_ppm, expand, accept, take, max_group, rotate);
  const CorruptionParameters corruption{mask_token_id,  gene_lo,          gene_hi,
                                        mask_threshold, random_threshold, unit_is_group};
  Tensor corrupted = torch::stable::empty_like(input_ids);                              // [B, L]
  Tensor labels = empty_on(input_ids, {cells.n_cells, cells.width}, ScalarType::Long);  // [B, L]
  run_cells(kOp, cells, nullptr, corruption, corrupted.mutable_data_ptr(), mutable_data<int64_t>(labels));
  return {corrupted, labels};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("mask_tokens", TORCH_BOX(&corrmask::mask_tokens_cuda));
}
