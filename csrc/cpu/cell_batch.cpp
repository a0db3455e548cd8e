#include "cell_batch.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "../portable/token_rows.h"
#include "machines.h"
#include "versions.h"

namespace corrmask {

namespace {

// The table of places that a thread keeps from cell to cell and from call to call: tags tell whose an entry is.
template <class Entry>
class OwnPlaces {
 public:
  static OwnPlaces& of_this_thread() {
    static thread_local OwnPlaces places;
    return places;
  }

  // For rows of one width; other tags and places would not be told apart from these.
  void reserve(int64_t vocabulary, int place_bits) {
    const size_t n = static_cast<size_t>(vocabulary) + 1;  // one more, since vectors read four bytes of each
    if (place_bits == place_bits_ && n <= entries_.size()) return;
    entries_.assign(std::max(n, entries_.size()), Entry{0});
    place_bits_ = place_bits;
    tag_ = 0;
  }

  TokenPlaces<Entry> of_next_cell() {
    if (++tag_ >> (8 * sizeof(Entry) - place_bits_) != 0) {
      std::fill(entries_.begin(), entries_.end(), Entry{0});
      tag_ = 1;
    }
    return {entries_.data(), static_cast<Entry>(tag_), place_bits_};
  }

 private:
  std::vector<Entry> entries_;
  uint32_t tag_ = 0;
  int place_bits_ = -1;
};

// Room for one cell, likewise.
template <class Token>
struct OwnRow {
  std::vector<int32_t> eligible, masked, owner;
  std::vector<Token> shown;

  static OwnRow& of_this_thread(int64_t width) {
    static thread_local OwnRow row;
    if (static_cast<int64_t>(row.eligible.size()) < width + 1) {
      row.eligible.resize(width + 1);
      row.masked.resize(width + 1);
      row.owner.resize(width + 1);
      row.shown.resize(width + kDrawBatch);
    }
    return row;
  }
};

template <class Machine, class Token, class Entry>
CORRMASK_HOST_DEVICE int sample_rows(const TokenRows<Token>& rows, int64_t begin, int64_t end, const GroupTable& table,
                                     const SamplingParameters& parameters, const CorruptionParameters& corruption,
                                     int place_bits) {
  OwnPlaces<Entry>& places = OwnPlaces<Entry>::of_this_thread();
  places.reserve(table.vocabulary, place_bits);
  OwnRow<Token>& own = OwnRow<Token>::of_this_thread(rows.width);
  int faults = kSound;
  for (int64_t b = begin; b < end; ++b) {
    const Token* tokens = rows.tokens + b * rows.width;
    int32_t* owner = rows.owners == nullptr ? own.owner.data() : rows.owners + b * rows.width;
    std::fill_n(owner, rows.owners == nullptr ? rows.lengths[b] : rows.width, kVisible);
    const CellDraws draws(parameters.seed, static_cast<uint64_t>(rows.cell_ids[b]), parameters.epoch);
    const CellScratch<Entry> scratch{places.of_next_cell(), own.eligible.data(), own.masked.data()};
    const SampledCell sampled =
        sample_groups_in_cell<Machine, Token, Entry>(tokens, rows.lengths[b], draws, table, parameters, scratch, owner);
    faults |= sampled.fault;
    if (rows.corrupted == nullptr) continue;
    Token* shown = own.shown.data();
    corrupt_cell<Machine>(tokens, owner, scratch.masked, sampled.n_masked, draws, corruption, shown);
    Token* corrupted = rows.corrupted + b * rows.width;
    int64_t* labels = rows.labels + b * rows.width;
    std::copy_n(tokens, rows.width, corrupted);
    std::fill_n(labels, rows.width, kIgnoredLabel);
    for (int64_t i = 0; i < sampled.n_masked; ++i) {
      const int32_t position = scratch.masked[i];
      labels[position] = static_cast<int64_t>(tokens[position]);
      corrupted[position] = shown[i];
    }
  }
  return faults;
}

// Narrow entries need fewer lines of the cache; with two bits for the tag they are cleared for every third cell.
template <class Machine, class Token>
CORRMASK_HOST_DEVICE int sample_rows(const TokenRows<Token>& rows, int64_t begin, int64_t end, const GroupTable& table,
                                     const SamplingParameters& parameters, const CorruptionParameters& corruption) {
  int place_bits = 0;
  while (((rows.width - 1) >> place_bits) > 0) ++place_bits;
  if (place_bits <= 14) {
    return sample_rows<Machine, Token, uint16_t>(rows, begin, end, table, parameters, corruption, place_bits);
  }
  return sample_rows<Machine, Token, uint32_t>(rows, begin, end, table, parameters, corruption, place_bits);
}

template <class Token>
struct SampleRows {
  template <InstructionSet kSet>
  CORRMASK_HOST_DEVICE static int run(const TokenRows<Token>& rows, int64_t begin, int64_t end, const GroupTable& table,
                                      const SamplingParameters& parameters, const CorruptionParameters& corruption) {
    return sample_rows<typename MachineOf<kSet>::Type>(rows, begin, end, table, parameters, corruption);
  }
};

}  // namespace

void CellBatch::find_gene_range() {
  const int32_t* group = table.token_group;
  while (table.gene_lo < table.vocabulary && group[table.gene_lo] == kSpecialToken) ++table.gene_lo;
  // In steps, and by the sign of group + 1: loops that compare are not made vectors of.
  constexpr int kStep = 128;
  const auto may_hold_special = [&](int64_t first) {
    uint32_t signs = 0;
    for (int i = 0; i < kStep; ++i) signs |= static_cast<uint32_t>(group[first + i]) + 1;
    return signs >> 31 != 0;
  };
  table.gene_hi = table.gene_lo;
  while (table.gene_hi + kStep <= table.vocabulary && !may_hold_special(table.gene_hi)) table.gene_hi += kStep;
  while (table.gene_hi < table.vocabulary && group[table.gene_hi] != kSpecialToken) ++table.gene_hi;
}

void CellBatch::run(const char* op, int32_t* owners, const CorruptionParameters& corruption, void* corrupted,
                    int64_t* labels) const {
  std::atomic<int> kinds{kSound};
  with_token_type(input_ids, op, "input_ids", [&](auto zero) {
    using Token = decltype(zero);
    const TokenRows<Token> rows{data<Token>(input_ids),
                                data<int64_t>(lengths),
                                data<int64_t>(cell_ids),
                                n_cells,
                                width,
                                owners,
                                static_cast<Token*>(corrupted),
                                labels};
    const auto sample = for_this_machine<SampleRows<Token>>(op);
    torch::stable::parallel_for(0, n_cells, 4, [&](int64_t begin, int64_t end) {
      kinds |= sample(rows, begin, end, table, parameters, corruption);
    });
  });
  if (kinds != kSound) raise(op, kinds);
}

// What a kernel met is looked for once more, to be named.
void CellBatch::raise(const char* op, int kinds) const {
  const int64_t* length = data<int64_t>(lengths);
  if (kinds & kTokenOutOfRange) {
    with_token_type(input_ids, op, "input_ids", [&](auto zero) {
      const auto* tokens = data<decltype(zero)>(input_ids);
      for (int64_t b = 0; b < n_cells; ++b) {
        for (int64_t i = 0; i < length[b]; ++i) {
          const int64_t token = static_cast<int64_t>(tokens[b * width + i]);
          check(token >= 0 && token < table.vocabulary, op, "'input_ids' must be in 0 .. ", table.vocabulary - 1,
                " (the size of 'token_group'), got ", token, " in row ", b);
        }
      }
    });
  }
  for (int64_t token = 0; token < table.vocabulary; ++token) {
    const int64_t group = table.token_group[token];
    if (group < 0) continue;
    check(group < table.n_groups, op, "'token_group' must be below ", table.n_groups,
          " (the groups of 'group_indptr'), got ", group, " for token ", token);
    const int64_t first = table.group_indptr[group], last = table.group_indptr[group + 1];
    check(first >= 0 && first <= last && last <= table.n_members, op, "'group_indptr' must rise within 0 .. ",
          table.n_members, " (the size of 'group_tokens'), got ", first, " .. ", last, " for group ", group);
    for (int64_t m = first; m < last; ++m) {
      const int64_t member = table.group_tokens[m];
      check(member >= 0 && member < table.vocabulary, op, "'group_tokens' must be in 0 .. ", table.vocabulary - 1,
            " (the size of 'token_group'), got ", member, " in group ", group);
    }
  }
  check(false, op, "'input_ids' and the groups changed while they were read");
}

}  // namespace corrmask
