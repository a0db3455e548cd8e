// The sampling kernel on emulated threads, for ctypes: every way of launching it that csrc/cuda/cell_batch.cu knows.
#include "cuda_on_cpu.h"
// after it:
#include "../../csrc/cuda/cell_batch.cuh"

using namespace corrmask;

namespace {

template <class Token, class Entry>
void run(TokenRows<Token> rows, const GroupTable& table, const SamplingParameters& parameters, const int64_t* seed,
         int64_t epoch, const CorruptionParameters& corruption, bool in_global_memory, unsigned n_blocks) {
  const WarpLayout layout(rows.width, parameters.rate_ppm);
  const int64_t bytes = layout.bytes<Entry>();
  std::vector<unsigned char> global(in_global_memory ? bytes * n_blocks : 0, 0x5A);
  emulation::launch(n_blocks, kWarp, in_global_memory ? 0 : bytes, [&] {
    cell_batch_kernel<Token, Entry>(rows, table, parameters, {seed, 0}, {nullptr, epoch}, corruption, layout,
                                    in_global_memory ? global.data() : nullptr);
  });
}

}  // namespace

#define SAMPLE(name, Token, Entry)                                                                                    \
  extern "C" __attribute__((visibility("default"))) void name(                                                        \
      const Token* tokens, const int64_t* lengths, const int64_t* cell_ids, int64_t n_cells, int64_t width,           \
      int32_t* owners, Token* corrupted, int64_t* labels, const int32_t* token_group, const int64_t* group_indptr,    \
      const int32_t* group_tokens, const int64_t* accept, const int64_t* take, int64_t vocabulary, int64_t n_groups,  \
      int64_t n_members, const int64_t* seed, int64_t epoch, int64_t rate_ppm, int64_t expand, int64_t max_group,     \
      int rotate, int64_t mask_token_id, int64_t gene_lo, int64_t gene_hi, int64_t mask_threshold,                    \
      int64_t random_threshold, int unit_is_group, int in_global_memory, unsigned n_blocks, uint64_t schedule) {      \
    emulation::schedule = schedule;                                                                                   \
    run<Token, Entry>({tokens, lengths, cell_ids, n_cells, width, owners, corrupted, labels},                         \
                      {token_group, group_indptr, group_tokens, accept, take, vocabulary, n_groups, n_members, 0, 0}, \
                      {0, 0, rate_ppm, expand, max_group, rotate != 0}, seed, epoch,                                  \
                      {mask_token_id, gene_lo, gene_hi, mask_threshold, random_threshold, unit_is_group != 0},        \
                      in_global_memory != 0, n_blocks);                                                               \
  }

SAMPLE(small_int32, int32_t, SmallEntry)
SAMPLE(small_int64, int64_t, SmallEntry)
SAMPLE(large_int32, int32_t, LargeEntry)
SAMPLE(large_int64, int64_t, LargeEntry)
