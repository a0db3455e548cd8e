#include "bin_values.cuh"

#include "cell_tiers.cuh"

namespace corrmask {

constexpr int64_t kMostBins = 4096;  // their edges stand in shared memory

Tensor bin_values_cuda(const Tensor& indptr, const Tensor& indices, const Tensor& values, const Tensor& cell_ids,
                       const Tensor& seed, const Tensor& epoch, int64_t n_bins) {
  constexpr const char* kOp = "bin_values";
  check_csr_shapes(kOp, indptr, indices, values, "values");
  check_tensor(cell_ids, kOp, "cell_ids", ScalarType::Long, 1);
  const int64_t n_cells = indptr.size(0) - 1;
  check(cell_ids.size(0) == n_cells, kOp, "'cell_ids' must be [", n_cells, "], got [", cell_ids.size(0), "]");
  check_scalar(seed, kOp, "seed");
  check_scalar(epoch, kOp, "epoch");
  check(n_bins <= kMostBins, kOp, "'n_bins' must be at most ", kMostBins, " on CUDA, got ", n_bins);
  const LaunchContext context(indices);
  Tensor bins = empty_on(indices, {indices.size(0)}, ScalarType::Int);
  if (n_cells == 0) return bins;
  const ScalarArgument seed_argument = scalar_argument(seed), epoch_argument = scalar_argument(epoch);
  const int64_t edge_bytes = 8 * (n_bins - 1);
  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(values, kOp, "values", [&](auto value_zero) {
      using Index = decltype(index_zero);
      using Value = decltype(value_zero);
      const SparseRows<Index, Value> rows{data<int64_t>(indptr), data<Index>(indices), data<Value>(values), n_cells};
      const auto kernel = &bin_values_kernel<Index, Value>;
      launch_tiers(
          indices, n_cells, indices.size(0),
          [&](EntryRange range, int64_t n_blocks, int n_threads, int64_t bytes, uint64_t* items, int64_t room) {
            allow_shared_bytes(kernel, edge_bytes + bytes);
            kernel<<<static_cast<unsigned>(n_blocks), n_threads, edge_bytes + bytes, context.stream>>>(
                rows, range, data<int64_t>(cell_ids), seed_argument, epoch_argument, n_bins,
                mutable_data<int32_t>(bins), items, room);
          });
    });
  });
  check_launch(kOp);
  return bins;
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("bin_values", TORCH_BOX(&corrmask::bin_values_cuda));
}
