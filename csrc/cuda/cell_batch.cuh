// Sampling and corruption, a block to a cell: the same masks as ../portable/group_sampling.h gives, bit for bit.
//
// All threads read the row into a set of tokens (cell_memory.cuh), warps look for seeds and members, and one lets them
// take their turns (seed_turns.cuh). Then all write the row, each position once; masked ones are found by the rank of
// their id among the masked.
#pragma once

#include "../portable/corruption.h"
#include "../portable/token_rows.h"
#include "seed_turns.cuh"

namespace corrmask {

constexpr int kMostThreads = 256;

// What masked ids are written as, by their rank: owners, or what is shown. By the whole block, behind a barrier; ends
// with one.
template <class Token>
__device__ void prepare_written(const Cell<Token>& cell, bool writes_owners, const CorruptionParameters& corruption,
                                const CellLayout& layout, const CellMemory& memory) {
  const int32_t n_masked = count_before(memory.masked(), layout.n_words, memory.masked_before(), memory.sums());
  __syncthreads();
  const CellDraws draws = memory.draws();
  for (int32_t k = own_thread(); k < n_masked; k += static_cast<int32_t>(blockDim.x)) {
    const int32_t id = memory.ids()[k], owner = cell.token_of(memory.seeds()[k]);
    int32_t value = owner;
    if (!writes_owners) {
      const uint32_t token = static_cast<uint32_t>(cell.token_of(id));
      const Words own = draws.at(token, kStreamCorruption);
      const uint32_t decision =
          corruption.unit_is_group ? draws.at(static_cast<uint32_t>(owner), kStreamCorruption).w0 : own.w0;
      value = static_cast<int32_t>(corrupted_token(token, decision, own.w1, corruption));
    }
    memory.written()[rank_of(memory.masked(), memory.masked_before(), static_cast<uint32_t>(id))] = value;
  }
  __syncthreads();
}

// Writes the owners of a row, or what it shows and its labels.
template <int kPack, class Token>
__device__ void write_row(const Cell<Token>& cell, const TokenRows<Token>& rows, int64_t offset,
                          const CellMemory& memory) {
  using Pack = TokenPack<Token, kPack>;
  struct alignas(kPack * 4) Owners {
    int32_t owner[kPack];
  };
  struct alignas(kPack > 1 ? 16 : 8) Labels {
    int64_t label[kPack];
  };
  for_each_pack<kPack>(cell.tokens, static_cast<int>(rows.width) / kPack, [&](int p, Pack pack) {
    const int left = cell.length - kPack * p;
    Owners owners;
    Labels labels;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const int64_t token = static_cast<int64_t>(pack.token[j]);
      owners.owner[j] = kVisible;
      labels.label[j] = kIgnoredLabel;
      if (j < left && cell.is_token(token)) {
        const uint32_t id = static_cast<uint32_t>(cell.id(memory, kPack * p + j, static_cast<int32_t>(token)));
        if (has_bit(memory.masked(), id)) {
          const int32_t written = memory.written()[rank_of(memory.masked(), memory.masked_before(), id)];
          owners.owner[j] = written;
          labels.label[j] = token;
          pack.token[j] = static_cast<Token>(static_cast<uint32_t>(written));
        }
      }
    }
    if (rows.owners != nullptr) {
      reinterpret_cast<Owners*>(rows.owners + offset)[p] = owners;
    } else {
      reinterpret_cast<Pack*>(rows.corrupted + offset)[p] = pack;
      reinterpret_cast<Labels*>(rows.labels + offset)[p] = labels;
    }
  });
}

// Rows blockIdx.x, blockIdx.x + gridDim.x, ..., with a layout for as many warps as the block has. `global_scratch`
// holds layout.bytes for each block where they do not fit into shared memory. Four of the largest blocks to a
// multiprocessor leave 64 registers.
template <class Token, bool kInSharedMemory>
__global__ void __launch_bounds__(kMostThreads, 4)
    cell_batch_kernel(TokenRows<Token> rows, GroupTable table, SamplingParameters parameters, ScalarArgument seed,
                      ScalarArgument epoch, CorruptionParameters corruption, CellLayout layout,
                      unsigned char* global_scratch) {
  CORRMASK_DYNAMIC_SHARED(shared);
  const CellMemory memory{
      reinterpret_cast<uint32_t*>(kInSharedMemory ? shared : global_scratch + layout.bytes * blockIdx.x), layout};
  constexpr int kPack = 16 / sizeof(Token);
  const bool is_aligned = rows.width % kPack == 0 && reinterpret_cast<uintptr_t>(rows.tokens) % 16 == 0;
  if (own_thread() == 0) {
    memory.scalars()[0] = seed.get();
    memory.scalars()[1] = epoch.get();
  }
  const bool expands = parameters.expand > 0 && table.n_members > 0 && parameters.max_group > 0;
  if (memory.layout.knows_special) find_special(table, layout, memory);
  for (int64_t row = blockIdx.x; row < rows.n_cells; row += gridDim.x) {
    const int64_t given = rows.lengths[row], offset = row * rows.width;
    if (own_thread() == 0) memory.scalars()[2] = rows.cell_ids[row];
    Cell<Token> cell;
    cell.tokens = rows.tokens + offset;
    cell.length = static_cast<int32_t>(given < 0 ? 0 : smaller(given, rows.width));
    cell.vocabulary = static_cast<int32_t>(table.vocabulary);
    for (uint32_t word = own_thread(); word < layout.n_words; word += blockDim.x) {
      memory.visible()[word] = memory.masked()[word] = 0;
    }
    __syncthreads();
    read_row(cell, is_aligned, table, layout, memory);
    if (cell.n_eligible > 0) {
      const int32_t budget = static_cast<int32_t>(masking_budget(cell.n_eligible, parameters.rate_ppm));
      Turns<Token>{cell, table, parameters, memory, budget, expands}.run();
      prepare_written(cell, rows.owners != nullptr, corruption, layout, memory);
    }
    if (is_aligned) {
      write_row<kPack>(cell, rows, offset, memory);
    } else {
      write_row<1>(cell, rows, offset, memory);
    }
    __syncthreads();  // before the next cell takes the memory
  }
}

}  // namespace corrmask
