#include "../portable/rank_encoding.h"

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "csr_rows.h"
#include "rank_sort.h"

namespace corrmask {

std::tuple<Tensor, Tensor> rank_encode_cpu(const Tensor& indptr, const Tensor& indices, const Tensor& counts,
                                           const Tensor& medians, const Tensor& gene_tokens, int64_t max_len,
                                           int64_t pad_id) {
  constexpr const char* kOp = "rank_encode";
  check_csr(kOp, indptr, indices, counts, "counts");
  check_tensor(medians, kOp, "medians", ScalarType::Double, 1);
  check_tensor(gene_tokens, kOp, "gene_tokens", ScalarType::Int, 1);
  const int64_t n_cells = indptr.size(0) - 1, n_genes = medians.size(0);
  check(gene_tokens.size(0) == n_genes, kOp, "'gene_tokens' must be [", n_genes, "] as 'medians' is, got [",
        gene_tokens.size(0), "]");
  const int64_t* row_start = data<int64_t>(indptr);        // [n_cells + 1]
  const double* median = data<double>(medians);            // [n_genes]
  const int32_t* gene_token = data<int32_t>(gene_tokens);  // [n_genes]
  for (int64_t g = 0; g < n_genes; ++g) {
    check(gene_token[g] < 0 || median[g] > 0, kOp, "'medians' must be positive for every gene with a token, got ",
          median[g], " for gene ", g);
  }
  Tensor input_ids = torch::stable::empty({n_cells, max_len}, ScalarType::Int);
  Tensor lengths = torch::stable::empty({n_cells}, ScalarType::Long);
  int32_t* ids = mutable_data<int32_t>(input_ids);
  int64_t* length = mutable_data<int64_t>(lengths);
  std::atomic<int64_t> faulty_column{-1};

  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(counts, kOp, "counts", [&](auto count_zero) {
      const auto* column = data<decltype(index_zero)>(indices);
      const auto* count = data<decltype(count_zero)>(counts);
      std::atomic<bool> outside{false};
      torch::stable::parallel_for(0, n_cells, 16, [&](int64_t begin, int64_t end) {
        std::vector<RankedGene> genes;
        RankSorter sorter;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n_entries = row_start[i + 1] - row_start[i];
          if (static_cast<int64_t>(genes.size()) < n_entries) genes.resize(n_entries);
          uint32_t n = 0;
          for (int64_t e = row_start[i]; e < row_start[i + 1]; ++e) {
            const int64_t g = column[e];
            if (g < 0 || g >= n_genes) {
              outside = true;
              faulty_column = g;
              continue;
            }
            if (count[e] > 0 && gene_token[g] >= 0) {
              genes[n++] = {rank_key(static_cast<double>(count[e]), median[g]), static_cast<int32_t>(g), gene_token[g]};
            }
          }
          sorter.sort(genes.data(), n);
          const int64_t kept = std::min<int64_t>(n, max_len);
          int32_t* row = ids + i * max_len;
          for (int64_t r = 0; r < kept; ++r) row[r] = genes[sorter.order(r)].payload;
          std::fill(row + kept, row + max_len, static_cast<int32_t>(pad_id));
          length[i] = kept;
        }
      });
      check(!outside, kOp, "'indices' must be in 0 .. ", n_genes - 1, " (the size of 'medians'), got ",
            faulty_column.load());
    });
  });
  return {input_ids, lengths};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("rank_encode", TORCH_BOX(&corrmask::rank_encode_cpu));
}
