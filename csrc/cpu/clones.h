// Instruction sets chosen as the program runs: a function marked so is compiled for plain x86-64, AVX2 and AVX-512, and
// the loader picks. Contraction is off (but in strip_products.cpp), so all of them give the same bits. Off under
// sanitizers, which crash on it.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(CORRMASK_NO_CLONES)
#define CORRMASK_HAS_CLONES 1
#define CORRMASK_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CORRMASK_CLONES
#endif
