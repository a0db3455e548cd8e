// The products of a chunk, from its entries by gene (expression_runs.cuh): owner computes, in the order of the cells.
//
//   dense by dense   two panels of 128 frequent genes, by tensor cores (dense_tiles.cuh)
//   strip by sparse  any other gene against 64 genes made dense in shared memory: a warp per gene, two sums to a lane
//   rare by rare     cell by cell (rare_pairs.cuh)
//
// Precision: float32 within a run of 384 cells. A tile's runs add up in float32 over at most 4,096 cells, those of a
// strip over 16,384, and these in float64, where shifts are undone; rare pairs in float64 at once. Each entry of the
// matrix belongs to one thread of one launch, so the same input gives the same bytes.
//
// What bounds it, on paper (H200: 132 SMs at 1.75 GHz, a clock 32 words of shared memory each; bf16 by mma.sync at 500
// TFLOP/s; 4.3 TB/s), for 20,000 genes, 1,500 nonzeros a cell and the log-normal skew of the benchmarks. Tiles, up to
// an eighth of the cells, 3,270 genes: 6 products, 64 MFLOP a cell, 0.13 us. Strips: 2.5 M FMAs a cell, of which 64
// take 3 words a lane (two of the strip, one for the entry), 0.51 us; strips cleared and filled, 0.11 us. Rare pairs,
// below 1 in 64, 9,660 genes: 1,300 a cell, 0.02 us (0.1 us as strips, with their empty visits). The matrix read and
// written once in a chunk of 10,700 cells, 0.07 us. In all 0.84 us: 1.2 M cells/s. What would bring it to 2 M: pieces
// that need three products (two of float16, scaled by gene) on wgmma, so that tiles pay down to 1 in 32 and strips
// halve.
#pragma once

#include "dense_tiles.cuh"
#include "rare_pairs.cuh"

namespace corrmask {

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
  // What is of 32 bits here would not fit into registers otherwise.
  const int n_genes = static_cast<int>(runs.n_genes);
  const int first = static_cast<int>(panels.first * kPanel + blockIdx.x % n_strips * kStrip);
  const int panel = first / static_cast<int>(kPanel), group = static_cast<int>(blockIdx.x / n_strips) * kGroup;
  // Within a dense panel only genes behind the dense ones are left to do.
  const int first_gene =
      static_cast<int>((panel < runs.n_dense() ? runs.n_dense() : static_cast<int64_t>(panel)) * kPanel);
  if (first >= n_genes || group + kGroup <= first_gene || panel >= runs.n_frequent()) return;
  const int lane = lane_id();
  const int own_first =
      group + static_cast<int>(threadIdx.x) / kWarp;  // a warp's genes stand kWarps apart: all have about as much
  float2 total[kGenesPerWarp] = {};
  unsigned any = 0;  // genes with an entry among what `total` holds
  int n_summed = 0;
  for (int r = 0; r < runs.n_runs(); ++r) {
    const int its_gene = own_first + lane * kWarps;  // of lane k: the warp's gene k
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
    const int own_low = first + 2 * lane;
    n_summed += runs.run[r].n_rows;
    if (runs.ends_sums(r, n_summed, most_summed)) {
#pragma unroll
      for (int k = 0; k < kGenesPerWarp; ++k) {
        if ((any >> k & 1) == 0) continue;
        double* gram = panels.at(panel, own_first + k * kWarps) + own_low % kPanel;
        gram[0] += static_cast<double>(total[k].x);
        gram[1] += static_cast<double>(total[k].y);
        total[k] = {0, 0};
      }
      any = 0;
      n_summed = 0;
    }
    if (!runs.ends_block(r)) continue;
    const double* shifts = runs.shift + static_cast<int64_t>(r) * n_genes;
    const bool is_shifted =
        (own_low < n_genes && shifts[own_low] != 0) || (own_low + 1 < n_genes && shifts[own_low + 1] != 0);
    const bool any_shifted = __any_sync(kAllLanes, is_shifted);
#pragma unroll 1
    for (int gene = own_first; gene < group + kGroup && gene < n_genes; gene += kWarps) {
      if (gene < first_gene || (!any_shifted && shifts[gene] == 0)) continue;
      double* gram = panels.at(panel, gene) + own_low % kPanel;
      gram[0] += unshift(runs, r, own_low, gene);
      gram[1] += unshift(runs, r, own_low + 1, gene);
    }
  }
}

}  // namespace corrmask
