#include "rank_encode.cuh"

#include <tuple>

#include "cell_tiers.cuh"

namespace corrmask {

std::tuple<Tensor, Tensor> rank_encode_cuda(const Tensor& indptr, const Tensor& indices, const Tensor& counts,
                                            const Tensor& medians, const Tensor& gene_tokens, int64_t max_len,
                                            int64_t pad_id) {
  constexpr const char* kOp = "rank_encode";
  check_csr_shapes(kOp, indptr, indices, counts, "counts");
  check_tensor(medians, kOp, "medians", ScalarType::Double, 1);
  check_tensor(gene_tokens, kOp, "gene_tokens", ScalarType::Int, 1);
  const int64_t n_cells = indptr.size(0) - 1, n_genes = medians.size(0);
  check(gene_tokens.size(0) == n_genes, kOp, "'gene_tokens' must be [", n_genes, "] as 'medians' is, got [",
        gene_tokens.size(0), "]");
  const LaunchContext context(indices);
  Tensor input_ids = empty_on(indices, {n_cells, max_len}, ScalarType::Int);
  Tensor lengths = empty_on(indices, {n_cells}, ScalarType::Long);
  if (n_cells == 0) return {input_ids, lengths};
  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(counts, kOp, "counts", [&](auto count_zero) {
      using Index = decltype(index_zero);
      using Count = decltype(count_zero);
      const SparseRows<Index, Count> rows{data<int64_t>(indptr), data<Index>(indices), data<Count>(counts), n_cells};
      const auto kernel = &rank_encode_kernel<Index, Count>;
      launch_tiers(
          indices, n_cells, n_genes,
          [&](EntryRange range, int64_t n_blocks, int n_threads, int64_t bytes, uint64_t* items, int64_t room) {
            allow_shared_bytes(kernel, bytes);
            kernel<<<static_cast<unsigned>(n_blocks), n_threads, bytes, context.stream>>>(
                rows, range, data<double>(medians), data<int32_t>(gene_tokens), n_genes, max_len,
                static_cast<int32_t>(pad_id), mutable_data<int32_t>(input_ids), mutable_data<int64_t>(lengths), items,
                room);
          });
    });
  });
  check_launch(kOp);
  return {input_ids, lengths};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("rank_encode", TORCH_BOX(&corrmask::rank_encode_cuda));
}
