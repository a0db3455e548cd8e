// The sampling kernel on emulated threads, for ctypes: every way of launching it that csrc/cuda/cell_batch.cu knows.
#include "cuda_on_cpu.h"
// after it:
#include "../../csrc/cuda/cell_batch.cuh"

using namespace corrmask;

namespace {

template <class Token, bool kInSharedMemory>
void run(const TokenRows<Token>& rows, const GroupTable& table, const SamplingParameters& parameters,
         const int64_t* seed, int64_t epoch, const CorruptionParameters& corruption, int n_warps, bool knows_special,
         unsigned n_blocks) {
  const CellLayout layout(rows.width, table.vocabulary, parameters.rate_ppm, n_warps, knows_special);
  std::vector<unsigned char> global(kInSharedMemory ? 0 : layout.bytes * n_blocks, 0x5A);
  emulation::launch(n_blocks, kWarp * n_warps, kInSharedMemory ? layout.bytes : 0, [&] {
    cell_batch_kernel<Token, kInSharedMemory>(rows, table, parameters, {seed, 0}, {nullptr, epoch}, corruption, layout,
                                              global.data());
  });
}

}  // namespace

#define SAMPLE(name, Token, kInSharedMemory)                                                                         \
  extern "C" __attribute__((visibility("default"))) void name(                                                       \
      const Token* tokens, const int64_t* lengths, const int64_t* cell_ids, int64_t n_cells, int64_t width,          \
      int32_t* owners, Token* corrupted, int64_t* labels, const int32_t* token_group, const int64_t* group_indptr,   \
      const int32_t* group_tokens, const int64_t* accept, const int64_t* take, int64_t vocabulary, int64_t n_groups, \
      int64_t n_members, const int64_t* seed, int64_t epoch, int64_t rate_ppm, int64_t expand, int64_t max_group,    \
      int rotate, int64_t mask_token_id, int64_t gene_lo, int64_t gene_hi, int64_t mask_threshold,                   \
      int64_t random_threshold, int unit_is_group, int n_warps, int knows_special, unsigned n_blocks,                \
      uint64_t schedule) {                                                                                           \
    emulation::schedule = schedule;                                                                                  \
    run<Token, kInSharedMemory>(                                                                                     \
        {tokens, lengths, cell_ids, n_cells, width, owners, corrupted, labels},                                      \
        {token_group, group_indptr, group_tokens, accept, take, vocabulary, n_groups, n_members, 0, 0},              \
        {0, 0, rate_ppm, expand, max_group, rotate != 0}, seed, epoch,                                               \
        {mask_token_id, gene_lo, gene_hi, mask_threshold, random_threshold, unit_is_group != 0}, n_warps,            \
        knows_special != 0, n_blocks);                                                                               \
  }

SAMPLE(shared_uint16, uint16_t, true)
SAMPLE(shared_int32, int32_t, true)
SAMPLE(shared_int64, int64_t, true)
SAMPLE(global_int32, int32_t, false)
SAMPLE(global_int64, int64_t, false)
