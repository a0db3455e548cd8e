#include "gather_tokens.cuh"

#include <tuple>

#include "../gather_arguments.h"
#include "launch.cuh"

namespace corrmask {

namespace {

constexpr int kThreads = 256;

// Waits for what the kernels report.
GatherReport read(const GatherReport* report, cudaStream_t stream) {
  GatherReport there;
  check_cuda(cudaMemcpyAsync(&there, report, sizeof there, cudaMemcpyDeviceToHost, stream));
  check_cuda(cudaStreamSynchronize(stream));
  return there;
}

template <class Token, class Offset>
void raise(const char* op, const RaggedRows<Token, Offset>& rows, int64_t n_rows, GatherReport* report, int64_t faulty,
           cudaStream_t stream) {
  describe_fault_kernel<<<1, kWarp, 0, stream>>>(rows, report);
  const GatherReport found = read(report, stream);
  int64_t row = 0;
  check_cuda(cudaMemcpyAsync(&row, rows.row + faulty, sizeof row, cudaMemcpyDeviceToHost, stream));
  check_cuda(cudaStreamSynchronize(stream));
  check(found.fault != RowFault::kNoSuchRow, op, "'rows' must be in 0 .. ", n_rows - 1, ", got ", row);
  check(found.fault != RowFault::kDamaged, op, "row ", row, " is damaged: its tokens are said ", "to stand at ",
        found.first, " .. ", found.last, " of ", found.size);
  check(false, op, "row ", row, " holds token ", found.first, ", the vocabulary has ", rows.vocabulary);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> gather_tokens_cuda(const Tensor& rows, const Tensor& chunks, int64_t token_bits,
                                                      int64_t offset_bits, int64_t vocabulary, int64_t max_len,
                                                      int64_t pad_id, bool packed, bool wide) {
  constexpr const char* kOp = "gather_tokens";
  check_gather_tensors(kOp, rows, 1, chunks);
  const LaunchContext context(rows);
  const cudaStream_t stream = context.stream;
  const int64_t n = rows.size(0), n_chunks = chunks.size(0) - 1;
  Tensor lengths = empty_on(rows, {n}, ScalarType::Long);
  Tensor bounds = empty_on(rows, {n + 1}, ScalarType::Int);
  const Tensor sources = empty_on(rows, {n}, ScalarType::Long);
  const Tensor reported = empty_on(rows, {sizeof(GatherReport) / 8}, ScalarType::Long);
  GatherReport* report = static_cast<GatherReport*>(reported.mutable_data_ptr());
  const GatherReport before{0, 0, n, RowFault::kNone, 0, 0, 0};
  check_cuda(cudaMemcpyAsync(report, &before, sizeof before, cudaMemcpyHostToDevice, stream));
  int64_t* source = mutable_data<int64_t>(sources);
  int64_t* length = mutable_data<int64_t>(lengths);
  int32_t* bound = mutable_data<int32_t>(bounds);
  Tensor tokens;
  with_stored_type(token_bits, kOp, [&](auto token_zero) {
    using Token = decltype(token_zero);
    GatherReport found = before;
    with_offset_type(offset_bits, kOp, [&](auto offset_zero) {
      const RaggedRows<Token, decltype(offset_zero)> ragged{
          data<int64_t>(rows), reinterpret_cast<const TokenChunk*>(data<int64_t>(chunks)), n, n_chunks, max_len,
          vocabulary};
      const unsigned n_blocks = blocks_for(n, kThreads / kWarp);
      find_rows_kernel<<<n_blocks, kThreads, 0, stream>>>(ragged, source, length, report);
      place_rows_kernel<<<1, 1024, 0, stream>>>(length, n, bound, report);
      check_launch(kOp);
      found = read(report, stream);
      if (found.faulty == n) return;
      int64_t n_rows = 0;
      check_cuda(cudaMemcpyAsync(&n_rows, data<int64_t>(chunks) + 4 * n_chunks, sizeof n_rows, cudaMemcpyDeviceToHost,
                                 stream));
      check_cuda(cudaStreamSynchronize(stream));
      raise(kOp, ragged, n_rows, report, found.faulty, stream);
    });
    check(found.total <= INT32_MAX, kOp, "a batch holds at most 2**31 - 1 tokens; give fewer 'rows'");
    const ScalarType dtype = wide ? ScalarType::Long : ScalarType::Int;
    tokens = packed ? empty_on(rows, {found.total}, dtype) : empty_on(rows, {n, found.width}, dtype);
    if (found.width == 0) return;
    const auto copy = [&](auto out_zero) {
      using Out = decltype(out_zero);
      copy_rows_kernel<Token, Out><<<blocks_for(n, kThreads / kWarp), kThreads, 0, stream>>>(
          source, length, bound, n, packed ? 0 : found.width, static_cast<Out>(pad_id),
          static_cast<Out*>(tokens.mutable_data_ptr()));
    };
    if (wide) {
      copy(int64_t{});
    } else {
      copy(int32_t{});
    }
    check_launch(kOp);
  });
  return {tokens, lengths, bounds};
}

}  // namespace corrmask

STABLE_TORCH_LIBRARY_IMPL(corrmask, CUDA, m) {
  m.impl("gather_tokens", TORCH_BOX(&corrmask::gather_tokens_cuda));
}
