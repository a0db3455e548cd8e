// The products of a chunk, from its entries by gene (expression_runs.cuh): owner computes, in the order of the cells.
//
//   dense by dense   two panels of 128 frequent genes: a tile of 128 x 128 sums in registers, 8 x 8 to a thread
//   strip by sparse  any other gene against 64 genes made dense in shared memory: a warp per gene, two sums to a lane
//
// Precision: float32 within a run of 512 cells, as on the CPU. A tile's runs add up in float64 at once; those of a
// strip in float32 over at most 16,384 cells, and these in float64, where shifts are undone. Each entry of the matrix
// belongs to one thread of one launch, so the same input gives the same bytes.
//
// What bounds it, on paper (H200: 132 SMs at 1.75 GHz, a clock 128 FMAs and 32 words of shared memory each; 4.3 TB/s),
// for 20,000 genes, 1,500 nonzeros a cell and the log-normal skew of the benchmarks. Tiles, up to a quarter of the
// cells, 1,664 genes: 1.5 M FMAs a cell, 0.07 us at 70% of the FMAs. Strips: 3.3 M FMAs, of which 64 take 3 words a
// lane (two of the strip, one for the entry), 0.67 us; strips cleared and filled, 0.09 us; the matrix read and written
// once in a chunk of 10,700 cells, 0.07 us. In all 0.9 us: 1.1 M cells/s. What would bring it to 2 M: tiles on tensor
// cores (two bfloat16 pieces of a value, three products; dense from 6% of the cells on), and the rare genes among
// themselves by scatter, as on the CPU.
#pragma once

#include "expression_runs.cuh"

namespace corrmask {

constexpr int kTileThreads = 256;
constexpr int kTileDepth = 16;  // cells of two panels in shared memory

// The panels of the matrix that are here: all of them, or those of one pass.
struct Panels {
  double* gram;
  int64_t n_genes, first, last;

  // What gene `other` shares with the first gene of a panel.
  __device__ double* at(int64_t panel, int64_t other) const {
    return gram + (panel_start(panel, n_genes) - panel_start(first, n_genes) + (other - panel * kPanel) * kPanel);
  }
};

// What undoes the shifts of both sides: the sum of (z + s)(z' + s') less that of z z', z and z' being what was summed
// in the block whose last run is r.
__device__ inline double unshift(const Runs& runs, int64_t r, int64_t low, int64_t high) {
  if (low >= runs.n_genes) return 0;
  const double shift = runs.shift[r * runs.n_genes + low], other = runs.shift[r * runs.n_genes + high];
  const double shifted_sum =
      runs.sum[r * runs.n_genes + low] - static_cast<double>(runs.run[r].cells_of_block()) * shift;
  return shift * runs.sum[r * runs.n_genes + high] + other * shifted_sum;
}

// kTileDepth rows of one dense panel, 0 behind the last: this thread's part, two times four genes of one row.
struct TileRows {
  float4 part[2];

  __device__ void load(const float* rows, int first, int n_rows) {
    for (int i = 0; i < 2; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kTileThreads, row = first + at / (kPanel / 4);
      part[i] = float4{0, 0, 0, 0};
      if (row < n_rows) part[i] = reinterpret_cast<const float4*>(rows + row * kPanel)[at % (kPanel / 4)];
    }
  }

  __device__ void store(float (*tile)[kPanel]) const {
    for (int i = 0; i < 2; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kTileThreads;
      reinterpret_cast<float4*>(tile[at / (kPanel / 4)])[at % (kPanel / 4)] = part[i];
    }
  }
};

// Which of a panel's genes a thread's sum i of 8 is, behind its first: 0 .. 3 and 64 .. 67.
__device__ constexpr int tile_place(int i) {
  return i % 4 + (i < 4 ? 0 : kPanel / 2);
}

// sums[i][j] of genes i of one panel and j of another.
struct TileSums {
  float sum[8][8];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] = 0;
    }
  }

  __device__ void add(const float* low, const float* high) {  // [kPanel] values of one cell
    const int own_low = 4 * (static_cast<int>(threadIdx.x) % 16), own_high = 4 * (static_cast<int>(threadIdx.x) / 16);
    const float4 a = *reinterpret_cast<const float4*>(low + own_low);
    const float4 b = *reinterpret_cast<const float4*>(low + own_low + kPanel / 2);
    const float4 c = *reinterpret_cast<const float4*>(high + own_high);
    const float4 d = *reinterpret_cast<const float4*>(high + own_high + kPanel / 2);
    const float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, y[8] = {c.x, c.y, c.z, c.w, d.x, d.y, d.z, d.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] = __fmaf_rn(x[i], y[j], sum[i][j]);
    }
  }
};

// One block to a pair of dense panels, low <= high.
static __global__ void __launch_bounds__(kTileThreads, 2)
    add_tiles_kernel(Runs runs, Panels panels, int64_t n_cells, int64_t n_panels) {
  __shared__ __align__(16) float lows[kTileDepth][kPanel];
  __shared__ __align__(16) float highs[kTileDepth][kPanel];
  const int64_t low = panels.first + blockIdx.x % n_panels, high = blockIdx.x / n_panels;
  if (low > high || high >= runs.n_dense()) return;
  const int64_t n_runs = runs.n_runs();
  TileSums sums;
  sums.clear();
  int64_t n_summed = 0;
  for (int64_t r = 0; r < n_runs; ++r) {
    const int n_rows = runs.run[r].n_rows;
    const float* low_rows = runs.dense + (low * n_cells + runs.run[r].first) * kPanel;
    const float* high_rows = runs.dense + (high * n_cells + runs.run[r].first) * kPanel;
    TileRows next_low, next_high;
    next_low.load(low_rows, 0, n_rows);
    next_high.load(high_rows, 0, n_rows);
    for (int row = 0; row < n_rows; row += kTileDepth) {
      __syncthreads();
      next_low.store(lows);
      next_high.store(highs);
      __syncthreads();
      next_low.load(low_rows, row + kTileDepth, n_rows);  // while these are multiplied
      next_high.load(high_rows, row + kTileDepth, n_rows);
#pragma unroll 2
      for (int k = 0; k < kTileDepth; ++k) sums.add(lows[k], highs[k]);
    }
    const int64_t own_low = 4 * (threadIdx.x % 16), own_high = high * kPanel + 4 * (threadIdx.x / 16);
    n_summed += n_rows;
    if (runs.ends_sums(r, n_summed, kRun)) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int64_t gene = own_high + tile_place(j);
        if (gene >= runs.n_genes) continue;
        double* gram = panels.at(low, gene) + own_low;
#pragma unroll
        for (int i = 0; i < 8; ++i) gram[tile_place(i)] += static_cast<double>(sums.sum[i][j]);
      }
      sums.clear();
      n_summed = 0;
    }
    if (!runs.ends_block(r)) continue;
#pragma unroll 1
    for (int at = 0; at < 64; ++at) {  // apart, since it would take registers from the sums
      const int64_t gene = own_high + tile_place(at / 8), t = own_low + tile_place(at % 8);
      if (gene < runs.n_genes) panels.at(low, gene)[t] += unshift(runs, r, low * kPanel + t, gene);
    }
  }
}

// Makes genes first .. first + kStrip - 1 of a run dense, [n_rows, kPitch] in shared memory.
__device__ inline void fill_strip(const Runs& runs, int64_t r, int64_t first, float* strip) {
  __syncthreads();
  const int n = runs.run[r].n_rows * kPitch;
  for (int at = static_cast<int>(threadIdx.x); at < n; at += static_cast<int>(blockDim.x)) strip[at] = 0;
  __syncthreads();
  for (int t = static_cast<int>(threadIdx.x) / kWarp; t < kStrip; t += static_cast<int>(blockDim.x) / kWarp) {
    if (first + t >= runs.n_genes) break;
    const int64_t end = runs.begin(r, first + t + 1);
    for (int64_t e = runs.begin(r, first + t) + lane_id(); e < end; e += kWarp) {
      const Entry entry = runs.entries[e];
      strip[2 * entry.place + t] = entry.value;
    }
  }
  __syncthreads();
}

// One block to a strip and kGenesPerWarp * warps genes, the frequent ones first since they take longest. Sums of more
// than `most_summed` cells are not kept in float32.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    add_strips_kernel(Runs runs, Panels panels, int64_t n_strips, int64_t most_summed) {
  CORRMASK_DYNAMIC_SHARED(shared);
  float* strip = reinterpret_cast<float*>(shared);
  constexpr int kWarps = kThreads / kWarp, kGroup = kGenesPerWarp * kWarps;
  const int64_t n_genes = runs.n_genes, n_runs = runs.n_runs(), n_dense = runs.n_dense();
  const int64_t first = panels.first * kPanel + blockIdx.x % n_strips * kStrip, panel = first / kPanel;
  const int64_t group = blockIdx.x / n_strips * kGroup;
  // Within a dense panel only genes behind the dense ones are left to do.
  const int64_t first_gene = (panel < n_dense ? n_dense : panel) * kPanel;
  if (first >= n_genes || group + kGroup <= first_gene) return;
  const int lane = lane_id();
  const int64_t own_first = group + threadIdx.x / kWarp;  // a warp's genes stand kWarps apart: all have about as much
  float2 total[kGenesPerWarp] = {};
  unsigned any = 0;  // genes with an entry among what `total` holds
  int64_t n_summed = 0;
  for (int64_t r = 0; r < n_runs; ++r) {
    const int64_t its_gene = own_first + lane * kWarps;  // of lane k: the warp's gene k
    int64_t its_begin = 0;
    int its_n = 0;
    if (lane < kGenesPerWarp && its_gene >= first_gene && its_gene < n_genes) {
      its_begin = runs.begin(r, its_gene);
      its_n = static_cast<int>(runs.begin(r, its_gene + 1) - its_begin);
    }
    any |= __ballot_sync(kAllLanes, its_n > 0);
    fill_strip(runs, r, first, strip);
    const float2* pairs = reinterpret_cast<const float2*>(strip) + lane;
#pragma unroll
    for (int k = 0; k < kGenesPerWarp; ++k) {
      const Entry* entry = runs.entries + __shfl_sync(kAllLanes, its_begin, k);
      const int n = __shfl_sync(kAllLanes, its_n, k);
      float2 sum{0, 0};
#pragma unroll 4
      for (int e = 0; e < n; ++e) {
        const Entry own = entry[e];
        const float2 pair = pairs[own.place];
        sum.x = __fmaf_rn(own.value, pair.x, sum.x);
        sum.y = __fmaf_rn(own.value, pair.y, sum.y);
      }
      total[k].x += sum.x;
      total[k].y += sum.y;
    }
    const int64_t own_low = first + 2 * lane;
    n_summed += runs.run[r].n_rows;
    if (runs.ends_sums(r, n_summed, most_summed)) {
#pragma unroll
      for (int k = 0; k < kGenesPerWarp; ++k) {
        if ((any >> k & 1) == 0) continue;
        double* gram = panels.at(panel, own_first + k * kWarps) + (own_low - panel * kPanel);
        gram[0] += static_cast<double>(total[k].x);
        gram[1] += static_cast<double>(total[k].y);
        total[k] = {0, 0};
      }
      any = 0;
      n_summed = 0;
    }
    if (!runs.ends_block(r)) continue;
    const double* shifts = runs.shift + r * n_genes;
    const bool is_shifted =
        (own_low < n_genes && shifts[own_low] != 0) || (own_low + 1 < n_genes && shifts[own_low + 1] != 0);
    const bool any_shifted = __any_sync(kAllLanes, is_shifted);
#pragma unroll 1
    for (int64_t gene = own_first; gene < group + kGroup && gene < n_genes; gene += kWarps) {
      if (gene < first_gene || (!any_shifted && shifts[gene] == 0)) continue;
      double* gram = panels.at(panel, gene) + (own_low - panel * kPanel);
      gram[0] += unshift(runs, r, own_low, gene);
      gram[1] += unshift(runs, r, own_low + 1, gene);
    }
  }
}

}  // namespace corrmask
