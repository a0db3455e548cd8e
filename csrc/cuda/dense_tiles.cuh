// Two panels of 128 frequent genes: a tile of 128 x 128 sums, by tensor cores (tensor_core.cuh), 32 x 32 to a warp.
#pragma once

#include "gram_panels.cuh"
#include "tensor_core.cuh"

namespace corrmask {

constexpr int kTileThreads = 512;
constexpr int kTileRows = 8;                // rows of words in shared memory: one step of the tensor cores
constexpr int kTilePitch = kPanel + 8;      // words: the lanes of a fragment spread over the banks
constexpr int kWarpLow = 2, kWarpHigh = 4;  // fragments of a warp: 2 of 16 low genes, 4 of 8 high genes

using TileWords = uint32_t[kTileRows][kTilePitch];  // of one piece

// What a thread brings of each step: of one of the two panels, of four genes, the cells of a word. It is on its way
// while the step before is multiplied, and each thread waits for its own alone.
template <class Split>
struct NextCells {
  float4 cell[Split::kCellsPerWord][kTileThreads];

  static __device__ int quad() { return static_cast<int>(threadIdx.x) % (kPanel / 4); }
  static __device__ int word() { return static_cast<int>(threadIdx.x) / (kPanel / 4) % kTileRows; }
  static __device__ int side() { return static_cast<int>(threadIdx.x) / (kTileThreads / 2); }

  // Rows first .. first + 7 (15) of `rows` [n_rows, kPanel], 0 behind the last.
  __device__ void request(const float* rows, int first, int n_rows) {
#pragma unroll
    for (int c = 0; c < Split::kCellsPerWord; ++c) {
      const int row = first + word() * Split::kCellsPerWord + c;
      const float4* from = reinterpret_cast<const float4*>(rows + (row < n_rows ? row : 0) * kPanel) + quad();
      copy_async(cell[c] + threadIdx.x, from, row < n_rows);
    }
  }

  // Puts the pieces of what has come where all threads find them.
  __device__ void cut(TileWords (*pieces)[Split::kPieces]) const {
    float x[Split::kCellsPerWord], y[Split::kCellsPerWord], z[Split::kCellsPerWord], w[Split::kCellsPerWord];
#pragma unroll
    for (int c = 0; c < Split::kCellsPerWord; ++c) {
      const float4 own = cell[c][threadIdx.x];
      x[c] = own.x;
      y[c] = own.y;
      z[c] = own.z;
      w[c] = own.w;
    }
#pragma unroll
    for (int p = 0; p < Split::kPieces; ++p) {
      reinterpret_cast<uint4*>(pieces[side()][p][word()])[quad()] =
          uint4{Split::take(x), Split::take(y), Split::take(z), Split::take(w)};
    }
  }
};
static_assert(kTileThreads == 2 * kTileRows * kPanel / 4);

// sum[i][j]: what the fragments of low genes i and high genes j share, as the lanes hold it.
struct TileSums {
  float sum[kWarpLow][kWarpHigh][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kWarpLow; ++i) {
#pragma unroll
      for (int j = 0; j < kWarpHigh; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
      }
    }
  }

  template <class Split>
  __device__ void add(const TileWords* lows, const TileWords* highs, int own_low, int own_high) {
    constexpr int n = Split::kPieces;
    const int gene = lane_id() / 4, row = lane_id() % 4;
    uint32_t high[n][kWarpHigh][2];
#pragma unroll
    for (int p = 0; p < n; ++p) {
#pragma unroll
      for (int j = 0; j < kWarpHigh; ++j) {
        high[p][j][0] = highs[p][row][own_high + 8 * j + gene];
        high[p][j][1] = highs[p][row + 4][own_high + 8 * j + gene];
      }
    }
#pragma unroll
    for (int i = 0; i < kWarpLow; ++i) {
      float step[kWarpHigh][4] = {};
#pragma unroll
      for (int p = n - 1; p >= 0; --p) {
        const int at = own_low + 16 * i + gene;
        const uint32_t low[4] = {lows[p][row][at], lows[p][row][at + 8], lows[p][row + 4][at],
                                 lows[p][row + 4][at + 8]};
#pragma unroll
        for (int q = n - 1 - p; q >= 0; --q) {
#pragma unroll
          for (int j = 0; j < kWarpHigh; ++j) Split::multiply(step[j], low, high[q][j]);
        }
      }
#pragma unroll
      for (int j = 0; j < kWarpHigh; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i][j][k] += step[j][k];
      }
    }
  }
};

// One block to a pair of dense panels, low <= high. Sums of more than `most_summed` cells are not kept in float32.
template <class Split>
__global__ void __launch_bounds__(kTileThreads)
    add_tiles_kernel(Runs runs, Panels panels, int64_t n_cells, int64_t n_panels, int64_t most_summed) {
  __shared__ __align__(16) TileWords pieces[2][Split::kPieces];  // of the low panel and of the high one
  __shared__ __align__(16) NextCells<Split> next;
  const int64_t low = panels.first + blockIdx.x % n_panels, high = blockIdx.x / n_panels;
  if (low > high || high >= runs.n_dense()) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int own_low = 16 * kWarpLow * (warp % 4), own_high = 8 * kWarpHigh * (warp / 4);
  const int64_t n_runs = runs.n_runs();
  TileSums sums;
  sums.clear();
  int64_t n_summed = 0;
  for (int64_t r = 0; r < n_runs; ++r) {
    constexpr int kCells = kTileRows * Split::kCellsPerWord;
    const int n_rows = runs.run[r].n_rows;
    const int64_t own_panel = next.side() == 0 ? low : high;
    const float* rows = runs.dense + (own_panel * n_cells + runs.run[r].first) * kPanel;
    next.request(rows, 0, n_rows);
    for (int row = 0; row < n_rows; row += kCells) {
      wait_for_copies();
      __syncthreads();
      next.cut(pieces);
      __syncthreads();
      next.request(rows, row + kCells, n_rows);  // while these are multiplied
      sums.add<Split>(pieces[0], pieces[1], own_low, own_high);
    }
    const int64_t first_low = own_low + lane_id() / 4, first_high = high * kPanel + own_high + 2 * (lane_id() % 4);
    n_summed += n_rows;
    if (runs.ends_sums(r, n_summed, most_summed)) {
#pragma unroll
      for (int j = 0; j < 2 * kWarpHigh; ++j) {
        __syncwarp();  // or the compiler would ask for all of these first, for which there are no registers
        const int64_t gene = first_high + 8 * (j / 2) + j % 2;
        if (gene >= runs.n_genes) continue;
        double* gram = panels.at(low, gene) + first_low;
#pragma unroll
        for (int i = 0; i < 2 * kWarpLow; ++i) {
          gram[8 * i] += static_cast<double>(sums.sum[i / 2][j / 2][2 * (i % 2) + j % 2]);
        }
      }
      sums.clear();
      n_summed = 0;
    }
    if (!runs.ends_block(r)) continue;
#pragma unroll 1
    for (int at = 0; at < 4 * kWarpLow * kWarpHigh; ++at) {  // apart, since it would take registers from the sums
      const int64_t j = at / (2 * kWarpLow), i = at % (2 * kWarpLow);
      const int64_t gene = first_high + 8 * (j / 2) + j % 2, t = first_low + 8 * i;
      if (gene < runs.n_genes) panels.at(low, gene)[t] += unshift(runs, r, low * kPanel + t, gene);
    }
  }
}

}  // namespace corrmask
