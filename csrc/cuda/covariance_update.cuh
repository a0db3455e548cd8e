// The products of a chunk, from its entries by gene (gene_entries.cuh): owner computes, in the order of the cells.
//
//   dense by dense   a panel of 128 frequent genes by two, by tensor cores (dense_tiles.cuh)
//
//   strip by sparse  any other gene against 64 genes made dense in shared memory: 16 to a warp, two sums to a lane
//
//   rare by rare     cell by cell (rare_pairs.cuh)
//
// Precision: float32 within a run of 320 cells. A tile's steps add up in float32 over at most 8,192 cells, the runs of
// a strip over 32,768, and these in float64, where shifts are undone; rare pairs in float64 at once. Each entry of the
// matrix belongs to one thread of one launch, so the same input gives the same bytes.
#pragma once

#include "dense_tiles.cuh"
#include "rare_pairs.cuh"

namespace corrmask {

constexpr int kStrip = 64;          // genes side by side in shared memory, two to a lane
constexpr int kPitch = kStrip + 2;  // floats from one row of a strip to the next: rows of a gene spread over the banks
constexpr int kGenesPerWarp = 16;   // genes whose sums with a strip a warp keeps in registers
constexpr int kAhead = 64;          // entries of them that it has in shared memory

constexpr int64_t strip_bytes(int n_threads) {
  return int64_t{kRun} * kPitch * sizeof(float) + int64_t{n_threads} / kWarp * kAhead * sizeof(Entry);
}

// How much there is at most of a chunk, but for its dense panels.
inline Runs sized_runs(int64_t n_cells, int64_t n_levels, int64_t n_genes, int64_t nnz) {
  const int64_t n_tails = n_levels < n_cells ? n_levels : n_cells;  // each level may end in a short run
  Runs runs{};
  runs.n_genes = n_genes;
  runs.nnz = nnz;
  runs.most_runs = n_cells / kRun + n_tails;
  runs.most_parts = n_cells / kPart + n_tails;
  runs.most_blocks = n_cells / (kRun * kRunsPerBlock) + n_tails;
  runs.most_steps = n_cells / kStep + runs.most_runs;
  return runs;
}

// Memory for so much, by `space`: take<T>(n) of it, or take_zeros<T>(n).
template <class Space>
void take_memory(Space& space, int64_t n_cells, int64_t n_levels, Runs* runs) {
  const int64_t n_genes = runs->n_genes, in_blocks = runs->most_blocks * n_genes;
  runs->level_start = space.template take<int64_t>(n_levels + 1);
  runs->order = space.template take<int64_t>(n_cells);
  runs->total = space.template take<double>(n_cells);
  runs->run = space.template take<Run>(runs->most_runs);
  runs->part = space.template take<Part>(runs->most_parts);
  runs->block = space.template take<Block>(runs->most_blocks);
  runs->n = space.template take<RunCounts>(1);
  runs->mask = space.template take_zeros<unsigned long long>(runs->most_parts * n_genes);
  runs->part_start = space.template take<int64_t>(runs->most_parts * n_genes);
  runs->y_start = space.template take<int64_t>(runs->most_runs + 1);
  runs->y = space.template take<double>(runs->nnz);
  runs->sum = space.template take<double>(in_blocks);
  runs->square = space.template take<double>(in_blocks);
  runs->positive = space.template take<int32_t>(in_blocks);
  runs->shift = space.template take<double>(in_blocks);
  runs->is_shifted = space.template take_zeros<uint32_t>(n_genes);
  runs->run_start = space.template take<int64_t>(runs->most_runs + 1);
  runs->gene_start = space.template take<int64_t>(runs->most_runs * (n_genes + 1));
  runs->entries = space.template take<Entry>(2 * runs->nnz);
  runs->largest = space.template take_zeros<uint32_t>(panel_count(n_genes) * kPanel);
  runs->dense = space.template take<uint4>(runs->most_dense * runs->most_steps * kStepWords);
  runs->rare = space.template take<RareEntry>(runs->nnz);
  runs->rare_start = space.template take<int64_t>(n_cells);
  runs->n_rare = space.template take<int32_t>(n_cells);
}

// Makes genes first .. first + kStrip - 1 of a run dense, [n_rows, kPitch] in shared memory. A warp's genes stand side
// by side, and so do their entries.
template <int kThreads>
__device__ __forceinline__ void fill_strip(const Runs& runs, int64_t r, int64_t first, float* strip) {
  constexpr int kItsGenes = kStrip / (kThreads / kWarp), kAtOnce = 2;
  static_assert(kItsGenes <= kWarp - 1);
  const int lane = lane_id(), own = static_cast<int>(threadIdx.x) / kWarp * kItsGenes;
  const int64_t gene = first + own + (lane < kItsGenes ? lane : kItsGenes);
  const int64_t its_begin = runs.begin(r, gene < runs.n_genes ? gene : runs.n_genes);
  const Entry* entries = runs.entries + __shfl_sync(kAllLanes, its_begin, 0);
  const int its_first = static_cast<int>(its_begin - __shfl_sync(kAllLanes, its_begin, 0));
  const int n = __shfl_sync(kAllLanes, its_first, kItsGenes);
  Entry next[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const int e = k * kWarp + lane;
    next[k] = e < n ? entries[e] : Entry{0, 0};
  }
  __syncthreads();  // nobody reads the strip before any more
  const int n_fours = (runs.run[r].n_rows * kPitch + 3) / 4;
  float4* fours = reinterpret_cast<float4*>(strip);
  for (int at = static_cast<int>(threadIdx.x); at < n_fours; at += kThreads) fours[at] = {0, 0, 0, 0};
  __syncthreads();
  for (int at = 0; at < n; at += kAtOnce * kWarp) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int e = at + k * kWarp + lane;
      int t = own;
#pragma unroll
      for (int other = 1; other < kItsGenes; ++other) t += e >= __shfl_sync(kAllLanes, its_first, other);
      if (e < n) strip[next[k].row * kPitch + t] = next[k].value;
      const int later = e + kAtOnce * kWarp;
      next[k] = later < n ? entries[later] : Entry{0, 0};
    }
  }
  __syncthreads();
}

// One block to a strip and kGenesPerWarp * warps genes, the frequent ones first since they take longest. Sums of more
// than `most_summed` cells are not kept in float32.
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads)
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
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarp;
  const int own_first = group + warp * kGenesPerWarp;  // side by side, as their entries
  Entry* own = reinterpret_cast<Entry*>(strip + kRun * kPitch) + warp * kAhead;
  float2 total[kGenesPerWarp] = {};
  unsigned any = 0;  // genes with an entry among what `total` holds
  int n_summed = 0;
  for (int r = 0; r < runs.n_runs(); ++r) {
    // Of lane k: where the entries of the warp's gene k begin, and of lane kGenesPerWarp where they all end.
    int gene = own_first + (lane < kGenesPerWarp ? lane : kGenesPerWarp);
    gene = gene < first_gene ? first_gene : gene;
    const int64_t its_begin = runs.begin(r, gene < n_genes ? gene : n_genes);
    const Entry* entries = runs.entries + __shfl_sync(kAllLanes, its_begin, 0);
    const int its_first = static_cast<int>(its_begin - __shfl_sync(kAllLanes, its_begin, 0));
    const int n = __shfl_sync(kAllLanes, its_first, kGenesPerWarp);
    any |= __ballot_sync(kAllLanes, __shfl_down_sync(kAllLanes, its_first, 1) > its_first);
    Entry next[kAhead / kWarp];
#pragma unroll
    for (int k = 0; k < kAhead / kWarp; ++k) {
      next[k] = k * kWarp + lane < n ? entries[k * kWarp + lane] : Entry{0, 0};
    }
    fill_strip<kThreads>(runs, r, first, strip);
    const float2* pairs = reinterpret_cast<const float2*>(strip) + lane;
    for (int at = 0; at < n; at += kAhead) {
      __syncwarp();  // all have read what stood there
#pragma unroll
      for (int k = 0; k < kAhead / kWarp; ++k) own[k * kWarp + lane] = next[k];
      __syncwarp();
      int e = 0;
#pragma unroll
      for (int k = 0; k < kGenesPerWarp; ++k) {
        int end = __shfl_sync(kAllLanes, its_first, k + 1) - at;
        end = end < kAhead ? end : kAhead;
        float2 sum{0, 0};
#pragma unroll 4
        for (; e < end; ++e) {
          const Entry entry = own[e];
          const float2 pair = pairs[entry.row * (kPitch / 2)];
          sum.x = __fmaf_rn(entry.value, pair.x, sum.x);
          sum.y = __fmaf_rn(entry.value, pair.y, sum.y);
        }
        total[k].x += sum.x;
        total[k].y += sum.y;
      }
#pragma unroll
      for (int k = 0; k < kAhead / kWarp; ++k) {
        const int later = at + kAhead + k * kWarp + lane;
        if (later < n) next[k] = entries[later];
      }
    }
    n_summed += runs.run[r].n_rows;
    if (runs.ends_sums(r, n_summed, most_summed)) {
      double* own_gram = panels.at(panel, own_first) + (first + 2 * lane) % kPanel;
#pragma unroll
      for (int k = 0; k < kGenesPerWarp; ++k) {
        if ((any >> k & 1) == 0) continue;
        double* gram = own_gram + k * kPanel;
        gram[0] += static_cast<double>(total[k].x);
        gram[1] += static_cast<double>(total[k].y);
        total[k] = {0, 0};
      }
      any = 0;
      n_summed = 0;
    }
  }
}

}  // namespace corrmask
