// The instructions that masking, ranking and binning use: the best that the machine has, or no more than
// CORRMASK_INSTRUCTIONS says (plain, avx2, avx512), which lets the tests see each of them.
#pragma once

#include <cstdlib>
#include <string_view>

#include "../checks.h"

namespace corrmask {

enum class InstructionSet { kPlain, kAvx2, kAvx512 };

inline InstructionSet best_of_this_machine() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return InstructionSet::kAvx512;
  }
  if (__builtin_cpu_supports("avx2")) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kPlain;
}

// Read once.
inline InstructionSet instruction_set(const char* op) {
  static const InstructionSet chosen = [&] {
    const InstructionSet best = best_of_this_machine();
    const char* given = std::getenv("CORRMASK_INSTRUCTIONS");
    if (given == nullptr) return best;
    const std::string_view name(given);
    check(name == "plain" || name == "avx2" || name == "avx512", op,
          "CORRMASK_INSTRUCTIONS must be plain, avx2 or avx512, got ", name);
    const InstructionSet most = name == "plain"  ? InstructionSet::kPlain
                                : name == "avx2" ? InstructionSet::kAvx2
                                                 : InstructionSet::kAvx512;
    return most < best ? most : best;
  }();
  return chosen;
}

}  // namespace corrmask
