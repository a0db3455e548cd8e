#include "cell_batch.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "../portable/token_rows.h"
#include "avx2_machine.h"

namespace corrmask {

namespace {

struct Faults {
  int kinds;
  int64_t row;  // the last one with a fault
};

// What a thread keeps from cell to cell and from call to call: tags tell whose an entry is.
template <class Entry>
class ThreadScratch {
 public:
  static ThreadScratch& of_this_thread() {
    static thread_local ThreadScratch scratch;
    return scratch;
  }

  void reserve(int64_t vocabulary, int64_t width) {
    if (static_cast<int64_t>(place_of_.size()) < vocabulary) place_of_.resize(vocabulary, 0);
    if (static_cast<int64_t>(eligible_.size()) < width) {
      eligible_.resize(width);
      masked_.resize(width);
    }
  }

  CellScratch<Entry> next_cell() {
    if (++tag_ >> CellScratch<Entry>::kPlaceBits != 0) {
      std::fill(place_of_.begin(), place_of_.end(), Entry{0});
      tag_ = 1;
    }
    return {place_of_.data(), tag_, eligible_.data(), masked_.data()};
  }

 private:
  std::vector<Entry> place_of_;
  Entry tag_ = 0;
  std::vector<int32_t> eligible_, masked_;
};

int32_t* owner_row(int64_t width) {
  static thread_local std::vector<int32_t> owner;
  if (static_cast<int64_t>(owner.size()) < width) owner.resize(width);
  return owner.data();
}

template <class Machine, class Token, class Entry>
CORRMASK_HOST_DEVICE Faults sample_rows(const TokenRows<Token>& rows, int64_t begin, int64_t end,
                                        const GroupTable& table, const SamplingParameters& parameters,
                                        const CorruptionParameters& corruption) {
  ThreadScratch<Entry>& own_scratch = ThreadScratch<Entry>::of_this_thread();
  own_scratch.reserve(table.vocabulary, rows.width);
  int32_t* own_owner = rows.owners == nullptr ? owner_row(rows.width) : nullptr;
  Faults faults{kSound, -1};
  for (int64_t b = begin; b < end; ++b) {
    const Token* tokens = rows.tokens + b * rows.width;
    int32_t* owner = rows.owners == nullptr ? own_owner : rows.owners + b * rows.width;
    std::fill_n(owner, rows.width, kVisible);
    const CellDraws draws(parameters.seed, static_cast<uint64_t>(rows.cell_ids[b]), parameters.epoch);
    const CellScratch<Entry> scratch = own_scratch.next_cell();
    const SampledCell sampled =
        sample_groups_in_cell<Machine, Token, Entry>(tokens, rows.lengths[b], draws, table, parameters, scratch, owner);
    if (sampled.fault != kSound) faults = {faults.kinds | sampled.fault, b};
    if (rows.corrupted == nullptr) continue;
    Token* corrupted = rows.corrupted + b * rows.width;
    int64_t* labels = rows.labels + b * rows.width;
    std::copy_n(tokens, rows.width, corrupted);
    std::fill_n(labels, rows.width, kIgnoredLabel);
    corrupt_cell<Machine>(tokens, owner, scratch.masked, sampled.n_masked, draws, corruption, corrupted, labels);
  }
  return faults;
}

template <class Machine, class Token>
CORRMASK_HOST_DEVICE Faults sample_rows(const TokenRows<Token>& rows, int64_t begin, int64_t end,
                                        const GroupTable& table, const SamplingParameters& parameters,
                                        const CorruptionParameters& corruption) {
  if (rows.width <= UINT16_MAX) {
    return sample_rows<Machine, Token, uint32_t>(rows, begin, end, table, parameters, corruption);
  }
  return sample_rows<Machine, Token, uint64_t>(rows, begin, end, table, parameters, corruption);
}

template <class Token>
Faults sample_rows_plain(const TokenRows<Token>& rows, int64_t begin, int64_t end, const GroupTable& table,
                         const SamplingParameters& parameters, const CorruptionParameters& corruption) {
  return sample_rows<PlainMachine>(rows, begin, end, table, parameters, corruption);
}

#ifdef CORRMASK_HAS_AVX2_BUILD
template <class Token>
CORRMASK_AVX2 Faults sample_rows_avx2(const TokenRows<Token>& rows, int64_t begin, int64_t end, const GroupTable& table,
                                      const SamplingParameters& parameters, const CorruptionParameters& corruption) {
  return sample_rows<Avx2Machine>(rows, begin, end, table, parameters, corruption);
}
#endif

template <class Token>
auto sample_rows_for_this_machine() {
#ifdef CORRMASK_HAS_AVX2_BUILD
  if (__builtin_cpu_supports("avx2")) return &sample_rows_avx2<Token>;
#endif
  return &sample_rows_plain<Token>;
}

}  // namespace

void CellBatch::run(const char* op, int32_t* owners, const CorruptionParameters& corruption, void* corrupted,
                    int64_t* labels) const {
  std::atomic<int64_t> faulty_row{-1};
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
    const auto sample = sample_rows_for_this_machine<Token>();
    torch::stable::parallel_for(0, n_cells, 4, [&](int64_t begin, int64_t end) {
      const Faults faults = sample(rows, begin, end, table, parameters, corruption);
      if (faults.kinds == kSound) return;
      kinds |= faults.kinds;
      faulty_row = faults.row;
    });
  });
  check(!(kinds & kTokenOutOfRange), op, "'input_ids' must be in 0 .. ", table.vocabulary - 1,
        " (the size of 'token_group'), got another token in row ", faulty_row.load());
  check(!(kinds & kGroupOutOfRange), op,
        "'token_group', 'group_indptr' and 'group_tokens' do not fit: a group or a member is out of range");
}

}  // namespace corrmask
