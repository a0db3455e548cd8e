// The inner loops of covariance_update. They are bounded, not exact, and alone in being compiled with contraction:
// where the machine has fused multiply-add, it is used, so that machines may differ in the last bits of a product.
#include "strip_products.h"

#include <algorithm>

#include "../portable/host_device.h"
#include "clones.h"

namespace corrmask {

namespace {

// Products that are added up one after another in float32: each addition may round to the same side, where cells are
// alike, so sums of them are added up apart.
constexpr int64_t kChain = 64;

// What one gene has in common with the genes of a strip, in registers of so many bytes: compilers cut wider vectors
// than the machine has into single numbers.
template <int kBytes>
struct StripSums {
  typedef float Vector __attribute__((vector_size(kBytes), aligned(4)));
  static constexpr int kVectors = kStrip * sizeof(float) / kBytes;

  Vector sums[kVectors]{};

  CORRMASK_HOST_DEVICE void add(float value, const float* row) {
    for (int i = 0; i < kVectors; ++i) sums[i] += value * reinterpret_cast<const Vector*>(row)[i];
  }

  CORRMASK_HOST_DEVICE void add(const StripSums& other) {
    for (int i = 0; i < kVectors; ++i) sums[i] += other.sums[i];
  }

  CORRMASK_HOST_DEVICE void add_to(float* to) const {
    for (int i = 0; i < kVectors; ++i) reinterpret_cast<Vector*>(to)[i] += sums[i];
  }
};

// kSide genes that have an entry for every row: each row of the strip is loaded once.
template <int kBytes, int kSide>
CORRMASK_HOST_DEVICE void add_full(const Entry* entries, int64_t n_rows, const float* strip, float* sums) {
  using Vector = typename StripSums<kBytes>::Vector;
  StripSums<kBytes> total[kSide];
  for (int64_t row = 0; row < n_rows;) {
    StripSums<kBytes> own[kSide];
    for (const int64_t last = std::min(row + kChain, n_rows); row < last; ++row, strip += kStrip) {
      for (int i = 0; i < StripSums<kBytes>::kVectors; ++i) {
        const Vector part = reinterpret_cast<const Vector*>(strip)[i];
        for (int k = 0; k < kSide; ++k) own[k].sums[i] += entries[k * n_rows + row].value * part;
      }
    }
    for (int k = 0; k < kSide; ++k) total[k].add(own[k]);
  }
  for (int k = 0; k < kSide; ++k) total[k].add_to(sums + k * kStrip);
}

// One gene, entry by entry: at most kChain of them.
template <int kBytes>
CORRMASK_HOST_DEVICE StripSums<kBytes> sum_chain(const Entry* entry, const Entry* end, const float* strip) {
  StripSums<kBytes> even, odd;
  for (; end - entry >= 2; entry += 2) {
    even.add(entry[0].value, strip + entry[0].place);
    odd.add(entry[1].value, strip + entry[1].place);
  }
  if (entry != end) even.add(entry->value, strip + entry->place);
  even.add(odd);
  return even;
}

template <int kBytes>
CORRMASK_HOST_DEVICE void add_entries(const Entry* entry, const Entry* end, const float* strip, float* sums) {
  const auto last = [end](const Entry* first) { return first + std::min<int64_t>(kChain, end - first); };
  StripSums<kBytes> total = sum_chain<kBytes>(entry, last(entry), strip);
  while (end != (entry = last(entry))) total.add(sum_chain<kBytes>(entry, last(entry), strip));
  total.add_to(sums);
}

template <int kBytes, int kSide>
CORRMASK_HOST_DEVICE void add_genes(const Entry* entries, const int64_t* start, int64_t n_genes, int64_t n_rows,
                                    const float* strip, float* sums) {
  for (int64_t gene = 0; gene < n_genes; ++gene, sums += kStrip) {
    const Entry* entry = entries + start[gene];
    const Entry* end = entries + start[gene + 1];
    if (end - entry == n_rows && gene + kSide <= n_genes && start[gene + kSide] - start[gene] == kSide * n_rows) {
      add_full<kBytes, kSide>(entry, n_rows, strip, sums);
      gene += kSide - 1;
      sums += (kSide - 1) * kStrip;
      continue;
    }
    if (entry != end) add_entries<kBytes>(entry, end, strip, sums);
  }
}

}  // namespace

#if defined(CORRMASK_HAS_CLONES)
// Genes side by side: as many as there are registers for.
__attribute__((target("arch=x86-64-v4"))) static void add_on_this_machine(const Entry* entries, const int64_t* start,
                                                                          int64_t n_genes, int64_t n_rows,
                                                                          const float* strip, float* sums) {
  add_genes<64, 6>(entries, start, n_genes, n_rows, strip, sums);
}

__attribute__((target("arch=x86-64-v3"))) static void add_on_this_machine(const Entry* entries, const int64_t* start,
                                                                          int64_t n_genes, int64_t n_rows,
                                                                          const float* strip, float* sums) {
  add_genes<32, 3>(entries, start, n_genes, n_rows, strip, sums);
}

__attribute__((target("default")))
#endif
static void add_on_this_machine(const Entry* entries, const int64_t* start, int64_t n_genes, int64_t n_rows,
                                const float* strip, float* sums) {
  add_genes<16, 2>(entries, start, n_genes, n_rows, strip, sums);
}

void add_strip(const Entry* entries, const int64_t* start, int64_t n_genes, int64_t n_rows, const float* strip,
               float* sums) {
  add_on_this_machine(entries, start, n_genes, n_rows, strip, sums);
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
