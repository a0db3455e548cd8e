// The kernels of topk_edges on emulated threads, for ctypes: launched as csrc/cuda/topk_edges.cu does.
#include "cuda_on_cpu.h"
// after it:
#include "../../csrc/cuda/topk_edges.cuh"

using namespace corrmask;

extern "C" __attribute__((visibility("default"))) void topk_edges(int32_t* partners, float* weights, const double* gram,
                                                                  const int32_t* ranks, const double* mean_factors,
                                                                  const double* inverse_sd, int64_t n_genes,
                                                                  int64_t n_levels, int64_t top_k, int64_t first_panel,
                                                                  int64_t last_panel, float min_corr, int positive,
                                                                  uint64_t schedule) {
  emulation::schedule = schedule;
  std::vector<int32_t> gene_at(n_genes, -1);
  std::vector<Edge> edges(n_genes * top_k, {77, 77, 77});
  emulation::launch(2, 64, 0, [&] { genes_by_rank_kernel(ranks, n_genes, gene_at.data()); });
  const TopkArguments arguments{gram,    mean_factors, inverse_sd, gene_at.data(), partners,   weights,  edges.data(),
                                n_genes, n_levels,     top_k,      first_panel,    last_panel, min_corr, positive != 0};
  emulation::launch(static_cast<unsigned>(panel_count(n_genes) - first_panel), static_cast<unsigned>(kPanel), 0,
                    [&] { topk_edges_kernel(arguments); });
}
