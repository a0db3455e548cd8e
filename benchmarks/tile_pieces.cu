// The dense tiles of covariance_update in pieces of bfloat16 and of TF32, beside one another: time, rate and error.
//
//   nvcc -std=c++20 -O3 --fmad=false -arch=native benchmarks/tile_pieces.cu -o tile_pieces && ./tile_pieces
//
// Prints a line for each: name, milliseconds (median of 10), TFLOP/s of the tensor cores (all products of pieces
// counted), and the largest error of 512 entries against float64, as a share of the genes' own sums of squares. Exits
// with 1 where that is more than 2e-6, or where CUDA fails.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../csrc/cuda/dense_tiles.cuh"

using namespace corrmask;

namespace {

constexpr int64_t kPanels = 26, kGenes = kPanels * kPanel, kCells = 28 * kRun;
constexpr double kBound = 2e-6;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
T* on_device(const std::vector<T>& values) {
  T* there = nullptr;
  check(cudaMalloc(&there, values.size() * sizeof(T)));
  check(cudaMemcpy(there, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return there;
}

uint64_t next_random() {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

double uniform() {
  return static_cast<double>(next_random() >> 11) / 9007199254740992.0;
}

struct Cells {
  std::vector<float> dense;  // [kPanels, kCells, kPanel]
  Runs runs{};

  Cells() : dense(kPanels * kCells * kPanel) {
    for (float& value : dense) value = uniform() < 0.4 ? static_cast<float>(4 * uniform()) : 0.f;
    std::vector<Run> run;
    for (int64_t first = 0; first < kCells; first += kRun) {
      const int64_t block_first = first - first % (kRun * kRunsPerBlock);
      run.push_back({first, block_first, 0, first / kPart, static_cast<int32_t>(kRun)});
    }
    const std::vector<double> nothing(run.size() * kGenes, 0.0);
    runs.n_genes = kGenes;
    runs.most_dense = kPanels;
    runs.n = on_device(std::vector<int64_t>{static_cast<int64_t>(run.size()), kCells / kPart, kPanels, kPanels});
    runs.run = on_device(run);
    runs.sum = on_device(nothing);
    runs.shift = on_device(nothing);
    runs.dense = on_device(dense);
  }

  double product(int64_t low, int64_t high) const {
    double sum = 0;
    for (int64_t cell = 0; cell < kCells; ++cell) {
      const double a = static_cast<double>(dense[(low / kPanel * kCells + cell) * kPanel + low % kPanel]);
      sum += a * static_cast<double>(dense[(high / kPanel * kCells + cell) * kPanel + high % kPanel]);
    }
    return sum;
  }
};

template <class Split>
bool report(const char* name, const Cells& cells) {
  std::vector<double> gram(panels_size(kGenes), 0.0);
  const Panels panels{on_device(gram), kGenes, 0, kPanels};
  const auto launch = [&] {
    add_tiles_kernel<Split><<<kPanels * kPanels, kTileThreads>>>(cells.runs, panels, kCells, kPanels, 4096);
    check(cudaGetLastError());
  };
  launch();
  check(cudaMemcpy(gram.data(), panels.gram, gram.size() * sizeof(double), cudaMemcpyDeviceToHost));
  double worst = 0;
  for (int i = 0; i < 512; ++i) {
    const int64_t a = static_cast<int64_t>(next_random() % kGenes), b = static_cast<int64_t>(next_random() % kGenes);
    const int64_t low = std::min(a, b), high = std::max(a, b), panel = low / kPanel;
    const double got = gram[panel_start(panel, kGenes) + (high - panel * kPanel) * kPanel + low % kPanel];
    const double scale = std::sqrt(cells.product(low, low) * cells.product(high, high));
    worst = std::max(worst, std::fabs(got - cells.product(low, high)) / scale);
  }
  cudaEvent_t before, after;
  check(cudaEventCreate(&before));
  check(cudaEventCreate(&after));
  std::vector<float> times(10);
  for (float& time : times) {
    check(cudaEventRecord(before));
    launch();
    check(cudaEventRecord(after));
    check(cudaEventSynchronize(after));
    check(cudaEventElapsedTime(&time, before, after));
  }
  check(cudaFree(panels.gram));
  std::sort(times.begin(), times.end());
  const double ms = (static_cast<double>(times[4]) + static_cast<double>(times[5])) / 2;
  constexpr int kProducts = Split::kPieces * (Split::kPieces + 1) / 2;
  const double flop = 2.0 * kProducts * kCells * kPanel * kPanel * kPanels * (kPanels + 1) / 2;
  std::printf("%s %.4f %.1f %.2e\n", name, ms, flop / ms / 1e9, worst);
  return worst <= kBound;
}

}  // namespace

int main() {
  const Cells cells;
  const bool bf16 = report<Bf16x3>("bf16x3", cells), tf32 = report<Tf32x2>("tf32x2", cells);
  return bf16 && tf32 ? 0 : 1;
}
