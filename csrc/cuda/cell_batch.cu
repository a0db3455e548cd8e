// The launch of the kernel that sample_groups and mask_tokens share: which entries the warps' tables have, and where
// they stand.
#include "cell_batch.cuh"

#include "cell_launch.cuh"

namespace corrmask {

namespace {

constexpr int64_t kBlocksInGlobalMemory = 1024;

template <class Token, class Entry>
void launch_cells(const CellArguments& cells, const TokenRows<Token>& rows, const CorruptionParameters& corruption,
                  const WarpLayout& layout, bool in_shared_memory, cudaStream_t stream) {
  const auto kernel = &cell_batch_kernel<Token, Entry>;
  const int64_t bytes = layout.template bytes<Entry>();
  const ScalarArgument seed = scalar_argument(cells.seed), epoch = scalar_argument(cells.epoch);
  if (in_shared_memory) {
    allow_shared_bytes(kernel, bytes);
    kernel<<<blocks_for(rows.n_cells, 1), kWarp, bytes, stream>>>(rows, cells.table, cells.parameters, seed, epoch,
                                                                  corruption, layout, nullptr);
    return;
  }
  const int64_t n_blocks = std::min(rows.n_cells, kBlocksInGlobalMemory);
  const Tensor scratch = empty_on(cells.input_ids, {n_blocks * bytes}, ScalarType::Byte);
  kernel<<<static_cast<unsigned>(n_blocks), kWarp, 0, stream>>>(
      rows, cells.table, cells.parameters, seed, epoch, corruption, layout,
      static_cast<unsigned char*>(scratch.mutable_data_ptr()));
}

}  // namespace

void run_cells(const char* op, const CellArguments& cells, int32_t* owners, const CorruptionParameters& corruption,
               void* corrupted, int64_t* labels) {
  if (cells.n_cells == 0 || cells.width == 0) return;
  check(cells.width <= int64_t{1} << 29, op, "'input_ids' has rows of more than 2**29 positions");
  const LaunchContext context(cells.input_ids);
  const WarpLayout layout(cells.width, cells.parameters.rate_ppm);
  const int64_t most = most_shared_bytes();
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
    const bool small = fits_entry<SmallEntry>(cells.width, cells.table.vocabulary);
    if (small && layout.bytes<SmallEntry>() <= most) {
      launch_cells<Token, SmallEntry>(cells, rows, corruption, layout, true, context.stream);
    } else {
      launch_cells<Token, LargeEntry>(cells, rows, corruption, layout, layout.bytes<LargeEntry>() <= most,
                                      context.stream);
    }
  });
  check_launch(op);
}

}  // namespace corrmask
