// A panel of 128 frequent genes against two: a tile of 128 x 256 sums, by tensor cores (tensor_core.cuh), 64 x 32 to a
// warp. The values stand in device memory as the tensor cores take them, so that a block copies them and multiplies.
#pragma once

#include "gram_panels.cuh"
#include "tensor_core.cuh"

namespace corrmask {

constexpr int kPieces = 2;
constexpr int kSliceGenes = 16, kSlices = kPanel / kSliceGenes;
constexpr int kPieceWords = kSlices * kWarp;       // four words each: those of one lane, of one slice
constexpr int kStepWords = kPieces * kPieceWords;  // of a panel, of 16 cells
constexpr int kTileThreads = 512, kCopyThreads = 128, kHighPanels = 2;
constexpr int kStages = 4;  // steps in shared memory, all but one of them on their way
constexpr int kStageWords = (1 + kHighPanels) * kStepWords;
constexpr int64_t kTileBytes = int64_t{kStages} * kStageWords * sizeof(uint4);
constexpr int kWarpLow = 4, kWarpHigh = 4;  // fragments of a warp: 4 of 16 low genes, 4 of 8 high genes

// One block to a run and 16 genes of a dense panel: lane (g, t) of each step finds word t of genes g and g + 8, then
// word t + 4 of them: what it gives for 16 low genes, or for twice 8 high ones.
static __global__ void __launch_bounds__(128) fill_dense_kernel(Runs runs) {
  constexpr int kRowValues = kSliceGenes + 1;  // columns spread over the banks
  __shared__ float values[kRun * kRowValues];
  const int64_t r = blockIdx.x / (runs.most_dense * kSlices), slice = blockIdx.x % (runs.most_dense * kSlices);
  const int64_t panel = slice / kSlices, first = slice * kSliceGenes;
  if (r >= runs.n_runs() || panel >= runs.n_dense()) return;
  const Run run = runs.run[r];
  const int n_steps = static_cast<int>(run.n_steps());
  const int n_values = n_steps * static_cast<int>(kStep) * kRowValues;
  for (int at = static_cast<int>(threadIdx.x); at < n_values; at += static_cast<int>(blockDim.x)) values[at] = 0;
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x) / kWarp; g < kSliceGenes; g += static_cast<int>(blockDim.x) / kWarp) {
    const int64_t gene = first + g;
    if (gene >= runs.n_genes) break;
    const float scale = scale_of(runs.largest[gene]);
    const int64_t end = runs.begin(r, gene + 1);
#pragma unroll 4
    for (int64_t e = runs.begin(r, gene) + lane_id(); e < end; e += kWarp) {
      const Entry entry = runs.entries[e];
      values[entry.row * kRowValues + g] = entry.value * scale;
    }
  }
  __syncthreads();
  uint4* steps = runs.dense + (panel * runs.most_steps + run.first_step) * kStepWords + slice % kSlices * kWarp;
  for (int at = static_cast<int>(threadIdx.x); at < n_steps * kWarp; at += static_cast<int>(blockDim.x)) {
    const int step = at / kWarp, lane = at % kWarp;
    const float* own = values + (step * static_cast<int>(kStep) + 2 * (lane % 4)) * kRowValues + lane / 4;
    float x[2] = {own[0], own[kRowValues]}, y[2] = {own[8], own[kRowValues + 8]};
    float z[2] = {own[8 * kRowValues], own[9 * kRowValues]};
    float w[2] = {own[8 * kRowValues + 8], own[9 * kRowValues + 8]};
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      steps[step * kStepWords + p * kPieceWords + lane] =
          uint4{take_piece(x), take_piece(y), take_piece(z), take_piece(w)};
    }
  }
}

// sum[i][j]: what the fragments of low genes i and high genes j share, as the lanes hold it.
struct TileSums {
  float sum[kWarpLow][kWarpHigh][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kWarpLow; ++i) {
#pragma unroll
      for (int j = 0; j < kWarpHigh; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
      }
    }
  }

  // Adds a step; `lows` and `highs` are this lane's words of the warp's first slices.
  __device__ __forceinline__ void add(const uint4* lows, const uint4* highs) {
    uint32_t high[kPieces][kWarpHigh][2];
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int j = 0; j < kWarpHigh; j += 2) {
        const uint4 words = highs[p * kPieceWords + j / 2 * kWarp];
        high[p][j][0] = words.x;
        high[p][j][1] = words.z;
        high[p][j + 1][0] = words.y;
        high[p][j + 1][1] = words.w;
      }
    }
    constexpr int kAtOnce = 2;  // products that do not wait for one another
    const float nothing[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kWarpLow; ++i) {
      const uint4 small = lows[kPieceWords + i * kWarp], large = lows[i * kWarp];
      const uint32_t low_small[4] = {small.x, small.y, small.z, small.w};
      const uint32_t low_large[4] = {large.x, large.y, large.z, large.w};
#pragma unroll
      for (int first = 0; first < kWarpHigh; first += kAtOnce) {
        float step[kAtOnce][4];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) mma_f16(step[j], low_small, high[0][first + j], nothing);
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) mma_f16(step[j], low_large, high[1][first + j], step[j]);
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) mma_f16(step[j], low_large, high[0][first + j], step[j]);
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[i][first + j][k] += step[j][k];
        }
      }
    }
  }
};

// One block to a dense panel and two that are not before it. Sums of more than `most_summed` cells are not kept in
// float32.
static __global__ void __launch_bounds__(kTileThreads, 1)
    add_tiles_kernel(Runs runs, Panels panels, int64_t n_panels, int64_t most_summed) {
  CORRMASK_DYNAMIC_SHARED(shared);
  uint4* stages = reinterpret_cast<uint4*>(shared);
  // What is of 32 bits here would not fit into registers otherwise.
  const int low = static_cast<int>(panels.first + blockIdx.x % n_panels);
  const int first_high = static_cast<int>(blockIdx.x / n_panels) * kHighPanels;
  const int n_dense = static_cast<int>(runs.n_dense());
  const int n_genes = static_cast<int>(runs.n_genes);
  if (low >= first_high + kHighPanels || low >= n_dense || first_high >= n_dense) return;
  const int n_steps = static_cast<int>(runs.n->steps);
  // Of each panel 128 threads copy the steps; of a second high one that is not dense nothing is kept.
  const int side = static_cast<int>(threadIdx.x) / kCopyThreads, own = static_cast<int>(threadIdx.x) % kCopyThreads;
  int its_panel = side == 0 ? low : first_high + side - 1;
  its_panel = its_panel < n_dense ? its_panel : n_dense - 1;
  const uint4* next = runs.dense + its_panel * runs.most_steps * kStepWords + own;
  const auto request = [&](int step) {
    if (step < n_steps && side <= kHighPanels) {
      uint4* stage = stages + step % kStages * kStageWords + side * kStepWords + own;
#pragma unroll
      for (int at = 0; at < kStepWords; at += kCopyThreads) copy_async(stage + at, next + at);
      next += kStepWords;
    }
    close_copies();
  };
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
  const int own_low = 16 * kWarpLow * (warp % 2), own_high = 8 * kWarpHigh * (warp / 2 % 4);
  const int high = first_high + warp / 8;
  const bool is_kept = low <= high && high < n_dense;
  const int low_words = own_low / kSliceGenes * kWarp + lane;
  const int high_words = (1 + warp / 8) * kStepWords + own_high / kSliceGenes * kWarp + lane;
  // The lane's first genes, and what they share.
  const int lane_low = low * static_cast<int>(kPanel) + own_low + lane / 4;
  const int lane_high = high * static_cast<int>(kPanel) + own_high + 2 * (lane % 4);
  const int n_high = is_kept ? n_genes - lane_high : 0;
  double* own_gram = panels.at(low, is_kept ? lane_high : lane_low) + lane_low % kPanel;
  TileSums sums;
  sums.clear();
  int step = 0, n_summed = 0;
  for (int ahead = 0; ahead < kStages - 1; ++ahead) request(ahead);
  for (int r = 0; r < runs.n_runs(); ++r) {
    for (const int last = step + static_cast<int>(runs.run[r].n_steps()); step < last; ++step) {
      wait_for_copies<kStages - 2>();
      __syncthreads();              // everyone's part of this step is there, and nobody reads the one before any more
      request(step + kStages - 1);  // takes its place
      const uint4* stage = stages + step % kStages * kStageWords;
      sums.add(stage + low_words, stage + high_words);
    }
    n_summed += runs.run[r].n_rows;
    if (runs.ends_sums(r, n_summed, most_summed)) {
#pragma unroll
      for (int at = 0; at < 4 * kWarpHigh; ++at) {
        __syncwarp();  // or the compiler would ask for all of these first, for which there are no registers
        const int j = at / 4, k = at % 2, half = at / 2 % 2;
        if (8 * j + k >= n_high) continue;
        double* gram = own_gram + (8 * j + k) * kPanel + 8 * half;
        const double unit = static_cast<double>(unit_of(runs.largest[lane_high + 8 * j + k]));
#pragma unroll
        for (int i = 0; i < kWarpLow; ++i) {
          const float own_unit = unit_of(runs.largest[lane_low + 16 * i + 8 * half]);
          gram[16 * i] += unit * static_cast<double>(sums.sum[i][j][2 * half + k] * own_unit);
        }
      }
      sums.clear();
      n_summed = 0;
    }
  }
}

}  // namespace corrmask
