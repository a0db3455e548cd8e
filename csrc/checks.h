// Argument checks that name the operator and the argument. The Python wrappers check types and shapes first and raise
// TypeError or ValueError; what only the data can show arrives from here as RuntimeError "corrmask.<op>: ..." and is
// turned into ValueError there.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace corrmask {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
void check(bool condition, const char* op, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "corrmask." << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline void check_tensor(const Tensor& tensor, const char* op, const char* name, ScalarType dtype, int64_t dim) {
  check(tensor.scalar_type() == dtype, op, "'", name, "' has the wrong dtype");
  check(tensor.dim() == dim, op, "'", name, "' must have ", dim, " dimensions, got ", tensor.dim());
  check(tensor.is_contiguous(), op, "'", name, "' must be contiguous");
}

inline void check_scalar(const Tensor& tensor, const char* op, const char* name) {
  check(tensor.numel() == 1 && tensor.scalar_type() == ScalarType::Long, op, "'", name, "' must hold one int64 value");
}

// The seed and the epoch of a draw where they lie on the host.
inline void check_draws(int64_t seed, int64_t epoch, const char* op) {
  check(seed >= 0, op, "'seed' must be in 0 .. ", INT64_MAX, ", got ", seed);
  check(epoch >= 0 && epoch < int64_t{1} << 28, op, "'epoch' must be in 0 .. ", (int64_t{1} << 28) - 1, ", got ",
        epoch);
}

// What can be seen of cells x genes in compressed rows without reading them.
inline void check_csr_shapes(const char* op, const Tensor& indptr, const Tensor& indices, const Tensor& values,
                             const char* values_name) {
  check_tensor(indptr, op, "indptr", ScalarType::Long, 1);
  check(indptr.size(0) >= 1, op, "'indptr' must have n_cells + 1 entries, got none");
  check(indices.dim() == 1 && indices.is_contiguous(), op, "'indices' must be contiguous of one dimension");
  check(values.dim() == 1 && values.is_contiguous(), op, "'", values_name, "' must be contiguous of one dimension");
  check(values.size(0) == indices.size(0), op, "'", values_name, "' and 'indices' must have as many entries, got ",
        values.size(0), " and ", indices.size(0));
}

// Calls body(zero of the C++ type of a tensor), for the integer types that token ids come in.
template <class Body>
void with_token_type(const Tensor& tokens, const char* op, const char* name, const Body& body) {
  switch (tokens.scalar_type()) {
    case ScalarType::Int:
      return body(int32_t{});
    case ScalarType::Long:
      return body(int64_t{});
    case ScalarType::UInt16:
      return body(uint16_t{});
    default:
      check(false, op, "'", name, "' must be int32, int64 or uint16");
  }
}

// The same for the types that column indices of a sparse matrix come in.
template <class Body>
void with_index_type(const Tensor& indices, const char* op, const char* name, const Body& body) {
  switch (indices.scalar_type()) {
    case ScalarType::Int:
      return body(int32_t{});
    case ScalarType::Long:
      return body(int64_t{});
    default:
      check(false, op, "'", name, "' must be int32 or int64");
  }
}

// The same for the types that counts come in.
template <class Body>
void with_value_type(const Tensor& values, const char* op, const char* name, const Body& body) {
  switch (values.scalar_type()) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Int:
      return body(int32_t{});
    case ScalarType::Long:
      return body(int64_t{});
    default:
      check(false, op, "'", name, "' must be float32, float64, int32 or int64");
  }
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace corrmask
