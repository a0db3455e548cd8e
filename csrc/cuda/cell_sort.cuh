// Ranks the entries of a cell, a block of threads to a cell: a bitonic sort of 64-bit items, in shared memory or, for
// cells of many genes, in global memory. An item is the leading bits of an entry's key, turned over so that the largest
// comes first, and the entry's place in the bits that are left: 53 less those of the place for the mantissa. Neighbours
// that are alike in the leading bits (in practice equal keys, which stand by place already) are compared exactly and
// exchanged until none is left in the wrong order.
#pragma once

#include "../portable/rank_encoding.h"
#include "warp.cuh"

namespace corrmask {

constexpr uint64_t kNoItem = ~uint64_t{0};  // of an entry that is not ranked: behind all others

template <class Index, class Value>
struct SparseRows {
  const int64_t* start;  // [n_cells + 1]
  const Index* column;   // [nnz]
  const Value* value;    // [nnz]
  int64_t n_cells;
};

// Which cells a launch takes, by their entries: those with more than `above`, up to `most`. In the last launch `most`
// is what there is room for; what a cell has beyond it, which takes a column that stands twice, is left out.
struct EntryRange {
  int64_t above, most;
  bool last;

  __device__ bool takes(int64_t n) const { return n > above && (last || n <= most); }
};

__device__ inline uint32_t padded_size(int64_t n) {
  uint32_t padded = 2;
  while (padded < n) padded *= 2;
  return padded;
}

// Bits that the places of n entries take; the highest place is not all ones, so that no item is kNoItem.
__device__ inline int place_bits(int64_t n) {
  int bits = 1;
  while (int64_t{1} << bits <= n) ++bits;
  return bits;
}

// kSteps consecutive steps of the network, from `stride` on, on 2**kSteps items in registers.
template <int kSteps>
__device__ void sort_steps(uint64_t* items, uint32_t n_padded, uint32_t size, uint32_t stride) {
  constexpr int kItems = 1 << kSteps;
  const uint32_t gap = stride >> (kSteps - 1);
  for (uint32_t group = threadIdx.x; group < n_padded / kItems; group += blockDim.x) {
    const uint32_t first = group / gap * (gap * kItems) + group % gap;
    const bool ascending = (first & size) == 0;
    uint64_t held[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) held[i] = items[first + i * gap];
#pragma unroll
    for (int half = kItems / 2; half > 0; half /= 2) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if ((i & half) != 0) continue;
        const uint64_t a = held[i], b = held[i + half];
        const bool exchange = (a > b) == ascending;
        held[i] = exchange ? b : a;
        held[i + half] = exchange ? a : b;
      }
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) items[first + i * gap] = held[i];
  }
  __syncthreads();
}

__device__ inline void sort_items(uint64_t* items, uint32_t n_padded) {
  for (uint32_t size = 2; size <= n_padded; size *= 2) {
    uint32_t stride = size / 2;
    for (; stride >= 4; stride /= 8) sort_steps<3>(items, n_padded, size, stride);
    if (stride == 2) sort_steps<2>(items, n_padded, size, stride);
    if (stride == 1) sort_steps<1>(items, n_padded, size, stride);
  }
}

// Ranks entries 0 .. n-1 of a cell by key_of(entry), descending, those above kLargestRankKey left out, then by
// ascending column. Returns how many are ranked; the entry of each rank is items[rank] & place_mask.
template <class KeyOf, class ColumnOf>
__device__ int64_t rank_entries(uint64_t* items, int64_t n, const KeyOf& key_of, const ColumnOf& column_of,
                                uint64_t* place_mask) {
  const int bits = place_bits(n);
  const uint64_t places = (uint64_t{1} << bits) - 1;
  *place_mask = places;
  const uint32_t n_padded = padded_size(n);
  for (uint32_t e = threadIdx.x; e < n_padded; e += blockDim.x) {
    const uint64_t key = e < n ? key_of(e) : ~uint64_t{0};
    items[e] = key <= kLargestRankKey ? (~(key << 1) & ~places) | e : kNoItem;
  }
  __syncthreads();
  sort_items(items, n_padded);
  int64_t low = 0, high = n;  // the first that is not ranked
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (items[middle] == kNoItem) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int64_t n_ranked = low;
  for (;;) {
    bool exchanged = false;
    for (int parity = 0; parity < 2; ++parity) {
      __syncthreads();
      for (int64_t i = parity + 2 * static_cast<int64_t>(threadIdx.x); i + 1 < n_ranked; i += 2 * blockDim.x) {
        const uint64_t a = items[i], b = items[i + 1];
        if ((a ^ b) > places) continue;
        const int64_t entry_a = a & places, entry_b = b & places;
        if (!ranks_before(key_of(entry_b), column_of(entry_b), key_of(entry_a), column_of(entry_a))) continue;
        items[i] = b;
        items[i + 1] = a;
        exchanged = true;
      }
    }
    if (!__syncthreads_or(exchanged)) return n_ranked;
  }
}

}  // namespace corrmask
