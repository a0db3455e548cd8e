#include "../portable/rank_encoding.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "csr_rows.h"
#include "large_pages.h"
#include "rank_sort.h"

namespace corrmask {

namespace {

struct Genes {
  const double* divisor;  // [n] medians; negative for a gene without a token: it is not ranked
  const int32_t* token;   // [n]
  int64_t n;
};

// Not inlined: for plain x86-64 the compiler makes loads of it, which are faster here than gathers.
template <class Index>
__attribute__((noinline)) void write_tokens(const int32_t* gene_token, const Index* column, const uint32_t* order,
                                            int64_t n, int32_t* row) {
  for (int64_t r = 0; r < n; ++r) row[r] = gene_token[column[order[r]]];
}

template <class Index, class Count>
struct EncodeCell {
  // Writes the tokens of a cell in rank order, at most max_len; returns how many, or -1 where a column is out of range.
  template <InstructionSet kSet>
  CORRMASK_HOST_DEVICE static int64_t run(const Genes& genes, const Index* column, const Count* count,
                                          int64_t n_entries, int64_t max_len, RankSpace& space, int32_t* row) {
    using Unsigned = std::make_unsigned_t<Index>;
    if (n_entries == 0) return 0;
    if (genes.n == 0) return -1;
    space.hold(n_entries);
    const double* __restrict divisor = genes.divisor;
    uint64_t* __restrict keys = space.keys.data();
    const Unsigned last_gene = static_cast<Unsigned>(genes.n - 1);
    Unsigned largest = 0;
    KeyRange range;
    for (int64_t e = 0; e < n_entries; ++e) {
      const Unsigned gene = static_cast<Unsigned>(column[e]);
      const uint64_t key = rank_key(static_cast<double>(count[e]), divisor[std::min(gene, last_gene)]);
      largest = std::max(largest, gene);
      range.add(key);
      keys[e] = key;
    }
    if (largest > last_gene) return -1;
    const auto before = [=](uint32_t a, uint32_t b) { return ranks_before(keys[a], column[a], keys[b], column[b]); };
    const int64_t kept = std::min(rank_entries<kSet, false>(range, n_entries, space, before), max_len);
    write_tokens(genes.token, column, space.order.data(), kept, row);
    return kept;
  }
};

}  // namespace

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
    check(gene_token[g] < 0 || (median[g] > 0 && std::isfinite(median[g])), kOp,
          "'medians' must be positive and finite for every gene with a token, got ", median[g], " for gene ", g);
  }
  std::vector<double> divisor(median, median + n_genes);  // negative for a gene without a token: it is not ranked
  for (int64_t g = 0; g < n_genes; ++g) {
    if (gene_token[g] < 0) divisor[g] = -1;
  }
  Tensor input_ids = torch::stable::empty({n_cells, max_len}, ScalarType::Int);
  Tensor lengths = torch::stable::empty({n_cells}, ScalarType::Long);
  int32_t* ids = mutable_data<int32_t>(input_ids);
  ask_for_large_pages(ids, input_ids.numel() * static_cast<int64_t>(sizeof *ids));
  int64_t* length = mutable_data<int64_t>(lengths);

  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(counts, kOp, "counts", [&](auto count_zero) {
      using Index = decltype(index_zero);
      using Count = decltype(count_zero);
      const Index* column = data<Index>(indices);
      const Count* count = data<Count>(counts);
      const Genes genes{divisor.data(), gene_token, n_genes};
      const auto encode_cell = for_this_machine<EncodeCell<Index, Count>>(kOp);
      std::atomic<int64_t> faulty_row{-1};
      torch::stable::parallel_for(0, n_cells, 16, [&](int64_t begin, int64_t end) {
        RankSpace space;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = row_start[i], n_entries = row_start[i + 1] - first;
          int32_t* row = ids + i * max_len;
          const int64_t kept = encode_cell(genes, column + first, count + first, n_entries, max_len, space, row);
          if (kept < 0) {
            faulty_row = i;
            continue;
          }
          std::fill(row + kept, row + max_len, static_cast<int32_t>(pad_id));
          length[i] = kept;
        }
      });
      check(faulty_row < 0, kOp, "'indices' must be in 0 .. ", n_genes - 1,
            " (the size of 'medians'), they are not in row ", faulty_row.load());
    });
  });
  return {input_ids, lengths};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("rank_encode", TORCH_BOX(&corrmask::rank_encode_cpu));
}
