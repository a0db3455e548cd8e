// What sample_groups and mask_tokens share: a batch of cells, the groups, and the loop over cells (cell_batch.cpp).
#pragma once

#include <optional>
#include <utility>

#include "../checks.h"
#include "../portable/corruption.h"
#include "../portable/group_sampling.h"

namespace corrmask {

struct CellBatch {
  Tensor input_ids, lengths, cell_ids;
  int64_t n_cells, width;
  GroupTable table;
  SamplingParameters parameters;

  CellBatch(const char* op, const Tensor& input_ids_, const Tensor& lengths_, const Tensor& cell_ids_,
            const Tensor& token_group, const Tensor& group_indptr, const Tensor& group_tokens, const Tensor& seed,
            const Tensor& epoch, int64_t rate_ppm, int64_t expand, const std::optional<Tensor>& accept,
            const std::optional<Tensor>& take, int64_t max_group, bool rotate)
      : input_ids(input_ids_), lengths(lengths_), cell_ids(cell_ids_) {
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
    check(seed.numel() == 1 && epoch.numel() == 1, op, "'seed' and 'epoch' must hold one value");
    const int64_t vocabulary = token_group.size(0);
    for (const auto& [threshold, name] : {std::pair{&accept, "accept"}, std::pair{&take, "take"}}) {
      if (!threshold->has_value()) continue;
      check_tensor(**threshold, op, name, ScalarType::Long, 1);
      check((*threshold)->size(0) == vocabulary, op, "'", name, "' must be [", vocabulary, "]");
    }
    const int32_t* groups = data<int32_t>(token_group);
    int64_t gene_lo = 0;
    while (gene_lo < vocabulary && groups[gene_lo] == kSpecialToken) ++gene_lo;
    int64_t gene_hi = gene_lo;
    while (gene_hi < vocabulary && groups[gene_hi] != kSpecialToken) ++gene_hi;
    table = {groups,
             data<int64_t>(group_indptr),
             data<int32_t>(group_tokens),
             accept ? data<int64_t>(*accept) : nullptr,
             take ? data<int64_t>(*take) : nullptr,
             vocabulary,
             group_indptr.size(0) - 1,
             group_tokens.size(0),
             gene_lo,
             gene_hi};
    parameters = {static_cast<uint64_t>(*data<int64_t>(seed)),
                  static_cast<uint32_t>(*data<int64_t>(epoch)),
                  rate_ppm,
                  expand,
                  max_group,
                  rotate};
    const int64_t* n = data<int64_t>(lengths);
    const int64_t* ids = data<int64_t>(cell_ids);
    for (int64_t b = 0; b < n_cells; ++b) {
      check(n[b] >= 0 && n[b] <= width, op, "'lengths' must be in 0 .. ", width, " (the width of 'input_ids'), got ",
            n[b], " in row ", b);
      check(ids[b] >= 0, op, "'cell_ids' must not be negative, got ", ids[b], " in row ", b);
    }
  }

  // Samples every cell, on as many threads as torch has, and raises for what the data showed to be wrong. `owners` may
  // be null, as may `corrupted` and `labels` together; all are [n_cells, width].
  void run(const char* op, int32_t* owners, const CorruptionParameters& corruption, void* corrupted,
           int64_t* labels) const;
};

}  // namespace corrmask
