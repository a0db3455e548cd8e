// Adds a chunk of cells to the Gram matrix of genes, its sums and its cell counts.
//
// Owner computes: each row of the triangle belongs to one thread and is summed over the cells in their order, so the
// bytes do not depend on the number of threads, without atomics or copies of the matrix. Cells go in blocks that stay
// in cache; within a block the genes are split so that every part has as many multiplications.
#include <algorithm>
#include <atomic>
#include <vector>

#include "../portable/triangle.h"
#include "csr_rows.h"

namespace corrmask {

namespace {

constexpr int64_t kBlockNonzeros = 1 << 19;  // 6 MB of columns and values: a share of a level 3 cache
constexpr int64_t kPartsPerThread = 1;

struct Occurrence {
  int32_t row;
  int64_t entry;  // where in indices / values
};

// The block's entries by gene (a counting sort, so that cells stay in order).
template <class Index>
void group_by_gene(const int64_t* row_start, const Index* column, int64_t first_row, int64_t last_row, int64_t n_genes,
                   std::vector<int64_t>& gene_start, std::vector<Occurrence>& occurrences) {
  gene_start.assign(n_genes + 1, 0);
  const int64_t begin = row_start[first_row], end = row_start[last_row];
  for (int64_t e = begin; e < end; ++e) ++gene_start[column[e] + 1];
  for (int64_t g = 0; g < n_genes; ++g) gene_start[g + 1] += gene_start[g];
  occurrences.resize(end - begin);
  std::vector<int64_t> next(gene_start.begin(), gene_start.end() - 1);
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t e = row_start[row]; e < row_start[row + 1]; ++e) {
      occurrences[next[column[e]]++] = {static_cast<int32_t>(row - first_row), e};
    }
  }
}

// Gene boundaries of `n_parts` parts of about equal work.
template <class Index>
std::vector<int64_t> equal_work(const std::vector<int64_t>& gene_start, const std::vector<Occurrence>& occurrences,
                                const int64_t* row_start, int64_t first_row, int64_t n_genes, int64_t n_parts) {
  std::vector<int64_t> work(n_genes + 1, 0);
  for (int64_t g = 0; g < n_genes; ++g) {
    int64_t own = 0;
    for (int64_t o = gene_start[g]; o < gene_start[g + 1]; ++o) {
      own += row_start[first_row + occurrences[o].row + 1] - occurrences[o].entry;
    }
    work[g + 1] = work[g] + own;
  }
  std::vector<int64_t> bounds(n_parts + 1, n_genes);
  for (int64_t p = 0; p < n_parts; ++p) {
    bounds[p] = std::lower_bound(work.begin(), work.end(), work[n_genes] / n_parts * p) - work.begin();
  }
  bounds[0] = 0;
  return bounds;
}

}  // namespace

void covariance_update_cpu(Tensor gram, Tensor sums, Tensor expressed, const Tensor& indptr, const Tensor& indices,
                           const Tensor& values, const Tensor& levels) {
  constexpr const char* kOp = "covariance_update";
  check_csr(kOp, indptr, indices, values, "values");
  check_tensor(values, kOp, "values", ScalarType::Double, 1);
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(sums, kOp, "sums", ScalarType::Double, 2);
  check_tensor(expressed, kOp, "expressed", ScalarType::Long, 1);
  check_tensor(levels, kOp, "levels", ScalarType::Long, 1);
  const int64_t n_cells = indptr.size(0) - 1, n_levels = sums.size(0), n_genes = sums.size(1);
  check(gram.size(0) == triangle_size(n_genes), kOp, "'gram' must be [", triangle_size(n_genes),
        "], the triangle of the ", n_genes, " genes of 'sums', got [", gram.size(0), "]");
  check(expressed.size(0) == n_genes, kOp, "'expressed' must be [", n_genes, "], got [", expressed.size(0), "]");
  check(levels.size(0) == n_cells, kOp, "'levels' must be [", n_cells, "], one for each cell, got [", levels.size(0),
        "]");
  const int64_t* row_start = data<int64_t>(indptr);
  const double* value = data<double>(values);
  const int64_t* level = data<int64_t>(levels);
  double* gram_rows = mutable_data<double>(gram);
  double* sum = mutable_data<double>(sums);
  int64_t* n_expressed = mutable_data<int64_t>(expressed);
  for (int64_t i = 0; i < n_cells; ++i) {
    check(level[i] >= 0 && level[i] < n_levels, kOp, "'levels' must be in 0 .. ", n_levels - 1, ", got ", level[i]);
  }

  with_index_type(indices, kOp, "indices", [&](auto zero) {
    using Index = decltype(zero);
    const Index* column = data<Index>(indices);
    for (int64_t i = 0; i < n_cells; ++i) {
      for (int64_t e = row_start[i]; e < row_start[i + 1]; ++e) {
        check(column[e] >= 0 && column[e] < n_genes, kOp, "'indices' must be in 0 .. ", n_genes - 1, ", got ",
              static_cast<int64_t>(column[e]));
        check(e == row_start[i] || column[e - 1] < column[e], kOp,
              "'indices' must ascend within each cell, they do not in cell ", i);
      }
    }
    std::vector<int64_t> gene_start;
    std::vector<Occurrence> occurrences;
    const int64_t n_parts = kPartsPerThread * static_cast<int64_t>(torch::stable::get_num_threads());
    for (int64_t first = 0; first < n_cells;) {
      int64_t last = first + 1;
      while (last < n_cells && row_start[last + 1] - row_start[first] <= kBlockNonzeros) ++last;
      group_by_gene(row_start, column, first, last, n_genes, gene_start, occurrences);
      const auto bounds = equal_work<Index>(gene_start, occurrences, row_start, first, n_genes, n_parts);
      torch::stable::parallel_for(0, n_parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t g = bounds[begin]; g < bounds[end]; ++g) {
          double* gram_row = gram_rows + triangle_row(g, n_genes) - g;  // indexed by the partner's column
          for (int64_t o = gene_start[g]; o < gene_start[g + 1]; ++o) {
            const int64_t entry = occurrences[o].entry;
            const int64_t row = first + occurrences[o].row;
            const double own = value[entry];
            if (own > 0) ++n_expressed[g];
            sum[level[row] * n_genes + g] += own;
            for (int64_t e = entry; e < row_start[row + 1]; ++e) gram_row[column[e]] += own * value[e];
          }
        }
      });
      first = last;
    }
  });
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("covariance_update", TORCH_BOX(&corrmask::covariance_update_cpu));
}
