// Rows of a ragged column, read where they lie (memory-mapped Arrow buffers), into one batch: widened, cut, padded or
// one behind the other. What a row holds is copied once, from the file's pages into the batch.
#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "../gather_arguments.h"
#include "../portable/host_device.h"
#include "clones.h"
#include "gather_rows.h"

namespace corrmask {

namespace {

struct RowSource {
  const void* tokens;
  int64_t length, place;  // place: of its first token in the batch
};

constexpr int64_t kGrain = 1 << 16;  // positions that are worth a thread of their own

// out[i] = in[i]; returns whether each is in 0 .. last. A sign bit tells: of the token, or of what is left to `last`.
#define CORRMASK_WIDEN(In, Out, Wide)                                           \
  CORRMASK_CLONES bool widen(const In* in, int64_t n, int64_t last, Out* out) { \
    Wide outside = 0;                                                           \
    for (int64_t i = 0; i < n; ++i) {                                           \
      const Wide token = static_cast<Wide>(in[i]);                              \
      outside |= token | (static_cast<Wide>(last) - token);                     \
      out[i] = static_cast<Out>(token);                                         \
    }                                                                           \
    return (outside >> (8 * sizeof(Wide) - 1)) == 0;                            \
  }
CORRMASK_WIDEN(uint16_t, int32_t, uint32_t)
CORRMASK_WIDEN(uint16_t, int64_t, uint32_t)
CORRMASK_WIDEN(int32_t, int32_t, uint32_t)
CORRMASK_WIDEN(int32_t, int64_t, uint32_t)
CORRMASK_WIDEN(int64_t, int32_t, uint64_t)
CORRMASK_WIDEN(int64_t, int64_t, uint64_t)
#undef CORRMASK_WIDEN

// Where each row's tokens are; lengths are cut to max_len. Two passes, so that the offsets of many rows are on their
// way at a time: each is a miss.
template <class Offset, class Token>
std::vector<RowSource> find_rows(const char* op, const int64_t* rows, int64_t n, const TokenChunk* chunks,
                                 int64_t n_chunks, int64_t max_len) {
  const int64_t n_rows = chunks[n_chunks].first_row;
  std::vector<const TokenChunk*> chunk_of(n);
  for (int64_t b = 0; b < n; ++b) {
    const int64_t row = rows[b];
    check(row >= 0 && row < n_rows, op, "'rows' must be in 0 .. ", n_rows - 1, ", got ", row);
    const auto behind = [](int64_t value, const TokenChunk& chunk) { return value < chunk.first_row; };
    chunk_of[b] = std::upper_bound(chunks, chunks + n_chunks, row, behind) - 1;
    CORRMASK_PREFETCH(reinterpret_cast<const Offset*>(chunk_of[b]->offsets) + (row - chunk_of[b]->first_row));
  }
  std::vector<RowSource> sources(n);
  for (int64_t b = 0; b < n; ++b) {
    const TokenChunk& chunk = *chunk_of[b];
    const Offset* offset = reinterpret_cast<const Offset*>(chunk.offsets) + (rows[b] - chunk.first_row);
    const int64_t begin = offset[0], end = offset[1];
    check(0 <= begin && begin <= end && end <= chunk.n_tokens, op, "row ", rows[b], " is damaged: its tokens are said ",
          "to stand at ", begin, " .. ", end, " of ", chunk.n_tokens);
    sources[b] = {reinterpret_cast<const Token*>(chunk.tokens) + begin, std::min(end - begin, max_len), 0};
  }
  return sources;
}

template <class Token>
void check_tokens(const char* op, const RowSource& source, int64_t row, int64_t vocabulary) {
  const Token* tokens = static_cast<const Token*>(source.tokens);
  for (int64_t i = 0; i < source.length; ++i) {
    check(tokens[i] >= 0 && static_cast<int64_t>(tokens[i]) < vocabulary, op, "row ", row, " holds token ",
          static_cast<int64_t>(tokens[i]), ", the vocabulary has ", vocabulary);
  }
}

template <class Token, class Out>
void copy_rows(const char* op, const std::vector<RowSource>& sources, const int64_t* rows, int64_t width, bool packed,
               int64_t vocabulary, int64_t pad_id, Out* out) {
  std::atomic<int64_t> faulty{-1};
  const int64_t n = static_cast<int64_t>(sources.size());
  torch::stable::parallel_for(
      0, n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          const RowSource& source = sources[b];
          Out* row = out + source.place;
          if (!widen(static_cast<const Token*>(source.tokens), source.length, vocabulary - 1, row)) faulty = b;
          if (!packed) std::fill(row + source.length, row + width, static_cast<Out>(pad_id));
        }
      });
  if (faulty >= 0) check_tokens<Token>(op, sources[faulty], rows[faulty], vocabulary);
}

}  // namespace

GatheredRows gather_rows(const char* op, const int64_t* row, int64_t n, const Tensor& chunks, int64_t token_bits,
                         int64_t offset_bits, int64_t vocabulary, int64_t max_len, int64_t pad_id, bool packed,
                         bool wide) {
  const int64_t n_chunks = chunks.size(0) - 1;
  const TokenChunk* chunk = reinterpret_cast<const TokenChunk*>(data<int64_t>(chunks));  // [n_chunks + 1]
  Tensor lengths = torch::stable::empty({n}, ScalarType::Long);
  Tensor bounds = torch::stable::empty({n + 1}, ScalarType::Int);
  Tensor tokens;
  with_stored_type(token_bits, op, [&](auto token_zero) {
    using Token = decltype(token_zero);
    std::vector<RowSource> sources;
    with_offset_type(offset_bits, op, [&](auto offset_zero) {
      sources = find_rows<decltype(offset_zero), Token>(op, row, n, chunk, n_chunks, max_len);
    });
    int64_t* length = mutable_data<int64_t>(lengths);
    int32_t* bound = mutable_data<int32_t>(bounds);
    int64_t width = 0, total = 0;
    for (int64_t b = 0; b < n; ++b) {
      length[b] = sources[b].length;
      sources[b].place = total;
      bound[b] = static_cast<int32_t>(total);
      width = std::max(width, length[b]);
      total += length[b];
      check(total <= INT32_MAX, op, "a batch holds at most 2**31 - 1 tokens; give fewer 'rows'");
    }
    bound[n] = static_cast<int32_t>(total);
    if (!packed) {
      for (int64_t b = 0; b < n; ++b) sources[b].place = b * width;
    }
    const ScalarType dtype = wide ? ScalarType::Long : ScalarType::Int;
    tokens = packed ? torch::stable::empty({total}, dtype) : torch::stable::empty({n, width}, dtype);
    if (wide) {
      copy_rows<Token>(op, sources, row, width, packed, vocabulary, pad_id, mutable_data<int64_t>(tokens));
    } else {
      copy_rows<Token>(op, sources, row, width, packed, vocabulary, pad_id, mutable_data<int32_t>(tokens));
    }
  });
  return {tokens, lengths, bounds};
}

GatheredRows gather_tokens_cpu(const Tensor& rows, const Tensor& chunks, int64_t token_bits, int64_t offset_bits,
                               int64_t vocabulary, int64_t max_len, int64_t pad_id, bool packed, bool wide) {
  constexpr const char* kOp = "gather_tokens";
  check_gather_tensors(kOp, rows, 1, chunks);
  return gather_rows(kOp, data<int64_t>(rows), rows.size(0), chunks, token_bits, offset_bits, vocabulary, max_len,
                     pad_id, packed, wide);
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CPU, m) {
  m.impl("gather_tokens", TORCH_BOX(&corrmask::gather_tokens_cpu));
}
