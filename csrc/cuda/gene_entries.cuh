// The entries of each run of cells by gene, y = log1p-normalised counts: a bit for each of them says where it goes, so
// that all cells can be read at once, in any order, and each gene still has its cells in theirs.
//
// Sums have a fixed order without float atomics: a warp adds the y of a gene over a block of cells, a thread those of
// the blocks. Genes in more than half of a block's cells are shifted by their mean there and have an entry for every
// cell: at most twice as many as were given, which the host knows, so nothing waits for the device.
#pragma once

#include "expression_runs.cuh"

namespace corrmask {

#ifndef CORRMASK_DENSITY
#define CORRMASK_DENSITY 16
#endif
constexpr int64_t kDensity = CORRMASK_DENSITY;  // a panel is dense where it holds at least one entry in so many
constexpr int64_t kRarity = 192;                // and rare where it holds less than one in so many

// One warp to a cell: a bit for each of its entries. `mask` is 0 before.
template <class Index, class Count>
__global__ void mark_cells_kernel(CountRows<Index, Count> rows, Runs runs) {
  const int64_t warps_per_block = blockDim.x / kWarp;
  for (int64_t at = blockIdx.x * warps_per_block + threadIdx.x / kWarp; at < runs.n->parts * kPart;
       at += gridDim.x * warps_per_block) {
    Place place;
    if (!Place::find(runs, at, &place)) continue;
    unsigned long long* mask = runs.mask + place.part * runs.n_genes;
    const int64_t end = rows.end(place.cell);
#pragma unroll 4
    for (int64_t e = rows.begin(place.cell) + lane_id(); e < end; e += kWarp) {
      const int64_t gene = rows.gene(e);
      if (gene >= 0) atomicOr(mask + gene, 1ull << place.bit);
    }
  }
}

// One thread to a gene and a block of cells: how many entries each run will have (in gene_start), and whether it is
// shifted there (a shift of 1 until its mean is known).
static __global__ void count_entries_kernel(Runs runs) {
  const int64_t n_genes = runs.n_genes;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; at < n_genes * runs.n->blocks;
       at += gridDim.x * static_cast<int64_t>(blockDim.x)) {
    const int64_t gene = at % n_genes;
    const Block block = runs.block[at / n_genes];
    int64_t count = 0;
    for (int64_t r = block.first_run; r < block.last_run; ++r) {
      const Run run = runs.run[r];
      int32_t n = 0;
      for (int64_t p = run.first_part; p < run.first_part + run.n_parts(); ++p) {
        n += __popcll(runs.mask[p * n_genes + gene]);
      }
      runs.gene_start[r * (n_genes + 1) + gene] = n;
      count += n;
    }
    runs.shift[at] = 2 * count > block.n_cells ? 1 : 0;
    if (2 * count <= block.n_cells) continue;
    for (int64_t r = block.first_run; r < block.last_run; ++r) {
      runs.gene_start[r * (n_genes + 1) + gene] = runs.run[r].n_rows;
    }
  }
}

// One block to a run: where the entries of each gene begin in it, and its y; how many y there are (in y_start).
static __global__ void __launch_bounds__(1024) place_genes_kernel(Runs runs) {
  __shared__ int64_t sums[kWarp];
  const int64_t r = blockIdx.x, n_genes = runs.n_genes;
  if (r >= runs.n_runs()) return;
  const Run run = runs.run[r];
  int64_t next = 0, next_y = 0;
  int64_t* start = runs.gene_start + r * (n_genes + 1);
  for (int64_t first = 0; first < n_genes; first += blockDim.x) {
    const int64_t gene = first + threadIdx.x;
    int64_t n = 0, own_y = 0;
    const int64_t before = sum_before(gene < n_genes ? start[gene] : 0, sums, &n);
    for (int64_t p = run.first_part; gene < n_genes && p < run.first_part + run.n_parts(); ++p) {
      own_y += __popcll(runs.mask[p * n_genes + gene]);
    }
    int64_t n_y = 0;
    int64_t at = next_y + sum_before(own_y, sums, &n_y);
    for (int64_t p = run.first_part; gene < n_genes && p < run.first_part + run.n_parts(); ++p) {
      runs.part_start[p * n_genes + gene] = at;
      at += __popcll(runs.mask[p * n_genes + gene]);
    }
    if (gene < n_genes) start[gene] = next + before;
    next += n;
    next_y += n_y;
  }
  if (threadIdx.x != 0) return;
  start[n_genes] = next;
  runs.y_start[r + 1] = next_y;
}

// One block: where the entries and the y of each run begin.
static __global__ void __launch_bounds__(1024) place_runs_kernel(Runs runs) {
  __shared__ int64_t sums[kWarp];
  const int64_t n_runs = runs.n_runs(), row = runs.n_genes + 1;
  int64_t next = 0, next_y = 0;
  for (int64_t first = 0; first < n_runs; first += blockDim.x) {
    const int64_t r = first + threadIdx.x;
    int64_t n = 0, n_y = 0;
    const int64_t own_y = r < n_runs ? runs.y_start[r + 1] : 0;  // read by all before one of them is written
    const int64_t before = sum_before(r < n_runs ? runs.gene_start[r * row + runs.n_genes] : 0, sums, &n);
    const int64_t before_y = sum_before(own_y, sums, &n_y);
    if (r < n_runs) {
      runs.run_start[r] = next + before;
      runs.y_start[r] = next_y + before_y;
    }
    next += n;
    next_y += n_y;
  }
  if (threadIdx.x != 0) return;
  runs.run_start[n_runs] = next;
  runs.y_start[n_runs] = next_y;
}

// One block to a panel: whether it is dense, rare or neither. All up to the last dense one count as dense, and as
// frequent all up to the last one that is not rare: one with many entries, or with a gene that is shifted.
static __global__ void judge_panels_kernel(Runs runs, int64_t n_cells) {
  __shared__ int64_t sums[kWarp];
  const int64_t panel = blockIdx.x, first = panel * kPanel, n_runs = runs.n_runs(), row = runs.n_genes + 1;
  const int64_t last = first + kPanel < runs.n_genes ? first + kPanel : runs.n_genes;
  int64_t own = 0, n_entries = 0;
  bool is_shifted = false;
  for (int64_t r = threadIdx.x / kWarp; r < n_runs; r += blockDim.x / kWarp) {
    for (int64_t gene = first + lane_id(); gene < last; gene += kWarp) {
      own += runs.gene_start[r * row + gene + 1] - runs.gene_start[r * row + gene];
      is_shifted = is_shifted || runs.shift[runs.run[r].block * runs.n_genes + gene] != 0;
    }
  }
  sum_before(own, sums, &n_entries);
  is_shifted = __syncthreads_or(is_shifted) != 0;
  if (threadIdx.x != 0) return;
  const int64_t n_slots = n_cells * kPanel;
  if (panel < runs.most_dense && n_entries > 0 && kDensity * n_entries >= n_slots) {
    atomicMax(&runs.n->dense, panel + 1LL);
  }
  if (is_shifted || kRarity * n_entries >= n_slots) atomicMax(&runs.n->frequent, panel + 1LL);
}

// One warp to a cell: its y to their places, and a list of its rare genes, in the order in which they stand there.
template <class Index, class Count>
__global__ void read_cells_kernel(CountRows<Index, Count> rows, Runs runs) {
  const int64_t warps_per_block = blockDim.x / kWarp, first_rare = runs.n_frequent() * kPanel;
  const int lane = lane_id();
  for (int64_t at = blockIdx.x * warps_per_block + threadIdx.x / kWarp; at < runs.n->parts * kPart;
       at += gridDim.x * warps_per_block) {
    Place place;
    if (!Place::find(runs, at, &place)) continue;
    const int64_t begin = rows.begin(place.cell), end = rows.end(place.cell), run_y = runs.y_start[place.run];
    const double total = runs.total[place.cell];
    int32_t n_rare = 0;
#pragma unroll 4
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t e = first + lane, gene = e < end ? rows.gene(e) : -1;
      double y = 0;
      if (gene >= 0) {
        const int64_t own = place.part * runs.n_genes + gene;
        const int64_t to = run_y + runs.part_start[own] + __popcll(runs.mask[own] & ((1ull << place.bit) - 1));
        y = rows.y(e, total);
        if (to < runs.nnz) runs.y[to] = y;
      }
      const bool is_rare = gene >= first_rare;
      const unsigned votes = __ballot_sync(kAllLanes, is_rare);
      if (is_rare) {
        runs.rare[begin + n_rare + rank_among(votes, lane)] = {static_cast<int32_t>(gene), static_cast<float>(y)};
      }
      n_rare += __popc(votes);
    }
    if (lane == 0) {
      runs.rare_start[place.cell] = begin;
      runs.n_rare[place.cell] = n_rare;
    }
  }
}

// One warp to a gene and a block of cells: its sums, its shift, its entries. `is_shifted` and `largest` are 0 before.
static __global__ void list_entries_kernel(Runs runs) {
  const int64_t n_genes = runs.n_genes, warps_per_block = blockDim.x / kWarp;
  const int lane = lane_id();
  for (int64_t own = blockIdx.x * warps_per_block + threadIdx.x / kWarp; own < n_genes * runs.n->blocks;
       own += gridDim.x * warps_per_block) {
    const int64_t gene = own % n_genes;
    const Block block = runs.block[own / n_genes];
    double sum = 0, square = 0;
    int32_t positive = 0;
    for (int64_t r = block.first_run; r < block.last_run; ++r) {
      const int64_t p = runs.run[r].first_part, begin = runs.y_begin(p, gene);
      const int64_t end = gene + 1 < n_genes ? runs.y_begin(p, gene + 1) : runs.y_start[r + 1];
      for (int64_t at = begin + lane; at < end && at < runs.nnz; at += kWarp) {
        const double y = runs.y[at];
        sum += y;
        square += y * y;
        positive += y > 0;
      }
    }
    for (int other = kWarp / 2; other > 0; other /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, other);
      square += __shfl_xor_sync(kAllLanes, square, other);
      positive += __shfl_xor_sync(kAllLanes, positive, other);
    }
    const bool is_full = runs.shift[own] != 0;
    const double shift = is_full ? sum / static_cast<double>(block.n_cells) : 0;
    __syncwarp();  // all have read the mark
    if (lane == 0) {
      runs.sum[own] = sum;
      runs.square[own] = square;
      runs.positive[own] = positive;
      runs.shift[own] = shift;
    }
    uint32_t largest = 0;
    for (int64_t r = block.first_run; r < block.last_run; ++r) {
      const Run run = runs.run[r];
      const int64_t begin = runs.begin(r, gene), end = runs.begin(r, gene + 1);
      int64_t before = 0;  // entries of the parts before
      for (int64_t p = run.first_part; p < run.first_part + run.n_parts(); ++p) {
        const unsigned long long mask = runs.mask[p * n_genes + gene];
        if (mask == 0 && !is_full) continue;
        const Part part = runs.part[p];
        const int64_t from = runs.y_begin(p, gene);
        for (int bit = lane; bit < part.last_row - part.first_row; bit += kWarp) {
          const bool is_there = (mask >> bit & 1) != 0;
          if (!is_there && !is_full) continue;
          const int32_t row = part.first_row + bit;
          const int64_t place = __popcll(mask & ((1ull << bit) - 1)), at = from + place;
          const int64_t to = begin + (is_full ? row : before + place);
          const float value = static_cast<float>((is_there && at < runs.nnz ? runs.y[at] : 0) - shift);
          if (to < end) runs.entries[to] = {row, value};
          const uint32_t size = __float_as_uint(value) & 0x7fffffffu;
          largest = size > largest ? size : largest;
        }
        before += __popcll(mask);
      }
    }
    for (int other = kWarp / 2; other > 0; other /= 2) {
      const uint32_t size = __shfl_xor_sync(kAllLanes, largest, other);
      largest = size > largest ? size : largest;
    }
    if (lane == 0) {
      atomicMax(runs.largest + gene, largest);
      if (shift != 0) atomicMax(runs.is_shifted + gene, 1u);
    }
  }
}

// One thread to a gene: its sums over the blocks of cells, one after another.
static __global__ void add_sums_kernel(Runs runs, double* sums, double* squares, int64_t* expressed) {
  const int64_t n_genes = runs.n_genes;
  for (int64_t gene = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; gene < n_genes;
       gene += gridDim.x * static_cast<int64_t>(blockDim.x)) {
    for (int64_t b = 0; b < runs.n->blocks; ++b) {
      sums[runs.block[b].level * n_genes + gene] += runs.sum[b * n_genes + gene];
      squares[gene] += runs.square[b * n_genes + gene];
      expressed[gene] += runs.positive[b * n_genes + gene];
    }
  }
}

}  // namespace corrmask
