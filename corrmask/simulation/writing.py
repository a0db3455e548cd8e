"""Simulated cells written as they are drawn: memory holds the truth about cells, not their counts."""

from __future__ import annotations

import warnings
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrmask.errors import InputError
from corrmask.progress import Progress, silent
from corrmask.simulation import annotate, blocks, check_cells
from corrmask.simulation.tissue import design_tissue

if TYPE_CHECKING:
    from anndata import AnnData

CHUNK_VALUES, SHARD_VALUES = 1 << 17, 1 << 23  # of a compressed chunk, and of a file


class _Growing:
    """A zarr array of one dimension that is written shard by shard."""

    def __init__(self, group: Any, name: str, dtype: type) -> None:
        self._array = group.create_array(
            name, shape=(0,), dtype=dtype, chunks=(CHUNK_VALUES,), shards=(SHARD_VALUES,), fill_value=0
        )
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0

    def append(self, values: np.ndarray) -> None:
        self._waiting.append(values)
        self._n_waiting += len(values)
        if self._n_waiting >= SHARD_VALUES:
            whole = self._n_waiting - self._n_waiting % SHARD_VALUES
            values = np.concatenate(self._waiting)
            self._write(values[:whole])
            self._waiting, self._n_waiting = [values[whole:].copy()], len(values) - whole

    def _write(self, values: np.ndarray) -> None:
        start = self._array.shape[0]
        self._array.resize((start + len(values),))
        self._array[start:] = values

    def close(self) -> None:
        if self._n_waiting:
            self._write(np.concatenate(self._waiting))


def write_simulation(
    path: str | Path, n_cells: int = 5000, *, progress: Progress = silent, **parameters: Any
) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """Write what `corrmask.simulation.simulate` returns as .zarr, without ever holding its counts.

    The file is zarr 3, counts in shards of zstd chunks; `anndata.read_zarr` opens it.

    Parameters
    ----------
    path
        A folder that does not exist yet (use `corrmask.files.replacing`).
    n_cells, parameters, progress
        Of `simulate`.

    Returns
    -------
    adata : AnnData
        The truth, without ``X``.
    totals, nonzeros : numpy.ndarray
        float64 and int64 [n_cells]: counts and counted genes of each cell.

    Raises
    ------
    InputError
        As `simulate`, or zarr 3 is not installed.
    """
    try:
        import zarr

        group = zarr.open_group(path, mode="w-", zarr_format=3)
    except (ImportError, TypeError) as error:
        raise InputError("writing .zarr needs zarr 3; install it (pip install 'zarr>=3'), or write .h5ad") from error
    from anndata.io import write_elem

    check_cells(n_cells)
    given = {name: parameter.default for name, parameter in signature(design_tissue).parameters.items()} | parameters
    given = {name: value for name, value in given.items() if name not in ("like", "seed")}
    tissue = design_tissue(**parameters)
    x = group.create_group("X")
    data, indices = _Growing(x, "data", np.float32), _Growing(x, "indices", np.int32)
    truth, totals, nonzeros = [], [], []
    for block in blocks(tissue, n_cells, progress=progress):
        data.append(block.counts.data)
        indices.append(block.counts.indices)
        totals.append(np.asarray(block.counts.sum(axis=1, dtype=np.float64)).ravel())
        nonzeros.append(np.diff(block.counts.indptr).astype(np.int64))
        truth.append((block.cell_type, block.library_size, block.activity))
    data.close()
    indices.close()
    per_cell = np.concatenate(nonzeros)
    x.create_array("indptr", data=np.concatenate([[0], np.cumsum(per_cell)]))
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, tissue.n_genes]})
    cell_type, library_size, activity = (np.concatenate(part) for part in zip(*truth, strict=True))
    adata = annotate(tissue, None, cell_type, library_size, activity, given | {"n_cells": n_cells})
    with warnings.catch_warnings():
        # anndata announces a new default; either layout is read.
        warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)
        for name in ("layers", "obsp", "varp"):
            write_elem(group, name, {})
        for name in ("obs", "var"):
            write_elem(group, name, getattr(adata, name))
        for name in ("obsm", "varm", "uns"):
            write_elem(group, name, dict(getattr(adata, name)))
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return adata, np.concatenate(totals), per_cell
