"""Cells cut into blocks of bounded size, from matrices stored by cell, by gene or in no order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from corrmask.errors import InputError
from corrmask.sources.ahead import ahead
from corrmask.sources.faults import damaged, reading
from corrmask.sources.hdf5 import read_slice

Load = Callable[[], sparse.csr_array]  # reads [n, n_genes]
Block = tuple[int, Load]  # first row, what reads it: on any thread
Open = Callable[[], AbstractContextManager[Any]]  # what is stored, for as long as it is read
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, values of one stretch of a file
BAND = 2  # a band of a matrix stored by gene holds this many times max_nonzeros
_PASS = 1 << 22  # entries read together in one pass


def held(matrix: Any) -> Open:
    """What is stored in memory: a dense array, or the parts of a CSR."""
    parts = {"data": matrix.data, "indices": matrix.indices} if sparse.issparse(matrix) else matrix
    return partial(nullcontext, parts)


def cut(indptr: np.ndarray, max_nonzeros: int, max_cells: int) -> Iterator[tuple[int, int]]:
    """Yield row ranges [start, stop) of at most `max_nonzeros` values and `max_cells` rows, never less than one row.

    Parameters
    ----------
    indptr
        [n_cells + 1] integers, from 0.
    """
    n_cells = len(indptr) - 1
    start = 0
    while start < n_cells:
        stop = int(np.searchsorted(indptr, int(indptr[start]) + max_nonzeros, side="right")) - 1
        stop = max(start + 1, min(stop, start + max_cells, n_cells))
        yield start, stop
        start = stop


def as_float(values: np.ndarray, name: str) -> np.ndarray:
    """Counts as float32 or float64: integers take float64 only where one of them is not exact in float32."""
    if values.dtype.kind == "f":
        wanted = {2: np.float32, 4: np.float32}.get(values.dtype.itemsize, np.float64)
    elif values.dtype.kind in "iub":
        exact = 1 << 24  # float32 holds every integer up to here
        fits = not len(values) or (-exact <= int(values.min()) and int(values.max()) <= exact)
        wanted = np.float32 if fits else np.float64
    else:
        raise InputError(f"{name}: the matrix holds {values.dtype}; counts must be integers or floating")
    return values.astype(wanted, copy=False)


def make_csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_genes: int, name: str) -> sparse.csr_array:
    """A csr_array [len(indptr) - 1, n_genes] from parts of a file, after a check that they fit together."""
    if len(data) != len(indices) or indptr[-1] != len(data):
        raise damaged(name, f"{len(data)} values but {len(indices)} indices")
    check_within(indices, n_genes, name, "column", "genes")
    # of one width, or scipy widens and copies the narrower one
    width = np.int32 if max(n_genes, len(data)) <= np.iinfo(np.int32).max else np.int64
    indices, indptr = indices.astype(width, copy=False), indptr.astype(width, copy=False)
    return sparse.csr_array((as_float(data, name), indices, indptr), shape=(len(indptr) - 1, n_genes))


def check_within(places: np.ndarray, size: int, name: str, what: str, of: str) -> None:
    """Raise, naming it, where a stored row or column is not in 0 .. size - 1."""
    if len(places) and (places.min() < 0 or places.max() >= size):
        outside = places[(places < 0) | (places >= size)][0]
        raise damaged(name, f"{what} {int(outside)} in a matrix of {size} {of}")


def check_indptr(indptr: np.ndarray, length: int, n_values: int, name: str) -> np.ndarray:
    """Return a stored `indptr` as int64 [length + 1], or raise where it cannot be one."""
    indptr = np.asarray(indptr).astype(np.int64, copy=False)
    if indptr.shape != (length + 1,) or indptr[0] != 0 or indptr[-1] != n_values or (np.diff(indptr) < 0).any():
        raise damaged(name, f"'indptr' does not describe {length} rows or columns of {n_values} values")
    return indptr


def csr_blocks(
    opened: Open, indptr: np.ndarray, n_genes: int, name: str, max_nonzeros: int, max_cells: int
) -> Iterator[Block]:
    """Blocks of a matrix stored by cell; `opened` gives ``data`` and ``indices``, in memory, in HDF5 or in zarr."""

    def load(start: int, stop: int) -> sparse.csr_array:
        low, high = int(indptr[start]), int(indptr[stop])
        with reading(name, ValueError), opened() as matrix:
            values, columns = read_slice(matrix["data"], low, high), read_slice(matrix["indices"], low, high)
        return make_csr(values, columns, indptr[start : stop + 1] - low, n_genes, name)

    for start, stop in cut(indptr, max_nonzeros, max_cells):
        yield start, partial(load, start, stop)


def dense_blocks(opened: Open, shape: tuple[int, int], name: str, max_nonzeros: int, max_cells: int) -> Iterator[Block]:
    """Blocks of a dense matrix, zeros counted as values for the bound."""
    n_cells, n_genes = shape
    step = max(1, min(max_cells, max_nonzeros // n_genes))

    def load(start: int) -> sparse.csr_array:
        with reading(name, ValueError), opened() as matrix:
            block = np.asarray(matrix[start : start + step])
        return sparse.csr_array(as_float(block, name))

    for start in range(0, n_cells, step):
        yield start, partial(load, start)


def csc_blocks(
    opened: Open,
    indptr: np.ndarray,
    shape: tuple[int, int],
    name: str,
    max_nonzeros: int,
    max_cells: int,
    first_cell: int,
) -> Iterator[Block]:
    """Blocks of a matrix stored by gene: bands of cells, one pass over the file for each."""

    def entries(with_values: bool = True) -> Iterator[Entries]:
        with reading(name, ValueError), opened() as matrix:

            def read(low: int) -> tuple[np.ndarray, np.ndarray]:
                high = min(low + _PASS, int(indptr[-1]))
                rows = read_slice(matrix["indices"], low, high)
                return rows, read_slice(matrix["data"], low, high) if with_values else rows

            starts = range(0, int(indptr[-1]), _PASS)
            for low, (rows, values) in zip(starts, ahead(partial(read, low) for low in starts), strict=True):
                high = low + len(rows)
                # the columns of entries low .. high - 1, without an array as long as the matrix
                first, last = np.searchsorted(indptr, [low, high - 1], side="right") - 1
                edges = np.clip(indptr[first : last + 2], low, high)
                yield rows, np.repeat(np.arange(first, last + 1), np.diff(edges)), values

    whole = int(indptr[-1]) <= BAND * max_nonzeros
    stored = None if whole else nonzeros_per_cell(entries(with_values=False), shape[0], name)
    yield from band_blocks(entries, stored, shape, name, max_nonzeros, max_cells, first_cell)


def nonzeros_per_cell(entries: Iterable[Entries], n_cells: int, name: str) -> np.ndarray:
    """Count the stored values of each cell in one pass: int64 [n_cells]."""
    stored = np.zeros(n_cells, dtype=np.int64)
    for rows, _, _ in entries:
        check_within(rows, n_cells, name, "row", "cells")
        stored += np.bincount(rows, minlength=n_cells)
    return stored


def band_blocks(
    entries: Callable[[], Iterator[Entries]],
    stored: np.ndarray | None,
    shape: tuple[int, int],
    name: str,
    max_nonzeros: int,
    max_cells: int,
    first_cell: int,
) -> Iterator[Block]:
    """Blocks of a matrix whose entries come in any order, read once for each band of cells.

    Parameters
    ----------
    entries
        Starts a pass over the matrix.
    stored
        [n_cells] values stored for each cell, or None where all of them fit one band.
    first_cell
        Bands that end before it are left out.
    """
    n_cells, n_genes = shape
    if stored is None:
        bands = [(0, n_cells)]
    else:
        bands = list(cut(np.concatenate([[0], np.cumsum(stored)]), BAND * max_nonzeros, n_cells))
    for low, high in bands:
        if high <= first_cell:
            continue
        parts = []
        for rows, columns, values in entries():
            inside = slice(None) if len(bands) == 1 else (rows >= low) & (rows < high)
            parts.append((rows[inside] - low, columns[inside].astype(np.int32), values[inside]))
        csr = from_entries(parts, high - low, n_genes, name)
        parts.clear()  # the band is held once while its blocks are used
        for start, load in csr_blocks(held(csr), csr.indptr, n_genes, name, max_nonzeros, max_cells):
            yield low + start, load


def from_entries(parts: list[Entries], n_cells: int, n_genes: int, name: str) -> sparse.csr_array:
    """A csr_array [n_cells, n_genes] from entries in any order; entries that stand twice are kept as they are."""
    empty = np.empty(0, dtype=np.int32)
    rows, columns, values = (np.concatenate(part) for part in zip(*(parts or [(empty, empty, empty)])))
    check_within(rows, n_cells, name, "row", "cells")
    order = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_cells))])
    return make_csr(values[order], columns[order], indptr, n_genes, name)
