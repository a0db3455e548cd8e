// Asks the system for large pages under memory that is about to be written for the first time, as numpy does for its
// arrays: the first touch of small pages costs more than what is computed to fill them. Elsewhere than on Linux, and
// where large pages are switched off, nothing happens.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace corrmask {

inline void ask_for_large_pages(void* memory, int64_t n_bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kLeast = int64_t{4} << 20;
  constexpr uintptr_t kPage = 4096;
  if (n_bytes < kLeast) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(n_bytes)) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first,
          MADV_HUGEPAGE);  // a wish: whether it is granted does not matter
#endif
}

}  // namespace corrmask
