// Included before everything else in the ThreadSanitizer build: `parallel_for` on plain threads, whose synchronisation
// the sanitizer sees (that of OpenMP's runtime it does not).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace torch::stable {

inline uint32_t four_threads() {
  return 4;
}

template <class Body>
void on_four_threads(int64_t begin, int64_t end, int64_t, const Body& body) {
  const int64_t n = end - begin, share = (n + 3) / 4;
  std::vector<std::thread> threads;
  for (int64_t first = begin; first < end; first += share) {
    threads.emplace_back([&body, first, last = std::min(first + share, end)] { body(first, last); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace torch::stable

#define parallel_for on_four_threads
#define get_num_threads four_threads
