// How every CUDA operator launches: on the device of its tensors, on torch's current stream, in a grid that covers the
// work, with a check behind it that does not wait.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "../checks.h"

namespace corrmask {

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

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  check(error == cudaSuccess, op, "the CUDA launch failed: ", cudaGetErrorString(error));
}

}  // namespace corrmask
