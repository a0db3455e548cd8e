// Rank-value encoding (Theodoris et al. 2023, Geneformer): the genes of a cell in descending order of
// count / median, ties by ascending gene column.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace corrmask {

constexpr uint64_t kLargestRankKey = 0x7ff0000000000000;  // infinity; what is above is not ranked

// The bits of a positive double: as unsigned integers they order as the numbers do.
CORRMASK_HOST_DEVICE uint64_t ordered_bits(double positive) {
  uint64_t bits;
  memcpy(&bits, &positive, sizeof bits);
  return bits;
}

// One IEEE division. Above kLargestRankKey where the count is not positive or the median NaN or negative, as it is for
// a gene without a token.
CORRMASK_HOST_DEVICE uint64_t rank_key(double count, double median) {
  return ordered_bits(count / median) | (uint64_t{0} - !(count > 0));  // without a branch: vectors are made of it
}

CORRMASK_HOST_DEVICE bool ranks_before(uint64_t key_a, int64_t column_a, uint64_t key_b, int64_t column_b) {
  return (key_a > key_b) | ((key_a == key_b) & (column_a < column_b));
}

}  // namespace corrmask
