// The machine (Philox draws, the search for members) of each instruction set.
#pragma once

#include "avx2_machine.h"
#include "avx512_machine.h"
#include "instruction_set.h"

namespace corrmask {

template <InstructionSet kSet>
struct MachineOf {
  using Type = PlainMachine;
};

#if defined(__x86_64__) && defined(__GNUC__)
template <>
struct MachineOf<InstructionSet::kAvx2> {
  using Type = Avx2Machine;
};

template <>
struct MachineOf<InstructionSet::kAvx512> {
  using Type = Avx512Machine;
};
#endif

}  // namespace corrmask
