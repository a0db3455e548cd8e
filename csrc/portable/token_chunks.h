// A piece of a ragged column of tokens, as the table of the schema holds it.
#pragma once

#include <cstdint>

namespace corrmask {

struct TokenChunk {
  int64_t first_row, offsets, tokens, n_tokens;  // the middle two are addresses, in the memory of who reads them
};
static_assert(sizeof(TokenChunk) == 4 * sizeof(int64_t));

}  // namespace corrmask
