"""Cells that lie in the memory of a device: a CSR of cupy (as of rapids-singlecell) or torch, taken without a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from corrmask.errors import InputError
from corrmask.sources.checks import LARGEST_LOG1P, check_counts
from corrmask.sources.cutting import check_indptr, cut
from corrmask.sources.faults import damaged
from corrmask.staging import is_cupy

_COUNTS = (torch.float32, torch.float64, torch.int32, torch.int64)


class DeviceRows:
    """Cells x genes in compressed rows of tensors, as `corrmask.covariance.Covariance.update` takes them.

    Attributes
    ----------
    indptr, indices, data
        int64 [n_cells + 1], int32 or int64 [nnz], and float32, float64, int32 or int64 [nnz]; on one device.
    shape
        Cells, genes.
    """

    def __init__(self, indptr: Tensor, indices: Tensor, data: Tensor, shape: tuple[int, int]) -> None:
        self.indptr, self.indices, self.shape = indptr.long(), indices, shape
        self.data = data if data.dtype in _COUNTS else data.double()

    def blocks(self, name: str, max_nonzeros: int, max_cells: int) -> Iterator[tuple[int, Any]]:
        """Views of neighbouring cells, as `corrmask.sources.source.Reader` has it."""
        indptr = check_indptr(self.indptr.cpu().numpy(), self.shape[0], len(self.data), name)
        for start, stop in cut(indptr, max_nonzeros, max_cells):
            yield start, partial(self._rows, start, stop, int(indptr[start]), int(indptr[stop]))

    def _rows(self, start: int, stop: int, low: int, high: int) -> DeviceRows:
        indptr = self.indptr[start : stop + 1] - low
        return DeviceRows(indptr, self.indices[low:high], self.data[low:high], (stop - start, self.shape[1]))

    def check(self, *, name: str, start: int, normalized: bool) -> None:
        """As `corrmask.sources.checks.check_counts`; columns in range, none twice in a cell, too.

        Raises
        ------
        InputError
            What is wrong with the first such value or cell.
        """
        values, indices = self.data, self.indices
        fine = (values <= LARGEST_LOG1P if normalized else values == values.round()) & (values >= 0)
        if not bool((fine & values.isfinite()).all()):
            check_counts(self._fetched(), name=name, start=start, normalized=normalized)
        if outside := indices[(indices < 0) | (indices >= self.shape[1])][:1].tolist():
            raise damaged(name, f"column {outside[0]} in a matrix of {self.shape[1]} genes")
        keys = self._cells() * self.shape[1] + indices
        if not bool((keys.diff() > 0).all()):  # not in order, which is no fault
            keys = keys.sort().values
            if twice := torch.nonzero(keys.diff() == 0).ravel()[:1].tolist():
                cell = start + int(keys[twice[0]]) // self.shape[1]
                raise InputError(f"{name}: cell {cell} holds a gene twice; call .sum_duplicates() on the matrix")

    def n_empty(self) -> int:
        """Cells without counts."""
        return self.shape[0] - len(self._cells()[self.data > 0].unique())

    def digest(self) -> bytes:
        """Of cells, genes and values; formed on the device, so that it is another than that of the same on the host."""
        bits = self.data.double().view(torch.int64)
        mixed = (self._cells() * self.shape[1] + self.indices) * 0x9E3779B97F4A7C15 + bits
        mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
        total = int((mixed ^ (mixed >> 32)).sum())
        return hashlib.blake2b(repr((self.shape, len(self.data), total)).encode(), digest_size=16).digest()

    def _cells(self) -> Tensor:
        """The cell of each entry: int64 [nnz]."""
        cells = torch.arange(self.shape[0], device=self.indptr.device)
        return cells.repeat_interleave(self.indptr.diff(), output_size=len(self.data))

    def _fetched(self) -> sparse.csr_array:
        data, indices, indptr = (part.cpu().numpy() for part in (self.data, self.indices, self.indptr))
        return sparse.csr_array((np.asarray(data, np.float64), indices, indptr), shape=self.shape)


def rows_on(matrix: Any, device: torch.device | str | None) -> DeviceRows | None:
    """The cells of a CSR of cupy or torch where they lie on `device` already; None where they do not."""
    if device is None:
        return None
    if is_cupy(matrix) and hasattr(matrix, "indptr"):
        indptr, indices, data = (torch.from_dlpack(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    elif isinstance(matrix, Tensor) and matrix.layout == torch.sparse_csr and matrix.device.type != "cpu":
        indptr, indices, data = matrix.crow_indices(), matrix.col_indices(), matrix.values().detach()
    else:
        return None
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if indptr.device != device:
        return None
    return DeviceRows(indptr, indices, data, (int(matrix.shape[0]), int(matrix.shape[1])))
