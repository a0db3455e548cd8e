// Sixteen at once in AVX-512, with the same bits as one after another: Philox draws, and the search for the members of
// a group.
#pragma once

#include "../portable/group_members.h"
#include "../portable/philox.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define CORRMASK_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

#include <immintrin.h>

// GCC's own header starts vectors of no matter what by themselves (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace corrmask {

struct Avx512Machine {
  struct Lanes {
    __m512i c0, c1, c2, c3;
  };

  // Products of even and of odd lanes, their halves sorted into high and low words.
  CORRMASK_AVX512 CORRMASK_HOST_DEVICE static void multiply(__m512i a, uint32_t factor, __m512i& high, __m512i& low) {
    const __m512i b = _mm512_set1_epi32(static_cast<int>(factor));
    const __m512i even = _mm512_mul_epu32(a, b);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), b);
    low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
    high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }

  CORRMASK_AVX512 CORRMASK_HOST_DEVICE static __m512i xor_of(__m512i a, __m512i b, uint32_t c) {
    return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi32(static_cast<int>(c)), 0x96);
  }

  CORRMASK_AVX512 CORRMASK_HOST_DEVICE static void round(Lanes& c, PhiloxKey key) {
    __m512i high0, low0, high1, low1;
    multiply(c.c0, kPhiloxMultiplier0, high0, low0);
    multiply(c.c2, kPhiloxMultiplier1, high1, low1);
    c = {xor_of(high1, c.c1, key.k0), low1, xor_of(high0, c.c3, key.k1), low0};
  }

  // Two vectors take little longer than one: each round waits for the one before.
  template <int kVectors>
  CORRMASK_AVX512 static void draw(const CellDraws& draws, Stream stream, WordBatch& words) {
    Lanes c[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      c[v] = {_mm512_set1_epi32(static_cast<int>(draws.cell_lo)), _mm512_set1_epi32(static_cast<int>(draws.cell_hi)),
              _mm512_loadu_si512(words.w2 + 16 * v), _mm512_set1_epi32(static_cast<int>((draws.epoch << 4) | stream))};
    }
    PhiloxKey key = draws.key;
    for (int i = 0; i < 10; ++i) {
      for (int v = 0; v < kVectors; ++v) round(c[v], key);
      key.k0 += kPhiloxWeyl0;
      key.k1 += kPhiloxWeyl1;
    }
    for (int v = 0; v < kVectors; ++v) {
      _mm512_storeu_si512(words.w0 + 16 * v, c[v].c0);
      _mm512_storeu_si512(words.w1 + 16 * v, c[v].c1);
      _mm512_storeu_si512(words.w2 + 16 * v, c[v].c2);
      _mm512_storeu_si512(words.w3 + 16 * v, c[v].c3);
    }
  }

  CORRMASK_AVX512 static void at_each(const CellDraws& draws, Stream stream, WordBatch& words, int n = kDrawBatch) {
    static_assert(kDrawBatch == 32 && kDrawStep == 16);
    if (n > 16) {
      draw<2>(draws, stream, words);
    } else {
      draw<1>(draws, stream, words);
    }
  }

  static constexpr bool kFindsMembers = true;

  // Reads four bytes at each entry: narrower ones need as much behind the last.
  template <class Entry>
  CORRMASK_AVX512 static int find_members(const int32_t* members, int n, const TokenPlaces<Entry>& table,
                                          int64_t vocabulary, int32_t* places, bool* outside) {
    const __mmask16 is_member = static_cast<__mmask16>((1u << n) - 1);
    const __m512i member = _mm512_maskz_loadu_epi32(is_member, members);
    const int last = static_cast<int>(vocabulary < INT32_MAX ? vocabulary - 1 : INT32_MAX);
    const __mmask16 is_token = _mm512_mask_cmple_epu32_mask(is_member, member, _mm512_set1_epi32(last));
    __m512i entry = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), is_token, member, table.entries, sizeof(Entry));
    if constexpr (sizeof(Entry) == 2) entry = _mm512_and_si512(entry, _mm512_set1_epi32(0xFFFF));
    const __m512i tag = _mm512_srl_epi32(entry, _mm_cvtsi32_si128(table.place_bits));
    const __mmask16 is_own = _mm512_mask_cmpeq_epi32_mask(is_token, tag, _mm512_set1_epi32(table.tag));
    const __m512i place = _mm512_and_si512(entry, _mm512_set1_epi32(static_cast<int>((1u << table.place_bits) - 1)));
    // To a register first: a compressed store is slow on Zen 4.
    _mm512_storeu_si512(places, _mm512_maskz_compress_epi32(is_own, place));
    *outside |= is_token != is_member;
    return __builtin_popcount(is_own);
  }
};

}  // namespace corrmask

#pragma GCC diagnostic pop
#endif
