// Sixteen at once in AVX2, with the same bits as one after another: Philox draws in a third of the time, and the search
// for the members of a group.
#pragma once

#include "../portable/group_sampling.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define CORRMASK_HAS_AVX2_BUILD 1
#define CORRMASK_AVX2 __attribute__((target("avx2")))

#include <immintrin.h>

namespace corrmask {

struct Avx2Machine {
  struct Lanes {
    __m256i c0, c1, c2, c3;
  };

  CORRMASK_AVX2 CORRMASK_HOST_DEVICE static void multiply(__m256i a, __m256i b, __m256i& high, __m256i& low) {
    const __m256i even = _mm256_mul_epu32(a, b);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  }

  CORRMASK_AVX2 CORRMASK_HOST_DEVICE static void round(Lanes& c, __m256i k0, __m256i k1) {
    __m256i high0, low0, high1, low1;
    multiply(c.c0, _mm256_set1_epi32(static_cast<int>(kPhiloxMultiplier0)), high0, low0);
    multiply(c.c2, _mm256_set1_epi32(static_cast<int>(kPhiloxMultiplier1)), high1, low1);
    c.c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c.c1), k0);
    c.c1 = low1;
    c.c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c.c3), k1);
    c.c3 = low0;
  }

  CORRMASK_AVX2 static void at_each(const CellDraws& draws, Stream stream, WordBatch& words) {
    static_assert(kDrawBatch == 16);
    const __m256i c0 = _mm256_set1_epi32(static_cast<int>(draws.cell_lo));
    const __m256i c1 = _mm256_set1_epi32(static_cast<int>(draws.cell_hi));
    const __m256i c3 = _mm256_set1_epi32(static_cast<int>((draws.epoch << 4) | stream));
    Lanes a{c0, c1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.w2)), c3};
    Lanes b{c0, c1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.w2 + 8)), c3};
    PhiloxKey key = draws.key;
    for (int i = 0; i < 10; ++i) {
      const __m256i k0 = _mm256_set1_epi32(static_cast<int>(key.k0));
      const __m256i k1 = _mm256_set1_epi32(static_cast<int>(key.k1));
      round(a, k0, k1);
      round(b, k0, k1);
      key.k0 += kPhiloxWeyl0;
      key.k1 += kPhiloxWeyl1;
    }
    store(words.w0, a.c0, b.c0);
    store(words.w1, a.c1, b.c1);
    store(words.w2, a.c2, b.c2);
    store(words.w3, a.c3, b.c3);
  }

  CORRMASK_AVX2 CORRMASK_HOST_DEVICE static void store(uint32_t* words, __m256i a, __m256i b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8), b);
  }

  template <class Entry>
  static constexpr bool kFindsMembers = sizeof(Entry) == 4;

  CORRMASK_AVX2 static uint32_t find_members(const int32_t* members, const uint32_t* place_of, uint32_t tag,
                                             int64_t vocabulary, int32_t* places, bool* outside) {
    const __m256i last = _mm256_set1_epi32(static_cast<int>(vocabulary - 1));
    const __m256i own = _mm256_set1_epi32(static_cast<int>(tag));
    uint32_t found = 0, sound = 0;
    for (int half = 0; half < 2; ++half) {
      const __m256i member = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(members + 8 * half));
      const __m256i is_token = _mm256_cmpeq_epi32(_mm256_min_epu32(member, last), member);
      const __m256i at = _mm256_and_si256(member, is_token);
      const __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(place_of), at, 4);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(places + 8 * half),
                          _mm256_and_si256(entry, _mm256_set1_epi32(0xFFFF)));
      const __m256i is_own = _mm256_cmpeq_epi32(_mm256_srli_epi32(entry, 16), own);
      found |= lane_bits(_mm256_and_si256(is_own, is_token)) << (8 * half);
      sound |= lane_bits(is_token) << (8 * half);
    }
    *outside = sound != 0xFFFF;
    return found;
  }

  CORRMASK_AVX2 CORRMASK_HOST_DEVICE static uint32_t lane_bits(__m256i lanes) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
  }
};

}  // namespace corrmask
#endif
