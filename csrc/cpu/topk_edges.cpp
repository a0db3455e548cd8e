// The strongest partners of every gene, in one pass over the triangle of the Gram matrix for each end of an edge,
// without the full matrix of correlations ever standing in memory.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "../portable/edge_list.h"
#include "../portable/triangle.h"
#include "clones.h"

namespace corrmask {

namespace {

constexpr int64_t kStrip = 128;  // genes whose partners are sought together: 1 KB of each row above them

struct Moments {
  const double* gram;          // [n (n + 1) / 2]
  const double* mean_factors;  // [n_levels, n]: sqrt(cells) * mean of each level; their products are taken off
  const double* inverse_sd;    // [n]: 0 for a gene without edges
  int64_t n_genes, n_levels;
};

// r[t] = correlation of `gene` with genes first .. first + count - 1, all >= gene.
CORRMASK_CLONES void correlate_strip(const Moments& m, int64_t gene, int64_t first, int64_t count, double* covariance,
                                     float* r) {
  const double* gram = m.gram + triangle_row(gene, m.n_genes) + (first - gene);
  for (int64_t t = 0; t < count; ++t) covariance[t] = gram[t];
  for (int64_t l = 0; l < m.n_levels; ++l) {
    const double* factors = m.mean_factors + l * m.n_genes;
    const double own = factors[gene];
    for (int64_t t = 0; t < count; ++t) covariance[t] -= own * factors[first + t];
  }
  const double own = m.inverse_sd[gene];
  for (int64_t t = 0; t < count; ++t) {
    const double raw = covariance[t] * (own * m.inverse_sd[first + t]);
    r[t] = static_cast<float>(raw > 1 ? 1 : raw < -1 ? -1 : raw);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> topk_edges_cpu(const Tensor& gram, const Tensor& mean_factors, const Tensor& inverse_sd,
                                          int64_t top_k, double min_corr, bool positive) {
  constexpr const char* kOp = "topk_edges";
  check_tensor(gram, kOp, "gram", ScalarType::Double, 1);
  check_tensor(mean_factors, kOp, "mean_factors", ScalarType::Double, 2);
  check_tensor(inverse_sd, kOp, "inverse_sd", ScalarType::Double, 1);
  const int64_t n_genes = inverse_sd.size(0);
  check(gram.size(0) == triangle_size(n_genes), kOp, "'gram' must be [", triangle_size(n_genes), "], got [",
        gram.size(0), "]");
  check(mean_factors.size(1) == n_genes, kOp, "'mean_factors' must be [n_levels, ", n_genes, "], got [..., ",
        mean_factors.size(1), "]");
  const Moments moments{data<double>(gram), data<double>(mean_factors), data<double>(inverse_sd), n_genes,
                        mean_factors.size(0)};
  Tensor partners = torch::stable::empty({n_genes, top_k}, ScalarType::Int);
  Tensor weights = torch::stable::empty({n_genes, top_k}, ScalarType::Float);
  int32_t* partner = mutable_data<int32_t>(partners);
  float* weight = mutable_data<float>(weights);
  const int64_t n_strips = (n_genes + kStrip - 1) / kStrip;

  torch::stable::parallel_for(0, n_strips, 1, [&](int64_t begin, int64_t end) {
    std::vector<Edge> edges(kStrip * top_k);
    std::vector<EdgeList> lists(kStrip);
    double covariance[kStrip];
    float r[kStrip];
    const auto offer = [&](EdgeList& list, int64_t candidate, float correlation) {
      const float strength = positive || correlation > 0 ? correlation : -correlation;
      if (list.admits(strength)) list.insert({strength, correlation, static_cast<int32_t>(candidate)});
    };
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip * kStrip, last = std::min(first + kStrip, n_genes);
      for (int64_t g = first; g < last; ++g) {
        lists[g - first] = {edges.data() + (g - first) * top_k, static_cast<int32_t>(top_k), 0,
                            static_cast<float>(min_corr), 0};
      }
      for (int64_t other = 0; other < last; ++other) {  // partners below, in ascending order
        if (moments.inverse_sd[other] == 0) continue;
        const int64_t from = std::max(first, other + 1);
        correlate_strip(moments, other, from, last - from, covariance, r);
        for (int64_t g = from; g < last; ++g) {
          if (moments.inverse_sd[g] != 0) offer(lists[g - first], other, r[g - from]);
        }
      }
      for (int64_t g = first; g < last; ++g) {  // partners above
        EdgeList& list = lists[g - first];
        if (moments.inverse_sd[g] != 0) {
          for (int64_t from = g + 1; from < n_genes; from += kStrip) {
            const int64_t count = std::min(kStrip, n_genes - from);
            correlate_strip(moments, g, from, count, covariance, r);
            for (int64_t t = 0; t < count; ++t) {
              if (moments.inverse_sd[from + t] != 0) offer(list, from + t, r[t]);
            }
          }
        }
        for (int64_t e = 0; e < top_k; ++e) {
          partner[g * top_k + e] = e < list.size ? list.edges[e].gene : -1;
          weight[g * top_k + e] = e < list.size ? list.edges[e].weight : 0;
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
