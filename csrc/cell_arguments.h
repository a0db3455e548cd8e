// The arguments that sample_groups and mask_tokens share, checked as far as types and shapes go, on any device.
#pragma once

#include <optional>
#include <utility>

#include "checks.h"
#include "portable/corruption.h"
#include "portable/group_sampling.h"

namespace corrmask {

struct CellArguments {
  Tensor input_ids, lengths, cell_ids, seed, epoch;
  int64_t n_cells, width;
  GroupTable table;               // gene_lo and gene_hi empty
  SamplingParameters parameters;  // seed and epoch 0: they may lie on the device

  CellArguments(const char* op, const Tensor& input_ids_, const Tensor& lengths_, const Tensor& cell_ids_,
                const Tensor& token_group, const Tensor& group_indptr, const Tensor& group_tokens, const Tensor& seed_,
                const Tensor& epoch_, int64_t rate_ppm, int64_t expand, const std::optional<Tensor>& accept,
                const std::optional<Tensor>& take, int64_t max_group, bool rotate)
      : input_ids(input_ids_), lengths(lengths_), cell_ids(cell_ids_), seed(seed_), epoch(epoch_) {
    check(input_ids.dim() == 2 && input_ids.is_contiguous(), op, "'input_ids' must be contiguous of shape [B, L]");
    n_cells = input_ids.size(0);
    width = input_ids.size(1);
    check(width <= INT32_MAX, op, "'input_ids' has rows of more than 2**31 - 1 positions");
    check_tensor(lengths, op, "lengths", ScalarType::Long, 1);
    check_tensor(cell_ids, op, "cell_ids", ScalarType::Long, 1);
    check(lengths.size(0) == n_cells && cell_ids.size(0) == n_cells, op, "'lengths' and 'cell_ids' must be [B]");
    check_tensor(token_group, op, "token_group", ScalarType::Int, 1);
    check_tensor(group_indptr, op, "group_indptr", ScalarType::Long, 1);
    check_tensor(group_tokens, op, "group_tokens", ScalarType::Int, 1);
    check(group_indptr.size(0) >= 1, op, "'group_indptr' must have n_groups + 1 entries, got none");
    check_scalar(seed, op, "seed");
    check_scalar(epoch, op, "epoch");
    const int64_t vocabulary = token_group.size(0);
    for (const auto& [threshold, name] : {std::pair{&accept, "accept"}, std::pair{&take, "take"}}) {
      if (!threshold->has_value()) continue;
      check_tensor(**threshold, op, name, ScalarType::Long, 1);
      check((*threshold)->size(0) == vocabulary, op, "'", name, "' must be [", vocabulary, "]");
    }
    table = {data<int32_t>(token_group),
             data<int64_t>(group_indptr),
             data<int32_t>(group_tokens),
             accept ? data<int64_t>(*accept) : nullptr,
             take ? data<int64_t>(*take) : nullptr,
             vocabulary,
             group_indptr.size(0) - 1,
             group_tokens.size(0),
             0,
             0};
    parameters = {0, 0, rate_ppm, expand, max_group, rotate};
  }
};

}  // namespace corrmask
