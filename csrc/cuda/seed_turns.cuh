// Seeds of a cell and the members they bring, in two steps. What does not depend on turns is done by all warps, for 32
// draws each: the draws, and which members of their groups are in the cell. They list what they find. One warp then
// goes through the lists, 32 words at a time: what a turn depends on among those is found by comparing them, and the
// budget cuts by a count of votes where it would have cut them one by one.
//
// A list holds, seed after seed, kHead + the seed's id, and the ids of members that were visible. A group that is too
// large to be looked through ahead of its turn, or of which not all may come along, has kLong beside kHead, and behind
// it the group and the word of which its start is drawn.
#pragma once

#include "cell_memory.cuh"

namespace corrmask {

constexpr uint32_t kHead = 1u << 31, kLong = 1u << 30, kIdMask = kLong - 1;
constexpr int kLongWords = 2;
constexpr int kLoadsAhead = 4;  // of members that a lane asks for before it looks at the first

// What the turns of a cell read, the same for all of its threads.
template <class Token>
struct Turns {
  const Cell<Token>& cell;
  const GroupTable& table;
  const SamplingParameters& parameters;
  const CellMemory& memory;
  int32_t budget;
  bool expands;

  __device__ bool is_visible(int32_t id) const { return has_bit(memory.visible(), static_cast<uint32_t>(id)); }

  __device__ bool is_there(int32_t member) const { return cell.is_token(member) && is_visible(member); }

  // Whether a member that is there comes along.
  __device__ bool comes_along(int32_t member) const {
    return table.take == nullptr ||
           happens(memory.draws().at(static_cast<uint32_t>(member), kStreamPartners).w0, table.take[member]);
  }

  // What cannot be raised for brings nobody.
  __device__ GroupWalk walk_of(int32_t group, uint32_t word) const {
    int fault = kSound;
    return corrmask::walk_of(group, word, table, parameters.rotate, &fault);
  }

  // Lists the seeds of draws t to t + 31 and their members. Returns the number of words.
  __device__ int list_seeds(int64_t t, int64_t n_draws, uint32_t* list) const {
    const int lane = own_lane();
    const Words w = memory.draws().at(static_cast<uint32_t>(t + lane), kStreamGroupSeeds);
    const int32_t position = cell.eligible_position(memory, static_cast<uint32_t>(bounded(w.w0, cell.n_eligible)));
    const int32_t token = static_cast<int32_t>(cell.tokens[position]);
    const int32_t id = cell.id(memory, position, token);
    const bool is_live =
        t + lane < n_draws && is_visible(id) && (table.accept == nullptr || happens(w.w1, table.accept[token]));
    const bool brings = expands && is_live && happens(w.w2, parameters.expand);
    const int32_t group = brings ? table.token_group[token] : kNoGroup;
    const GroupWalk walk = walk_of(group, w.w3);
    const unsigned live = __ballot_sync(kAllLanes, is_live);
    if (!__any_sync(kAllLanes, walk.size > 0)) {
      if (is_live) list[rank_among(live, lane)] = kHead | static_cast<uint32_t>(id);
      return __popc(live);
    }
    const bool is_long = walk.size > kMembersAhead || walk.size > parameters.max_group;
    const unsigned longs = __ballot_sync(kAllLanes, is_long);
    const int64_t first = walk.members - table.group_tokens;
    const int shape = is_long ? 0 : static_cast<int>(walk.size | walk.start << 8);
    const int r = lane % kMembersAhead, upper = lane / kMembersAhead;  // the members of two seeds at a time
    int n = 0;
    for (int pair = 0; pair < kWarp / 2; pair += kLoadsAhead) {
      int32_t member[kLoadsAhead];
#pragma unroll
      for (int i = 0; i < kLoadsAhead; ++i) {
        const int seed = 2 * (pair + i) + upper;
        const int64_t its_first = __shfl_sync(kAllLanes, first, seed);
        const int its_shape = __shfl_sync(kAllLanes, shape, seed), its_size = its_shape & 255;
        int at = (its_shape >> 8) + r;
        if (at >= its_size) at -= its_size;
        member[i] = r < its_size ? table.group_tokens[its_first + at] : -1;
      }
#pragma unroll
      for (int i = 0; i < kLoadsAhead; ++i) {
        const int seed = 2 * (pair + i) + upper;
        uint32_t word = static_cast<uint32_t>(member[i]), head = kHead;
        bool is_listed = is_there(member[i]);
        if (longs >> (2 * (pair + i)) & 3) {
          const uint32_t its_group = static_cast<uint32_t>(__shfl_sync(kAllLanes, group, seed));
          const uint32_t its_draw = __shfl_sync(kAllLanes, w.w3, seed);
          if (longs >> seed & 1) {
            head = kHead | kLong;
            is_listed = r < kLongWords;
            word = r == 0 ? its_group : its_draw;
          }
        }
        const unsigned listed = __ballot_sync(kAllLanes, is_listed), heads = live >> (2 * (pair + i)) & 3;
        const uint32_t its_id = static_cast<uint32_t>(__shfl_sync(kAllLanes, id, seed));
        const int at = n + rank_among(listed, lane) + __popc(heads & (1 + 2 * upper));  // behind its head
        if (is_listed) list[at] = word;
        if (r == 0 && (live >> seed & 1)) list[at - 1] = head | its_id;
        n += __popc(listed) + __popc(heads);
      }
    }
    return n;
  }

  // Masks the ids of lanes that say so, in the order of lanes, up to `most`; no two have the same. Returns how many.
  __device__ int32_t mask(bool says_so, int32_t id, int32_t seed, int32_t n_masked, int64_t most) const {
    const unsigned votes = __ballot_sync(kAllLanes, says_so);
    const int rank = rank_among(votes, own_lane());
    __syncwarp();  // a vote orders no memory: all have read before one writes
    if (says_so && rank < most) {
      clear_bit(memory.visible(), static_cast<uint32_t>(id));
      set_bit(memory.masked(), static_cast<uint32_t>(id));
      memory.ids()[n_masked + rank] = id;
      memory.seeds()[n_masked + rank] = seed;
    }
    __syncwarp();
    return static_cast<int32_t>(smaller(__popc(votes), most));
  }

  // The turn of a seed whose group is looked through only now. Returns how many are masked then.
  __device__ int32_t take_long_turn(int32_t seed, const GroupWalk& walk, int32_t n_masked) const {
    const int lane = own_lane();
    if (!is_visible(seed)) return n_masked;
    n_masked += mask(lane == 0, seed, seed, n_masked, 1);
    const auto member_at = [&](int64_t r) {
      const int64_t unwrapped = walk.size - walk.start;
      return r < walk.size ? walk.members[r < unwrapped ? walk.start + r : r - unwrapped] : -1;
    };
    int64_t taken = 0;
    int32_t next = member_at(lane);
    for (int64_t r = 0; r < walk.size; r += kWarp) {
      const int64_t most = smaller(budget - n_masked, parameters.max_group - taken);
      if (most <= 0) break;
      const int32_t member = next;
      next = member_at(r + kWarp + lane);
      const bool comes = is_there(member) && comes_along(member);
      const unsigned same = __match_any_sync(kAllLanes, comes ? member : -1 - lane);
      const int32_t n = mask(comes && lowest_bit(same) == lane, member, seed, n_masked, most);
      n_masked += n;
      taken += n;
    }
    return n_masked;
  }

  // The turns of listed seeds, by one warp. Returns how many are masked then.
  __device__ int32_t take_turns(const uint32_t* list, int n_words, int32_t n_masked) const {
    const int lane = own_lane();
    for (int at = 0; at < n_words && n_masked < budget;) {
      const int left = n_words - at;
      const uint32_t word = lane < left ? list[at + lane] : 0;
      if (__shfl_sync(kAllLanes, word, 0) & kLong) {
        const int32_t seed = static_cast<int32_t>(__shfl_sync(kAllLanes, word, 0) & kIdMask);
        const int32_t group = static_cast<int32_t>(__shfl_sync(kAllLanes, word, 1));
        n_masked = take_long_turn(seed, walk_of(group, __shfl_sync(kAllLanes, word, 2)), n_masked);
        at += 1 + kLongWords;
        continue;
      }
      unsigned heads = __ballot_sync(kAllLanes, (word & kHead) != 0);
      const unsigned longs = __ballot_sync(kAllLanes, word >= (kHead | kLong));
      int end = left < kWarp ? left : kWarp;
      if (longs != 0) {
        end = lowest_bit(longs);  // what is behind it is no id
      } else if (left > kWarp) {
        end = highest_bit(heads);  // its members may go on behind the 32
      }
      const unsigned up_to_own = kAllLanes >> (kWarp - 1 - lane);
      const int32_t id = static_cast<int32_t>(word & kIdMask);
      const bool is_open = lane < end && is_visible(id) && ((word & kHead) != 0 || comes_along(id));
      const unsigned same = __match_any_sync(kAllLanes, is_open ? id : -1 - lane) & up_to_own >> 1;
      const int head = highest_bit(heads & up_to_own);
      const int32_t seed = __shfl_sync(kAllLanes, id, head);
      heads &= __ballot_sync(kAllLanes, is_open);  // those that are masked bring nobody
      unsigned open, beaten;
      do {  // all seeds before the first that is masked by an earlier one keep their turn, and it has none
        open = __ballot_sync(kAllLanes, is_open && (heads >> head & 1));
        beaten = __ballot_sync(kAllLanes, (heads >> lane & 1) && (same & open) != 0);
        heads &= ~(beaten & (0 - beaten));
      } while (beaten != 0);
      n_masked += mask((open >> lane & 1) && (same & open) == 0, id, seed, n_masked, budget - n_masked);
      at += end;
    }
    return n_masked;
  }

  // Masks the lowest visible positions, each its own seed, by one warp: where few draws were accepted.
  __device__ void fill(int32_t n_masked) const {
    for (int32_t first = 0; first < cell.length && n_masked < budget; first += kWarp) {
      const int32_t position = first + own_lane();
      const int64_t token = position < cell.length ? static_cast<int64_t>(cell.tokens[position]) : -1;
      const int32_t id = cell.is_token(token) ? cell.id(memory, position, static_cast<int32_t>(token)) : 0;
      n_masked += mask(cell.is_token(token) && is_visible(id), id, id, n_masked, budget - n_masked);
    }
  }

  // Masks as many as the budget says, by the whole block; begins behind a barrier and ends with one.
  __device__ void run() const {
    constexpr int kMaskedBySeed = 5;  // or so, with a group
    const int warp = own_warp(), n_warps = warps_of_block();
    const int64_t n_draws = 32 * int64_t{cell.n_eligible} + 64;
    int n_busy = budget / (expands ? kMaskedBySeed : 1) / kWarp + 1;
    if (n_busy > n_warps) n_busy = n_warps;
    int32_t n_masked = 0;
    for (int64_t t = 0; t < n_draws && n_masked < budget; t += int64_t{kWarp} * n_busy, n_busy = n_warps) {
      uint32_t* own = memory.lists() + kListedWords * warp;
      const int n_words = warp < n_busy ? list_seeds(t + kWarp * warp, n_draws, own) : 0;
      if (own_lane() == 0) memory.n_listed()[warp] = static_cast<uint32_t>(n_words);
      __syncthreads();
      if (warp == 0) {
        for (int w = 0; w < n_busy; ++w) {
          n_masked = take_turns(memory.lists() + kListedWords * w, static_cast<int>(memory.n_listed()[w]), n_masked);
        }
        if (own_lane() == 0) *memory.n_masked() = n_masked;
      }
      __syncthreads();
      n_masked = *memory.n_masked();
    }
    if (n_masked < budget) {
      if (warp == 0) fill(n_masked);
      __syncthreads();
    }
  }
};

}  // namespace corrmask
