// The dense tiles of covariance_update alone: time, rate and error.
//
//   nvcc -std=c++20 -O3 --fmad=false -arch=native benchmarks/tile_pieces.cu -o tile_pieces && ./tile_pieces
//
// Prints a line: name, milliseconds (median of 10), TFLOP/s of the tensor cores (all products of pieces
// counted), and the largest error of 512 entries against float64, as a share of the genes' own sums of squares. Exits
// with 1 where that is more than 2e-6, or where CUDA fails.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../csrc/cuda/dense_tiles.cuh"

using namespace corrmask;

namespace {

constexpr int64_t kPanels = 44, kGenes = kPanels * kPanel, kCells = 32 * kRun, kSteps = kCells / kStep;
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
      run.push_back({first, first / kStep, 0, first / kPart, static_cast<int32_t>(kRun)});
    }
    std::vector<uint32_t> largest(kGenes);
    float four = 4;
    std::memcpy(&largest[0], &four, sizeof four);
    std::fill(largest.begin(), largest.end(), largest[0]);
    runs.n_genes = kGenes;
    runs.most_runs = static_cast<int64_t>(run.size());
    runs.most_dense = kPanels;
    runs.most_steps = kSteps;
    runs.n = on_device(std::vector<RunCounts>{{runs.most_runs, kCells / kPart, 1, kSteps, kPanels, kPanels}});
    runs.run = on_device(run);
    runs.largest = on_device(largest);
    runs.dense = on_device(words());
  }

  // As fill_dense_kernel leaves them.
  std::vector<uint4> words() const {
    std::vector<uint4> all(kPanels * kSteps * kStepWords);
    const float scale = 4096;  // of 4: 2**14
    for (int64_t at = 0; at < kPanels * kSteps * kPieceWords; ++at) {
      const int64_t lane = at % kWarp, slice = at / kWarp % kSlices, step = at / kPieceWords % kSteps;
      const float* values = &dense[(at / kPieceWords / kSteps * kCells + step * kStep + lane % 4 * 2) * kPanel];
      uint32_t pieces[kPieces][4];
      for (int word = 0; word < 4; ++word) {
        const float* own = values + word / 2 * 8 * kPanel + slice * kSliceGenes + word % 2 * 8 + lane / 4;
        __half2 large = __floats2half2_rn(own[0] * scale, own[kPanel] * scale);
        __half2 small =
            __floats2half2_rn(own[0] * scale - __low2float(large), own[kPanel] * scale - __high2float(large));
        std::memcpy(&pieces[0][word], &large, sizeof large);
        std::memcpy(&pieces[1][word], &small, sizeof small);
      }
      for (int p = 0; p < kPieces; ++p) {
        all[at / kPieceWords * kStepWords + p * kPieceWords + at % kPieceWords] = {pieces[p][0], pieces[p][1],
                                                                                   pieces[p][2], pieces[p][3]};
      }
    }
    return all;
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

bool report(const char* name, const Cells& cells) {
  std::vector<double> gram(panels_size(kGenes), 0.0);
  const Panels panels{on_device(gram), kGenes, 0, kPanels};
  check(cudaFuncSetAttribute(add_tiles_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTileBytes));
  const auto launch = [&] {
    add_tiles_kernel<<<kPanels * kPanels / kHighPanels, kTileThreads, kTileBytes>>>(cells.runs, panels, kPanels, 8192);
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
  constexpr int kProducts = kPieces * (kPieces + 1) / 2;
  const double flop = 2.0 * kProducts * kCells * kPanel * kPanel * kPanels * (kPanels + 1) / 2;
  std::printf("%s %.4f %.1f %.2e\n", name, ms, flop / ms / 1e9, worst);
  return worst <= kBound;
}

}  // namespace

int main() {
  const Cells cells;
  return report("float16x2", cells) ? 0 : 1;
}
