// Some cells of a chunk, made ready for products: y = log1p-normalised counts, genes by rank, entries by gene.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "../checks.h"

namespace corrmask {

constexpr int64_t kBlock = 8192;    // cells
constexpr int64_t kWindow = 2048;   // cells: 256 KB of a strip, for genes with little work in each sub-block
constexpr int64_t kSubBlock = 512;  // cells: 64 KB of a strip
constexpr int64_t kStrip = 32;      // genes side by side in a strip: their sums fit the registers
constexpr double kFrequent = 0.03;  // share of cells from which a gene has work enough in a sub-block

// The chunk as it is given: cells x genes in compressed rows.
template <class Index, class Count>
struct CellRows {
  const int64_t* start;  // [n_cells + 1]
  const Index* column;   // [nnz]
  const Count* count;    // [nnz]
  const int32_t* rank;   // [n_columns] place of each column among the genes, -1 where it is left out
  int64_t n_genes;
  double target_sum;  // 0: the counts are y already
};

struct Entry {
  int32_t place;  // kStrip * cell within the run
  float value;    // y less the gene's shift
};

// Memory that grows, is not cleared, and begins at a cache line: vectors of a strip that lie across two take twice as
// long to load.
template <class T>
class Buffer {
 public:
  T* grow(int64_t n) {
    if (n > size_) {
      data_.reset();
      data_.reset(static_cast<T*>(::operator new[](n * sizeof(T), kLine)));
      size_ = n;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(T* data) const { ::operator delete[](data, kLine); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

// Entries stand in runs of neighbouring cells: by sub-block for the frequent genes, the first `n_frequent`, and by
// window for all others, gene after gene in each.
struct Block {
  int64_t n_cells, n_genes, n_frequent;
  std::vector<int64_t> sub_block_start;  // [sub-blocks, n_frequent + 1] where a gene's entries begin
  std::vector<int64_t> window_start;     // [windows, n_genes - n_frequent + 1]
  Buffer<Entry> entries;                 // a shifted gene has one for every cell
  std::vector<int64_t> count;            // [n_genes] cells that hold the gene
  std::vector<double> shift;             // [n_genes] 0 where a gene is not shifted
  std::vector<double> sum, square;       // [n_genes] of y
  std::vector<int64_t> expressed;        // [n_genes] cells with y > 0

  int64_t sub_blocks() const { return (n_cells + kSubBlock - 1) / kSubBlock; }
  int64_t windows() const { return (n_cells + kWindow - 1) / kWindow; }
  int64_t rows(int64_t sub_block) const { return std::min(kSubBlock, n_cells - sub_block * kSubBlock); }

  // Where the entries of genes from the first (of the frequent ones, of the others) on begin in a run.
  const int64_t* of_sub_block(int64_t s) const { return sub_block_start.data() + s * (n_frequent + 1); }
  const int64_t* of_window(int64_t w) const { return window_start.data() + w * (n_genes - n_frequent + 1); }

  // Calls visit(cell, value) for every entry of a gene, cells ascending.
  template <class Visit>
  void each(int64_t gene, const Visit& visit) const {
    const bool frequent = gene < n_frequent;
    const int64_t n_runs = frequent ? sub_blocks() : windows(), run_cells = frequent ? kSubBlock : kWindow;
    for (int64_t run = 0; run < n_runs; ++run) {
      const int64_t* start = frequent ? of_sub_block(run) + gene : of_window(run) + gene - n_frequent;
      for (const Entry* e = entries.data() + start[0]; e != entries.data() + start[1]; ++e) {
        visit(run * run_cells + e->place / kStrip, e->value);
      }
    }
  }
};

// What filling a block needs, kept from one to the next.
struct FillSpace {
  Buffer<double> y;                                // [nnz of the block]
  std::vector<int64_t> first_y;                    // [n_cells + 1]
  std::vector<double> part_sum, part_square;       // [sub-blocks, n_genes]
  std::vector<int32_t> part_count, part_positive;  // [sub-blocks, n_genes]
};

// y of one cell; its total is over all columns, those left out too.
template <class Index, class Count>
void normalize_cell(const CellRows<Index, Count>& rows, int64_t cell, double* y) {
  const Count* count = rows.count + rows.start[cell];
  const int64_t n = rows.start[cell + 1] - rows.start[cell];
  if (rows.target_sum == 0) {
    for (int64_t e = 0; e < n; ++e) y[e] = static_cast<double>(count[e]);
    return;
  }
  double total = 0;
  for (int64_t e = 0; e < n; ++e) total += static_cast<double>(count[e]);
  const double of_total = total == 0 ? 1 : total;  // a cell of stored zeros
  for (int64_t e = 0; e < n; ++e) y[e] = std::log1p(static_cast<double>(count[e]) * rows.target_sum / of_total);
}

// Sums of each gene, sub-block by sub-block, so that they do not depend on the number of threads; then the shifts.
template <class Index, class Count>
void count_genes(const CellRows<Index, Count>& rows, const int64_t* cells, Block& block, FillSpace& space) {
  const int64_t n_cells = block.n_cells, n_genes = block.n_genes, n_sub_blocks = block.sub_blocks();
  space.first_y.assign(n_cells + 1, 0);
  for (int64_t i = 0; i < n_cells; ++i) {
    space.first_y[i + 1] = space.first_y[i] + rows.start[cells[i] + 1] - rows.start[cells[i]];
  }
  double* all_y = space.y.grow(space.first_y[n_cells]);
  space.part_sum.assign(n_sub_blocks * n_genes, 0);
  space.part_square.assign(n_sub_blocks * n_genes, 0);
  space.part_count.assign(n_sub_blocks * n_genes, 0);
  space.part_positive.assign(n_sub_blocks * n_genes, 0);
  torch::stable::parallel_for(0, n_sub_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      double* sum = space.part_sum.data() + s * n_genes;
      double* square = space.part_square.data() + s * n_genes;
      int32_t* count = space.part_count.data() + s * n_genes;
      int32_t* positive = space.part_positive.data() + s * n_genes;
      for (int64_t i = s * kSubBlock; i < s * kSubBlock + block.rows(s); ++i) {
        double* y = all_y + space.first_y[i];
        normalize_cell(rows, cells[i], y);
        const Index* column = rows.column + rows.start[cells[i]];
        for (int64_t e = 0; e < space.first_y[i + 1] - space.first_y[i]; ++e) {
          const int64_t gene = rows.rank[column[e]];
          if (gene < 0) continue;
          sum[gene] += y[e];
          square[gene] += y[e] * y[e];
          ++count[gene];
          positive[gene] += y[e] > 0;
        }
      }
    }
  });
  block.count.assign(n_genes, 0);
  block.shift.assign(n_genes, 0);
  block.sum.assign(n_genes, 0);
  block.square.assign(n_genes, 0);
  block.expressed.assign(n_genes, 0);
  torch::stable::parallel_for(0, n_genes, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t s = 0; s < n_sub_blocks; ++s) {
      for (int64_t gene = begin; gene < end; ++gene) {
        block.sum[gene] += space.part_sum[s * n_genes + gene];
        block.square[gene] += space.part_square[s * n_genes + gene];
        block.count[gene] += space.part_count[s * n_genes + gene];
        block.expressed[gene] += space.part_positive[s * n_genes + gene];
      }
    }
    for (int64_t gene = begin; gene < end; ++gene) {
      if (2 * block.count[gene] > n_cells) block.shift[gene] = block.sum[gene] / static_cast<double>(n_cells);
    }
  });
}

// Where the entries of each gene will stand; returns how many there are.
inline int64_t place_genes(Block& block, const FillSpace& space) {
  const int64_t n_genes = block.n_genes, n_sub_blocks = block.sub_blocks(), n_windows = block.windows();
  int64_t n_frequent = 0, last_shifted = -1;
  for (int64_t gene = 0; gene < n_genes; ++gene) {
    n_frequent += static_cast<double>(block.count[gene]) >= kFrequent * static_cast<double>(block.n_cells);
    if (block.shift[gene] != 0) last_shifted = gene;
  }
  block.n_frequent = std::max(n_frequent, last_shifted + 1);  // ranks are those of another chunk: about in order
  block.sub_block_start.resize(n_sub_blocks * (block.n_frequent + 1));
  block.window_start.resize(n_windows * (n_genes - block.n_frequent + 1));
  int64_t filled = 0;
  for (int64_t s = 0; s < n_sub_blocks; ++s) {
    int64_t* start = block.sub_block_start.data() + s * (block.n_frequent + 1);
    for (int64_t gene = 0; gene < block.n_frequent; ++gene) {
      start[gene] = filled;
      filled += block.shift[gene] != 0 ? block.rows(s) : space.part_count[s * n_genes + gene];
    }
    start[block.n_frequent] = filled;
  }
  constexpr int64_t kRatio = kWindow / kSubBlock;
  for (int64_t w = 0; w < n_windows; ++w) {
    int64_t* start = block.window_start.data() + w * (n_genes - block.n_frequent + 1);
    for (int64_t gene = block.n_frequent; gene < n_genes; ++gene) {
      *start++ = filled;
      for (int64_t s = w * kRatio; s < std::min((w + 1) * kRatio, n_sub_blocks); ++s) {
        filled += space.part_count[s * n_genes + gene];
      }
    }
    *start = filled;
  }
  return filled;
}

// Fills a block with n_cells of the chunk's cells.
template <class Index, class Count>
void fill_block(const CellRows<Index, Count>& rows, const int64_t* cells, int64_t n_cells, Block& block,
                FillSpace& space) {
  const int64_t n_genes = rows.n_genes;
  block.n_cells = n_cells;
  block.n_genes = n_genes;
  count_genes(rows, cells, block, space);
  Entry* entries = block.entries.grow(place_genes(block, space));
  const double* all_y = space.y.data();
  torch::stable::parallel_for(0, block.windows(), 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> next(n_genes);
    for (int64_t w = begin; w < end; ++w) {
      std::copy_n(block.of_window(w), n_genes - block.n_frequent, next.begin() + block.n_frequent);
      for (int64_t first = w * kWindow; first < std::min((w + 1) * kWindow, n_cells); first += kSubBlock) {
        const int64_t s = first / kSubBlock;
        std::copy_n(block.of_sub_block(s), block.n_frequent, next.begin());
        for (int64_t gene = 0; gene < block.n_frequent; ++gene) {
          if (block.shift[gene] == 0) continue;
          for (int64_t row = 0; row < block.rows(s); ++row) {
            entries[next[gene] + row] = {static_cast<int32_t>(kStrip * row), static_cast<float>(-block.shift[gene])};
          }
        }
        for (int64_t row = 0; row < block.rows(s); ++row) {
          const int64_t i = first + row;
          const double* y = all_y + space.first_y[i];
          const Index* column = rows.column + rows.start[cells[i]];
          const int32_t places[2] = {static_cast<int32_t>(kStrip * (i - w * kWindow)),
                                     static_cast<int32_t>(kStrip * row)};
          for (int64_t e = 0; e < space.first_y[i + 1] - space.first_y[i]; ++e) {
            const int64_t gene = rows.rank[column[e]];
            if (gene < 0) continue;
            if (block.shift[gene] != 0) {
              entries[next[gene] + row].value = static_cast<float>(y[e] - block.shift[gene]);
            } else {
              entries[next[gene]++] = {places[gene < block.n_frequent], static_cast<float>(y[e])};
            }
          }
        }
      }
    }
  });
}

}  // namespace corrmask
