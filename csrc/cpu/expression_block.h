// Some cells of a chunk, made ready for products: y = log1p-normalised counts, genes by rank, entries by gene.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "../checks.h"
#include "strip_products.h"

namespace corrmask {

constexpr int64_t kBlock = 8192;       // cells
constexpr int64_t kUnit = 256;         // cells of the shortest runs: 32 KB of a strip, about the level 1 cache
constexpr int64_t kLongestRun = 2048;  // cells: 256 KB of a strip
constexpr int64_t kPart = 512;         // cells that one thread counts and places at a time
constexpr int64_t kTile = 512;         // genes whose sums with the strips of a panel stay in the level 2 cache
constexpr double kEntriesOfRun = 20;   // of the mean gene of a tile: fewer would not be worth loading its sums

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

// Neighbouring genes. Their entries stand in runs of neighbouring cells, gene after gene in each.
struct Tile {
  int64_t first, last;         // genes
  int64_t run_cells;           // a power of two, longer where entries are few
  std::vector<int64_t> start;  // [runs, genes + 1] where a gene's entries begin

  int64_t n_genes() const { return last - first; }
  const int64_t* starts(int64_t run) const { return start.data() + run * (n_genes() + 1); }
};

struct Block {
  int64_t n_cells, n_genes;
  std::vector<Tile> tiles;          // of kTile genes each
  Buffer<Entry> entries;            // a shifted gene has one for every cell
  std::vector<int64_t> count;       // [n_genes] cells that hold the gene
  std::vector<double> shift;        // [n_genes] 0 where a gene is not shifted
  std::vector<double> sum, square;  // [n_genes] of y
  std::vector<int64_t> expressed;   // [n_genes] cells with y > 0

  int64_t units() const { return (n_cells + kUnit - 1) / kUnit; }
  int64_t parts() const { return (n_cells + kPart - 1) / kPart; }
  int64_t runs(const Tile& tile) const { return (n_cells + tile.run_cells - 1) / tile.run_cells; }

  int64_t rows(const Tile& tile, int64_t run) const { return std::min(tile.run_cells, n_cells - run * tile.run_cells); }

  // Calls visit(cell, value) for every entry of a gene, cells ascending.
  template <class Visit>
  void each(int64_t gene, const Visit& visit) const {
    const Tile& tile = tiles[gene / kTile];
    for (int64_t run = 0; run < runs(tile); ++run) {
      const int64_t* start = tile.starts(run) + gene - tile.first;
      for (const Entry* e = entries.data() + start[0]; e != entries.data() + start[1]; ++e) {
        visit(run * tile.run_cells + e->place / kStrip, e->value);
      }
    }
  }
};

// What filling a block needs, kept from one to the next.
struct FillSpace {
  Buffer<double> y;                           // [nnz of the block], none where the counts are y
  std::vector<int64_t> first_y;               // [n_cells + 1]
  std::vector<double> part_sum, part_square;  // [parts, n_genes]
  std::vector<int32_t> part_positive;         // [parts, n_genes]
  std::vector<uint16_t> unit_count;           // [units, n_genes]
};

// y of one cell; its total is over all columns, those left out too.
template <class Index, class Count>
void normalize_cell(const CellRows<Index, Count>& rows, int64_t cell, double* y) {
  const Count* count = rows.count + rows.start[cell];
  const int64_t n = rows.start[cell + 1] - rows.start[cell];
  double total = 0;
  for (int64_t e = 0; e < n; ++e) total += static_cast<double>(count[e]);
  const double of_total = total == 0 ? 1 : total;  // a cell of stored zeros
  for (int64_t e = 0; e < n; ++e) y[e] = std::log1p(static_cast<double>(count[e]) * rows.target_sum / of_total);
}

// Calls visit(gene, y) for every entry of a cell whose column is a gene; `y` is where `normalize_cell` put it.
template <class Index, class Count, class Visit>
void each_entry(const CellRows<Index, Count>& rows, int64_t cell, const double* y, const Visit& visit) {
  const Index* column = rows.column + rows.start[cell];
  const Count* count = rows.count + rows.start[cell];
  const int64_t n = rows.start[cell + 1] - rows.start[cell];
  for (int64_t e = 0; e < n; ++e) {
    const int64_t gene = rows.rank[column[e]];
    if (gene >= 0) visit(gene, rows.target_sum == 0 ? static_cast<double>(count[e]) : y[e]);
  }
}

// Sums of each gene, part by part, so that they do not depend on the number of threads; then the shifts.
template <class Index, class Count>
void count_genes(const CellRows<Index, Count>& rows, const int64_t* cells, Block& block, FillSpace& space) {
  const int64_t n_cells = block.n_cells, n_genes = block.n_genes, n_parts = block.parts();
  static_assert(kUnit <= UINT16_MAX && kPart % kUnit == 0 && kLongestRun % kUnit == 0);
  space.first_y.assign(n_cells + 1, 0);
  for (int64_t i = 0; i < n_cells; ++i) {
    const int64_t n = rows.target_sum == 0 ? 0 : rows.start[cells[i] + 1] - rows.start[cells[i]];
    space.first_y[i + 1] = space.first_y[i] + n;
  }
  double* all_y = space.y.grow(space.first_y[n_cells]);
  space.part_sum.assign(n_parts * n_genes, 0);
  space.part_square.assign(n_parts * n_genes, 0);
  space.part_positive.assign(n_parts * n_genes, 0);
  space.unit_count.assign(block.units() * n_genes, 0);
  torch::stable::parallel_for(0, n_parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      double* sum = space.part_sum.data() + part * n_genes;
      double* square = space.part_square.data() + part * n_genes;
      int32_t* positive = space.part_positive.data() + part * n_genes;
      for (int64_t i = part * kPart; i < std::min((part + 1) * kPart, n_cells); ++i) {
        uint16_t* count = space.unit_count.data() + i / kUnit * n_genes;
        double* y = all_y + space.first_y[i];
        if (rows.target_sum != 0) normalize_cell(rows, cells[i], y);
        each_entry(rows, cells[i], y, [&](int64_t gene, double own) {
          sum[gene] += own;
          square[gene] += own * own;
          ++count[gene];
          positive[gene] += own > 0;
        });
      }
    }
  });
  block.count.assign(n_genes, 0);
  block.shift.assign(n_genes, 0);
  block.sum.assign(n_genes, 0);
  block.square.assign(n_genes, 0);
  block.expressed.assign(n_genes, 0);
  torch::stable::parallel_for(0, n_genes, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t part = 0; part < n_parts; ++part) {
      for (int64_t gene = begin; gene < end; ++gene) {
        block.sum[gene] += space.part_sum[part * n_genes + gene];
        block.square[gene] += space.part_square[part * n_genes + gene];
        block.expressed[gene] += space.part_positive[part * n_genes + gene];
      }
    }
    for (int64_t unit = 0; unit < block.units(); ++unit) {
      for (int64_t gene = begin; gene < end; ++gene) block.count[gene] += space.unit_count[unit * n_genes + gene];
    }
    for (int64_t gene = begin; gene < end; ++gene) {
      if (2 * block.count[gene] <= n_cells) continue;
      const double mean = block.sum[gene] / static_cast<double>(n_cells);
      // Entries are shifted in float32: what is 0 there is no shift, when room is made as when it is filled.
      if (std::abs(mean) >= std::numeric_limits<float>::min()) block.shift[gene] = mean;
    }
  });
}

// Where the entries of a tile's genes stand, the first of them at `filled`.
inline void place_tile(const Block& block, const FillSpace& space, Tile& tile, int64_t filled) {
  const int64_t n = tile.n_genes(), n_runs = block.runs(tile), n_units = tile.run_cells / kUnit;
  tile.start.resize(n_runs * (n + 1));
  for (int64_t run = 0; run < n_runs; ++run) {
    int64_t* start = tile.start.data() + run * (n + 1);
    for (int64_t gene = tile.first; gene < tile.last; ++gene) {
      *start++ = filled;
      if (block.shift[gene] != 0) {
        filled += block.rows(tile, run);
        continue;
      }
      for (int64_t unit = run * n_units; unit < std::min((run + 1) * n_units, block.units()); ++unit) {
        filled += space.unit_count[unit * block.n_genes + gene];
      }
    }
    *start = filled;
  }
}

// Where all entries will stand; returns how many there are.
inline int64_t place_genes(Block& block, const FillSpace& space) {
  const int64_t n_tiles = (block.n_genes + kTile - 1) / kTile;
  block.tiles.resize(n_tiles);
  std::vector<int64_t> first_entry(n_tiles + 1, 0);
  for (int64_t t = 0; t < n_tiles; ++t) {
    Tile& tile = block.tiles[t];
    tile.first = t * kTile;
    tile.last = std::min(tile.first + kTile, block.n_genes);
    int64_t n = 0;
    for (int64_t gene = tile.first; gene < tile.last; ++gene) {
      n += block.shift[gene] != 0 ? block.n_cells : block.count[gene];
    }
    first_entry[t + 1] = first_entry[t] + n;
    tile.run_cells = kUnit;
    const double wanted = kEntriesOfRun * static_cast<double>(tile.n_genes() * block.n_cells);
    while (tile.run_cells < kLongestRun && static_cast<double>(n * tile.run_cells) < wanted) tile.run_cells *= 2;
  }
  torch::stable::parallel_for(0, n_tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) place_tile(block, space, block.tiles[t], first_entry[t]);
  });
  return first_entry[n_tiles];
}

// Where a gene's next entry goes; of a shifted gene, that of the run's first cell.
struct Next {
  Entry* entry;
  int32_t run_cells;
  float shift;
};

// Sets `next` for the cells of a unit that is its part's or a run's first, and makes all of a shifted gene zeros.
inline void begin_unit(const Block& block, const FillSpace& space, int64_t unit, bool first_of_part, Next* next) {
  const int64_t cell = unit * kUnit, n_rows = std::min(kUnit, block.n_cells - cell);
  for (const Tile& tile : block.tiles) {
    const int64_t run = cell / tile.run_cells, first_unit = run * tile.run_cells / kUnit;
    const int64_t* start = tile.starts(run);
    for (int64_t gene = tile.first; gene < tile.last; ++gene) {
      const auto shift = static_cast<float>(block.shift[gene]);
      if (first_of_part || unit == first_unit) {
        next[gene] = {block.entries.data() + *start, static_cast<int32_t>(tile.run_cells), shift};
        if (shift == 0) {
          for (int64_t u = first_unit; u < unit; ++u) next[gene].entry += space.unit_count[u * block.n_genes + gene];
        }
      }
      ++start;
      if (shift == 0) continue;
      for (int64_t row = cell % tile.run_cells, last = row + n_rows; row < last; ++row) {
        next[gene].entry[row] = {static_cast<int32_t>(kStrip * row), -shift};
      }
    }
  }
}

// Fills a block with n_cells of the chunk's cells.
template <class Index, class Count>
void fill_block(const CellRows<Index, Count>& rows, const int64_t* cells, int64_t n_cells, Block& block,
                FillSpace& space) {
  block.n_cells = n_cells;
  block.n_genes = rows.n_genes;
  count_genes(rows, cells, block, space);
  block.entries.grow(place_genes(block, space));
  const double* all_y = space.y.data();
  torch::stable::parallel_for(0, block.parts(), 1, [&](int64_t begin, int64_t end) {
    std::vector<Next> next(block.n_genes);
    for (int64_t i = begin * kPart; i < std::min(end * kPart, n_cells); ++i) {
      if (i % kUnit == 0) begin_unit(block, space, i / kUnit, i == begin * kPart, next.data());
      each_entry(rows, cells[i], all_y + space.first_y[i], [&](int64_t gene, double y) {
        Next& own = next[gene];
        const int32_t row = static_cast<int32_t>(i) & (own.run_cells - 1);
        if (own.shift != 0) {
          own.entry[row].value = static_cast<float>(y - block.shift[gene]);
        } else {
          *own.entry++ = {static_cast<int32_t>(kStrip) * row, static_cast<float>(y)};
        }
      });
    }
  });
}

}  // namespace corrmask
