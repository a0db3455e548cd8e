// Sorts 32-bit integers by vectors: a bitonic network (Batcher 1968; for vectors Bramas 2017, Blacher et al. 2022),
// whose exchanges are minima and maxima without a branch. The compiler makes instructions of its generic vectors for
// whatever set the caller is compiled for.
//
// A tile is kLanes vectors of kLanes integers, held in registers; while it is sorted, integer i stands in lane
// i / kLanes of vector i % kLanes, so that most exchanges are between whole vectors. Tiles are merged in memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "../portable/host_device.h"

namespace corrmask {

#pragma GCC diagnostic ignored "-Wpsabi"  // of how vectors are returned: here all of it is inlined

template <int kBytes>
struct VectorOf {
  typedef uint32_t type __attribute__((vector_size(kBytes)));
};

template <int kLanes>
class VectorSort {
 public:
  static constexpr int64_t kTile = kLanes * kLanes;

  // Sorts n_tiles * kTile integers, ascending.
  CORRMASK_HOST_DEVICE static void sort(uint32_t* items, int64_t n_tiles) {
    for (int64_t t = 0; t < n_tiles; ++t) {
      Vector tile[kLanes];
      load(items + t * kTile, tile);
      sort_lanes<1, 1, 0>(tile);
      merge_lanes<1>(tile);
      if (n_tiles == 1) transpose<1>(tile);
      store(tile, items + t * kTile);
    }
    for (int64_t width = 1; width < n_tiles; width *= 2) {
      for (int64_t first = 0; first < n_tiles; first += 2 * width) {
        merge_runs(items + first * kTile, width, n_tiles - first, 2 * width >= n_tiles);
      }
    }
  }

 private:
  using Vector = typename VectorOf<4 * kLanes>::type;
  using Lanes = std::make_integer_sequence<uint32_t, kLanes>;

  // Merges a run of `width` tiles with that which follows it, in which tiles from n_tiles on are missing: they would
  // hold what is largest, and stay where they are.
  CORRMASK_HOST_DEVICE static void merge_runs(uint32_t* items, int64_t width, int64_t n_tiles, bool is_last) {
    if (n_tiles > 2 * width) n_tiles = 2 * width;
    if (n_tiles <= width && !is_last) return;
    if (n_tiles > width) {
      for (int64_t t = 2 * width - n_tiles; t < width; ++t) {
        exchange_reversed(items + t * kTile, items + (2 * width - 1 - t) * kTile);
      }
      for (int64_t stride = width / 2; stride > 0; stride /= 2) {
        for (int64_t t = 0; t + stride < n_tiles; ++t) {
          if ((t & stride) == 0) exchange(items + t * kTile, items + (t + stride) * kTile);
        }
      }
    }
    for (int64_t t = 0; t < n_tiles; ++t) {
      Vector tile[kLanes];
      load(items + t * kTile, tile);
      if (n_tiles > width) {
        exchange_lanes<kLanes / 2>(tile);
        exchange_vectors<kLanes / 2>(tile);
      }
      if (is_last) transpose<1>(tile);
      store(tile, items + t * kTile);
    }
  }

  CORRMASK_HOST_DEVICE static void exchange(uint32_t* lower, uint32_t* upper) {
    for (int i = 0; i < kTile; i += kLanes) {
      Vector a = loaded(lower + i), b = loaded(upper + i);
      order(a, b);
      memcpy(lower + i, &a, sizeof a);
      memcpy(upper + i, &b, sizeof b);
    }
  }

  // The same, the second tile read from its end.
  CORRMASK_HOST_DEVICE static void exchange_reversed(uint32_t* lower, uint32_t* upper) {
    for (int i = 0; i < kTile; i += kLanes) {
      uint32_t* from_end = upper + kTile - kLanes - i;
      Vector a = loaded(lower + i), b = flipped<kLanes - 1>(loaded(from_end), Lanes{});
      order(a, b);
      b = flipped<kLanes - 1>(b, Lanes{});
      memcpy(lower + i, &a, sizeof a);
      memcpy(from_end, &b, sizeof b);
    }
  }

  CORRMASK_HOST_DEVICE static void order(Vector& a, Vector& b) {
    const Vector smaller = a < b ? a : b;
    b = larger_of(a, b, smaller);
    a = smaller;
  }

  // Intel's cores find one minimum or maximum of 512 bits in a cycle, and two exclusive ors.
  CORRMASK_HOST_DEVICE static Vector larger_of(const Vector& a, const Vector& b, const Vector& smaller) {
    if constexpr (kLanes == 16) return a ^ b ^ smaller;
    return a < b ? b : a;
  }

  template <uint32_t... kLane>
  CORRMASK_HOST_DEVICE static Vector permuted(const Vector& a, const Vector& b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, kLane...);
#else
    return __builtin_shuffle(a, b, Vector{kLane...});
#endif
  }

  // Lane i of it is lane i ^ kFlip of v.
  template <uint32_t kFlip, uint32_t... kLane>
  CORRMASK_HOST_DEVICE static Vector flipped(const Vector& v, std::integer_sequence<uint32_t, kLane...>) {
    return permuted<(kLane ^ kFlip)...>(v, v);
  }

  template <uint32_t kBit, uint32_t... kLane>
  CORRMASK_HOST_DEVICE static Vector lanes_with(std::integer_sequence<uint32_t, kLane...>) {
    return Vector{(kLane & kBit ? ~0u : 0u)...};
  }

  template <uint32_t kBit, uint32_t... kLane>
  static constexpr uint16_t mask_with(std::integer_sequence<uint32_t, kLane...>) {
    return ((kLane & kBit ? 1u << kLane : 0u) | ...);
  }

  // What is left in a when lane i of it was ordered with lane i ^ kFlip of b: the larger where i has kBit.
  template <uint32_t kFlip, uint32_t kBit>
  CORRMASK_HOST_DEVICE static Vector half(const Vector& a, const Vector& b) {
    const Vector other = flipped<kFlip>(b, Lanes{});
    const Vector smaller = a < other ? a : other;
#if defined(__x86_64__) && !defined(__clang__)
    if constexpr (kLanes == 16) {
      // The larger where it is wanted alone, in one instruction. Of a choice GCC would make three, or join it to the
      // shuffle behind it, which then is one of two vectors and slower.
      Vector result = smaller;
      asm("vpternlogd $0x96, %2, %1, %0%{%3%}" : "+v"(result) : "v"(a), "v"(other), "Yk"(mask_with<kBit>(Lanes{})));
      return result;
    }
#endif
    return lanes_with<kBit>(Lanes{}) ? larger_of(a, other, smaller) : smaller;
  }

  template <int kStride>
  CORRMASK_HOST_DEVICE static void exchange_vectors(Vector* tile) {
    if constexpr (kStride > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if ((i & kStride) == 0) order(tile[i], tile[i + kStride]);
      }
      exchange_vectors<kStride / 2>(tile);
    }
  }

  template <int kStride>
  CORRMASK_HOST_DEVICE static void exchange_lanes(Vector* tile) {
    if constexpr (kStride > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) tile[i] = half<kStride, kStride>(tile[i], tile[i]);
      exchange_lanes<kStride / 2>(tile);
    }
  }

  // Each lane by itself: Batcher's odd-even merge sort of its kLanes integers, here the step that merges what is
  // `kWidth` long at one stride.
  template <int kWidth, int kStride, int kFirst>
  CORRMASK_HOST_DEVICE static void sort_lanes(Vector* tile) {
    if constexpr (kWidth == kLanes) {
      return;
    } else if constexpr (kStride == 0) {
      sort_lanes<2 * kWidth, 2 * kWidth, 0>(tile);
    } else if constexpr (kFirst + kStride >= kLanes) {
      sort_lanes<kWidth, kStride / 2, kStride / 2 % kWidth>(tile);
    } else {
      constexpr bool is_lower = ((kFirst - kStride % kWidth) & kStride) == 0;
      if constexpr (is_lower && kFirst / (2 * kWidth) == (kFirst + kStride) / (2 * kWidth)) {
        order(tile[kFirst], tile[kFirst + kStride]);
      }
      sort_lanes<kWidth, kStride, kFirst + 1>(tile);
    }
  }

  // Sorted runs of kWidth lanes into runs of twice as many, until it is one.
  template <int kWidth>
  CORRMASK_HOST_DEVICE static void merge_lanes(Vector* tile) {
    if constexpr (kWidth < kLanes) {
#pragma GCC unroll 8
      for (int i = 0; i < kLanes / 2; ++i) {
        const Vector a = tile[i], b = tile[kLanes - 1 - i];
        tile[i] = half<2 * kWidth - 1, kWidth>(a, b);
        tile[kLanes - 1 - i] = half<2 * kWidth - 1, kWidth>(b, a);
      }
      exchange_lanes<kWidth / 2>(tile);
      exchange_vectors<kLanes / 2>(tile);
      merge_lanes<2 * kWidth>(tile);
    }
  }

  template <int kStride>
  CORRMASK_HOST_DEVICE static void transpose(Vector* tile) {
    if constexpr (kStride < kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if ((i & kStride) == 0) swap_quarters<kStride>(tile[i], tile[i + kStride], Lanes{});
      }
      transpose<2 * kStride>(tile);
    }
  }

  // Exchanges the lanes of a that have kStride with the lanes of b that have not.
  template <uint32_t kStride, uint32_t... kLane>
  CORRMASK_HOST_DEVICE static void swap_quarters(Vector& a, Vector& b, std::integer_sequence<uint32_t, kLane...>) {
    const Vector upper = permuted<(kLane & kStride ? kLanes + kLane : kLane ^ kStride)...>(a, b);
    a = permuted<(kLane & kStride ? kLanes + (kLane ^ kStride) : kLane)...>(a, b);
    b = upper;
  }

  CORRMASK_HOST_DEVICE static Vector loaded(const uint32_t* items) {
    Vector v;
    memcpy(&v, items, sizeof v);
    return v;
  }

  CORRMASK_HOST_DEVICE static void load(const uint32_t* items, Vector* tile) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) tile[i] = loaded(items + i * kLanes);
  }

  CORRMASK_HOST_DEVICE static void store(const Vector* tile, uint32_t* items) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) memcpy(items + i * kLanes, &tile[i], sizeof tile[i]);
  }
};

}  // namespace corrmask
