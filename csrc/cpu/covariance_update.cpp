// Adds a chunk of cells to the Gram matrix of genes, its sums and its cell counts.
//
// Genes follow a Zipf-like law: a few thousand hold most of the nonzeros. So the genes stand by frequency, and per
// block of cells (1) the panels of the frequent genes are made dense, and every gene from there on keeps 128 sums in
// registers and adds one contiguous panel row per nonzero of its own: dense by sparse, at the speed of the vector
// units; (2) the rare genes among themselves go by scatter. Which panels are dense is decided by the block's own
// frequencies.
//
// Precision: genes in more than half of the block's cells are shifted by their mean in the block, so that float32 is
// enough within sub-blocks of 256 cells; sub-blocks add up in float32 over at most 4,096 cells, blocks in float64 after
// the shift is undone. A block holds cells of one level alone, so that what differs between levels is in the shift.
// Sums and sums of squares are float64 throughout.
//
// Owner computes: each panel, and each rare gene, belongs to one thread at a time and is summed over the cells in their
// order, so the bytes do not depend on the number of threads, without atomics or copies of the matrix.
#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "../portable/panels.h"
#include "clones.h"
#include "csr_rows.h"
#include "gene_order.h"

namespace corrmask {

namespace {

constexpr int64_t kBlock = 4096;       // cells
constexpr int64_t kSubBlock = 256;     // cells: 128 KB of a panel stay in the level 2 cache
constexpr int64_t kHalf = kPanel / 2;  // 64 sums fit the registers
constexpr double kScatterCost = 40, kWriteCost = 16;

struct Entry {
  int32_t row;  // cell within the sub-block
  float value;
};

// Some cells of the chunk, all of one level: genes by rank, entries by gene within each sub-block.
struct Block {
  int64_t n_cells, n_genes, n_sub_blocks;
  std::vector<int64_t> count;  // [n_genes] cells that hold the gene
  std::vector<double> shift;   // [n_genes] 0 where a gene is not shifted
  std::vector<double> sum;     // [n_genes] of the shifted values
  std::vector<int64_t> start;  // [n_sub_blocks, n_genes + 1]
  std::vector<Entry> entries;  // a shifted gene has one for every cell

  const Entry* begin(int64_t sub_block, int64_t gene) const {
    return entries.data() + start[sub_block * (n_genes + 1) + gene];
  }
  const Entry* end(int64_t sub_block, int64_t gene) const { return begin(sub_block, gene + 1); }
  int64_t rows(int64_t sub_block) const { return std::min(kSubBlock, n_cells - sub_block * kSubBlock); }
};

// The chunk as it is given: cells x genes in compressed rows.
template <class Index>
struct Rows {
  const int64_t* start;  // [n_cells + 1]
  const Index* column;   // [nnz]
  const double* value;   // [nnz] log1p-normalised counts
  const int32_t* rank;   // [n_genes] place of each column in the matrix
};

template <class Index>
void fill_block(const Rows<Index>& rows, const int64_t* cells, int64_t n_cells, int64_t n_genes, Block& block) {
  block.n_cells = n_cells;
  block.n_genes = n_genes;
  block.n_sub_blocks = (n_cells + kSubBlock - 1) / kSubBlock;
  block.count.assign(n_genes, 0);
  block.shift.assign(n_genes, 0);
  block.sum.assign(n_genes, 0);
  block.start.assign(block.n_sub_blocks * (n_genes + 1), 0);
  for (int64_t i = 0; i < n_cells; ++i) {
    for (int64_t e = rows.start[cells[i]]; e < rows.start[cells[i] + 1]; ++e) {
      const int64_t gene = rows.rank[rows.column[e]];
      ++block.count[gene];
      block.sum[gene] += rows.value[e];
    }
  }
  for (int64_t gene = 0; gene < n_genes; ++gene) {
    if (2 * block.count[gene] <= n_cells) continue;
    block.shift[gene] = block.sum[gene] / static_cast<double>(n_cells);
    block.sum[gene] -= static_cast<double>(n_cells) * block.shift[gene];  // rounding alone is left
  }
  int64_t filled = 0;
  for (int64_t s = 0; s < block.n_sub_blocks; ++s) {
    int64_t* start = block.start.data() + s * (n_genes + 1);
    for (int64_t i = s * kSubBlock; i < s * kSubBlock + block.rows(s); ++i) {
      for (int64_t e = rows.start[cells[i]]; e < rows.start[cells[i] + 1]; ++e) ++start[rows.rank[rows.column[e]]];
    }
    for (int64_t gene = 0; gene < n_genes; ++gene) {
      const int64_t size = block.shift[gene] != 0 ? block.rows(s) : start[gene];
      start[gene] = filled;
      filled += size;
    }
    start[n_genes] = filled;
  }
  block.entries.resize(filled);
  torch::stable::parallel_for(0, block.n_sub_blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> next(n_genes);
    for (int64_t s = begin; s < end; ++s) {
      const int64_t* start = block.start.data() + s * (n_genes + 1);
      std::copy(start, start + n_genes, next.begin());
      for (int64_t gene = 0; gene < n_genes; ++gene) {
        if (block.shift[gene] == 0) continue;
        for (int64_t row = 0; row < block.rows(s); ++row) {
          block.entries[start[gene] + row] = {static_cast<int32_t>(row), static_cast<float>(-block.shift[gene])};
        }
      }
      for (int64_t row = 0; row < block.rows(s); ++row) {
        const int64_t cell = cells[s * kSubBlock + row];
        for (int64_t e = rows.start[cell]; e < rows.start[cell + 1]; ++e) {
          const int64_t gene = rows.rank[rows.column[e]];
          if (block.shift[gene] != 0) {
            block.entries[start[gene] + row].value = static_cast<float>(rows.value[e] - block.shift[gene]);
          } else {
            block.entries[next[gene]++] = {static_cast<int32_t>(row), static_cast<float>(rows.value[e])};
          }
        }
      }
    }
  });
}

typedef float Vector __attribute__((vector_size(32), aligned(4)));
constexpr int64_t kLanes = 8;
constexpr int64_t kVectors = kHalf / kLanes;

// sums[g][0 .. 63] += value * panel[row][0 .. 63] over the entries of gene g, for genes first_gene .. n_genes - 1.
CORRMASK_CLONES void add_half_panel(const Entry* entries, const int64_t* start, int64_t first_gene, int64_t n_genes,
                                    const float* panel,  // [rows, kPanel], from the half's first column
                                    float* sums          // [n_genes - first_gene, kPanel], likewise
) {
  for (int64_t gene = first_gene; gene < n_genes; ++gene) {
    const Entry* entry = entries + start[gene];
    const Entry* end = entries + start[gene + 1];
    if (entry == end) continue;
    Vector a0{}, a1{}, a2{}, a3{}, a4{}, a5{}, a6{}, a7{};
    for (; entry != end; ++entry) {
      const Vector* p = reinterpret_cast<const Vector*>(panel + kPanel * entry->row);
      const float v = entry->value;
      a0 += v * p[0];
      a1 += v * p[1];
      a2 += v * p[2];
      a3 += v * p[3];
      a4 += v * p[4];
      a5 += v * p[5];
      a6 += v * p[6];
      a7 += v * p[7];
    }
    Vector* s = reinterpret_cast<Vector*>(sums + kPanel * (gene - first_gene));
    s[0] += a0;
    s[1] += a1;
    s[2] += a2;
    s[3] += a3;
    s[4] += a4;
    s[5] += a5;
    s[6] += a6;
    s[7] += a7;
  }
}

// gram[t] += sums[t] with the shifts of both sides undone.
CORRMASK_CLONES void add_unshifted(const float* sums, const double* panel_shift, const double* panel_sum, double shift,
                                   double sum, double n_cells, int64_t width, double* gram) {
  const double all = sum + n_cells * shift;
  for (int64_t t = 0; t < width; ++t) {
    gram[t] += static_cast<double>(sums[t]) + (panel_shift[t] * all + shift * panel_sum[t]);
  }
}

CORRMASK_CLONES void add_plain(const float* sums, int64_t width, double* gram) {
  for (int64_t t = 0; t < width; ++t) gram[t] += static_cast<double>(sums[t]);
}

// One dense panel against every gene from its first one on.
void add_dense_panel(const Block& block, int64_t panel, std::vector<float>& dense, std::vector<float>& sums,
                     double* gram) {
  const int64_t first = panel * kPanel, width = std::min(kPanel, block.n_genes - first);
  const int64_t n_partners = block.n_genes - first;
  sums.assign(n_partners * kPanel, 0);
  dense.resize(kSubBlock * kPanel);
  for (int64_t s = 0; s < block.n_sub_blocks; ++s) {
    std::fill(dense.begin(), dense.end(), 0.f);
    for (int64_t t = 0; t < width; ++t) {
      for (const Entry* e = block.begin(s, first + t); e != block.end(s, first + t); ++e) {
        dense[e->row * kPanel + t] = e->value;
      }
    }
    const int64_t* start = block.start.data() + s * (block.n_genes + 1);
    for (int64_t half = 0; half < kPanel; half += kHalf) {
      add_half_panel(block.entries.data(), start, first, block.n_genes, dense.data() + half, sums.data() + half);
    }
  }
  const double n_cells = static_cast<double>(block.n_cells);
  bool any_shift = false;
  for (int64_t t = 0; t < width; ++t) any_shift |= block.shift[first + t] != 0;
  double* row = gram + panel_start(panel, block.n_genes);
  for (int64_t g = 0; g < n_partners; ++g, row += kPanel) {
    const float* own = sums.data() + g * kPanel;
    if (any_shift || block.shift[first + g] != 0) {
      add_unshifted(own, block.shift.data() + first, block.sum.data() + first, block.shift[first + g],
                    block.sum[first + g], n_cells, width, row);
    } else if (block.count[first + g] != 0) {
      add_plain(own, width, row);
    }
  }
}

// Which panels are dense: all up to the last one where that is cheaper, or where a gene is shifted. A scattered product
// costs as much as kScatterCost dense ones, writing a sum back as kWriteCost.
int64_t count_dense_panels(const Block& block) {
  const int64_t panels = panel_count(block.n_genes);
  double colder = 0;  // entries of the panel's genes and all behind them
  int64_t n_dense = 0;
  for (int64_t panel = panels - 1; panel >= 0; --panel) {
    const int64_t first = panel * kPanel, last = std::min(first + kPanel, block.n_genes);
    double own = 0;
    bool shifted = false;
    for (int64_t gene = first; gene < last; ++gene) {
      own += static_cast<double>(block.count[gene]);
      shifted |= block.shift[gene] != 0;
    }
    colder += own;
    const double scattered = kScatterCost * own * colder / static_cast<double>(block.n_cells);
    const double dense = kPanel * (colder + kWriteCost * static_cast<double>(block.n_genes - first));
    if (n_dense == 0 && (shifted || scattered > dense)) n_dense = panel + 1;
  }
  return n_dense;
}

// The entries of the rare genes by cell, genes ascending: what the scatter walks along.
struct RareRows {
  std::vector<int64_t> start;  // [n_cells + 1]
  std::vector<int64_t> base;   // [entries] where in the matrix the gene's entries begin, less 128 for each partner
  std::vector<float> value;    // [entries]
  std::vector<int64_t> place;  // [entries of the block] where an entry stands in its cell's row
};

RareRows gather_rare(const Block& block, int64_t first_rare) {
  RareRows rare;
  rare.start.assign(block.n_cells + 1, 0);
  for (int64_t s = 0; s < block.n_sub_blocks; ++s) {
    for (const Entry* e = block.begin(s, first_rare); e != block.begin(s, block.n_genes); ++e) {
      ++rare.start[s * kSubBlock + e->row + 1];
    }
  }
  for (int64_t cell = 0; cell < block.n_cells; ++cell) rare.start[cell + 1] += rare.start[cell];
  rare.base.resize(rare.start.back());
  rare.value.resize(rare.start.back());
  rare.place.resize(block.entries.size());
  std::vector<int64_t> next(rare.start.begin(), rare.start.end() - 1);
  for (int64_t s = 0; s < block.n_sub_blocks; ++s) {
    for (int64_t gene = first_rare; gene < block.n_genes; ++gene) {
      const int64_t panel = gene / kPanel;
      const int64_t base = panel_start(panel, block.n_genes) - panel * kPanel * kPanel + gene % kPanel;
      for (const Entry* e = block.begin(s, gene); e != block.end(s, gene); ++e) {
        const int64_t place = next[s * kSubBlock + e->row]++;
        rare.base[place] = base;
        rare.value[place] = e->value;
        rare.place[e - block.entries.data()] = place;
      }
    }
  }
  return rare;
}

// A rare gene against itself and the rare genes before it.
void add_rare_gene(const Block& block, const RareRows& rare, int64_t gene, double* gram) {
  double* own_entries = gram + gene * kPanel;
  for (int64_t s = 0; s < block.n_sub_blocks; ++s) {
    for (const Entry* e = block.begin(s, gene); e != block.end(s, gene); ++e) {
      const double own = e->value;
      const int64_t last = rare.place[e - block.entries.data()];
      for (int64_t r = rare.start[s * kSubBlock + e->row]; r <= last; ++r) {
        own_entries[rare.base[r]] += own * static_cast<double>(rare.value[r]);
      }
    }
  }
}

void add_block(const Block& block, double* gram) {
  const int64_t n_dense = count_dense_panels(block), first_rare = std::min(n_dense * kPanel, block.n_genes);
  const RareRows rare = gather_rare(block, first_rare);
  const int64_t n_rare_tasks = (block.n_genes - first_rare + kPanel - 1) / kPanel;
  std::atomic<int64_t> next_task{0};
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    std::vector<float> dense, sums;
    for (int64_t task; (task = next_task.fetch_add(1)) < n_dense + n_rare_tasks;) {
      if (task < n_dense) {
        add_dense_panel(block, task, dense, sums, gram);
        continue;
      }
      const int64_t first = first_rare + (task - n_dense) * kPanel;
      for (int64_t gene = first; gene < std::min(first + kPanel, block.n_genes); ++gene) {
        add_rare_gene(block, rare, gene, gram);
      }
    }
  });
}

}  // namespace

void covariance_update_cpu(Tensor gram, Tensor sums, Tensor squares, Tensor expressed, const Tensor& ranks,
                           const Tensor& indptr, const Tensor& indices, const Tensor& values, const Tensor& levels) {
  constexpr const char* kOp = "covariance_update";
  check_csr(kOp, indptr, indices, values, "values");
  check_tensor(values, kOp, "values", ScalarType::Double, 1);
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(sums, kOp, "sums", ScalarType::Double, 2);
  check_tensor(squares, kOp, "squares", ScalarType::Double, 1);
  check_tensor(expressed, kOp, "expressed", ScalarType::Long, 1);
  check_tensor(ranks, kOp, "ranks", ScalarType::Int, 1);
  check_tensor(levels, kOp, "levels", ScalarType::Long, 1);
  const int64_t n_cells = indptr.size(0) - 1, n_levels = sums.size(0), n_genes = sums.size(1);
  check(gram.size(0) == panels_size(n_genes), kOp, "'gram' must be [", panels_size(n_genes), "], the panels of the ",
        n_genes, " genes of 'sums', got [", gram.size(0), "]");
  check(squares.size(0) == n_genes, kOp, "'squares' must be [", n_genes, "], got [", squares.size(0), "]");
  check(expressed.size(0) == n_genes, kOp, "'expressed' must be [", n_genes, "], got [", expressed.size(0), "]");
  check(ranks.size(0) == n_genes, kOp, "'ranks' must be [", n_genes, "], got [", ranks.size(0), "]");
  check(levels.size(0) == n_cells, kOp, "'levels' must be [", n_cells, "], one for each cell, got [", levels.size(0),
        "]");
  const int32_t* rank = data<int32_t>(ranks);
  genes_by_rank(kOp, rank, n_genes);  // raises where they are no permutation
  const int64_t* row_start = data<int64_t>(indptr);
  const double* value = data<double>(values);
  const int64_t* level = data<int64_t>(levels);
  double* sum = mutable_data<double>(sums);
  double* square = mutable_data<double>(squares);
  int64_t* n_expressed = mutable_data<int64_t>(expressed);
  for (int64_t i = 0; i < n_cells; ++i) {
    check(level[i] >= 0 && level[i] < n_levels, kOp, "'levels' must be in 0 .. ", n_levels - 1, ", got ", level[i]);
  }

  with_index_type(indices, kOp, "indices", [&](auto zero) {
    using Index = decltype(zero);
    const Rows<Index> rows{row_start, data<Index>(indices), value, rank};
    std::vector<int64_t> last_cell(n_genes, -1);
    for (int64_t i = 0; i < n_cells; ++i) {
      for (int64_t e = row_start[i]; e < row_start[i + 1]; ++e) {
        const int64_t gene = rows.column[e];
        check(gene >= 0 && gene < n_genes, kOp, "'indices' must be in 0 .. ", n_genes - 1, ", got ", gene);
        check(last_cell[gene] != i, kOp, "'indices' must be unique within each cell, they are not in cell ", i);
        last_cell[gene] = i;
      }
    }
    for (int64_t i = 0; i < n_cells; ++i) {
      double* level_sum = sum + level[i] * n_genes;
      for (int64_t e = row_start[i]; e < row_start[i + 1]; ++e) {
        level_sum[rows.column[e]] += value[e];
        square[rows.column[e]] += value[e] * value[e];
        n_expressed[rows.column[e]] += value[e] > 0;
      }
    }
    std::vector<int64_t> cells(n_cells);
    std::iota(cells.begin(), cells.end(), int64_t{0});
    std::stable_sort(cells.begin(), cells.end(), [&](int64_t a, int64_t b) { return level[a] < level[b]; });
    Block block;
    for (int64_t first = 0, last = 0; first < n_cells; first = last) {
      while (last < n_cells && last - first < kBlock && level[cells[last]] == level[cells[first]]) ++last;
      fill_block(rows, cells.data() + first, last - first, n_genes, block);
      add_block(block, mutable_data<double>(gram));
    }
  });
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("covariance_update", TORCH_BOX(&corrmask::covariance_update_cpu));
}
