// What sample_groups and mask_tokens share: a batch of cells, the groups, and the loop over cells (cell_batch.cpp).
#pragma once

#include "../cell_arguments.h"

namespace corrmask {

struct CellBatch : CellArguments {
  // Raises for a length, a cell id, a seed or an epoch out of range.
  template <class... Arguments>
  explicit CellBatch(const char* op, const Arguments&... arguments) : CellArguments(op, arguments...) {
    find_gene_range();
    check_draws(*data<int64_t>(seed), *data<int64_t>(epoch), op);
    parameters.seed = static_cast<uint64_t>(*data<int64_t>(seed));
    parameters.epoch = static_cast<uint32_t>(*data<int64_t>(epoch));
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

 private:
  void find_gene_range();
  void raise(const char* op, int kinds) const;
};

}  // namespace corrmask
