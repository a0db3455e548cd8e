#include "../portable/philox.h"

#include "../checks.h"

namespace corrmask {

Tensor philox4x32_cpu(const Tensor& key, const Tensor& counter) {
  check_tensor(key, "philox4x32", "key", ScalarType::Long, 1);
  check_tensor(counter, "philox4x32", "counter", ScalarType::Long, 2);
  Tensor words = torch::stable::empty_like(counter);
  const int64_t* k = data<int64_t>(key);        // [2]
  const int64_t* c = data<int64_t>(counter);    // [n, 4]
  int64_t* out = mutable_data<int64_t>(words);  // [n, 4]
  const PhiloxKey philox_key{static_cast<uint32_t>(k[0]), static_cast<uint32_t>(k[1])};
  torch::stable::parallel_for(0, counter.size(0), 1024, [=](int64_t begin, int64_t end) {
    for (int64_t i = 4 * begin; i < 4 * end; i += 4) {
      const Words w = philox4x32(philox_key, {static_cast<uint32_t>(c[i]), static_cast<uint32_t>(c[i + 1]),
                                              static_cast<uint32_t>(c[i + 2]), static_cast<uint32_t>(c[i + 3])});
      out[i] = w.w0;
      out[i + 1] = w.w1;
      out[i + 2] = w.w2;
      out[i + 3] = w.w3;
    }
  });
  return words;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("philox4x32", TORCH_BOX(&corrmask::philox4x32_cpu));
}
