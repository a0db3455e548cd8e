"""AnnData on disk: .h5ad (HDF5) and .zarr, read in slices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import h5py
import numpy as np
import pandas as pd

from corrmask.errors import InputError
from corrmask.sources.checks import check_genes, check_shape
from corrmask.sources.cutting import Block, check_indptr, csc_blocks, csr_blocks, dense_blocks
from corrmask.sources.faults import damaged, reading
from corrmask.sources.pieces import Pieces, open_pieces

_PARTS = ("data", "indices", "indptr")  # of a sparse matrix


@contextmanager
def _open(path: str) -> Iterator[Any]:
    """The root group of an AnnData file: an `h5py.File`, or a `zarr.Group`."""
    with reading(path):
        if path.rstrip("/").endswith(".zarr"):
            try:
                import zarr
            except ImportError as error:
                raise InputError(
                    f"{path}: reading .zarr needs the package zarr; install it (pip install zarr)"
                ) from error
            try:
                store = zarr.open_group(path, mode="r")
            except (ValueError, KeyError) as error:
                raise damaged(path, error) from error
        else:
            store = h5py.File(path, "r")
    try:
        yield store
    finally:
        if isinstance(store, h5py.File):
            store.close()


def layer_name(matrix: str, name: str) -> str | None:
    """The layer that `matrix` names, or None for "X" and "raw"."""
    if matrix in ("X", "raw"):
        return None
    kind, _, layer = matrix.partition("/")
    if kind != "layers" or not layer:
        raise InputError(f"{name}: --matrix (matrix=) is 'X', 'raw' or 'layers/NAME', got {matrix!r}")
    return layer


def no_matrix(name: str, matrix: str, layers: list[str], has_raw: bool) -> InputError:
    """The error for a matrix that is not there: it names those that are."""
    there = ["X", *(["raw"] if has_raw else []), *(f"layers/{layer}" for layer in layers)]
    others = ", ".join(one for one in there if one != matrix)
    remedy = f"choose with --matrix (matrix=) among {others}" if others else "nor any other; give the file with counts"
    return InputError(f"{name}: has no matrix {matrix!r}{'; ' if others else ', '}{remedy}")


def choose_gene_names(var: pd.DataFrame, gene_column: str | None, name: str) -> np.ndarray:
    """Gene names, [n_genes]: the index of `var`, or its column `gene_column`."""
    columns = ", ".join(map(str, var.columns)) or "none"
    if gene_column is not None and gene_column not in var.columns:
        raise InputError(f"{name}: var has no column {gene_column!r} for the genes' names; available: {columns}")
    names = var.index if gene_column is None else var[gene_column]
    remedy = (
        f"make those of var[{gene_column!r}] unique, or leave --gene-column (gene_column=) out: then var's index names"
    )
    if gene_column is None:
        remedy = "make them unique (adata.var_names_make_unique()) or choose a column of var with --gene-column"
        remedy = f"{remedy} (gene_column=), available: {columns}"
    return check_genes(names, name=name, remedy=remedy)


class StoreReader:
    """An AnnData file. Names of cells and columns of obs are read in slices too: they can outgrow the counts."""

    resumable = True

    def __init__(self, path: str, *, matrix: str, gene_column: str | None) -> None:
        from anndata.io import read_elem, sparse_dataset

        self.name = path
        layer = layer_name(matrix, path)
        with _open(path) as store, reading(path, ValueError):
            for part in ("obs", "var"):
                if part not in store:
                    found = ", ".join(sorted(store)) or "nothing"
                    raise InputError(f"{path}: no {part!r} in this file (found: {found}); it is not an AnnData file")
                if "_index" not in store[part].attrs:
                    raise InputError(f"{path}: written by anndata before 0.7; open and save it with a recent anndata")
            self._key = matrix if layer is not None else {"X": "X", "raw": "raw/X"}[matrix]
            if self._key not in store or (matrix == "raw" and "raw/var" not in store):
                layers = sorted(store["layers"]) if "layers" in store else []
                raise no_matrix(path, matrix, layers, "raw/X" in store)
            element = store[self._key]
            self._pieces: dict[str, Pieces] | None = None
            _check_chunks(os.path.join(path, self._key))
            if element.attrs.get("encoding-type") == "null":
                raise no_matrix(path, matrix, sorted(store.get("layers", [])), "raw/X" in store)
            if hasattr(element, "keys"):
                self._format, shape = _sparse_format(sparse_dataset, element, path, self._key)
                missing = [key for key in _PARTS if key not in element]
                if missing:
                    raise damaged(path, f"{self._key!r} has no {', '.join(missing)}")
                if path.rstrip("/").endswith(".zarr"):
                    self._pieces = _pieces(element, shape[1], path, self._key)
            else:
                self._format, shape = "dense", tuple(element.shape)
            obs = store["obs"]
            self._index = str(obs.attrs["_index"])
            if self._index not in obs:
                raise damaged(path, f"obs has no {self._index!r}")
            # anndata 0.7 kept categories elsewhere: such a table is read whole
            self._whole: pd.DataFrame | None = None
            self._texts: dict[str, tuple[int, np.ndarray]] = {}
            self._lock = Lock()
            self._sliced = obs.attrs.get("encoding-version") == "0.2.0"
            self.obs_columns = [str(column) for column in obs.attrs.get("column-order", [])]
            self.n_cells = _length(obs[self._index])
            var = read_elem(store["raw/var" if matrix == "raw" else "var"])
        self.genes = choose_gene_names(var, gene_column, path)
        self._shape = (self.n_cells, len(self.genes))
        check_shape(shape, n_cells=self.n_cells, n_genes=len(self.genes), name=path)

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """See `corrmask.sources.source.Reader`."""
        bounds = (self.name, max_nonzeros, max_cells)
        n_cells, n_genes = self._shape

        @contextmanager
        def opened() -> Iterator[Any]:
            if self._pieces is not None:
                yield self._pieces
                return
            with _open(self.name) as store:
                yield store[self._key]

        if self._format == "dense":
            return dense_blocks(opened, self._shape, *bounds)
        with reading(self.name, ValueError), opened() as element:
            data, indices = element["data"], element["indices"]
            length = n_cells if self._format == "csr" else n_genes
            indptr = check_indptr(element["indptr"][:], length, indices.shape[0], self.name)
            if data.shape != indices.shape:
                raise damaged(self.name, f"{data.shape[0]} values but {indices.shape[0]} indices")
        if self._format == "csr":
            return csr_blocks(opened, indptr, n_genes, *bounds)
        return csc_blocks(opened, indptr, self._shape, *bounds, first_cell)

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """See `corrmask.sources.source.Reader`."""
        with _open(self.name) as store, reading(self.name, ValueError):
            table = store["obs"]
            index = pd.Index(_as_text(self._slice(table, self._index, start, stop)), dtype=object)
            if not self._sliced:
                from anndata.io import read_elem

                if self._whole is None:
                    self._whole = read_elem(table)
                return self._whole[columns].iloc[start:stop].set_axis(index)
            return pd.DataFrame({column: self._slice(table, column, start, stop) for column in columns}, index=index)

    def _slice(self, table: Any, column: str, start: int, stop: int) -> Any:
        """Rows start .. stop - 1 of one column: an array, or an array of pandas."""
        element = table[column]
        if hasattr(element, "keys"):
            from anndata.io import read_elem

            if element.attrs.get("encoding-type") == "categorical":  # codes are sliced: they are as many as the cells
                categories = read_elem(element["categories"])
                ordered = bool(element.attrs.get("ordered", False))
                return pd.Categorical.from_codes(element["codes"][start:stop], categories, ordered=ordered)
            return read_elem(element)[start:stop]
        if element.dtype.kind not in "OST":
            return element[start:stop]
        # Text: bytes in HDF5, StringDType in zarr, whose chunks are read whole and kept for the slices that follow.
        if element.chunks is None:
            return _as_text(element[start:stop])
        size = element.chunks[0]
        parts = []
        for number in range(start // size, -(-stop // size)):
            first = number * size
            parts.append(self._text_chunk(element, column, number, size)[max(start - first, 0) : stop - first])
        return np.concatenate(parts) if parts else np.empty(0, dtype=object)

    def _text_chunk(self, element: Any, column: str, number: int, size: int) -> np.ndarray:
        """A chunk of a column of text: object array of str. The last one of each column is kept."""
        with self._lock:
            if self._texts.get(column, (-1,))[0] != number:
                self._texts[column] = number, _as_text(element[number * size : (number + 1) * size])
            return self._texts[column][1]


def _check_chunks(folder: str) -> None:
    """Refuse a chunk or shard of zarr without a byte: it would read as zeros, like one that was never written."""
    for parent, _, files in os.walk(folder):  # of an HDF5 file there is no such folder
        for file in files:
            path = os.path.join(parent, file)
            if os.stat(path).st_size == 0:
                raise damaged(path, "it is empty")


def _pieces(element: Any, n_genes: int, path: str, key: str) -> dict[str, Pieces] | None:
    """The parts of a sparse matrix in zarr, all of which are there, or None where zarr has to read them.

    Raises
    ------
    InputError
        Chunks or shards are not there: zarr takes them for zeros.
    """
    parts = {part: open_pieces(os.path.join(path, key, part), path) for part in _PARTS}
    if element["data"].shape[0] == 0 or n_genes == 1:  # then zeros, which are not written, may be meant
        return None
    for part in _PARTS:
        array = element[part]
        if array.nchunks_initialized < array.nchunks:
            lost = array.nchunks - array.nchunks_initialized
            raise damaged(path, f"{lost:,} of {array.nchunks:,} chunks of '{key}/{part}' are not there")
    return None if None in parts.values() else {part: found for part, found in parts.items() if found is not None}


def _sparse_format(sparse_dataset: Any, group: Any, path: str, key: str) -> tuple[str, tuple[int, ...]]:
    """("csr" or "csc", shape) of a group, as anndata reads its attributes."""
    try:
        dataset = sparse_dataset(group)
        return dataset.format, tuple(int(size) for size in dataset.shape)
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, f"{key!r} is no sparse matrix that anndata knows") from error


def _as_text(values: Any) -> np.ndarray:
    """Text in HDF5 or zarr as an object array of str."""
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], dtype=object)


def _length(element: Any) -> int:
    return int((element["values"] if hasattr(element, "keys") else element).shape[0])
