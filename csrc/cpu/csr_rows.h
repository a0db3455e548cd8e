// Checks of a sparse matrix in compressed rows (cells x genes) on the CPU, which can read it before it begins.
#pragma once

#include "../checks.h"

namespace corrmask {

inline void check_csr(const char* op, const Tensor& indptr, const Tensor& indices, const Tensor& values,
                      const char* values_name) {
  check_csr_shapes(op, indptr, indices, values, values_name);
  const int64_t* p = data<int64_t>(indptr);
  const int64_t n_cells = indptr.size(0) - 1;
  check(p[0] == 0 && p[n_cells] == indices.size(0), op, "'indptr' must run from 0 to ", indices.size(0), ", got ", p[0],
        " to ", p[n_cells]);
  for (int64_t i = 0; i < n_cells; ++i) check(p[i] <= p[i + 1], op, "'indptr' must not decrease, it does at ", i);
}

}  // namespace corrmask
