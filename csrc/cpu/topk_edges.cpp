// The strongest partners of every gene, read off the panels of the Gram matrix in one pass: each correlation is offered
// to both of its ends. The matrix of correlations never stands in memory.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "../checks.h"
#include "../panel_range.h"
#include "../portable/edge_list.h"
#include "../portable/panels.h"
#include "clones.h"

namespace corrmask {

namespace {

// gene_at[ranks[gene]] = gene; raises where `ranks` is no permutation of 0 .. n - 1.
std::vector<int32_t> genes_by_rank(const char* op, const int32_t* ranks, int64_t n) {
  std::vector<int32_t> gene_at(n, -1);
  for (int64_t gene = 0; gene < n; ++gene) {
    check(ranks[gene] >= 0 && ranks[gene] < n && gene_at[ranks[gene]] < 0, op, "'ranks' must be a permutation of 0 .. ",
          n - 1, ", got ", ranks[gene], " for gene ", gene);
    gene_at[ranks[gene]] = static_cast<int32_t>(gene);
  }
  return gene_at;
}

struct Moments {
  std::vector<double> mean_factors;  // [n_levels, n_padded] by rank: sqrt(cells) * mean; their products are taken off
  std::vector<double> inverse_sd;    // [n_padded] by rank: 0 for a gene without edges, and behind the last
  int64_t n_padded, n_levels;        // genes up to the end of their panel
};

// r[t] = correlation of gene `other` with gene first + t of one panel; passes[t] = whether it is as strong as its own
// gene's `least`, or as `least_other`. Returns whether one is. Three loops over all of the panel, each of which the
// compiler makes vectors of.
CORRMASK_CLONES bool correlate(const double* gram, const double* mean_factors, const double* inverse_sd,
                               int64_t n_levels, int64_t n_padded, int64_t first, int64_t other, const float* least,
                               float least_other, float* r, int32_t* passes) {
  double covariance[kPanel];
  for (int64_t t = 0; t < kPanel; ++t) covariance[t] = gram[t];
  for (int64_t l = 0; l < n_levels; ++l) {
    const double* factors = mean_factors + l * n_padded + first;
    const double own = mean_factors[l * n_padded + other];
    for (int64_t t = 0; t < kPanel; ++t) covariance[t] -= own * factors[t];
  }
  const double own = inverse_sd[other];
  const double* scale = inverse_sd + first;
  for (int64_t t = 0; t < kPanel; ++t) r[t] = static_cast<float>(covariance[t] * (own * scale[t]));
  int32_t any = 0;
  for (int64_t t = 0; t < kPanel; ++t) {
    const float bounded = r[t] > 1.f ? 1.f : r[t];
    r[t] = bounded < -1.f ? -1.f : bounded;
    const float size = std::fabs(r[t]);
    passes[t] = static_cast<int32_t>(size >= least[t]) | static_cast<int32_t>(size >= least_other);
    any |= passes[t];
  }
  return any != 0;
}

}  // namespace

void topk_edges_cpu(Tensor partners, Tensor weights, const Tensor& gram, const Tensor& ranks,
                    const Tensor& mean_factors, const Tensor& inverse_sd, int64_t first_panel, double min_corr,
                    bool positive) {
  constexpr const char* kOp = "topk_edges";
  check_tensor(partners, kOp, "partners", ScalarType::Int, 2);
  check_tensor(weights, kOp, "weights", ScalarType::Float, 2);
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(ranks, kOp, "ranks", ScalarType::Int, 1);
  check_tensor(mean_factors, kOp, "mean_factors", ScalarType::Double, 2);
  check_tensor(inverse_sd, kOp, "inverse_sd", ScalarType::Double, 1);
  const int64_t n = inverse_sd.size(0), n_levels = mean_factors.size(0), top_k = partners.size(1);
  check(partners.size(0) == n && weights.size(0) == n && weights.size(1) == top_k, kOp,
        "'partners' and 'weights' must be [", n, ", top_k]");
  check(ranks.size(0) == n, kOp, "'ranks' must be [", n, "], got [", ranks.size(0), "]");
  check(mean_factors.size(1) == n, kOp, "'mean_factors' must be [n_levels, ", n, "], got [..., ", mean_factors.size(1),
        "]");
  const PanelRange range = panel_range(kOp, gram.size(0), n, first_panel);
  const std::vector<int32_t> gene_at = genes_by_rank(kOp, data<int32_t>(ranks), n);
  const int64_t n_padded = panel_count(n) * kPanel;
  Moments moments{std::vector<double>(n_levels * n_padded), std::vector<double>(n_padded), n_padded, n_levels};
  std::copy_n(data<double>(inverse_sd), n, moments.inverse_sd.begin());
  for (int64_t l = 0; l < n_levels; ++l) {
    std::copy_n(data<double>(mean_factors) + l * n, n, moments.mean_factors.begin() + l * n_padded);
  }
  const double* inverse = moments.inverse_sd.data();
  int32_t* partner = mutable_data<int32_t>(partners);
  float* weight = mutable_data<float>(weights);

  // Lists by rank, as earlier passes left them.
  std::vector<Edge> edges(n * top_k);
  std::vector<EdgeList> lists(n);
  std::vector<std::atomic<float>> least(n);
  std::vector<std::atomic_flag> busy(n);
  for (int64_t rank = 0; rank < n; ++rank) {
    lists[rank] = {edges.data() + rank * top_k, static_cast<int32_t>(top_k), 0, static_cast<float>(min_corr)};
    for (int64_t e = 0, at = gene_at[rank] * top_k; e < top_k && partner[at + e] >= 0; ++e) {
      const float r = weight[at + e];
      lists[rank].offer({positive || r > 0 ? r : -r, r, partner[at + e]});
    }
    least[rank] = inverse[rank] == 0 ? 2.f : lists[rank].least;
  }
  // Offers pass by in any order: what a list holds in the end is the same. Few pass the first comparison.
  const auto offer = [&](int64_t to, int64_t from, float r) {
    const float strength = positive || r > 0 ? r : -r;
    if (!(strength >= least[to].load(std::memory_order_relaxed))) return;
    while (busy[to].test_and_set(std::memory_order_acquire)) {
    }
    lists[to].offer({strength, r, gene_at[from]});
    least[to].store(lists[to].least, std::memory_order_relaxed);
    busy[to].clear(std::memory_order_release);
  };
  std::atomic<int64_t> next_panel{range.first};
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    float r[kPanel], least_own[kPanel];
    int32_t passes[kPanel];
    for (int64_t panel; (panel = next_panel.fetch_add(1)) < range.last;) {
      const int64_t first = panel * kPanel, width = std::min(kPanel, n - first);
      const double* row = data<double>(gram) + panel_start(panel, n) - panel_start(range.first, n);
      for (int64_t other = first; other < n; ++other, row += kPanel) {
        if ((other - first) % 64 == 0) {  // other threads raise them too: what is known here may be too low
          for (int64_t t = 0; t < kPanel; ++t) {
            least_own[t] = t < width ? least[first + t].load(std::memory_order_relaxed) : 2.f;
          }
        }
        if (inverse[other] == 0) continue;
        const int64_t count = std::min(width, other - first);  // within the panel only ranks below are stored
        const float least_other = least[other].load(std::memory_order_relaxed);
        if (!correlate(row, moments.mean_factors.data(), inverse, n_levels, n_padded, first, other, least_own,
                       least_other, r, passes)) {
          continue;
        }
        for (int64_t t = 0; t < count; ++t) {
          if (passes[t] == 0 || inverse[first + t] == 0) continue;
          offer(first + t, other, r[t]);
          offer(other, first + t, r[t]);
          least_own[t] = least[first + t].load(std::memory_order_relaxed);
        }
      }
    }
  });
  for (int64_t rank = 0; rank < n; ++rank) {
    const EdgeList& list = lists[rank];
    for (int64_t e = 0, at = gene_at[rank] * top_k; e < list.size; ++e) {
      partner[at + e] = list.edges[e].gene;
      weight[at + e] = list.edges[e].weight;
    }
  }
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("topk_edges", TORCH_BOX(&corrmask::topk_edges_cpu));
}
