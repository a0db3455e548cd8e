// Products of some genes with a strip: 32 genes side by side, made dense.
#pragma once

#include <cstdint>

namespace corrmask {

constexpr int64_t kStrip = 32;  // genes of a strip: their sums fit the registers

struct Entry {
  int32_t place;  // kStrip * cell within the run
  float value;    // y less the gene's shift
};

// sums[gene][0 .. 31] += value * strip[row][0 .. 31] over the entries of each gene in one run of cells. A gene with
// `n_rows` entries has one for every row, in order.
void add_strip(const Entry* entries,
               const int64_t* start,  // [n_genes + 1] where a gene's entries begin
               int64_t n_genes, int64_t n_rows,
               const float* strip,  // [n_rows, kStrip]
               float* sums);        // [n_genes, kStrip]

// gram[t] += sums[t].
void add_plain(const float* sums, double* gram);

// gram[t] += sums[t] with the shifts of both sides undone: sum of (z + s)(z' + s'), z and z' being what is summed.
void add_unshifted(const float* sums, const double* shifts, const double* shifted_sums, double shift, double sum,
                   double* gram);

}  // namespace corrmask
