// The launch of the kernel that sample_groups and mask_tokens share: how many warps take a cell, and where their memory
// stands.
#include "cell_batch.cuh"

#include "cell_launch.cuh"

namespace corrmask {

namespace {

constexpr int kWarpsOfFewCells = kMostThreads / kWarp, kWarpsOfManyCells = 2;
constexpr int64_t kFewCells = 4;                  // to a multiprocessor: all run side by side
constexpr int64_t kBytesOfManyCells = 48 * 1024;  // blocks that take more are few, and of more warps
constexpr int64_t kCellsThatPay = 4;              // for a look through all of the vocabulary
constexpr int64_t kBytesInGlobalMemory = int64_t{1} << 30;

int multiprocessors() {
  int device = 0, n = 0;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
  return n;
}

template <class Token, bool kInSharedMemory>
void launch_cells(const CellArguments& cells, const TokenRows<Token>& rows, const CorruptionParameters& corruption,
                  int n_warps, cudaStream_t stream) {
  const auto kernel = &cell_batch_kernel<Token, kInSharedMemory>;
  const int n_threads = n_warps * kWarp;
  const auto layout_of = [&](bool knows_special) {
    return CellLayout(cells.width, cells.table.vocabulary, cells.parameters.rate_ppm, n_warps, knows_special);
  };
  // As many blocks as run side by side, or fewer that take as many cells each.
  const auto cells_each = [&](const CellLayout& layout) {
    const int64_t shared = kInSharedMemory ? layout.bytes : 0;
    if (kInSharedMemory) allow_shared_bytes(kernel, shared);
    int resident = 0;
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, n_threads, shared));
    int64_t most = int64_t{std::max(resident, 1)} * multiprocessors();
    if (!kInSharedMemory) most = std::clamp<int64_t>(kBytesInGlobalMemory / layout.bytes, 1, most);
    return (cells.n_cells + most - 1) / most;
  };
  CellLayout layout = layout_of(true);
  int64_t each = cells_each(layout);
  if (each < kCellsThatPay) {
    layout = layout_of(false);
    each = cells_each(layout);
  }
  const int64_t n_blocks = (cells.n_cells + each - 1) / each, bytes = layout.bytes;
  std::optional<Tensor> scratch;
  if (!kInSharedMemory) scratch = empty_on(cells.input_ids, {n_blocks * bytes}, ScalarType::Byte);
  kernel<<<static_cast<unsigned>(n_blocks), n_threads, kInSharedMemory ? bytes : 0, stream>>>(
      rows, cells.table, cells.parameters, scalar_argument(cells.seed), scalar_argument(cells.epoch), corruption,
      layout, scratch ? static_cast<unsigned char*>(scratch->mutable_data_ptr()) : nullptr);
}

}  // namespace

void run_cells(const char* op, const CellArguments& cells, int32_t* owners, const CorruptionParameters& corruption,
               void* corrupted, int64_t* labels) {
  if (cells.n_cells == 0 || cells.width == 0) return;
  check(cells.width + cells.table.vocabulary < int64_t{1} << 30, op,
        "'input_ids' has rows of too many positions for a vocabulary of ", cells.table.vocabulary,
        " tokens: together they must stay below 2**30");
  const LaunchContext context(cells.input_ids);
  const auto bytes_of = [&](int n_warps) {
    return CellLayout(cells.width, cells.table.vocabulary, cells.parameters.rate_ppm, n_warps, true).bytes;
  };
  const bool many = cells.n_cells > kFewCells * multiprocessors() && bytes_of(kWarpsOfManyCells) <= kBytesOfManyCells;
  const int n_warps = many ? kWarpsOfManyCells : kWarpsOfFewCells;
  with_token_type(cells.input_ids, op, "input_ids", [&](auto zero) {
    using Token = decltype(zero);
    const TokenRows<Token> rows{data<Token>(cells.input_ids),
                                data<int64_t>(cells.lengths),
                                data<int64_t>(cells.cell_ids),
                                cells.n_cells,
                                cells.width,
                                owners,
                                static_cast<Token*>(corrupted),
                                labels};
    if (bytes_of(n_warps) <= most_shared_bytes()) {
      launch_cells<Token, true>(cells, rows, corruption, n_warps, context.stream);
    } else {
      launch_cells<Token, false>(cells, rows, corruption, n_warps, context.stream);
    }
  });
  check_launch(op);
}

}  // namespace corrmask
