#include "../portable/philox.h"
#include "launch.cuh"

namespace corrmask {

namespace {

constexpr int kBlock = 256;

__global__ void philox4x32_kernel(const int64_t* key,      // [2]
                                  const int64_t* counter,  // [n, 4]
                                  int64_t* words,          // [n, 4]
                                  int64_t n) {
  const PhiloxKey philox_key{static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1])};
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t* c = counter + 4 * i;
    const Words w = philox4x32(philox_key, {static_cast<uint32_t>(c[0]), static_cast<uint32_t>(c[1]),
                                            static_cast<uint32_t>(c[2]), static_cast<uint32_t>(c[3])});
    int64_t* out = words + 4 * i;
    out[0] = w.w0;
    out[1] = w.w1;
    out[2] = w.w2;
    out[3] = w.w3;
  }
}

}  // namespace

Tensor philox4x32_cuda(const Tensor& key, const Tensor& counter) {
  check_tensor(key, "philox4x32", "key", ScalarType::Long, 1);
  check_tensor(counter, "philox4x32", "counter", ScalarType::Long, 2);
  const LaunchContext context(counter);
  Tensor words = torch::stable::empty_like(counter);
  const int64_t n = counter.size(0);
  philox4x32_kernel<<<blocks_for(n, kBlock), kBlock, 0, context.stream>>>(data<int64_t>(key), data<int64_t>(counter),
                                                                          mutable_data<int64_t>(words), n);
  check_launch("philox4x32");
  return words;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("philox4x32", TORCH_BOX(&corrmask::philox4x32_cuda));
}
