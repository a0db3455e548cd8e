// What gather_tokens and gather_batches share: one batch.
#pragma once

#include <tuple>

#include "../checks.h"

namespace corrmask {

using GatheredRows = std::tuple<Tensor, Tensor, Tensor>;  // tokens, lengths, where each row starts

// `row`: n of them; `chunks` as the schema has it, checked.
GatheredRows gather_rows(const char* op, const int64_t* row, int64_t n, const Tensor& chunks, int64_t token_bits,
                         int64_t offset_bits, int64_t vocabulary, int64_t max_len, int64_t pad_id, bool packed,
                         bool wide);

}  // namespace corrmask
