// Runs every CPU kernel that has threads, on four of them, for ThreadSanitizer to watch; prints one sum for each.
#include <cstdio>
#include <optional>
#include <tuple>

#include "../../csrc/checks.h"
#include "../../csrc/portable/panels.h"

namespace corrmask {

Tensor sample_groups_cpu(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                         const Tensor&, const Tensor&, int64_t, int64_t, const std::optional<Tensor>&,
                         const std::optional<Tensor>&, int64_t, bool);
std::tuple<Tensor, Tensor> rank_encode_cpu(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                           int64_t, int64_t);
Tensor bin_values_cpu(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      int64_t);
void covariance_update_cpu(Tensor, Tensor, Tensor, Tensor, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, double, int64_t);
std::tuple<Tensor, Tensor, Tensor> gather_tokens_cpu(const Tensor&, const Tensor&, int64_t, int64_t, int64_t, int64_t,
                                                     int64_t, bool, bool);
Tensor sketch_values_cpu(Tensor, Tensor, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                         int64_t);
void topk_edges_cpu(Tensor, Tensor, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t, double, bool);

namespace {

template <class T>
Tensor tensor(std::vector<int64_t> shape, ScalarType dtype, const std::vector<T>& values) {
  Tensor made = torch::stable::empty(shape, dtype);
  std::copy(values.begin(), values.end(), static_cast<T*>(made.mutable_data_ptr()));
  return made;
}

template <class T>
void print_sum(const char* name, const Tensor& result) {
  double sum = 0;
  for (int64_t i = 0; i < result.numel(); ++i) sum += static_cast<double>(data<T>(result)[i]);
  std::printf("%s %.6g\n", name, sum);
}

uint32_t next(uint32_t& state) {
  return state = state * 1664525u + 1013904223u;
}

}  // namespace

void run() {
  constexpr int64_t kCells = 700, kGenes = 400, kWidth = 96, kTop = 8;
  uint32_t state = 1;

  std::vector<int64_t> indptr{0}, lengths, ids, cell_ids, levels;
  std::vector<int32_t> indices;
  std::vector<float> counts;
  for (int64_t i = 0; i < kCells; ++i) {
    for (int32_t g = 0; g < kGenes; ++g) {
      if (next(state) >> 16 > static_cast<uint32_t>(160 * g)) {  // from frequent to rare
        indices.push_back(g);
        counts.push_back(static_cast<float>(1 + (next(state) >> 28)));
      }
    }
    indptr.push_back(static_cast<int64_t>(indices.size()));
    levels.push_back(next(state) >> 31);
    lengths.push_back(next(state) % kWidth);
    cell_ids.push_back(i);
    for (int64_t p = 0; p < kWidth; ++p) ids.push_back(4 + (i + 7 * p) % kGenes);
  }
  const int64_t nnz = indptr.back();
  const Tensor rows = tensor<int64_t>({kCells + 1}, ScalarType::Long, indptr);
  const Tensor columns = tensor<int32_t>({nnz}, ScalarType::Int, indices);
  const Tensor values = tensor<float>({nnz}, ScalarType::Float, counts);
  const Tensor cells = tensor<int64_t>({kCells}, ScalarType::Long, cell_ids);
  const Tensor seed = tensor<int64_t>({1}, ScalarType::Long, {5}), epoch = tensor<int64_t>({1}, ScalarType::Long, {2});

  std::vector<int32_t> groups(kGenes + 4, -2), members, tokens;
  std::vector<int64_t> group_start{0};
  for (int32_t g = 0; g < kGenes; ++g) {
    groups[g + 4] = g;
    for (int32_t m = 1; m <= 20; ++m) members.push_back(4 + (g + 7 * m) % static_cast<int32_t>(kGenes));
    group_start.push_back(static_cast<int64_t>(members.size()));
    tokens.push_back(g + 4);
  }
  print_sum<int32_t>("sample_groups",
                     sample_groups_cpu(tensor<int64_t>({kCells, kWidth}, ScalarType::Long, ids),
                                       tensor<int64_t>({kCells}, ScalarType::Long, lengths), cells,
                                       tensor<int32_t>({kGenes + 4}, ScalarType::Int, groups),
                                       tensor<int64_t>({kGenes + 1}, ScalarType::Long, group_start),
                                       tensor<int32_t>({20 * kGenes}, ScalarType::Int, members), seed, epoch, 150000,
                                       int64_t{1} << 32, std::nullopt, std::nullopt, INT32_MAX, false));
  print_sum<int32_t>("rank_encode", std::get<0>(rank_encode_cpu(
                                        rows, columns, values,
                                        tensor<double>({kGenes}, ScalarType::Double, std::vector<double>(kGenes, 1.5)),
                                        tensor<int32_t>({kGenes}, ScalarType::Int, tokens), kWidth, 0)));
  std::vector<uint16_t> stored;
  std::vector<int32_t> stored_start{0};
  for (int64_t i = 0; i < kCells; ++i) {
    for (int64_t p = 0; p < lengths[i]; ++p) stored.push_back(static_cast<uint16_t>(ids[i * kWidth + p]));
    stored_start.push_back(static_cast<int32_t>(stored.size()));
  }
  const std::vector<int64_t> chunk{0,
                                   reinterpret_cast<int64_t>(stored_start.data()),
                                   reinterpret_cast<int64_t>(stored.data()),
                                   static_cast<int64_t>(stored.size()),
                                   kCells,
                                   0,
                                   0,
                                   0};
  print_sum<int64_t>("gather_tokens",
                     std::get<0>(gather_tokens_cpu(cells, tensor<int64_t>({2, 4}, ScalarType::Long, chunk), 16, 32,
                                                   kGenes + 4, kWidth, 0, false, true)));
  print_sum<int32_t>("bin_values", bin_values_cpu(rows, columns, values, cells, seed, epoch, 51));

  constexpr int64_t kBuckets = 12 * 512, kFirstBucket = 1023 * 512;  // values from 1 on
  const std::vector<double> per_cell(kCells, 2000);
  Tensor low = tensor<uint8_t>({kGenes, kBuckets}, ScalarType::Byte, std::vector<uint8_t>(kGenes * kBuckets, 0));
  Tensor carries =
      tensor<uint32_t>({kGenes, kBuckets}, ScalarType::UInt32, std::vector<uint32_t>(kGenes * kBuckets, 0));
  std::vector<int32_t> genes(kGenes);
  for (int32_t g = 0; g < kGenes; ++g) genes[g] = kGenes - 1 - g;
  sketch_values_cpu(low, carries, rows, columns, values, tensor<double>({kCells}, ScalarType::Double, per_cell),
                    tensor<int32_t>({kGenes}, ScalarType::Int, genes), kFirstBucket);
  print_sum<uint8_t>("sketch_values", low);

  const int64_t size = panels_size(kGenes);
  const auto zeros = [](std::vector<int64_t> shape, int64_t n) {
    return tensor<double>(shape, ScalarType::Double, std::vector<double>(n, 0));
  };
  Tensor gram = zeros({size}, size), sums = zeros({2, kGenes}, 2 * kGenes), squares = zeros({kGenes}, kGenes);
  Tensor expressed = tensor<int64_t>({kGenes}, ScalarType::Long, std::vector<int64_t>(kGenes, 0));
  std::vector<int32_t> order(kGenes);
  for (int32_t g = 0; g < kGenes; ++g) order[g] = g;
  const Tensor ranks = tensor<int32_t>({kGenes}, ScalarType::Int, order);
  covariance_update_cpu(gram, sums, squares, expressed, ranks, rows, columns, values,
                        tensor<int64_t>({kCells}, ScalarType::Long, levels), 1e4, 0);
  print_sum<double>("covariance_update", sums);
  Tensor partners = tensor<int32_t>({kGenes, kTop}, ScalarType::Int, std::vector<int32_t>(kGenes * kTop, -1));
  Tensor weights = tensor<float>({kGenes, kTop}, ScalarType::Float, std::vector<float>(kGenes * kTop, 0));
  topk_edges_cpu(partners, weights, gram, ranks, zeros({1, kGenes}, kGenes),
                 tensor<double>({kGenes}, ScalarType::Double, std::vector<double>(kGenes, 1e-2)), 0, 0.1, false);
  print_sum<int32_t>("topk_edges", partners);
}

}  // namespace corrmask

int main() {
  corrmask::run();
}
