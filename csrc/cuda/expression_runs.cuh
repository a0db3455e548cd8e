// A chunk of cells made ready for products on the device: the cells in the order of their levels, cut into runs of at
// most 320 cells of one level; 16 runs make a block of cells, 64 cells a part of a run. gene_entries.cuh puts what they
// express in the order of the genes.
//
// What cannot be raised for without waiting: a cell whose level is out of range is left out; an entry whose column or
// rank is out of range counts in its cell's total alone; rows are cut to what is there; of a column that stands twice
// in a cell one entry counts. Nothing outside the arrays is read or written.
#pragma once

#include "../portable/panels.h"
#include "warp.cuh"

namespace corrmask {

constexpr int64_t kRun = 320;  // cells; with a strip of them a block stays within 99 KB
constexpr int64_t kPart = 64;  // cells, one to a bit
constexpr int64_t kRunsPerBlock = 16;
constexpr int64_t kStep = 16;  // cells that the tensor cores multiply at once

// The chunk as it is given: cells x columns in compressed rows.
template <class Index, class Count>
struct CountRows {
  const int64_t* start;  // [n_cells + 1]
  const Index* column;   // [nnz]
  const Count* count;    // [nnz]
  const int32_t* rank;   // [n_columns] place of each column among the genes
  int64_t n_cells, nnz, n_columns, n_genes;
  double target_sum;  // 0: the counts are y already

  __device__ int64_t begin(int64_t cell) const { return start[cell] < 0 ? 0 : start[cell] < nnz ? start[cell] : nnz; }
  __device__ int64_t end(int64_t cell) const { return begin(cell + 1); }

  __device__ int64_t gene(int64_t e) const {
    const int64_t at = static_cast<int64_t>(column[e]);
    if (at < 0 || at >= n_columns) return -1;
    return rank[at] < n_genes ? rank[at] : -1;
  }

  __device__ double y(int64_t e, double total) const {
    const double value = static_cast<double>(count[e]);
    return target_sum == 0 ? value : log1p(value * target_sum / total);
  }
};

struct Run {
  int64_t first;       // place of its first cell in the order of levels
  int64_t first_step;  // of the dense panels
  int64_t block, first_part;
  int32_t n_rows;

  __device__ int64_t n_parts() const { return (n_rows + kPart - 1) / kPart; }
  __device__ int64_t n_steps() const { return (n_rows + kStep - 1) / kStep; }
};

struct Part {
  int64_t run;
  int32_t first_row, last_row;  // of the run
};

struct Block {
  int64_t first_run, last_run, level, n_cells;
};

struct alignas(8) Entry {
  int32_t row;  // of the run
  float value;  // y less the gene's shift
};

struct alignas(8) RareEntry {
  int32_t gene;
  float value;  // y
};

// Numbers of what there is.
struct RunCounts {
  int64_t runs, parts, blocks, steps;
  long long dense, frequent;  // panels up to the last dense one, and up to the last that is not rare
};

// What stands in device memory while a chunk is added.
struct Runs {
  int64_t n_genes, nnz, most_runs, most_parts, most_blocks, most_steps, most_dense;
  int64_t* level_start;      // [n_levels + 1]
  int64_t* order;            // [n_cells] cells in the order of their levels
  double* total;             // [n_cells]
  Run* run;                  // [most_runs]
  Part* part;                // [most_parts]
  Block* block;              // [most_blocks]
  RunCounts* n;              // [1]
  unsigned long long* mask;  // [most_parts, n_genes] the cells of a part that have an entry of a gene
  int64_t* part_start;       // [most_parts, n_genes] where its y begin, counted from those of the run
  int64_t* y_start;          // [most_runs + 1] where those of a run begin
  double* y;                 // [nnz] by run, by gene, cells ascending
  double* sum;               // [most_blocks, n_genes] of y
  double* square;            // [most_blocks, n_genes]
  int32_t* positive;         // [most_blocks, n_genes] entries with y > 0
  double* shift;             // [most_blocks, n_genes] 0 where a gene is not shifted
  uint32_t* is_shifted;      // [n_genes] whether it is in any block
  int64_t* run_start;        // [most_runs + 1] where the entries of a run begin
  int64_t* gene_start;       // [most_runs, n_genes + 1] and those of a gene, counted from there
  Entry* entries;            // [2 * nnz]
  uint32_t* largest;         // [genes of all panels] bits of the largest absolute value among its entries
  uint4* dense;              // [most_dense, most_steps, kStepWords] the dense panels, as the tensor cores take them
  RareEntry* rare;           // [nnz] the rare genes of each cell
  int64_t* rare_start;       // [n_cells] where they begin
  int32_t* n_rare;           // [n_cells] and how many they are

  __device__ int64_t begin(int64_t r, int64_t gene) const {
    const int64_t at = run_start[r] + gene_start[r * (n_genes + 1) + gene];
    return at < 0 ? 0 : at < 2 * nnz ? at : 2 * nnz;
  }

  // Where the y of a gene in a part begin.
  __device__ int64_t y_begin(int64_t p, int64_t gene) const {
    const int64_t at = y_start[part[p].run] + part_start[p * n_genes + gene];
    return at < nnz ? at : nnz;
  }

  __device__ int64_t n_runs() const { return n->runs; }
  __device__ int64_t n_dense() const { return n->dense; }
  __device__ int64_t n_frequent() const { return n->frequent; }

  // Whether sums of n_summed cells end with run r: with the next one they would be of more than `most`.
  __device__ bool ends_sums(int64_t r, int64_t n_summed, int64_t most) const {
    return r + 1 == n_runs() || n_summed + run[r + 1].n_rows > most;
  }
};

// A cell at its place in a run.
struct Place {
  int64_t run, part, cell;
  int32_t row, bit;  // of the run; of the part

  // Whether there is one at place `at` of all parts, were each full.
  static __device__ bool find(const Runs& runs, int64_t at, Place* place) {
    const int64_t p = at / kPart;
    const int32_t bit = static_cast<int32_t>(at % kPart);
    const Part part = runs.part[p];
    const int32_t row = part.first_row + bit;
    if (row >= part.last_row) return false;
    *place = {part.run, p, runs.order[runs.run[part.run].first + row], row, bit};
    return true;
  }
};

// One block to a level: how many cells it has.
static __global__ void __launch_bounds__(1024)
    count_levels_kernel(const int64_t* level, int64_t n_cells, int64_t n_levels, int64_t* level_start) {
  for (int64_t own = blockIdx.x; own < n_levels; own += gridDim.x) {
    int64_t n = 0;
    for (int64_t first = 0; first < n_cells; first += blockDim.x) {
      const int64_t cell = first + threadIdx.x;
      n += __syncthreads_count(cell < n_cells && level[cell] == own);
    }
    if (threadIdx.x == 0) level_start[own + 1] = n;
  }
}

// One thread: where each level begins, and the runs.
static __global__ void cut_runs_kernel(int64_t n_levels, Runs runs) {
  if (threadIdx.x != 0) return;
  runs.level_start[0] = 0;
  RunCounts n{};
  for (int64_t level = 0; level < n_levels; ++level) {
    const int64_t first = runs.level_start[level], last = first + runs.level_start[level + 1];
    runs.level_start[level + 1] = last;
    for (int64_t at = first; at < last; at += kRun) {
      const int32_t n_rows = static_cast<int32_t>(last - at < kRun ? last - at : kRun);
      const bool is_first = (at - first) % (kRun * kRunsPerBlock) == 0;
      if (is_first) runs.block[n.blocks++] = {n.runs, n.runs, level, 0};
      Block& block = runs.block[n.blocks - 1];
      block.last_run = n.runs + 1;
      block.n_cells += n_rows;
      const Run run{at, n.steps, n.blocks - 1, n.parts, n_rows};
      for (int32_t row = 0; row < n_rows; row += static_cast<int32_t>(kPart)) {
        const int32_t end = row + static_cast<int32_t>(kPart);
        runs.part[n.parts++] = {n.runs, row, end < n_rows ? end : n_rows};
      }
      n.steps += run.n_steps();
      runs.run[n.runs++] = run;
    }
  }
  *runs.n = n;
}

// One block to a level: its cells, as they come.
static __global__ void __launch_bounds__(1024)
    order_cells_kernel(const int64_t* level, int64_t n_cells, int64_t n_levels, Runs runs) {
  __shared__ int64_t sums[kWarp];
  for (int64_t own = blockIdx.x; own < n_levels; own += gridDim.x) {
    int64_t next = runs.level_start[own];
    for (int64_t first = 0; first < n_cells; first += blockDim.x) {
      const int64_t cell = first + threadIdx.x;
      const bool is_own = cell < n_cells && level[cell] == own;
      int64_t n = 0;
      const int64_t before = sum_before(is_own, sums, &n);
      if (is_own) runs.order[next + before] = cell;
      next += n;
    }
  }
}

// One warp to a cell: its total over all columns, those left out too.
template <class Index, class Count>
__global__ void total_cells_kernel(CountRows<Index, Count> rows, double* total) {
  const int64_t warps_per_block = blockDim.x / kWarp;
  for (int64_t cell = blockIdx.x * warps_per_block + threadIdx.x / kWarp; cell < rows.n_cells;
       cell += gridDim.x * warps_per_block) {
    double sum = 0;
    for (int64_t e = rows.begin(cell) + lane_id(); e < rows.end(cell); e += kWarp) {
      sum += static_cast<double>(rows.count[e]);
    }
    for (int other = kWarp / 2; other > 0; other /= 2) sum += __shfl_xor_sync(kAllLanes, sum, other);
    if (lane_id() == 0) total[cell] = sum == 0 ? 1 : sum;  // a cell of stored zeros
  }
}

}  // namespace corrmask
