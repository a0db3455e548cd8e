// Adds a chunk of cells to the Gram matrix of genes, its sums and its cell counts.
//
// Genes follow a Zipf-like law: a few thousand hold most of the nonzeros. So the genes stand by frequency, and per
// block of cells there are three tiers, split by the block's own frequencies:
//
// - dense by dense: genes in more than half of the cells, some at a time against a strip of 32 frequent genes made
//   dense.
// - dense by sparse: every other gene against such a strip: 32 sums in registers, one row of the strip per nonzero.
// - sparse by sparse: the rare genes among themselves, by scatter.
//
// Precision: genes in more than half of the block's cells are shifted by their mean in the block, so that float32 is
// enough within runs of 256 cells (up to 2,048 for rarer genes), added up by 64 (strip_products.cpp); runs add up in
// float32 over at most 8,192 cells, blocks in float64 after the shift is undone. So no sum of float32 takes more than
// about 100 additions on its way, which bounds its error by 6e-6 of the genes' own sums of squares even where each
// addition rounds to the same side, as it does where cells are alike. A block holds cells of one level alone, so that
// what differs between levels is in the shift. Sums and sums of squares are float64 throughout.
//
// Owner computes: each panel, and each rare gene, belongs to one thread at a time and is summed over the cells in their
// order, so the bytes do not depend on the number of threads, without atomics or copies of the matrix.
#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "../panel_range.h"
#include "../portable/panels.h"
#include "csr_rows.h"
#include "expression_block.h"

namespace corrmask {

namespace {

constexpr double kScatterCost = 40, kWriteCost = 16;

// The panels of the matrix that are here: all of them, or those of one pass.
struct Panels {
  double* gram;
  int64_t n_genes, first, last;

  double* at(int64_t panel) const { return gram + panel_start(panel, n_genes) - panel_start(first, n_genes); }
};

struct StripSpace {
  Buffer<float> dense;  // [n_cells of the block, kStrip]
  Buffer<float> sums;   // [kTile, kStrip]
};

// One dense panel against every gene from its first one on.
void add_dense_panel(const Block& block, int64_t panel, const Panels& panels, std::vector<StripSpace>& strips) {
  const int64_t n_genes = block.n_genes, first = panel * kPanel;
  const int64_t n_strips = (std::min(kPanel, n_genes - first) + kStrip - 1) / kStrip;
  double shifts[kPanel] = {}, shifted_sums[kPanel] = {};
  bool any_shift = false;
  strips.resize(n_strips);
  for (StripSpace& strip : strips) {
    std::fill_n(strip.dense.grow(block.n_cells * kStrip), block.n_cells * kStrip, 0.f);
    strip.sums.grow(kTile * kStrip);
  }
  for (int64_t t = 0; t < std::min(kPanel, n_genes - first); ++t) {
    const int64_t gene = first + t;
    shifts[t] = block.shift[gene];
    shifted_sums[t] = block.sum[gene] - static_cast<double>(block.n_cells) * block.shift[gene];
    any_shift |= block.shift[gene] != 0;
    float* dense = strips[t / kStrip].dense.data() + t % kStrip;
    block.each(gene, [&](int64_t cell, float value) { dense[cell * kStrip] = value; });
  }
  // The entries of a tile's run of cells come from memory once and serve all strips of the panel.
  for (int64_t t = first / kTile; t < static_cast<int64_t>(block.tiles.size()); ++t) {
    const Tile& tile = block.tiles[t];
    const int64_t first_gene = std::max(first, tile.first), n = tile.last - first_gene;
    for (StripSpace& strip : strips) std::fill_n(strip.sums.data(), n * kStrip, 0.f);
    for (int64_t run = 0; run < block.runs(tile); ++run) {
      const int64_t* start = tile.starts(run) + first_gene - tile.first;
      for (StripSpace& strip : strips) {
        add_strip(block.entries.data(), start, n, block.rows(tile, run),
                  strip.dense.data() + run * tile.run_cells * kStrip, strip.sums.data());
      }
    }
    double* gram = panels.at(panel) + (first_gene - first) * kPanel;
    for (int64_t gene = first_gene; gene < tile.last; ++gene, gram += kPanel) {
      for (int64_t q = 0; q < n_strips; ++q) {
        const float* sums = strips[q].sums.data() + (gene - first_gene) * kStrip;
        double* own = gram + q * kStrip;
        if (any_shift || block.shift[gene] != 0) {
          add_unshifted(sums, shifts + q * kStrip, shifted_sums + q * kStrip, block.shift[gene], block.sum[gene], own);
        } else if (block.count[gene] != 0) {
          add_plain(sums, own);
        }
      }
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
  std::vector<int64_t> start;        // [n_cells + 1]
  std::vector<int64_t> base;         // [entries] where in the matrix the gene's entries begin, less 128 per partner
  std::vector<float> value;          // [entries]
  std::vector<int64_t> first_place;  // [rare genes and those behind them] where they begin in `place`
  std::vector<int64_t> place;        // [their entries] where in its cell's row the genes end that an entry's gene meets
};

// Rows of the genes first .. last - 1; those behind them meet them all.
RareRows gather_rare(const Block& block, const Panels& panels, int64_t first, int64_t last) {
  RareRows rare;
  rare.start.assign(block.n_cells + 1, 0);
  int64_t n_places = 0;
  for (int64_t gene = first; gene < block.n_genes; ++gene) {
    rare.first_place.push_back(n_places);
    n_places += block.count[gene];
    if (gene < last) block.each(gene, [&](int64_t cell, float) { ++rare.start[cell + 1]; });
  }
  for (int64_t cell = 0; cell < block.n_cells; ++cell) rare.start[cell + 1] += rare.start[cell];
  rare.base.resize(rare.start.back());
  rare.value.resize(rare.start.back());
  rare.place.resize(n_places);
  std::vector<int64_t> next(rare.start.begin(), rare.start.end() - 1);
  int64_t* place = rare.place.data();
  for (int64_t gene = first; gene < block.n_genes; ++gene) {
    const int64_t panel = gene / kPanel;
    const int64_t base = gene < last ? panels.at(panel) - panels.gram - panel * kPanel * kPanel + gene % kPanel : 0;
    block.each(gene, [&](int64_t cell, float value) {
      if (gene < last) {
        rare.base[next[cell]] = base;
        rare.value[next[cell]++] = value;
      }
      *place++ = next[cell];
    });
  }
  return rare;
}

// A rare gene against itself and the rare genes before it.
void add_rare_gene(const Block& block, const RareRows& rare, const int64_t* place, int64_t gene, double* gram) {
  double* own_entries = gram + gene * kPanel;
  block.each(gene, [&](int64_t cell, float value) {
    const double own = value;
    const int64_t last = *place++;
    for (int64_t r = rare.start[cell]; r < last; ++r) {
      own_entries[rare.base[r]] += own * static_cast<double>(rare.value[r]);
    }
  });
}

void add_block(const Block& block, const Panels& panels) {
  const int64_t n_dense = count_dense_panels(block);
  const int64_t first_rare = std::min(std::max(n_dense, panels.first) * kPanel, block.n_genes);
  const int64_t last_rare = std::min(panels.last * kPanel, block.n_genes);
  const bool any_rare = first_rare < last_rare;
  const RareRows rare = any_rare ? gather_rare(block, panels, first_rare, last_rare) : RareRows{};
  const int64_t last_dense = std::min(n_dense, panels.last),
                n_dense_tasks = std::max<int64_t>(0, last_dense - panels.first);
  const int64_t n_rare_tasks = any_rare ? (block.n_genes - first_rare + kPanel - 1) / kPanel : 0;
  std::atomic<int64_t> next_task{0};
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    std::vector<StripSpace> strips;
    for (int64_t task; (task = next_task.fetch_add(1)) < n_dense_tasks + n_rare_tasks;) {
      if (task < n_dense_tasks) {
        add_dense_panel(block, panels.first + task, panels, strips);
        continue;
      }
      const int64_t first = first_rare + (task - n_dense_tasks) * kPanel;
      for (int64_t gene = first; gene < std::min(first + kPanel, block.n_genes); ++gene) {
        add_rare_gene(block, rare, rare.place.data() + rare.first_place[gene - first_rare], gene, panels.gram);
      }
    }
  });
}

template <class Index, class Count>
void check_columns(const char* op, const CellRows<Index, Count>& rows, int64_t n_cells, int64_t n_columns) {
  std::atomic<int64_t> outside{-1}, repeated{-1};
  std::atomic<bool> any_outside{false};
  torch::stable::parallel_for(0, n_cells, 1024, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> last_cell(n_columns, -1);
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t e = rows.start[i]; e < rows.start[i + 1]; ++e) {
        const int64_t column = rows.column[e];
        if (column < 0 || column >= n_columns) {
          any_outside = true;
          outside = column;
          return;
        }
        if (last_cell[column] == i) repeated = i;
        last_cell[column] = i;
      }
    }
  });
  check(!any_outside, op, "'indices' must be in 0 .. ", n_columns - 1, ", got ", outside.load());
  check(repeated < 0, op, "'indices' must be unique within each cell, they are not in cell ", repeated.load());
}

}  // namespace

void covariance_update_cpu(Tensor gram, Tensor sums, Tensor squares, Tensor expressed, const Tensor& ranks,
                           const Tensor& indptr, const Tensor& indices, const Tensor& counts, const Tensor& levels,
                           double target_sum, int64_t first_panel) {
  constexpr const char* kOp = "covariance_update";
  check_csr(kOp, indptr, indices, counts, "counts");
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(sums, kOp, "sums", ScalarType::Double, 2);
  check_tensor(squares, kOp, "squares", ScalarType::Double, 1);
  check_tensor(expressed, kOp, "expressed", ScalarType::Long, 1);
  check_tensor(ranks, kOp, "ranks", ScalarType::Int, 1);
  check_tensor(levels, kOp, "levels", ScalarType::Long, 1);
  const int64_t n_cells = indptr.size(0) - 1, n_levels = sums.size(0), n_genes = sums.size(1);
  const int64_t n_columns = ranks.size(0);
  const PanelRange range = panel_range(kOp, gram.size(0), n_genes, first_panel);
  const Panels panels{mutable_data<double>(gram), n_genes, range.first, range.last};
  check(squares.size(0) == n_genes, kOp, "'squares' must be [", n_genes, "], got [", squares.size(0), "]");
  check(expressed.size(0) == n_genes, kOp, "'expressed' must be [", n_genes, "], got [", expressed.size(0), "]");
  check(levels.size(0) == n_cells, kOp, "'levels' must be [", n_cells, "], one for each cell, got [", levels.size(0),
        "]");
  check(target_sum >= 0, kOp, "'target_sum' must not be negative, got ", target_sum);
  const int32_t* rank = data<int32_t>(ranks);
  check_places(kOp, "ranks", "places", ranks, n_genes);
  const int64_t* level = data<int64_t>(levels);
  for (int64_t i = 0; i < n_cells; ++i) {
    check(level[i] >= 0 && level[i] < n_levels, kOp, "'levels' must be in 0 .. ", n_levels - 1, ", got ", level[i]);
  }
  with_index_type(indices, kOp, "indices", [&](auto index_zero) {
    with_value_type(counts, kOp, "counts", [&](auto count_zero) {
      using Index = decltype(index_zero);
      using Count = decltype(count_zero);
      const CellRows<Index, Count> rows{
          data<int64_t>(indptr), data<Index>(indices), data<Count>(counts), rank, n_genes, target_sum};
      check_columns(kOp, rows, n_cells, n_columns);
      std::vector<int64_t> cells(n_cells);
      std::iota(cells.begin(), cells.end(), int64_t{0});
      std::stable_sort(cells.begin(), cells.end(), [&](int64_t a, int64_t b) { return level[a] < level[b]; });
      Block block;
      FillSpace space;
      for (int64_t first = 0, last = 0; first < n_cells; first = last) {
        const int64_t own_level = level[cells[first]];
        while (last < n_cells && last - first < kBlock && level[cells[last]] == own_level) ++last;
        fill_block(rows, cells.data() + first, last - first, block, space);
        if (first_panel == 0) {  // of several passes the first one counts
          double* sum = mutable_data<double>(sums) + own_level * n_genes;
          double* square = mutable_data<double>(squares);
          int64_t* n_expressed = mutable_data<int64_t>(expressed);
          for (int64_t gene = 0; gene < n_genes; ++gene) {
            sum[gene] += block.sum[gene];
            square[gene] += block.square[gene];
            n_expressed[gene] += block.expressed[gene];
          }
        }
        add_block(block, panels);
      }
    });
  });
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("covariance_update", TORCH_BOX(&corrmask::covariance_update_cpu));
}
