#include "../portable/rank_encoding.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "avx2_machine.h"
#include "csr_rows.h"
#include "rank_sort.h"

namespace corrmask {

namespace {

// keys[e] = rank key of entry e; a loop that the compiler makes vectors of.
template <class Index, class Count>
CORRMASK_HOST_DEVICE void fill_keys(const Index* column, const Count* count, int64_t n_entries,
                                    const double* __restrict medians, uint64_t* __restrict keys) {
  for (int64_t e = 0; e < n_entries; ++e) keys[e] = rank_key(static_cast<double>(count[e]), medians[column[e]]);
}

template <class Index, class Count>
void fill_keys_plain(const Index* column, const Count* count, int64_t n_entries, const double* medians,
                     uint64_t* keys) {
  fill_keys(column, count, n_entries, medians, keys);
}

#ifdef CORRMASK_HAS_AVX2_BUILD
template <class Index, class Count>
CORRMASK_AVX2 void fill_keys_avx2(const Index* column, const Count* count, int64_t n_entries, const double* medians,
                                  uint64_t* keys) {
  fill_keys(column, count, n_entries, medians, keys);
}
#endif

template <class Index, class Count>
auto fill_keys_for_this_machine() {
#ifdef CORRMASK_HAS_AVX2_BUILD
  if (__builtin_cpu_supports("avx2")) return &fill_keys_avx2<Index, Count>;
#endif
  return &fill_keys_plain<Index, Count>;
}

// Whether a column is not in 0 .. n_genes - 1, and which.
template <class Index>
bool column_outside(const Index* column, int64_t n_entries, int64_t n_genes, std::atomic<int64_t>* which) {
  using Unsigned = std::make_unsigned_t<Index>;
  Unsigned largest = 0;
  for (int64_t e = 0; e < n_entries; ++e) largest = std::max(largest, static_cast<Unsigned>(column[e]));
  if (n_entries == 0 || largest < static_cast<uint64_t>(n_genes)) return false;
  *which = static_cast<Index>(largest);
  return true;
}

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
    check(gene_token[g] < 0 || median[g] > 0, kOp, "'medians' must be positive for every gene with a token, got ",
          median[g], " for gene ", g);
  }
  std::vector<double> divisor(median, median + n_genes);  // NaN for a gene without a token: it is not ranked
  for (int64_t g = 0; g < n_genes; ++g) {
    if (gene_token[g] < 0) divisor[g] = std::numeric_limits<double>::quiet_NaN();
  }
  Tensor input_ids = torch::stable::empty({n_cells, max_len}, ScalarType::Int);
  Tensor lengths = torch::stable::empty({n_cells}, ScalarType::Long);
  int32_t* ids = mutable_data<int32_t>(input_ids);
  int64_t* length = mutable_data<int64_t>(lengths);
  std::atomic<int64_t> faulty_column{-1};

  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(counts, kOp, "counts", [&](auto count_zero) {
      using Index = decltype(index_zero);
      using Count = decltype(count_zero);
      const Index* column = data<Index>(indices);
      const Count* count = data<Count>(counts);
      const auto fill = fill_keys_for_this_machine<Index, Count>();
      std::atomic<bool> outside{false};
      torch::stable::parallel_for(0, n_cells, 16, [&](int64_t begin, int64_t end) {
        std::vector<uint64_t> keys;
        RankSorter sorter;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = row_start[i], n_entries = row_start[i + 1] - first;
          if (column_outside(column + first, n_entries, n_genes, &faulty_column)) {
            outside = true;
            continue;
          }
          if (static_cast<int64_t>(keys.size()) < n_entries) keys.resize(n_entries);
          fill(column + first, count + first, n_entries, divisor.data(), keys.data());
          const int64_t kept = std::min<int64_t>(sorter.sort(keys.data(), column + first, n_entries), max_len);
          int32_t* row = ids + i * max_len;
          for (int64_t r = 0; r < kept; ++r) row[r] = gene_token[column[first + sorter.order(r)]];
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
