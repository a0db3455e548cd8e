// Checks of a sparse matrix in compressed rows (cells x genes), shared by the operators that read one.
#pragma once

#include "../checks.h"

namespace corrmask {

inline void check_csr(const char* op, const Tensor& indptr, const Tensor& indices, const Tensor& values,
                      const char* values_name) {
  check_tensor(indptr, op, "indptr", ScalarType::Long, 1);
  check(indptr.size(0) >= 1, op, "'indptr' must have n_cells + 1 entries, got none");
  check(indices.dim() == 1 && indices.is_contiguous(), op, "'indices' must be contiguous of one dimension");
  check(values.dim() == 1 && values.is_contiguous(), op, "'", values_name, "' must be contiguous of one dimension");
  check(values.size(0) == indices.size(0), op, "'", values_name, "' and 'indices' must have as many entries, got ",
        values.size(0), " and ", indices.size(0));
  const int64_t* p = data<int64_t>(indptr);
  const int64_t n_cells = indptr.size(0) - 1;
  check(p[0] == 0 && p[n_cells] == indices.size(0), op, "'indptr' must run from 0 to ", indices.size(0), ", got ", p[0],
        " to ", p[n_cells]);
  for (int64_t i = 0; i < n_cells; ++i) check(p[i] <= p[i + 1], op, "'indptr' must not decrease, it does at ", i);
}

}  // namespace corrmask
