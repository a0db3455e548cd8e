// The strongest partners of every gene, read off the panels of the Gram matrix: owner computes, one thread to a gene.
//
// A block owns the lists of one panel's 128 genes. It passes the panels before its own, each a tile of 128 x 128 that
// is turned in shared memory, and then its own panel, row after row as it stands. So each correlation is formed twice,
// once by each of its ends, and no list is shared. Which order candidates come in does not matter (../portable/
// edge_list.h). Arithmetic is that of the CPU, in the same order, so weights have its bytes.
//
// What bounds it, on paper: the matrix read twice, 2 x 1.6 GB for 20,000 genes, 0.8 ms of an H200; 20,000 candidates to
// a thread, some ms.
//
// What cannot be raised for without waiting: genes whose rank is out of range, or is another's too, get no edges.
#pragma once

#include "../portable/edge_list.h"
#include "../portable/panels.h"
#include "warp.cuh"

namespace corrmask {

constexpr int kTurned = 32;               // genes of an earlier panel that are turned at once
constexpr int kTurnedPitch = kPanel + 1;  // doubles: columns spread over the banks

struct TopkArguments {
  const double* gram;          // panels first_panel .. last_panel - 1
  const double* mean_factors;  // [n_levels, n_genes] by rank
  const double* inverse_sd;    // [n_genes] by rank: 0 for a gene without edges
  const int32_t* gene_at;      // [n_genes] gene of each rank, -1 where there is none
  int32_t* partners;           // [n_genes, top_k] by gene
  float* weights;              // [n_genes, top_k] by gene
  Edge* edges;                 // [n_genes, top_k] by rank
  int64_t n_genes, n_levels, top_k, first_panel, last_panel;
  float min_corr;
  bool positive;

  __device__ float correlation(double gram, int64_t low, int64_t high) const {
    double covariance = gram;
    for (int64_t l = 0; l < n_levels; ++l) {
      covariance -= mean_factors[l * n_genes + high] * mean_factors[l * n_genes + low];
    }
    const float r = static_cast<float>(covariance * (inverse_sd[high] * inverse_sd[low]));
    return r > 1.f ? 1.f : r < -1.f ? -1.f : r;
  }

  __device__ Edge edge(float r, int32_t gene) const { return {positive || r > 0 ? r : -r, r, gene}; }

  // Offers rank `other` to the list of rank `own`, by the entry of both.
  __device__ void offer(EdgeList& list, double gram, int64_t own, int64_t other) const {
    const int32_t gene = gene_at[other];
    if (own == other || gene < 0 || inverse_sd[other] == 0) return;
    list.offer(edge(correlation(gram, own < other ? own : other, own < other ? other : own), gene));
  }
};

// gene_at[ranks[gene]] = gene, where -1 stood.
static __global__ void genes_by_rank_kernel(const int32_t* ranks, int64_t n_genes, int32_t* gene_at) {
  for (int64_t gene = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; gene < n_genes;
       gene += gridDim.x * static_cast<int64_t>(blockDim.x)) {
    const int32_t rank = ranks[gene];
    if (rank >= 0 && rank < n_genes) atomicMax(gene_at + rank, static_cast<int32_t>(gene));
  }
}

// One block to a panel, from the first one that is here.
static __global__ void __launch_bounds__(kPanel) topk_edges_kernel(TopkArguments a) {
  __shared__ double turned[kTurned * kTurnedPitch];
  const int64_t panel = a.first_panel + blockIdx.x, first = panel * kPanel;
  const int64_t own = first + threadIdx.x, start = panel_start(a.first_panel, a.n_genes);
  const int64_t n_rows = a.n_genes - first < kPanel ? a.n_genes - first : kPanel;
  const int64_t gene = own < a.n_genes ? a.gene_at[own] : -1;
  const bool has_list = gene >= 0 && a.inverse_sd[own] != 0;
  EdgeList list{a.edges + own * a.top_k, static_cast<int32_t>(a.top_k), 0, a.min_corr};
  if (has_list) {
    for (int64_t at = gene * a.top_k; at < (gene + 1) * a.top_k && a.partners[at] >= 0; ++at) {
      list.offer(a.edge(a.weights[at], a.partners[at]));
    }
  }
  const int64_t last_before = panel < a.last_panel ? panel : a.last_panel;
  for (int64_t before = a.first_panel; before < last_before; ++before) {
    const double* rows = a.gram + (panel_start(before, a.n_genes) - start + (first - before * kPanel) * kPanel);
    for (int64_t from = 0; from < kPanel; from += kTurned) {
      __syncthreads();
      for (int64_t at = threadIdx.x; at < n_rows * kTurned; at += kPanel) {
        const int64_t row = at / kTurned, t = at % kTurned;
        turned[t * kTurnedPitch + row] = rows[row * kPanel + from + t];
      }
      __syncthreads();
      if (!has_list) continue;
      for (int64_t t = 0; t < kTurned; ++t) {
        a.offer(list, turned[t * kTurnedPitch + threadIdx.x], own, before * kPanel + from + t);
      }
    }
  }
  if (!has_list) return;
  if (panel < a.last_panel) {
    const double* rows = a.gram + (panel_start(panel, a.n_genes) - start);
    for (int64_t other = first; other < own; ++other) {  // of these only the other's column is stored
      a.offer(list, rows[(own - first) * kPanel + (other - first)], own, other);
    }
    for (int64_t other = own + 1; other < a.n_genes; ++other) {
      a.offer(list, rows[(other - first) * kPanel + threadIdx.x], own, other);
    }
  }
  for (int32_t e = 0; e < list.size; ++e) {
    a.partners[gene * a.top_k + e] = list.edges[e].gene;
    a.weights[gene * a.top_k + e] = list.edges[e].weight;
  }
}

}  // namespace corrmask
