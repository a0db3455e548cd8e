// The arguments of gather_tokens and gather_batches, checked as far as types and shapes go, on any device.
#pragma once

#include "checks.h"
#include "portable/token_chunks.h"

namespace corrmask {

inline void check_gather_tensors(const char* op, const Tensor& rows, int64_t rows_dim, const Tensor& chunks) {
  check_tensor(rows, op, "rows", ScalarType::Long, rows_dim);
  check_tensor(chunks, op, "chunks", ScalarType::Long, 2);
  check(chunks.size(0) >= 1 && chunks.size(1) == 4, op, "'chunks' must be of shape [n_chunks + 1, 4]");
}

// Calls body(zero of the C++ type) of offsets of so many bits.
template <class Body>
void with_offset_type(int64_t bits, const char* op, const Body& body) {
  if (bits == 32) return body(int32_t{});
  if (bits == 64) return body(int64_t{});
  check(false, op, "'offset_bits' must be 32 or 64, got ", bits);
}

// The same of tokens as they are stored.
template <class Body>
void with_stored_type(int64_t bits, const char* op, const Body& body) {
  if (bits == 16) return body(uint16_t{});
  if (bits == 32) return body(int32_t{});
  if (bits == 64) return body(int64_t{});
  check(false, op, "'token_bits' must be 16, 32 or 64, got ", bits);
}

}  // namespace corrmask
