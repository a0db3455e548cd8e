// Where a batch of cells is read from, and where its masks are written to.
#pragma once

#include <cstdint>

namespace corrmask {

template <class Token>
struct TokenRows {
  const Token* tokens;      // [n_cells, width]
  const int64_t* lengths;   // [n_cells]
  const int64_t* cell_ids;  // [n_cells]
  int64_t n_cells, width;
  int32_t* owners;   // [n_cells, width] or null
  Token* corrupted;  // [n_cells, width] or null
  int64_t* labels;   // [n_cells, width] or null
};

}  // namespace corrmask
