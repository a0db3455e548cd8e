// The strongest partners of every gene, read off the panels of the Gram matrix once for each end of an edge, without
// the full matrix of correlations ever standing in memory.
#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "../portable/edge_list.h"
#include "../portable/panels.h"
#include "clones.h"
#include "gene_order.h"

namespace corrmask {

namespace {

struct Moments {
  const double* gram;          // panels, genes by rank
  const double* mean_factors;  // [n_levels, n] by rank: sqrt(cells) * mean of each level; their products are taken off
  const double* inverse_sd;    // [n] by rank: 0 for a gene without edges
  int64_t n_genes, n_levels;
};

// r[t] = correlation of gene `other` with genes first .. first + width - 1 of one panel; returns the largest |r|.
CORRMASK_CLONES float correlate(const Moments& m, int64_t first, int64_t width, int64_t other, const double* gram,
                                double* covariance, float* r) {
  for (int64_t t = 0; t < width; ++t) covariance[t] = gram[t];
  for (int64_t l = 0; l < m.n_levels; ++l) {
    const double* factors = m.mean_factors + l * m.n_genes;
    const double own = factors[other];
    for (int64_t t = 0; t < width; ++t) covariance[t] -= own * factors[first + t];
  }
  const double own = m.inverse_sd[other];
  float largest = 0;
  for (int64_t t = 0; t < width; ++t) {
    const double raw = covariance[t] * (own * m.inverse_sd[first + t]);
    r[t] = static_cast<float>(raw > 1 ? 1 : raw < -1 ? -1 : raw);
    const float size = r[t] < 0 ? -r[t] : r[t];
    largest = size > largest ? size : largest;
  }
  return largest;
}

}  // namespace

std::tuple<Tensor, Tensor> topk_edges_cpu(const Tensor& gram, const Tensor& ranks, const Tensor& mean_factors,
                                          const Tensor& inverse_sd, int64_t top_k, double min_corr, bool positive) {
  constexpr const char* kOp = "topk_edges";
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(ranks, kOp, "ranks", ScalarType::Int, 1);
  check_tensor(mean_factors, kOp, "mean_factors", ScalarType::Double, 2);
  check_tensor(inverse_sd, kOp, "inverse_sd", ScalarType::Double, 1);
  const int64_t n = inverse_sd.size(0), n_levels = mean_factors.size(0);
  check(gram.size(0) == panels_size(n), kOp, "'gram' must be [", panels_size(n), "], got [", gram.size(0), "]");
  check(ranks.size(0) == n, kOp, "'ranks' must be [", n, "], got [", ranks.size(0), "]");
  check(mean_factors.size(1) == n, kOp, "'mean_factors' must be [n_levels, ", n, "], got [..., ", mean_factors.size(1),
        "]");
  const std::vector<int32_t> gene_at = genes_by_rank(kOp, data<int32_t>(ranks), n);
  std::vector<double> factors(n_levels * n), inverse(n);
  for (int64_t rank = 0; rank < n; ++rank) {
    inverse[rank] = data<double>(inverse_sd)[gene_at[rank]];
    for (int64_t l = 0; l < n_levels; ++l) factors[l * n + rank] = data<double>(mean_factors)[l * n + gene_at[rank]];
  }
  const Moments moments{data<double>(gram), factors.data(), inverse.data(), n, n_levels};
  Tensor partners = torch::stable::empty({n, top_k}, ScalarType::Int);
  Tensor weights = torch::stable::empty({n, top_k}, ScalarType::Float);
  int32_t* partner = mutable_data<int32_t>(partners);
  float* weight = mutable_data<float>(weights);
  std::atomic<int64_t> next_panel{0};

  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    std::vector<Edge> edges(kPanel * top_k);
    std::vector<EdgeList> lists(kPanel);
    double covariance[kPanel];
    float r[kPanel];
    const auto offer = [&](EdgeList& list, int64_t rank, float correlation) {
      list.offer({positive || correlation > 0 ? correlation : -correlation, correlation, gene_at[rank]});
    };
    for (int64_t own; (own = next_panel.fetch_add(1)) < panel_count(n);) {
      const int64_t first = own * kPanel, width = std::min(kPanel, n - first);
      for (int64_t t = 0; t < width; ++t) {
        lists[t] = {edges.data() + t * top_k, static_cast<int32_t>(top_k), 0, static_cast<float>(min_corr)};
      }
      // Partners in the panels before: rows of theirs that are genes of this one.
      for (int64_t panel = 0; panel < own; ++panel) {
        const double* row = moments.gram + panel_start(panel, n) + (first - panel * kPanel) * kPanel;
        for (int64_t t = 0; t < width; ++t, row += kPanel) {
          if (inverse[first + t] == 0) continue;
          EdgeList& list = lists[t];
          if (correlate(moments, panel * kPanel, kPanel, first + t, row, covariance, r) < list.least) continue;
          for (int64_t u = 0; u < kPanel; ++u) {
            if (inverse[panel * kPanel + u] != 0) offer(list, panel * kPanel + u, r[u]);
          }
        }
      }
      // Partners in this panel and behind it.
      const double* row = moments.gram + panel_start(own, n);
      for (int64_t other = first; other < n; ++other, row += kPanel) {
        if (inverse[other] == 0) continue;
        const int64_t count = std::min(width, other - first);  // within the panel only ranks below are stored
        correlate(moments, first, count, other, row, covariance, r);
        for (int64_t t = 0; t < count; ++t) {
          if (inverse[first + t] == 0) continue;
          if ((r[t] < 0 ? -r[t] : r[t]) >= lists[t].least) offer(lists[t], other, r[t]);
          if (other < first + width) offer(lists[other - first], first + t, r[t]);
        }
      }
      for (int64_t t = 0; t < width; ++t) {
        const EdgeList& list = lists[t];
        const int64_t gene = gene_at[first + t];
        for (int64_t e = 0; e < top_k; ++e) {
          partner[gene * top_k + e] = inverse[first + t] != 0 && e < list.size ? list.edges[e].gene : -1;
          weight[gene * top_k + e] = inverse[first + t] != 0 && e < list.size ? list.edges[e].weight : 0;
        }
      }
    }
  });
  return {partners, weights};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("topk_edges", TORCH_BOX(&corrmask::topk_edges_cpu));
}
