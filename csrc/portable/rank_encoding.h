// Rank-value encoding (Theodoris et al. 2023, Geneformer): the genes of a cell in descending order of
// count / median, ties by ascending gene column.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace corrmask {

struct RankedGene {
  uint64_t key;     // the bits of count / median: for positive doubles they order as the numbers do
  int32_t column;   // gene column
  int32_t payload;  // what stands for the gene in the end
};

// One IEEE division; count > 0 and median > 0.
CORRMASK_HOST_DEVICE uint64_t rank_key(double count, double median) {
  const double key = count / median;
  uint64_t bits;
  memcpy(&bits, &key, sizeof bits);
  return bits;
}

CORRMASK_HOST_DEVICE bool ranks_before(const RankedGene& a, const RankedGene& b) {
  return a.key != b.key ? a.key > b.key : a.column < b.column;
}

}  // namespace corrmask
