// Rows of a ragged column that lies in device memory into one batch: as cpu/gather_tokens.cpp, a warp to a row.
//
// How large the batch is hangs on the rows, so the host waits once, between finding the rows and copying them. Rows are
// looked through on the way, so that what is wrong with one is raised for as on the CPU: they are read twice, which
// takes less time than the wait.
#pragma once

#include "../portable/token_chunks.h"
#include "warp.cuh"

namespace corrmask {

enum class RowFault : int64_t { kNone, kNoSuchRow, kDamaged, kNoSuchToken };

// What the host is told.
struct GatherReport {
  int64_t width, total;  // the longest row, and the sum of all
  int64_t faulty;        // the first place in the batch whose row cannot be read; n_cells where there is none
  RowFault fault;        // what is wrong with it: with the row, with the bounds `first` and `last` of `n_tokens`, or
  int64_t first, last, size;  // with token `first`
};

template <class Token, class Offset>
struct RaggedRows {
  const int64_t* row;       // [n_cells]
  const TokenChunk* chunk;  // [n_chunks + 1]
  int64_t n_cells, n_chunks, max_len, vocabulary;

  // The piece that holds a row.
  __device__ const TokenChunk& chunk_of(int64_t at) const {
    int64_t low = 0, high = n_chunks;  // the last piece that begins at or before it: empty ones begin with the next
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (chunk[middle].first_row <= at) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return chunk[low];
  }

  // The tokens of the row at place b of the batch and how many, cut. All lanes of a warp find the same.
  __device__ RowFault find(int64_t b, const Token** tokens, int64_t* length, GatherReport* report) const {
    const int64_t own = row[b];
    *length = 0;
    if (own < 0 || own >= chunk[n_chunks].first_row) return RowFault::kNoSuchRow;
    const TokenChunk& its = chunk_of(own);
    const Offset* offset = reinterpret_cast<const Offset*>(its.offsets) + (own - its.first_row);
    const int64_t begin = offset[0], end = offset[1];
    if (begin < 0 || end < begin || end > its.n_tokens) {
      if (report != nullptr) {
        report->first = begin;
        report->last = end;
        report->size = its.n_tokens;
      }
      return RowFault::kDamaged;
    }
    *tokens = reinterpret_cast<const Token*>(its.tokens) + begin;
    *length = end - begin < max_len ? end - begin : max_len;
    return RowFault::kNone;
  }

  __device__ bool is_token(Token token) const {
    const int64_t value = static_cast<int64_t>(token);
    return value >= 0 && value < vocabulary;
  }
};

// One warp to a row: where it is, how long, and whether it can be read.
template <class Token, class Offset>
__global__ void find_rows_kernel(RaggedRows<Token, Offset> rows, int64_t* source, int64_t* length,
                                 GatherReport* report) {
  const int64_t warps_per_block = blockDim.x / kWarp;
  for (int64_t b = blockIdx.x * warps_per_block + threadIdx.x / kWarp; b < rows.n_cells;
       b += gridDim.x * warps_per_block) {
    const Token* tokens = nullptr;
    int64_t n = 0;
    bool is_faulty = rows.find(b, &tokens, &n, nullptr) != RowFault::kNone;
    for (int64_t i = lane_id(); i < n; i += kWarp) is_faulty = is_faulty || !rows.is_token(tokens[i]);
    is_faulty = __any_sync(kAllLanes, is_faulty) != 0;
    if (lane_id() != 0) continue;
    source[b] = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tokens));
    length[b] = n;
    if (is_faulty) atomicMin(reinterpret_cast<long long*>(&report->faulty), static_cast<long long>(b));
  }
}

// One block: where each row begins in a packed batch, and how large the batch is.
static __global__ void place_rows_kernel(const int64_t* length, int64_t n_cells, int32_t* bounds,
                                         GatherReport* report) {
  __shared__ int64_t sums[kWarp];
  int64_t next = 0, longest = 0;
  for (int64_t first = 0; first < n_cells; first += blockDim.x) {
    const int64_t b = first + threadIdx.x, own = b < n_cells ? length[b] : 0;
    int64_t n = 0;
    const int64_t before = sum_before(own, sums, &n);
    if (b < n_cells) bounds[b] = static_cast<int32_t>(next + before);
    next += n;
    longest = own > longest ? own : longest;
  }
  atomicMax(reinterpret_cast<long long*>(&report->width), static_cast<long long>(longest));
  if (threadIdx.x != 0) return;
  bounds[n_cells] = static_cast<int32_t>(next);
  report->total = next;
}

// One warp: what is wrong with the row at place report->faulty.
template <class Token, class Offset>
__global__ void describe_fault_kernel(RaggedRows<Token, Offset> rows, GatherReport* report) {
  const Token* tokens = nullptr;
  int64_t n = 0;
  RowFault fault = rows.find(report->faulty, &tokens, &n, lane_id() == 0 ? report : nullptr);
  for (int64_t first = 0; first < n; first += kWarp) {
    const int64_t i = first + lane_id();
    const unsigned votes = __ballot_sync(kAllLanes, i < n && !rows.is_token(tokens[i]));
    if (votes == 0) continue;
    fault = RowFault::kNoSuchToken;
    if (lane_id() == 0) report->first = static_cast<int64_t>(tokens[first + __ffs(static_cast<int>(votes)) - 1]);
    break;
  }
  if (lane_id() == 0) report->fault = fault;
}

// One warp to a row: `width` 0 packs them.
template <class Token, class Out>
__global__ void copy_rows_kernel(const int64_t* source, const int64_t* length, const int32_t* bounds, int64_t n_cells,
                                 int64_t width, Out pad, Out* out) {
  const int64_t warps_per_block = blockDim.x / kWarp;
  for (int64_t b = blockIdx.x * warps_per_block + threadIdx.x / kWarp; b < n_cells; b += gridDim.x * warps_per_block) {
    const Token* tokens = reinterpret_cast<const Token*>(static_cast<uintptr_t>(source[b]));
    const int64_t n = length[b], end = width == 0 ? n : width;
    Out* row = out + (width == 0 ? bounds[b] : b * width);
    for (int64_t i = lane_id(); i < end; i += kWarp) row[i] = i < n ? static_cast<Out>(tokens[i]) : pad;
  }
}

}  // namespace corrmask
