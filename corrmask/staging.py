"""Chunks of cells on their way to a device: copies overlap what is computed there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

_LINE = 64  # bytes at which each array begins
_PIECE = 4 << 20  # bytes that a thread copies at once
_THREADS = 8
_SAMPLED = 1_000_000  # entries from which it is known which columns are frequent


class Staging:
    """Copies arrays to a device through two buffers of pinned memory, on a stream of its own.

    The host fills one buffer while the copy of the other runs and the device computes on what came before. The second
    chunk from now is copied once this one's work is done, so that no more than two stand in the device's memory.

    Parameters
    ----------
    device
        Where to. On the CPU the arrays are taken as they are.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * 2
        self._copied: list[Any] = [None] * 2  # behind the copy of each buffer
        self._stream: Any = None
        self._before: Any = None  # behind the work on the chunk before the last

    def rows(self, matrix: Any, *others: np.ndarray) -> tuple[torch.Tensor, ...]:
        """indptr (int64), indices and values of a CSR matrix, and the arrays beside it, on the device.

        A matrix of scipy is copied; one of cupy is taken where it is, through DLPack.
        """
        if sp.issparse(matrix):
            indptr = matrix.indptr.astype(np.int64, copy=False)
            return self.copy(indptr, matrix.indices, matrix.data, *others)
        indptr, *parts = (torch.from_dlpack(part) for part in (matrix.indptr, matrix.indices, matrix.data))
        return (*(part.to(self.device) for part in (indptr.long(), *parts)), *self.copy(*others))

    def copy(self, *arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
        """The arrays on the device, ready for its current stream."""
        if self.device.type == "cpu":
            return tuple(map(writable, arrays))
        current = torch.cuda.current_stream(self.device)
        now = current.record_event()
        packed = self._pack(arrays)
        if self._before is not None:
            self._before.synchronize()
        self._before = now
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):
            there = packed.to(self.device, non_blocking=True)
        self._copied[0] = self._stream.record_event()
        current.wait_stream(self._stream)
        there.record_stream(current)
        return unpack(there, arrays)

    def _pack(self, arrays: tuple[np.ndarray, ...]) -> torch.Tensor:
        """The arrays side by side in the buffer whose turn it is: uint8."""
        self._buffers.reverse()
        self._copied.reverse()
        if self._copied[0] is not None:
            self._copied[0].synchronize()
        size = sum(_padded(array) for array in arrays)
        if size > self._buffers[0].numel():
            pinned = self.device.type == "cuda"
            self._buffers[0] = torch.empty(size + size // 4, dtype=torch.uint8, pin_memory=pinned)
        packed = self._buffers[0][:size]
        pieces, start = [], 0
        for array in arrays:
            given = np.require(array, requirements="C").reshape(-1).view(np.uint8)
            part = packed.numpy()[start : start + array.nbytes]
            pieces += [(part[at : at + _PIECE], given[at : at + _PIECE]) for at in range(0, array.nbytes, _PIECE)]
            start += _padded(array)
        for _ in _threads().map(lambda piece: np.copyto(*piece), pieces):  # one thread alone is slower than the bus
            pass
        return packed


@cache
def _threads() -> ThreadPoolExecutor:
    """What fills the buffers: numpy lets go of the interpreter while it copies."""
    return ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0))), thread_name_prefix="corrmask-staging")


def column_counts(matrix: Any, n_columns: int) -> np.ndarray:
    """Entries of each column of a CSR matrix of scipy or cupy, in a sample of a large one's: int64 [n_columns]."""
    step = matrix.indices.shape[0] // _SAMPLED | 1  # odd: not in step with an even number of columns
    if sp.issparse(matrix):
        return np.bincount(matrix.indices[::step], minlength=n_columns)
    return torch.bincount(torch.from_dlpack(matrix.indices)[::step], minlength=n_columns).cpu().numpy()


def writable(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, copied where it is read-only, of which torch would warn."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _padded(array: np.ndarray) -> int:
    return -(-array.nbytes // _LINE) * _LINE


def unpack(packed: torch.Tensor, arrays: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    """Views of uint8 memory as arrays like those given, each from a multiple of 64 bytes on."""
    parts, start = [], 0
    for array in arrays:
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        parts.append(packed[start : start + array.nbytes].view(dtype).view(array.shape))
        start += _padded(array)
    return tuple(parts)


def is_cupy(array: Any) -> bool:
    """Whether an array or sparse matrix is of cupy, as rapids-singlecell's are; cupy is not imported for it."""
    return type(array).__module__.split(".")[0] in ("cupy", "cupyx")


def on_host(array: Any) -> Any:
    """What is of cupy copied to the host; all else as it is."""
    return array.get() if is_cupy(array) and hasattr(array, "get") else array
