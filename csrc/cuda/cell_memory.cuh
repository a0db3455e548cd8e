// What a block holds of the cell that it masks: sets of tokens as bits, so that whether a token is there and visible
// yet is one read.
//
// Every eligible position has an id: its token, or, where an earlier one holds that token too, `vocabulary` + position,
// which is nobody's member. So positions need not be known until the row is written. In shared memory, or, for cells or
// vocabularies past its limits, in global memory.
#pragma once

#include "../portable/group_sampling.h"
#include "warp.cuh"

namespace corrmask {

// The place of this thread in its block, as a value that the compiler does not know: what follows from it is worked out
// again where it is used, and not kept in registers from outside the loop over cells.
__device__ __forceinline__ int own_thread() {
#if defined(__CUDA_ARCH__)
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return static_cast<int>(threadIdx.x);
#endif
}

__device__ __forceinline__ int own_lane() {
  return own_thread() & (kWarp - 1);
}

__device__ __forceinline__ int own_warp() {
  return own_thread() / kWarp;
}

__device__ __forceinline__ int warps_of_block() {
  return static_cast<int>(blockDim.x / kWarp);
}

constexpr int kMembersAhead = 16;                          // members of a seed that are looked for ahead of its turn
constexpr int kListedWords = kWarp * (1 + kMembersAhead);  // of 32 seeds

// How a block's memory is laid out, for rows of one width, one vocabulary and one budget: where each array begins, in
// words.
struct CellLayout {
  uint32_t n_token_words;     // of a bit for each token
  uint32_t n_words;           // and for each position behind them
  uint32_t n_position_words;  // of a bit for each position
  uint32_t masked, lists, written, ids, seeds, eligible, eligible_before, repeated, n_listed, n_masked, special;
  int64_t bytes;
  bool knows_special;  // whether there is a bit for each special token

  CORRMASK_HOST_DEVICE CellLayout(int64_t width, int64_t vocabulary, int64_t rate_ppm, int n_warps, bool knows_special_)
      : n_token_words(static_cast<uint32_t>((vocabulary + 31) / 32)),
        n_words(static_cast<uint32_t>((vocabulary + width + 31) / 32)),
        n_position_words(static_cast<uint32_t>((width + 31) / 32)),
        knows_special(knows_special_) {
    const uint32_t most_masked = static_cast<uint32_t>(masking_budget(width, rate_ppm));
    const uint32_t n_in_lists = static_cast<uint32_t>(kListedWords * n_warps);
    masked = kVisibleAt + n_words;
    lists = masked + n_words;
    written = lists + n_words;
    ids = written + most_masked > lists + n_in_lists ? written + most_masked : lists + n_in_lists;
    seeds = ids + most_masked;
    eligible = seeds + most_masked;
    eligible_before = eligible + n_position_words;
    repeated = eligible_before + n_position_words;
    n_listed = repeated + n_position_words;
    n_masked = n_listed + static_cast<uint32_t>(n_warps);
    special = n_masked + 1;
    bytes = (4 * (int64_t{special} + (knows_special ? n_token_words : 0)) + 15) / 16 * 16;
  }

  static constexpr uint32_t kVisibleAt = 2 * (kWarp + 4);  // behind the sums and the scalars
};

// The arrays of a block. Addresses are made where they are used: they would fill half of the registers.
struct CellMemory {
  uint32_t* words;
  const CellLayout& layout;

  // [32] for sum_before
  __device__ int64_t* sums() const { return reinterpret_cast<int64_t*>(words); }
  // [3] seed, epoch and cell: in memory, since a key for each round of Philox would be kept in registers
  __device__ int64_t* scalars() const { return sums() + kWarp; }
  __device__ CellDraws draws() const {
    return {static_cast<uint64_t>(scalars()[0]), static_cast<uint64_t>(scalars()[2]),
            static_cast<uint32_t>(scalars()[1])};
  }
  // [n_words] ids that are eligible and not masked
  __device__ uint32_t* visible() const { return words + CellLayout::kVisibleAt; }
  // [n_words]
  __device__ uint32_t* masked() const { return words + layout.masked; }
  // [n_warps, kListedWords] (seed_turns.cuh)
  __device__ uint32_t* lists() const { return words + layout.lists; }
  // [n_words] masked ids in earlier words, once the lists are done with: where those were
  __device__ uint32_t* masked_before() const { return words + layout.lists; }
  // [most_masked] what each is written as, by the order of ids: likewise
  __device__ int32_t* written() const { return reinterpret_cast<int32_t*>(words + layout.written); }
  // [most_masked] masked ids in the order in which they were masked
  __device__ int32_t* ids() const { return reinterpret_cast<int32_t*>(words + layout.ids); }
  // [most_masked] and those of the seeds that masked them
  __device__ int32_t* seeds() const { return reinterpret_cast<int32_t*>(words + layout.seeds); }
  // [n_position_words]
  __device__ uint32_t* eligible() const { return words + layout.eligible; }
  // [n_position_words] eligible positions in earlier words
  __device__ uint32_t* eligible_before() const { return words + layout.eligible_before; }
  // [n_position_words] positions whose token stands at an earlier one too
  __device__ uint32_t* repeated() const { return words + layout.repeated; }
  // [n_warps] words of each list
  __device__ uint32_t* n_listed() const { return words + layout.n_listed; }
  // [1]
  __device__ int32_t* n_masked() const { return reinterpret_cast<int32_t*>(words + layout.n_masked); }
  // [n_token_words] where layout.knows_special
  __device__ uint32_t* special() const { return words + layout.special; }
};

__device__ __forceinline__ bool has_bit(const uint32_t* words, uint32_t bit) {
  return words[bit / 32] >> (bit % 32) & 1;
}

__device__ __forceinline__ void set_bit(uint32_t* words, uint32_t bit) {
  atomicOr(words + bit / 32, 1u << (bit % 32));
}

__device__ __forceinline__ void clear_bit(uint32_t* words, uint32_t bit) {
  atomicAnd(words + bit / 32, ~(1u << (bit % 32)));
}

// Bits of earlier words, and of its own word below it.
__device__ __forceinline__ int rank_of(const uint32_t* words, const uint32_t* before, uint32_t bit) {
  return static_cast<int>(before[bit / 32]) + rank_among(words[bit / 32], static_cast<int>(bit % 32));
}

// Writes how many bits there are in earlier words, and returns how many in all. Called by the whole block, behind a
// barrier; what it writes is there for all after the next.
__device__ inline int32_t count_before(const uint32_t* words, uint32_t n_words, uint32_t* before, int64_t* sums) {
  const uint32_t each = (n_words + blockDim.x - 1) / blockDim.x;
  const uint32_t first = smaller(each * own_thread(), n_words), last = smaller(first + each, n_words);
  int32_t own = 0;
  for (uint32_t word = first; word < last; ++word) own += __popc(words[word]);
  int64_t total = 0;
  uint32_t up_to = static_cast<uint32_t>(sum_before(own, sums, &total));
  for (uint32_t word = first; word < last; ++word) {
    before[word] = up_to;
    up_to += __popc(words[word]);
  }
  return static_cast<int32_t>(total);
}

// A cell, as all threads of its block see it.
template <class Token>
struct Cell {
  const Token* tokens;  // [width]
  int32_t length, vocabulary, n_eligible;
  bool lists_eligible;  // else every position is eligible
  bool has_repeats;     // whether a token stands at several eligible positions

  __device__ bool is_token(int64_t token) const { return token >= 0 && token < vocabulary; }

  __device__ int32_t id(const CellMemory& memory, int32_t position, int32_t token) const {
    return has_repeats && has_bit(memory.repeated(), position) ? vocabulary + position : token;
  }

  __device__ int32_t token_of(int32_t id) const {
    return id < vocabulary ? id : static_cast<int32_t>(tokens[id - vocabulary]);
  }

  // Position of eligible token e, counted from 0.
  __device__ int32_t eligible_position(const CellMemory& memory, uint32_t e) const {
    if (!lists_eligible) return static_cast<int32_t>(e);
    uint32_t low = 0, high = static_cast<uint32_t>(length + 31) / 32;  // the last word with at most e before it
    while (high - low > 1) {
      const uint32_t middle = (low + high) / 2;
      if (memory.eligible_before()[middle] <= e) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return static_cast<int32_t>(32 * low) +
           nth_bit(memory.eligible()[low], static_cast<int>(e - memory.eligible_before()[low]));
  }
};

// Some tokens of a row side by side, read at once.
template <class Token, int kPack>
struct alignas(kPack * sizeof(Token)) TokenPack {
  Token token[kPack];
};

// Calls look(p, pack) for each of the row's first packs, by the whole block; the next is on its way by then.
template <int kPack, class Token, class Look>
__device__ __forceinline__ void for_each_pack(const Token* tokens, int n_packs, const Look& look) {
  using Pack = TokenPack<Token, kPack>;
  const Pack* packs = reinterpret_cast<const Pack*>(tokens);
  const int n_threads = static_cast<int>(blockDim.x);
  int p = own_thread();
  if (p >= n_packs) return;
  Pack next = packs[p];
#pragma unroll 1
  for (; p < n_packs; p += n_threads) {
    const Pack pack = next;
    if (p + n_threads < n_packs) next = packs[p + n_threads];
    look(p, pack);
  }
}

// Sets the bit of each token of the row that is there; of special ones too where the block knows which they are.
template <int kPack, class Token>
__device__ void enter_tokens(const Cell<Token>& cell, const GroupTable& table, const CellMemory& memory) {
  for_each_pack<kPack>(cell.tokens, (cell.length + kPack - 1) / kPack, [&](int p, const auto& pack) {
    const int left = cell.length - kPack * p;
    int32_t token[kPack], group[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const int64_t value = static_cast<int64_t>(pack.token[i]);
      token[i] = i < left && cell.is_token(value) ? static_cast<int32_t>(value) : -1;
      group[i] = !memory.layout.knows_special && token[i] >= 0 ? table.token_group[token[i]] : kNoGroup;
    }
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (token[i] >= 0 && group[i] != kSpecialToken) set_bit(memory.visible(), static_cast<uint32_t>(token[i]));
    }
  });
}

// For cells where not every position holds an eligible token of its own: which are eligible, and which repeat an
// earlier one. `n_visible` tokens are there.
template <class Token>
__device__ void find_eligible(Cell<Token>& cell, const GroupTable& table, const CellLayout& layout,
                              const CellMemory& memory, int32_t n_visible) {
  const int lane = own_lane(), warp = own_warp(), n_warps = warps_of_block();
  const int n_words = (cell.length + 31) / 32;
  for (int word = warp; word < n_words; word += n_warps) {
    const int32_t position = 32 * word + lane;
    const int64_t token = position < cell.length ? static_cast<int64_t>(cell.tokens[position]) : -1;
    const bool is_special = cell.is_token(token) &&
                            (!memory.layout.knows_special ? table.token_group[token] == kSpecialToken
                                                          : has_bit(memory.special(), static_cast<uint32_t>(token)));
    const unsigned votes = __ballot_sync(kAllLanes, cell.is_token(token) && !is_special);
    if (lane == 0) memory.eligible()[word] = votes;
  }
  __syncthreads();
  cell.lists_eligible = true;
  cell.n_eligible =
      count_before(memory.eligible(), static_cast<uint32_t>(n_words), memory.eligible_before(), memory.sums());
  cell.has_repeats = cell.n_eligible != n_visible;
  if (cell.has_repeats) {
    for (uint32_t word = own_thread(); word < layout.n_words; word += blockDim.x) memory.visible()[word] = 0;
    __syncthreads();
    for (int word = 0; word < n_words && warp == 0; ++word) {  // in order: the lowest position takes the token
      const int32_t position = 32 * word + lane;
      const bool is_eligible = memory.eligible()[word] >> lane & 1;
      const int32_t token = is_eligible ? static_cast<int32_t>(cell.tokens[position]) : -1 - lane;
      const unsigned same = __match_any_sync(kAllLanes, token);
      const bool is_first = is_eligible && lowest_bit(same) == lane && !has_bit(memory.visible(), token);
      const unsigned votes = __ballot_sync(kAllLanes, is_eligible && !is_first);
      __syncwarp();  // a vote orders no memory: all have read before one writes
      if (is_eligible) set_bit(memory.visible(), is_first ? token : cell.vocabulary + position);
      if (lane == 0) memory.repeated()[word] = votes;
      __syncwarp();
    }
  }
  __syncthreads();
}

// Which tokens are special, for all cells of the block.
__device__ inline void find_special(const GroupTable& table, const CellLayout& layout, const CellMemory& memory) {
  constexpr int kWordsAhead = 8;
  const int lane = own_lane(), warp = own_warp(), n_warps = warps_of_block();
  for (uint32_t first = kWordsAhead * warp; first < layout.n_token_words; first += kWordsAhead * n_warps) {
    int32_t group[kWordsAhead];
    uint32_t own = 0;
#pragma unroll
    for (int i = 0; i < kWordsAhead; ++i) {
      const int64_t token = 32 * (int64_t{first} + i) + lane;
      group[i] = token < table.vocabulary ? table.token_group[token] : kNoGroup;
    }
#pragma unroll
    for (int i = 0; i < kWordsAhead; ++i) {
      const unsigned votes = __ballot_sync(kAllLanes, group[i] == kSpecialToken);
      if (lane == i) own = votes;
    }
    if (lane < kWordsAhead && first + lane < layout.n_token_words) memory.special()[first + lane] = own;
  }
}

// Reads the row: which ids are visible, how many positions are eligible. Called by the whole block, behind a barrier
// and with no bit set; ends with one.
template <class Token>
__device__ void read_row(Cell<Token>& cell, bool is_aligned, const GroupTable& table, const CellLayout& layout,
                         const CellMemory& memory) {
  if (is_aligned) {
    enter_tokens<16 / sizeof(Token)>(cell, table, memory);
  } else {
    enter_tokens<1>(cell, table, memory);
  }
  __syncthreads();
  int32_t own = 0;
  for (uint32_t word = own_thread(); word < layout.n_token_words; word += blockDim.x) {
    uint32_t bits = memory.visible()[word];
    if (memory.layout.knows_special) memory.visible()[word] = bits &= ~memory.special()[word];
    own += __popc(bits);
  }
  int64_t n_visible = 0;
  sum_before(own, memory.sums(), &n_visible);  // its barriers are behind what was written here
  cell.n_eligible = static_cast<int32_t>(n_visible);
  cell.lists_eligible = cell.has_repeats = false;
  if (n_visible != cell.length) find_eligible(cell, table, layout, memory, cell.n_eligible);
}

}  // namespace corrmask
