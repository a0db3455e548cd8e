// The kernels of gather_tokens on emulated threads, for ctypes: launched as csrc/cuda/gather_tokens.cu does.
#include "cuda_on_cpu.h"
// after it:
#include "../../csrc/cuda/gather_tokens.cuh"

using namespace corrmask;

namespace {

constexpr unsigned kThreads = 64;

template <class Token, class Offset>
void find(const RaggedRows<Token, Offset>& rows, int64_t* source, int64_t* length, int32_t* bounds,
          GatherReport* report) {
  *report = {0, 0, rows.n_cells, RowFault::kNone, 0, 0, 0};
  emulation::launch(3, kThreads, 0, [&] { find_rows_kernel(rows, source, length, report); });
  emulation::launch(1, kThreads, 0, [&] { place_rows_kernel(length, rows.n_cells, bounds, report); });
  if (report->faulty < rows.n_cells) emulation::launch(1, kWarp, 0, [&] { describe_fault_kernel(rows, report); });
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default"))) void

#define FIND(name, Token, Offset)                                                                                  \
  EXPORTED name(const int64_t* rows, const TokenChunk* chunks, int64_t n_cells, int64_t n_chunks, int64_t max_len, \
                int64_t vocabulary, int64_t* source, int64_t* length, int32_t* bounds, GatherReport* report,       \
                uint64_t schedule) {                                                                               \
    emulation::schedule = schedule;                                                                                \
    find<Token, Offset>({rows, chunks, n_cells, n_chunks, max_len, vocabulary}, source, length, bounds, report);   \
  }

#define COPY(name, Token, Out)                                                                                       \
  EXPORTED name(const int64_t* source, const int64_t* length, const int32_t* bounds, int64_t n_cells, int64_t width, \
                int64_t pad, Out* out) {                                                                             \
    emulation::launch(2, kThreads, 0, [&] {                                                                          \
      copy_rows_kernel<Token, Out>(source, length, bounds, n_cells, width, static_cast<Out>(pad), out);              \
    });                                                                                                              \
  }

FIND(find_16_32, uint16_t, int32_t)
FIND(find_16_64, uint16_t, int64_t)
FIND(find_32_32, int32_t, int32_t)
FIND(find_32_64, int32_t, int64_t)
FIND(find_64_32, int64_t, int32_t)
FIND(find_64_64, int64_t, int64_t)
COPY(copy_16_int32, uint16_t, int32_t)
COPY(copy_16_int64, uint16_t, int64_t)
COPY(copy_32_int32, int32_t, int32_t)
COPY(copy_32_int64, int32_t, int64_t)
COPY(copy_64_int32, int64_t, int32_t)
COPY(copy_64_int64, int64_t, int64_t)
