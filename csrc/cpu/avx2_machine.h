// Eight at once in AVX2, with the same bits as one after another: Philox draws in a third of the time, and the search
// for the members of a group.
#pragma once

#include "../portable/group_members.h"
#include "../portable/philox.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define CORRMASK_AVX2 __attribute__((target("avx2")))

#include <immintrin.h>

namespace corrmask {

// The lanes whose bits are set, in order.
struct LanesOfBits {
  uint8_t of[256][8] = {};

  constexpr LanesOfBits() {
    for (int bits = 0; bits < 256; ++bits) {
      for (int lane = 0, n = 0; lane < 8; ++lane) {
        if (bits >> lane & 1) of[bits][n++] = static_cast<uint8_t>(lane);
      }
    }
  }
};

struct Avx2Machine {
  static constexpr LanesOfBits kLanesOf{};

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

  CORRMASK_AVX2 static void at_each(const CellDraws& draws, Stream stream, WordBatch& words, int n = kDrawBatch) {
    static_assert(kDrawStep == 16);
    const __m256i c0 = _mm256_set1_epi32(static_cast<int>(draws.cell_lo));
    const __m256i c1 = _mm256_set1_epi32(static_cast<int>(draws.cell_hi));
    const __m256i c3 = _mm256_set1_epi32(static_cast<int>((draws.epoch << 4) | stream));
    for (int lane = 0; lane < n; lane += kDrawStep) {
      Lanes a{c0, c1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.w2 + lane)), c3};
      Lanes b{c0, c1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.w2 + lane + 8)), c3};
      PhiloxKey key = draws.key;
      for (int i = 0; i < 10; ++i) {
        const __m256i k0 = _mm256_set1_epi32(static_cast<int>(key.k0));
        const __m256i k1 = _mm256_set1_epi32(static_cast<int>(key.k1));
        round(a, k0, k1);
        round(b, k0, k1);
        key.k0 += kPhiloxWeyl0;
        key.k1 += kPhiloxWeyl1;
      }
      store(words.w0 + lane, a.c0, b.c0);
      store(words.w1 + lane, a.c1, b.c1);
      store(words.w2 + lane, a.c2, b.c2);
      store(words.w3 + lane, a.c3, b.c3);
    }
  }

  CORRMASK_AVX2 CORRMASK_HOST_DEVICE static void store(uint32_t* words, __m256i a, __m256i b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8), b);
  }

  static constexpr bool kFindsMembers = true;

  // Reads four bytes at each entry: narrower ones need as much behind the last.
  template <class Entry>
  CORRMASK_AVX2 static int find_members(const int32_t* members, int n, const TokenPlaces<Entry>& table,
                                        int64_t vocabulary, int32_t* places, bool* outside) {
    const __m256i last = _mm256_set1_epi32(static_cast<int>(vocabulary < INT32_MAX ? vocabulary - 1 : INT32_MAX));
    const __m256i own = _mm256_set1_epi32(static_cast<int>(table.tag));
    const __m256i place_mask = _mm256_set1_epi32(static_cast<int>((1u << table.place_bits) - 1));
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int found = 0;
    for (int first = 0; first < n; first += 8) {
      const __m256i is_member = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), lanes);
      const __m256i member = _mm256_maskload_epi32(members + first, is_member);
      const __m256i is_token = _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_min_epu32(member, last), member), is_member);
      *outside |= _mm256_testc_si256(is_token, is_member) == 0;
      __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table.entries),
                                             _mm256_and_si256(member, is_token), sizeof(Entry));
      if constexpr (sizeof(Entry) == 2) entry = _mm256_and_si256(entry, _mm256_set1_epi32(0xFFFF));
      const __m256i tag = _mm256_srl_epi32(entry, _mm_cvtsi32_si128(table.place_bits));
      const __m256i is_own = _mm256_and_si256(_mm256_cmpeq_epi32(tag, own), is_token);
      const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(is_own));
      const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kLanesOf.of[bits])));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(places + found),
                          _mm256_permutevar8x32_epi32(_mm256_and_si256(entry, place_mask), order));
      found += __builtin_popcount(static_cast<unsigned>(bits));
    }
    return found;
  }
};

}  // namespace corrmask
#endif
