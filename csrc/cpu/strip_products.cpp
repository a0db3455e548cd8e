// The inner loops of covariance_update. They are bounded, not exact, and alone in being compiled with contraction:
// where the machine has fused multiply-add, it is used, so that machines may differ in the last bits of a product.
#include "strip_products.h"

#include "../portable/host_device.h"
#include "clones.h"

namespace corrmask {

namespace {

constexpr int kSide = 3;  // genes side by side: with more, sums would not fit the registers of AVX2

typedef float Vector __attribute__((vector_size(64), aligned(4)));

// What one gene has in common with the genes of a strip, in registers.
struct StripSums {
  Vector a{}, b{};

  CORRMASK_HOST_DEVICE void add(float value, const float* row) {
    const Vector* p = reinterpret_cast<const Vector*>(row);
    a += value * p[0];
    b += value * p[1];
  }

  CORRMASK_HOST_DEVICE void add(const StripSums& other) {
    a += other.a;
    b += other.b;
  }

  CORRMASK_HOST_DEVICE void add_to(float* sums) const {
    Vector* s = reinterpret_cast<Vector*>(sums);
    s[0] += a;
    s[1] += b;
  }
};

// N genes that have an entry for every row: each row of the strip is loaded once.
template <int N>
CORRMASK_HOST_DEVICE void add_full(const Entry* entries, int64_t n_rows, const float* strip, float* sums) {
  StripSums own[N];
  for (int64_t row = 0; row < n_rows; ++row, strip += kStrip) {
    const Vector a = reinterpret_cast<const Vector*>(strip)[0], b = reinterpret_cast<const Vector*>(strip)[1];
    for (int i = 0; i < N; ++i) {
      const float value = entries[i * n_rows + row].value;
      own[i].a += value * a;
      own[i].b += value * b;
    }
  }
  for (int i = 0; i < N; ++i) own[i].add_to(sums + i * kStrip);
}

}  // namespace

CORRMASK_CLONES void add_strip(const Entry* entries, const int64_t* start, int64_t n_genes, int64_t n_rows,
                               const float* strip, float* sums) {
  for (int64_t gene = 0; gene < n_genes; ++gene, sums += kStrip) {
    const Entry* entry = entries + start[gene];
    const Entry* end = entries + start[gene + 1];
    if (end - entry == n_rows && gene + kSide <= n_genes && start[gene + kSide] - start[gene] == kSide * n_rows) {
      add_full<kSide>(entry, n_rows, strip, sums);
      gene += kSide - 1;
      sums += (kSide - 1) * kStrip;
      continue;
    }
    if (entry == end) continue;
    StripSums even, odd;
    for (; end - entry >= 2; entry += 2) {
      even.add(entry[0].value, strip + entry[0].place);
      odd.add(entry[1].value, strip + entry[1].place);
    }
    if (entry != end) even.add(entry->value, strip + entry->place);
    even.add(odd);
    even.add_to(sums);
  }
}

CORRMASK_CLONES void add_plain(const float* sums, double* gram) {
  for (int64_t t = 0; t < kStrip; ++t) gram[t] += static_cast<double>(sums[t]);
}

CORRMASK_CLONES void add_unshifted(const float* sums, const double* shifts, const double* shifted_sums, double shift,
                                   double sum, double* gram) {
  for (int64_t t = 0; t < kStrip; ++t) {
    gram[t] += static_cast<double>(sums[t]) + (shifts[t] * sum + shift * shifted_sums[t]);
  }
}

}  // namespace corrmask
