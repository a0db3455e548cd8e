#include <tuple>

#include "../portable/corruption.h"
#include "cell_batch.h"

namespace corrmask {

std::tuple<Tensor, Tensor> mask_tokens_cpu(const Tensor& input_ids, const Tensor& lengths, const Tensor& cell_ids,
                                           const Tensor& token_group, const Tensor& group_indptr,
                                           const Tensor& group_tokens, const Tensor& seed, const Tensor& epoch,
                                           int64_t rate_ppm, int64_t expand, const std::optional<Tensor>& accept,
                                           const std::optional<Tensor>& take, int64_t max_group, bool rotate,
                                           int64_t mask_token_id, int64_t gene_lo, int64_t gene_hi,
                                           int64_t mask_threshold, int64_t random_threshold, bool unit_is_group) {
  constexpr const char* kOp = "mask_tokens";
  const CellBatch batch(kOp, input_ids, lengths, cell_ids, token_group, group_indptr, group_tokens, seed, epoch,
                        rate_ppm, expand, accept, take, max_group, rotate);
  const CorruptionParameters corruption{mask_token_id,  gene_lo,          gene_hi,
                                        mask_threshold, random_threshold, unit_is_group};
  Tensor corrupted = torch::stable::empty_like(input_ids);                               // [B, L]
  Tensor labels = torch::stable::empty({batch.n_cells, batch.width}, ScalarType::Long);  // [B, L]
  int64_t* label_rows = mutable_data<int64_t>(labels);
  with_token_type(input_ids, kOp, "input_ids", [&](auto zero) {
    using Token = decltype(zero);
    Token* corrupted_rows = mutable_data<Token>(corrupted);
    batch.for_each_cell<Token>(kOp, nullptr, [&](int64_t b, const Token* row, const int32_t* owner) {
      const CellDraws draws(batch.parameters.seed, static_cast<uint64_t>(data<int64_t>(cell_ids)[b]),
                            batch.parameters.epoch);
      Token* out = corrupted_rows + b * batch.width;
      int64_t* label = label_rows + b * batch.width;
      for (int64_t l = 0; l < batch.width; ++l) {
        out[l] = row[l];
        label[l] = kIgnoredLabel;
        if (owner[l] == kVisible) continue;
        out[l] = static_cast<Token>(corrupted_token(draws, static_cast<int32_t>(row[l]), owner[l], corruption));
        label[l] = static_cast<int64_t>(row[l]);
      }
    });
  });
  return {corrupted, labels};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("mask_tokens", TORCH_BOX(&corrmask::mask_tokens_cpu));
}
