// Sampling and corruption, one warp to a cell: the same masks as ../portable/group_sampling.h gives, bit for bit.
//
// Seeds take effect one after another, since each changes what is masked. What does not depend on that is done for 32
// draws at once: the draws, the groups that they would bring, and where the first 16 members of each stand. Then the
// seeds that are still visible have their turn, their members side by side: a ballot, and each lane counts the votes
// below its own, so that the budget cuts where it would have cut them one by one.
//
// What a warp holds beside its row: an open-addressed table from token to position (a cell's tokens fill at most half
// of it), and a bit for each position. In shared memory, or, for cells or vocabularies past its limits, in global
// memory.
#pragma once

#include "../portable/corruption.h"
#include "../portable/group_sampling.h"
#include "../portable/token_rows.h"
#include "warp.cuh"

namespace corrmask {

constexpr int kMembersAhead = 16;  // members of each seed that are looked for ahead of its turn

// An entry holds a token above kPlaceBits and the lowest position with it below. Small serves up to 16,384 positions
// and 2**18 - 1 tokens.
struct SmallEntry {
  using Bits = unsigned int;
  using Place = uint16_t;
  static constexpr int kPlaceBits = 14;
};

struct LargeEntry {
  using Bits = unsigned long long;
  using Place = int32_t;
  static constexpr int kPlaceBits = 32;
};

template <class Entry>
constexpr bool fits_entry(int64_t width, int64_t vocabulary) {
  return width <= int64_t{1} << Entry::kPlaceBits &&
         vocabulary < int64_t{1} << (8 * sizeof(typename Entry::Bits) - Entry::kPlaceBits);
}

template <class Entry>
struct PlaceTable {
  using Bits = typename Entry::Bits;
  static constexpr Bits kEmpty = ~Bits{0};
  static constexpr Bits kPlaceMask = (Bits{1} << Entry::kPlaceBits) - 1;

  Bits* entries;   // [last + 1]
  uint32_t last;   // 2**n - 1
  uint32_t shift;  // 32 - n

  __device__ uint32_t slot(int32_t token) const { return (static_cast<uint32_t>(token) * 2654435769u) >> shift; }

  __device__ void insert(int32_t token, int32_t position) {
    const Bits entry = static_cast<Bits>(token) << Entry::kPlaceBits | static_cast<Bits>(position);
    for (uint32_t at = slot(token);; at = (at + 1) & last) {
      const Bits there = atomicCAS(entries + at, kEmpty, entry);
      if (there == kEmpty) return;
      if (there >> Entry::kPlaceBits == static_cast<Bits>(token)) {
        atomicMin(entries + at, entry);
        return;
      }
    }
  }

  // The lowest position with the token, or -1.
  __device__ int32_t find(int32_t token) const {
    for (uint32_t at = slot(token);; at = (at + 1) & last) {
      const Bits there = entries[at];
      if (there == kEmpty) return -1;
      if (there >> Entry::kPlaceBits == static_cast<Bits>(token)) return static_cast<int32_t>(there & kPlaceMask);
    }
  }
};

// How a warp's memory is laid out, for rows of one width and one budget.
struct WarpLayout {
  uint32_t n_slots;  // a power of two, at least twice the width
  uint32_t n_words;  // of a bit for each position
  uint32_t most_masked;

  CORRMASK_HOST_DEVICE WarpLayout(int64_t width, int64_t rate_ppm)
      : n_slots(64),
        n_words(static_cast<uint32_t>((width + 31) / 32)),
        most_masked(static_cast<uint32_t>(masking_budget(width, rate_ppm))) {
    while (n_slots < 2 * width) n_slots *= 2;
  }

  template <class Entry>
  CORRMASK_HOST_DEVICE int64_t bytes() const {
    const int64_t entries = static_cast<int64_t>(sizeof(typename Entry::Bits)) * n_slots;
    const int64_t places = static_cast<int64_t>(sizeof(typename Entry::Place)) * (kWarp * kMembersAhead + most_masked);
    return (entries + 12 * static_cast<int64_t>(n_words) + places + 15) / 16 * 16;
  }
};

template <class Entry>
struct WarpScratch {
  using Place = typename Entry::Place;
  static constexpr Place kNowhere = static_cast<Place>(~Place{0});

  PlaceTable<Entry> table;
  uint32_t* eligible;         // [n_words] a bit for each position
  uint32_t* masked;           // [n_words] likewise
  uint32_t* eligible_before;  // [n_words] eligible positions in earlier words
  Place* places;              // [32, kMembersAhead] where the members of each seed stand
  Place* masked_places;       // [most_masked] in the order in which they were masked
  uint32_t n_words;

  __device__ WarpScratch(unsigned char* memory, const WarpLayout& layout) : n_words(layout.n_words) {
    table.entries = reinterpret_cast<typename Entry::Bits*>(memory);
    table.last = layout.n_slots - 1;
    table.shift = __clz(static_cast<int>(layout.n_slots)) + 1;
    eligible = reinterpret_cast<uint32_t*>(table.entries + layout.n_slots);
    masked = eligible + n_words;
    eligible_before = masked + n_words;
    places = reinterpret_cast<Place*>(eligible_before + n_words);
    masked_places = places + kWarp * kMembersAhead;
  }

  __device__ bool is_masked(int32_t position) const { return masked[position / 32] >> (position % 32) & 1; }

  // Position of eligible token e of n, counted from 0.
  __device__ int32_t eligible_position(int64_t e, int64_t n, int64_t length) const {
    if (n == length) return static_cast<int32_t>(e);
    uint32_t low = 0, high = n_words;  // the last word with at most e before it
    while (high - low > 1) {
      const uint32_t middle = (low + high) / 2;
      if (eligible_before[middle] <= e) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return static_cast<int32_t>(32 * low) + nth_bit(eligible[low], static_cast<int>(e - eligible_before[low]));
  }
};

// Marks a position as masked by `owner`, as number `place` of the cell's.
template <class Entry>
__device__ void mask_position(WarpScratch<Entry>& scratch, int32_t position, int64_t place, int32_t owner,
                              int32_t* owners) {
  atomicOr(scratch.masked + position / 32, 1u << (position % 32));
  scratch.masked_places[place] = static_cast<typename Entry::Place>(position);
  if (owners != nullptr) owners[position] = owner;
}

// Reads the row once: copies it out, finds what is eligible, and enters it in the table where groups will be looked
// for. Returns the number of eligible positions.
template <class Token, class Entry>
__device__ int64_t read_row(const TokenRows<Token>& rows, int64_t row, int64_t length, const GroupTable& table,
                            bool expands, WarpScratch<Entry>& scratch) {
  const int lane = lane_id();
  const int64_t offset = row * rows.width;
  if (expands) {
    for (uint32_t at = lane; at <= scratch.table.last; at += kWarp)
      scratch.table.entries[at] = PlaceTable<Entry>::kEmpty;
  }
  __syncwarp();
  int64_t n_eligible = 0;
  for (uint32_t word = 0; word < scratch.n_words; ++word) {
    const int64_t position = int64_t{32} * word + lane;
    bool is_eligible = false;
    int64_t token = -1;
    if (position < rows.width) {
      token = static_cast<int64_t>(rows.tokens[offset + position]);
      if (rows.corrupted != nullptr) {
        rows.corrupted[offset + position] = static_cast<Token>(token);
        rows.labels[offset + position] = kIgnoredLabel;
      }
      if (rows.owners != nullptr) rows.owners[offset + position] = kVisible;
      is_eligible =
          position < length && token >= 0 && token < table.vocabulary && table.token_group[token] != kSpecialToken;
    }
    const unsigned votes = __ballot_sync(kAllLanes, is_eligible);
    if (lane == 0) {
      scratch.eligible[word] = votes;
      scratch.masked[word] = 0;
      scratch.eligible_before[word] = static_cast<uint32_t>(n_eligible);
    }
    n_eligible += __popc(votes);
    if (expands && is_eligible) scratch.table.insert(static_cast<int32_t>(token), static_cast<int32_t>(position));
  }
  __syncwarp();
  return n_eligible;
}

// Where member r of a group stands, -1 where it is not in the cell or does not come along.
template <class Entry>
__device__ int32_t member_place(const WarpScratch<Entry>& scratch, const GroupTable& table, const CellDraws& draws,
                                int64_t first, int64_t size, int64_t start, int64_t r) {
  int64_t at = start + r;
  if (at >= size) at -= size;
  const int32_t member = table.group_tokens[first + at];
  if (member < 0 || member >= table.vocabulary) return -1;
  const int32_t place = scratch.table.find(member);
  if (place >= 0 && table.take != nullptr &&
      !happens(draws.at(static_cast<uint32_t>(member), kStreamPartners).w0, table.take[member])) {
    return -1;
  }
  return place;
}

// Masks the positions that lanes found, in the order of lanes, one at a time if two lanes found the same, up to `most`.
// Returns how many there were.
template <class Entry>
__device__ int64_t mask_found(WarpScratch<Entry>& scratch, int32_t place, int64_t n_masked, int64_t most, int32_t owner,
                              int32_t* owners) {
  const int lane = lane_id();
  bool is_candidate = place >= 0 && !scratch.is_masked(place);
  const unsigned same = __match_any_sync(kAllLanes, is_candidate ? place : -1 - lane);
  is_candidate = is_candidate && lowest_bit(same) == lane;
  const unsigned votes = __ballot_sync(kAllLanes, is_candidate);
  const int rank = rank_among(votes, lane);
  if (is_candidate && rank < most) mask_position(scratch, place, n_masked + rank, owner, owners);
  __syncwarp();
  const int64_t n = __popc(votes);
  return n < most ? n : most;
}

// Samples the cell's masked positions into scratch.masked and scratch.masked_places, and `owners` where it is not null.
// Returns how many they are.
template <class Token, class Entry>
__device__ int64_t sample_row(const Token* tokens, int64_t length, int64_t n_eligible, const CellDraws& draws,
                              const GroupTable& table, const SamplingParameters& parameters, bool expands,
                              WarpScratch<Entry>& scratch, int32_t* owners) {
  const int lane = lane_id();
  const int64_t budget = masking_budget(n_eligible, parameters.rate_ppm), n_draws = 32 * n_eligible + 64;
  int64_t n_masked = 0;
  for (int64_t t = 0; t < n_draws && n_masked < budget; t += kWarp) {
    const Words w = draws.at(static_cast<uint32_t>(t + lane), kStreamGroupSeeds);
    const int32_t position = scratch.eligible_position(bounded(w.w0, n_eligible), n_eligible, length);
    const int32_t token = static_cast<int32_t>(tokens[position]);
    const bool accepted = t + lane < n_draws && (table.accept == nullptr || happens(w.w1, table.accept[token]));
    int64_t first = 0, size = 0, start = 0;
    if (expands && accepted && happens(w.w2, parameters.expand) && !scratch.is_masked(position)) {
      const int32_t group = table.token_group[token];
      if (group >= 0 && group < table.n_groups) {
        first = table.group_indptr[group];
        size = table.group_indptr[group + 1] - first;
        if (first < 0 || size < 0 || first + size > table.n_members) size = 0;
        if (parameters.rotate) start = bounded(w.w3, size);
      }
    }
    if (__any_sync(kAllLanes, size > 0)) {
      for (int half = 0; half < kMembersAhead; ++half) {  // the members of two seeds at a time
        const int seed = 2 * half + lane / kMembersAhead, r = lane % kMembersAhead;
        const int64_t its_first = __shfl_sync(kAllLanes, first, seed), its_size = __shfl_sync(kAllLanes, size, seed);
        const int64_t its_start = __shfl_sync(kAllLanes, start, seed);
        int32_t place = -1;
        if (r < its_size) place = member_place(scratch, table, draws, its_first, its_size, its_start, r);
        scratch.places[kMembersAhead * seed + r] =
            place < 0 ? WarpScratch<Entry>::kNowhere : static_cast<typename Entry::Place>(place);
      }
      __syncwarp();
    }
    unsigned pending = __ballot_sync(kAllLanes, accepted);
    while (n_masked < budget) {
      pending = __ballot_sync(kAllLanes, (pending >> lane & 1) && !scratch.is_masked(position));
      if (pending == 0) break;
      const int seed = lowest_bit(pending);
      pending &= pending - 1;
      const int32_t owner = __shfl_sync(kAllLanes, token, seed);
      if (lane == seed) mask_position(scratch, position, n_masked, owner, owners);
      ++n_masked;
      __syncwarp();
      const int64_t its_size = __shfl_sync(kAllLanes, size, seed);
      if (its_size == 0 || n_masked == budget) continue;
      const int64_t its_first = __shfl_sync(kAllLanes, first, seed), its_start = __shfl_sync(kAllLanes, start, seed);
      int64_t taken = 0;
      for (int64_t r = 0; r < its_size;) {
        const int64_t left = budget - n_masked, more = parameters.max_group - taken;
        const int64_t most = left < more ? left : more;
        if (most <= 0) break;
        int32_t place = -1;
        if (r == 0) {
          if (lane < kMembersAhead) {
            const typename Entry::Place found = scratch.places[kMembersAhead * seed + lane];
            if (found != WarpScratch<Entry>::kNowhere) place = found;
          }
          r = kMembersAhead;
        } else {
          if (r + lane < its_size) {
            place = member_place(scratch, table, draws, its_first, its_size, its_start, r + lane);
          }
          r += kWarp;
        }
        const int64_t n = mask_found(scratch, place, n_masked, most, owner, owners);
        n_masked += n;
        taken += n;
      }
    }
    __syncwarp();  // before the next seeds' members are written over these
  }
  for (uint32_t word = 0; word < scratch.n_words && n_masked < budget; ++word) {  // few draws were accepted
    const bool is_free = (scratch.eligible[word] & ~scratch.masked[word]) >> lane & 1;
    const int32_t position = static_cast<int32_t>(32 * word) + lane;
    const int32_t owner = is_free ? static_cast<int32_t>(tokens[position]) : 0;
    n_masked += mask_found(scratch, is_free ? position : -1, n_masked, budget - n_masked, owner, owners);
  }
  return n_masked;
}

// Rows blockIdx.x, blockIdx.x + gridDim.x, ...: one warp to a block. `global_scratch` is null, or holds layout.bytes
// for each block. 24 blocks to a multiprocessor leave 80 registers: fewer would spill.
template <class Token, class Entry>
__global__ void __launch_bounds__(kWarp, 24)
    cell_batch_kernel(TokenRows<Token> rows, GroupTable table, SamplingParameters parameters, ScalarArgument seed,
                      ScalarArgument epoch, CorruptionParameters corruption, WarpLayout layout,
                      unsigned char* global_scratch) {
  CORRMASK_DYNAMIC_SHARED(shared);
  unsigned char* memory =
      global_scratch == nullptr ? shared : global_scratch + layout.template bytes<Entry>() * blockIdx.x;
  WarpScratch<Entry> scratch(memory, layout);
  parameters.seed = static_cast<uint64_t>(seed.get());
  parameters.epoch = static_cast<uint32_t>(epoch.get());
  const bool expands = parameters.expand > 0 && table.n_members > 0 && parameters.max_group > 0;
  for (int64_t row = blockIdx.x; row < rows.n_cells; row += gridDim.x) {
    const int64_t given = rows.lengths[row], offset = row * rows.width;
    const int64_t length = given < 0 ? 0 : given < rows.width ? given : rows.width;
    const Token* tokens = rows.tokens + offset;
    int32_t* owners = rows.owners == nullptr ? nullptr : rows.owners + offset;
    const CellDraws draws(parameters.seed, static_cast<uint64_t>(rows.cell_ids[row]), parameters.epoch);
    const int64_t n_eligible = read_row(rows, row, length, table, expands, scratch);
    if (n_eligible == 0) continue;
    const int64_t n_masked = sample_row(tokens, length, n_eligible, draws, table, parameters, expands, scratch, owners);
    __syncwarp();
    if (rows.corrupted != nullptr) {
      for (int64_t k = lane_id(); k < n_masked; k += kWarp) {
        const int64_t position = offset + static_cast<int64_t>(scratch.masked_places[k]);
        const int64_t token = static_cast<int64_t>(rows.tokens[position]);
        const Words own = draws.at(static_cast<uint32_t>(token), kStreamCorruption);
        const uint32_t decision = corruption.unit_is_group
                                      ? draws.at(static_cast<uint32_t>(rows.owners[position]), kStreamCorruption).w0
                                      : own.w0;
        rows.corrupted[position] =
            static_cast<Token>(corrupted_token(static_cast<uint32_t>(token), decision, own.w1, corruption));
        rows.labels[position] = token;
      }
    }
    __syncwarp();  // before the next cell takes the memory
  }
}

}  // namespace corrmask
