// A sketch of positive values: how many share their exponent and the leading bits of their mantissa. One shift of a
// value's bits gives its bucket, where those of one width in the logarithm (DDSketch: Masson, Rim, Lee, VLDB 2019) cost
// a logarithm.
#pragma once

#include <cstdint>

#include "host_device.h"
#include "rank_encoding.h"

namespace corrmask {

constexpr int kBucketShift = 43;  // 9 of the 52 bits remain: the middle of a bucket errs by 1 / 1024 of a value at most

// In this order: one IEEE multiplication, one division.
CORRMASK_HOST_DEVICE double per_ten_thousand(double count, double total) {
  return count * 10000.0 / total;
}

CORRMASK_HOST_DEVICE int64_t bucket_of(double positive) {
  return static_cast<int64_t>(ordered_bits(positive) >> kBucketShift);
}

}  // namespace corrmask
