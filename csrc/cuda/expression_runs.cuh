// A chunk of cells made ready for products on the device: y = log1p-normalised counts, genes by rank, entries by gene.
//
// The cells are put in the order of their levels and cut into runs of at most 384 cells of one level; 16 runs make a
// block of cells. A part of a run, of 128 cells, is read twice by one block of threads, cell after cell: once to count
// and to sum each gene, once to put its entries in their places. The columns of a cell are distinct, so no two threads
// touch one gene between two barriers: sums have a fixed order without float atomics. Genes in more than half of a
// block's cells are shifted by their mean there and have an entry for every cell: at most twice as many as were given,
// which the host knows, so nothing waits for the device.
//
// What cannot be raised for without waiting: a cell whose level is out of range is left out; an entry whose column or
// rank is out of range counts in its cell's total alone; rows are cut to what is there; of a column that stands twice
// in a cell one entry counts. Nothing outside the arrays is read or written.
#pragma once

#include "../portable/panels.h"
#include "warp.cuh"

namespace corrmask {

constexpr int64_t kRun = 384;   // cells; a strip of them takes 99 KB, what each GPU from sm_80 on can give a block
constexpr int64_t kPart = 128;  // cells that one block of threads reads
constexpr int64_t kRunsPerBlock = 16;
constexpr int kStrip = 64;          // genes side by side in shared memory, two to a lane
constexpr int kPitch = kStrip + 2;  // floats from one row of a strip to the next: columns spread over the banks
constexpr int kGenesPerWarp = 10;   // genes whose sums with a strip a warp keeps in registers
constexpr int64_t kDensity = 8;     // a panel is dense where it holds at least one entry in so many
constexpr int64_t kRarity = 64;     // and rare where it holds less than one in so many

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
  int64_t first;        // place of its first cell in the order of levels
  int64_t block_first;  // that of its block's: the runs of a block stand side by side
  int64_t level, first_part;
  int32_t n_rows;

  __device__ int64_t n_parts() const { return (n_rows + kPart - 1) / kPart; }
  __device__ int64_t cells_of_block() const { return first + n_rows - block_first; }  // of its last run
};

struct Part {
  int64_t run;
  int32_t first_row, last_row;  // of the run
};

struct alignas(8) Entry {
  int32_t place;  // of the cell's row in a strip, in pairs of floats
  float value;    // y less the gene's shift
};

struct alignas(8) RareEntry {
  int32_t gene;
  float value;  // y
};

// What stands in device memory while a chunk is added.
struct Runs {
  int64_t n_genes, capacity, most_runs, most_parts, most_dense;
  int64_t* level_start;  // [n_levels + 1]
  int64_t* order;        // [n_cells] cells in the order of their levels
  double* total;         // [n_cells]
  Run* run;              // [most_runs]
  Part* part;            // [most_parts]
  int64_t* n;           // [4] runs and parts that there are; panels up to the last dense one, the last that is not rare
  double* part_sum;     // [most_parts, n_genes] of y
  double* part_square;  // [most_parts, n_genes]
  int32_t* part_count;  // [most_parts, n_genes] entries; then, of an unshifted gene, those before it in the run
  int32_t* positive;    // [most_parts, n_genes] entries with y > 0
  double* sum;          // [most_runs, n_genes] of y over the run's block
  double* shift;        // [most_runs, n_genes] 0 where a gene is not shifted
  int64_t* run_start;   // [most_runs + 1] where the entries of a run begin
  int64_t* gene_start;  // [most_runs, n_genes + 1] and those of a gene, counted from there
  Entry* entries;       // [capacity]
  float* dense;         // [most_dense, n_cells, kPanel] the values of the dense panels, cells in order
  RareEntry* rare;      // [nnz] the rare genes of each cell
  int64_t* rare_start;  // [n_cells] where they begin
  int32_t* n_rare;      // [n_cells] and how many they are

  __device__ int64_t begin(int64_t r, int64_t gene) const {
    const int64_t at = run_start[r] + gene_start[r * (n_genes + 1) + gene];
    return at < 0 ? 0 : at < capacity ? at : capacity;
  }

  __device__ int64_t n_runs() const { return n[0]; }
  __device__ int64_t n_parts() const { return n[1]; }
  __device__ int64_t n_dense() const { return n[2]; }
  __device__ int64_t n_frequent() const { return n[3]; }

  // Whether sums of n_summed cells end with run r: with the next one they would be of more than `most`.
  __device__ bool ends_sums(int64_t r, int64_t n_summed, int64_t most) const {
    return r + 1 == n_runs() || n_summed + run[r + 1].n_rows > most;
  }

  __device__ bool ends_block(int64_t r) const {
    return r + 1 == n_runs() || run[r + 1].block_first != run[r].block_first;
  }
};

// One block to a level: how many cells it has.
static __global__ void count_levels_kernel(const int64_t* level, int64_t n_cells, int64_t n_levels,
                                           int64_t* level_start) {
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
  int64_t n = 0, n_parts = 0;
  for (int64_t level = 0; level < n_levels; ++level) {
    const int64_t first = runs.level_start[level], last = first + runs.level_start[level + 1];
    runs.level_start[level + 1] = last;
    for (int64_t at = first; at < last; at += kRun) {
      const int64_t before = (at - first) % (kRun * kRunsPerBlock), n_rows = last - at < kRun ? last - at : kRun;
      runs.run[n] = {at, at - before, level, n_parts, static_cast<int32_t>(n_rows)};
      for (int64_t row = 0; row < n_rows; row += kPart) {
        const int64_t end = row + kPart < n_rows ? row + kPart : n_rows;
        runs.part[n_parts++] = {n, static_cast<int32_t>(row), static_cast<int32_t>(end)};
      }
      ++n;
    }
  }
  runs.n[0] = n;
  runs.n[1] = n_parts;
  runs.n[2] = runs.n[3] = 0;
}

// One block to a level: its cells, as they come.
static __global__ void order_cells_kernel(const int64_t* level, int64_t n_cells, int64_t n_levels, Runs runs) {
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

// One block to a part: sums of each gene, cell after cell.
template <class Index, class Count>
__global__ void count_parts_kernel(CountRows<Index, Count> rows, Runs runs) {
  const int64_t p = blockIdx.x, own = p * rows.n_genes;
  if (p >= runs.n_parts()) return;
  for (int64_t at = own + threadIdx.x; at < own + rows.n_genes; at += blockDim.x) {
    runs.part_sum[at] = 0;
    runs.part_square[at] = 0;
    runs.part_count[at] = 0;
    runs.positive[at] = 0;
  }
  const Part part = runs.part[p];
  const int64_t* cells = runs.order + runs.run[part.run].first;
  for (int32_t row = part.first_row; row < part.last_row; ++row) {
    __syncthreads();  // one cell at a time: nobody else is at this gene
    const int64_t cell = cells[row], end = rows.end(cell);
    for (int64_t e = rows.begin(cell) + threadIdx.x; e < end; e += blockDim.x) {
      const int64_t gene = rows.gene(e);
      if (gene < 0) continue;
      const double y = rows.y(e, runs.total[cell]);
      runs.part_sum[own + gene] += y;
      runs.part_square[own + gene] += y * y;
      atomicAdd(runs.part_count + own + gene, 1);  // right though a column stands twice: places hang on it
      if (y > 0) atomicAdd(runs.positive + own + gene, 1);
    }
  }
}

// One thread to a gene: sums of each block and, where this is the first pass over the cells, of all; shifts; how many
// entries each run will have (in gene_start).
static __global__ void sum_blocks_kernel(Runs runs, double* sums, double* squares, int64_t* expressed, bool is_first) {
  const int64_t n_genes = runs.n_genes, n_runs = runs.n_runs();
  for (int64_t gene = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; gene < n_genes;
       gene += gridDim.x * static_cast<int64_t>(blockDim.x)) {
    for (int64_t first = 0, last = 0; first < n_runs; first = last) {
      double sum = 0, square = 0;
      int64_t count = 0, positive = 0;
      do {
        const Run run = runs.run[last];
        for (int64_t p = run.first_part; p < run.first_part + run.n_parts(); ++p) {
          const int64_t at = p * n_genes + gene;
          sum += runs.part_sum[at];
          square += runs.part_square[at];
          count += runs.part_count[at];
          positive += runs.positive[at];
        }
      } while (!runs.ends_block(last++));
      if (is_first) {
        sums[runs.run[first].level * n_genes + gene] += sum;
        squares[gene] += square;
        expressed[gene] += positive;
      }
      const int64_t n_cells = runs.run[last - 1].cells_of_block();
      const double shift = 2 * count > n_cells ? sum / static_cast<double>(n_cells) : 0;
      for (int64_t r = first; r < last; ++r) {
        const Run run = runs.run[r];
        int64_t n = 0;
        for (int64_t p = run.first_part; p < run.first_part + run.n_parts(); ++p) {
          const int32_t own = runs.part_count[p * n_genes + gene];
          runs.part_count[p * n_genes + gene] = static_cast<int32_t>(n);
          n += own;
        }
        runs.sum[r * n_genes + gene] = sum;
        runs.shift[r * n_genes + gene] = shift;
        runs.gene_start[r * (n_genes + 1) + gene] = shift != 0 ? run.n_rows : n;
      }
    }
  }
}

// One block to a run: where the entries of each gene begin in it.
static __global__ void place_genes_kernel(Runs runs) {
  __shared__ int64_t sums[kWarp];
  const int64_t r = blockIdx.x, n_genes = runs.n_genes;
  if (r >= runs.n_runs()) return;
  int64_t next = 0;
  int64_t* start = runs.gene_start + r * (n_genes + 1);
  for (int64_t first = 0; first < n_genes; first += blockDim.x) {
    const int64_t gene = first + threadIdx.x;
    int64_t n = 0;
    const int64_t before = sum_before(gene < n_genes ? start[gene] : 0, sums, &n);
    if (gene < n_genes) start[gene] = next + before;
    next += n;
  }
  if (threadIdx.x == 0) start[n_genes] = next;
}

// One block: where the entries of each run begin.
static __global__ void place_runs_kernel(Runs runs) {
  __shared__ int64_t sums[kWarp];
  const int64_t n_runs = runs.n_runs(), row = runs.n_genes + 1;
  int64_t next = 0;
  for (int64_t first = 0; first < n_runs; first += blockDim.x) {
    const int64_t r = first + threadIdx.x;
    int64_t n = 0;
    const int64_t before = sum_before(r < n_runs ? runs.gene_start[r * row + runs.n_genes] : 0, sums, &n);
    if (r < n_runs) runs.run_start[r] = next + before;
    next += n;
  }
  if (threadIdx.x == 0) runs.run_start[n_runs] = next;
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
      is_shifted = is_shifted || runs.shift[r * runs.n_genes + gene] != 0;
    }
  }
  sum_before(own, sums, &n_entries);
  is_shifted = __syncthreads_or(is_shifted) != 0;
  if (threadIdx.x != 0) return;
  const int64_t n_slots = n_cells * kPanel;
  long long* n = reinterpret_cast<long long*>(runs.n);
  if (panel < runs.most_dense && n_entries > 0 && kDensity * n_entries >= n_slots) atomicMax(n + 2, panel + 1LL);
  if (is_shifted || kRarity * n_entries >= n_slots) atomicMax(n + 3, panel + 1LL);
}

// One block to a part: the entries of each gene, cells ascending.
template <class Index, class Count>
__global__ void fill_parts_kernel(CountRows<Index, Count> rows, Runs runs) {
  const int64_t p = blockIdx.x, n_genes = rows.n_genes;
  if (p >= runs.n_parts()) return;
  const Part part = runs.part[p];
  const int64_t r = part.run;
  const double* shifts = runs.shift + r * n_genes;
  for (int64_t gene = threadIdx.x / kWarp; gene < n_genes; gene += blockDim.x / kWarp) {
    if (shifts[gene] == 0) continue;
    const int64_t begin = runs.begin(r, gene), end = runs.begin(r, gene + 1);
    for (int64_t row = part.first_row + lane_id(); row < part.last_row && begin + row < end; row += kWarp) {
      runs.entries[begin + row] = {static_cast<int32_t>(row * (kPitch / 2)), static_cast<float>(-shifts[gene])};
    }
  }
  const int64_t* cells = runs.order + runs.run[r].first;
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    __syncthreads();
    const int64_t cell = cells[row], end = rows.end(cell);
    for (int64_t e = rows.begin(cell) + threadIdx.x; e < end; e += blockDim.x) {
      const int64_t gene = rows.gene(e);
      if (gene < 0) continue;
      const double shift = shifts[gene];
      const int64_t before = shift != 0 ? row : atomicAdd(runs.part_count + p * n_genes + gene, 1);
      const int64_t at = runs.begin(r, gene) + before;
      if (at >= runs.begin(r, gene + 1)) continue;
      runs.entries[at] = {static_cast<int32_t>(row * (kPitch / 2)),
                          static_cast<float>(rows.y(e, runs.total[cell]) - shift)};
    }
  }
}

// One block to a run and a panel: the panel's values in full, where it is dense.
static __global__ void fill_dense_kernel(Runs runs, int64_t n_cells) {
  const int64_t r = blockIdx.x / runs.most_dense, panel = blockIdx.x % runs.most_dense;
  if (r >= runs.n_runs() || panel >= runs.n_dense()) return;
  const Run run = runs.run[r];
  float* dense = runs.dense + (panel * n_cells + run.first) * kPanel;
  for (int64_t at = threadIdx.x; at < run.n_rows * kPanel; at += blockDim.x) dense[at] = 0;
  __syncthreads();
  for (int64_t t = threadIdx.x / kWarp; t < kPanel && panel * kPanel + t < runs.n_genes; t += blockDim.x / kWarp) {
    const int64_t gene = panel * kPanel + t;
    for (int64_t e = runs.begin(r, gene) + lane_id(); e < runs.begin(r, gene + 1); e += kWarp) {
      const Entry entry = runs.entries[e];
      dense[entry.place / (kPitch / 2) * kPanel + t] = entry.value;
    }
  }
}

}  // namespace corrmask
