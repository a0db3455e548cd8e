// How every CUDA operator launches: on the device of its tensors, on torch's current stream, in a grid that covers the
// work, with a check behind it that does not wait.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "../checks.h"
#include "warp.cuh"

namespace corrmask {

inline void check_cuda(cudaError_t error) {
  check(error == cudaSuccess, "cuda", cudaGetErrorString(error));
}

constexpr int64_t kLargestGrid = 1 << 20;  // kernels walk on in strides of the grid

// Makes the device of a tensor current for as long as it lives, and holds the stream to launch on.
struct LaunchContext {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit LaunchContext(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

inline unsigned blocks_for(int64_t work, int64_t block) {
  return static_cast<unsigned>(std::min<int64_t>(std::max<int64_t>((work + block - 1) / block, 1), kLargestGrid));
}

// A seed or an epoch: a value where its tensor is on the CPU, else where to read it as the kernel runs.
inline ScalarArgument scalar_argument(const Tensor& scalar) {
  if (scalar.is_cuda()) return {data<int64_t>(scalar), 0};
  return {nullptr, *data<int64_t>(scalar)};
}

// Memory on the device of `like`, for as long as the tensor lives on the stream.
inline Tensor empty_on(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, std::vector<int64_t>(shape), dtype);
}

// The most shared memory that a block may ask for on the current device.
inline int64_t most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// Lets a kernel ask for more shared memory than the 48 KB that all devices give.
template <class Kernel>
void allow_shared_bytes(Kernel* kernel, int64_t bytes) {
  if (bytes <= 48 * 1024) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  check(error == cudaSuccess, op, "the CUDA launch failed: ", cudaGetErrorString(error));
}

}  // namespace corrmask
