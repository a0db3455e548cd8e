// The schema of every operator; what each argument means stands in corrmask/ops/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(corrmask, m) {
  m.def("philox4x32(Tensor key, Tensor counter) -> Tensor");
  m.def(
      "sample_groups(Tensor input_ids, Tensor lengths, Tensor cell_ids, Tensor token_group, Tensor group_indptr, "
      "Tensor group_tokens, *, Tensor seed, Tensor epoch, int rate_ppm, int expand, Tensor? accept, Tensor? take, "
      "int max_group, bool rotate) -> Tensor");
  m.def(
      "mask_tokens(Tensor input_ids, Tensor lengths, Tensor cell_ids, Tensor token_group, Tensor group_indptr, "
      "Tensor group_tokens, *, Tensor seed, Tensor epoch, int rate_ppm, int expand, Tensor? accept, Tensor? take, "
      "int max_group, bool rotate, int mask_token_id, int gene_lo, int gene_hi, int mask_threshold, "
      "int random_threshold, bool unit_is_group) -> (Tensor, Tensor)");
  m.def(
      "rank_encode(Tensor indptr, Tensor indices, Tensor counts, Tensor medians, Tensor gene_tokens, *, int max_len, "
      "int pad_id) -> (Tensor, Tensor)");
  m.def(
      "bin_values(Tensor indptr, Tensor indices, Tensor values, Tensor cell_ids, *, Tensor seed, Tensor epoch, "
      "int n_bins) -> Tensor");
  m.def(
      "gather_tokens(Tensor rows, Tensor chunks, *, int token_bits, int offset_bits, int vocabulary, int max_len, "
      "int pad_id, bool packed, bool wide) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gather_batches(Tensor rows, Tensor chunks, *, int token_bits, int offset_bits, int vocabulary, int max_len, "
      "int pad_id, bool packed, bool wide) -> Tensor[]");
  m.def(
      "sketch_values(Tensor(a!) low, Tensor(b!) carries, Tensor indptr, Tensor indices, Tensor counts, Tensor totals, "
      "Tensor genes, *, int first_bucket) -> Tensor");
  m.def(
      "covariance_update(Tensor(a!) gram, Tensor(b!) sums, Tensor(c!) squares, Tensor(d!) expressed, Tensor ranks, "
      "Tensor indptr, Tensor indices, Tensor counts, Tensor levels, *, float target_sum, int first_panel) -> ()");
  m.def(
      "topk_edges(Tensor(a!) partners, Tensor(b!) weights, Tensor gram, Tensor ranks, Tensor mean_factors, "
      "Tensor inverse_sd, *, int first_panel, float min_corr, bool positive) -> ()");
}
