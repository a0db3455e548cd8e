#include "cell_batch.h"

namespace corrmask {

Tensor sample_groups_cpu(const Tensor& input_ids, const Tensor& lengths, const Tensor& cell_ids,
                         const Tensor& token_group, const Tensor& group_indptr, const Tensor& group_tokens,
                         const Tensor& seed, const Tensor& epoch, int64_t rate_ppm, int64_t expand,
                         const std::optional<Tensor>& accept, const std::optional<Tensor>& take, int64_t max_group,
                         bool rotate) {
  constexpr const char* kOp = "sample_groups";
  const CellBatch batch(kOp, input_ids, lengths, cell_ids, token_group, group_indptr, group_tokens, seed, epoch,
                        rate_ppm, expand, accept, take, max_group, rotate);
  Tensor owner = torch::stable::empty({batch.n_cells, batch.width}, ScalarType::Int);
  batch.run(kOp, mutable_data<int32_t>(owner), {}, nullptr, nullptr);
  return owner;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("sample_groups", TORCH_BOX(&corrmask::sample_groups_cpu));
}
