// Value binning as scGPT does it (Cui et al. 2024): the nonzero values of a cell in n_bins - 1 bins between quantiles
// of theirs, ties spread over the bins that they straddle, here by counter-based draws.
#pragma once

#include <cstdint>

#include "bounded.h"
#include "host_device.h"
#include "philox.h"

namespace corrmask {

// Edge k of n: the quantile k / (n - 1) of `count` ascending values, interpolated linearly. The order of operations is
// numpy's (linspace, quantile), so that the bits are.
template <class ValueAt>
CORRMASK_HOST_DEVICE double quantile_edge(int64_t k, int64_t n, int64_t count, const ValueAt& value_at) {
  const double q = n == 1 ? 0.0 : k == n - 1 ? 1.0 : static_cast<double>(k) * (1.0 / static_cast<double>(n - 1));
  const double at = static_cast<double>(count - 1) * q;
  const int64_t below = static_cast<int64_t>(at);
  if (below >= count - 1) return value_at(count - 1);
  const double a = value_at(below), b = value_at(below + 1), t = at - static_cast<double>(below);
  const double difference = b - a;
  return t >= 0.5 ? b - difference * (1.0 - t) : a + difference * t;
}

// The bin of a value with `below` edges below it and `up_to` edges at or below it.
CORRMASK_HOST_DEVICE int32_t bin_of(int64_t below, int64_t up_to, uint32_t word) {
  return static_cast<int32_t>(up_to - (up_to > below ? bounded(word, up_to - below) : 0));
}

}  // namespace corrmask
