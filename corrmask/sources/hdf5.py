"""Slices of HDF5 data, gzip decompressed outside the library's lock: threads then do it side by side."""

from __future__ import annotations

import zlib
from typing import Any

import h5py
import numpy as np

_GZIP, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


def read_slice(array: Any, low: int, high: int) -> np.ndarray:
    """``array[low:high]`` of one dimension: an array in memory, in zarr or in HDF5."""
    if isinstance(array, h5py.Dataset) and array.chunks is not None and high > low:
        filters = array.id.get_create_plist()
        codes = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
        if codes in ([_GZIP], [_SHUFFLE, _GZIP]) and array.dtype.kind in "iufb":
            return _inflate(array, low, high, shuffled=len(codes) == 2)
    return np.asarray(array[low:high])


def _inflate(array: h5py.Dataset, low: int, high: int, *, shuffled: bool) -> np.ndarray:
    (size,) = array.chunks
    result = np.empty(high - low, dtype=array.dtype)
    for first in range(low - low % size, high, size):
        begin, end = max(low, first), min(high, first + size)
        try:
            skipped, stored = array.id.read_direct_chunk((first,))
        except (OSError, RuntimeError):  # a chunk that was never written: only the library knows what it holds
            skipped, stored = 1, b""
        if skipped:
            result[begin - low : end - low] = array[begin:end]
            continue
        plain = np.frombuffer(zlib.decompress(stored), dtype=np.uint8)
        if shuffled:  # the first bytes of all values, then the second ones, ...
            plain = np.ascontiguousarray(plain.reshape(array.dtype.itemsize, -1).T)
        values = plain.reshape(-1).view(array.dtype)
        result[begin - low : end - low] = values[begin - first : end - first]
    return result
