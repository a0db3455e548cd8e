// From 32 random bits to a bounded integer or an event, in integers alone, so that every device decides alike.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace corrmask {

// An integer in [0, n), n <= 2**32 (multiply-shift; the bias is below n / 2**32).
CORRMASK_HOST_DEVICE int64_t bounded(uint32_t word, int64_t n) {
  return static_cast<int64_t>((static_cast<uint64_t>(word) * static_cast<uint64_t>(n)) >> 32);
}

// The event of probability threshold / 2**32: 2**32 is always, 0 never.
CORRMASK_HOST_DEVICE bool happens(uint32_t word, int64_t threshold) {
  return static_cast<int64_t>(word) < threshold;
}

}  // namespace corrmask
