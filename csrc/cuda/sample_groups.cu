#include "cell_launch.cuh"

namespace corrmask {

Tensor sample_groups_cuda(const Tensor& input_ids, const Tensor& lengths, const Tensor& cell_ids,
                          const Tensor& token_group, const Tensor& group_indptr, const Tensor& group_tokens,
                          const Tensor& seed, const Tensor& epoch, int64_t rate_ppm, int64_t expand,
                          const std::optional<Tensor>& accept, const std::optional<Tensor>& take, int64_t max_group,
                          bool rotate) {
  constexpr const char* kOp = "sample_groups";
  const CellArguments cells(kOp, input_ids, lengths, cell_ids, token_group, group_indptr, group_tokens, seed, epoch,
                            rate_ppm, expand, accept, take, max_group, rotate);
  Tensor owner = empty_on(input_ids, {cells.n_cells, cells.width}, ScalarType::Int);
  run_cells(kOp, cells, mutable_data<int32_t>(owner), {}, nullptr, nullptr);
  return owner;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("sample_groups", TORCH_BOX(&corrmask::sample_groups_cuda));
}
