// One function compiled for plain x86-64, AVX2 and AVX-512. Contraction is off, so all of them give the same bits.
#pragma once

#include "instruction_set.h"

namespace corrmask {

// 32-bit lanes of a vector.
constexpr int lanes_of(InstructionSet set) {
  return set == InstructionSet::kAvx512 ? 16 : set == InstructionSet::kAvx2 ? 8 : 4;
}

template <class Body, class Result, class... Arguments>
struct Versions {
  static Result plain(Arguments... arguments) { return Body::template run<InstructionSet::kPlain>(arguments...); }

#if defined(__x86_64__) && defined(__GNUC__)
  __attribute__((target("avx2"))) static Result avx2(Arguments... arguments) {
    return Body::template run<InstructionSet::kAvx2>(arguments...);
  }

  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static Result avx512(
      Arguments... arguments) {
    return Body::template run<InstructionSet::kAvx512>(arguments...);
  }

  static auto chosen(InstructionSet set) {
    return set == InstructionSet::kAvx512 ? &avx512 : set == InstructionSet::kAvx2 ? &avx2 : &plain;
  }
#else
  static auto chosen(InstructionSet) { return &plain; }
#endif
};

template <class Body, class Result, class... Arguments>
Versions<Body, Result, Arguments...> versions_of(Result (*)(Arguments...));

// The version of Body::run<set> for this process. It is inlined with all that it calls (CORRMASK_HOST_DEVICE).
template <class Body>
auto for_this_machine(const char* op) {
  return decltype(versions_of<Body>(&Body::template run<InstructionSet::kPlain>))::chosen(instruction_set(op));
}

}  // namespace corrmask
