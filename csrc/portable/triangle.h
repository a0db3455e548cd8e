// A symmetric matrix as its upper triangle, row after row: row i holds the entries (i, i) .. (i, n - 1).
#pragma once

#include <cstdint>

#include "host_device.h"

namespace corrmask {

CORRMASK_HOST_DEVICE int64_t triangle_size(int64_t n) {
  return n * (n + 1) / 2;
}

// Offset of entry (i, i). Entry (i, j), j >= i, stands at triangle_row(i, n) + (j - i).
CORRMASK_HOST_DEVICE int64_t triangle_row(int64_t i, int64_t n) {
  return i * n - i * (i - 1) / 2;
}

}  // namespace corrmask
