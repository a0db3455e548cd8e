// The kernels of rank encoding and binning on emulated threads, for ctypes.
#include "cuda_on_cpu.h"
// after it:
#include "../../csrc/cuda/bin_values.cuh"
#include "../../csrc/cuda/rank_encode.cuh"

using namespace corrmask;

#define EXPORTED extern "C" __attribute__((visibility("default"))) void

// Cells with entries in (above, most], `last` as in EntryRange; in global memory where `in_global_memory`.
EXPORTED rank_encode(const int64_t* start, const int32_t* column, const double* count, int64_t n_cells,
                     const double* medians, const int32_t* gene_tokens, int64_t n_genes, int64_t max_len,
                     int32_t pad_id, int32_t* input_ids, int64_t* lengths, int64_t above, int64_t most, int last,
                     int in_global_memory, unsigned n_blocks, unsigned n_threads, uint64_t schedule) {
  emulation::schedule = schedule;
  const int64_t room = padded_size(most);
  std::vector<uint64_t> global(in_global_memory ? room * n_blocks : 0, 77);
  emulation::launch(n_blocks, n_threads, in_global_memory ? 0 : 8 * room, [&] {
    rank_encode_kernel<int32_t, double>({start, column, count, n_cells}, {above, most, last != 0}, medians, gene_tokens,
                                        n_genes, max_len, pad_id, input_ids, lengths,
                                        in_global_memory ? global.data() : nullptr, room);
  });
}

EXPORTED bin_values(const int64_t* start, const int32_t* column, const double* value, int64_t n_cells,
                    const int64_t* cell_ids, const int64_t* seed, int64_t epoch, int64_t n_bins, int32_t* bins,
                    int64_t above, int64_t most, int last, int in_global_memory, unsigned n_blocks, unsigned n_threads,
                    uint64_t schedule) {
  emulation::schedule = schedule;
  const int64_t room = padded_size(most);
  std::vector<uint64_t> global(in_global_memory ? room * n_blocks : 0, 77);
  emulation::launch(n_blocks, n_threads, 8 * (n_bins - 1) + (in_global_memory ? 0 : 8 * room), [&] {
    bin_values_kernel<int32_t, double>({start, column, value, n_cells}, {above, most, last != 0}, cell_ids, {seed, 0},
                                       {nullptr, epoch}, n_bins, bins, in_global_memory ? global.data() : nullptr,
                                       room);
  });
}
