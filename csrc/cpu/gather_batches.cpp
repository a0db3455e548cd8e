// Several batches in one call, so that a thread of Python's need not ask for the interpreter between them.
#include <vector>

#include "../gather_arguments.h"
#include "gather_rows.h"

namespace corrmask {

// Three tensors a batch, one batch behind the other.
std::vector<Tensor> gather_batches_cpu(const Tensor& rows, const Tensor& chunks, int64_t token_bits,
                                       int64_t offset_bits, int64_t vocabulary, int64_t max_len, int64_t pad_id,
                                       bool packed, bool wide) {
  constexpr const char* kOp = "gather_batches";
  check_gather_tensors(kOp, rows, 2, chunks);
  const int64_t n = rows.size(1);
  std::vector<Tensor> batches;
  for (int64_t i = 0; i < rows.size(0); ++i) {
    const auto [tokens, lengths, bounds] = gather_rows(kOp, data<int64_t>(rows) + i * n, n, chunks, token_bits,
                                                       offset_bits, vocabulary, max_len, pad_id, packed, wide);
    batches.insert(batches.end(), {tokens, lengths, bounds});
  }
  return batches;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("gather_batches", TORCH_BOX(&corrmask::gather_batches_cpu));
}
