// Checks of a sparse matrix in compressed rows (cells x genes) on the CPU, which can read it before it begins.
#pragma once

#include <vector>

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

// `places` says of each column where its gene stands among n, each place once, or -1. Called `what` in messages.
inline void check_places(const char* op, const char* name, const char* what, const Tensor& places, int64_t n) {
  const int32_t* place = data<int32_t>(places);
  std::vector<bool> taken(n, false);
  for (int64_t column = 0; column < places.size(0); ++column) {
    if (place[column] == -1) continue;
    check(place[column] >= 0 && place[column] < n && !taken[place[column]], op, "'", name, "' must be -1 or ", what,
          " in 0 .. ", n - 1, ", each once, got ", place[column], " for column ", column);
    taken[place[column]] = true;
  }
}

}  // namespace corrmask
