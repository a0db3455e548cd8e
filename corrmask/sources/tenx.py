"""10x Genomics .h5 files: Cell Ranger 3 and later (``matrix/``), and Cell Ranger 2 (one group per genome)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import h5py
import numpy as np
import pandas as pd

from corrmask.errors import InputError
from corrmask.sources.checks import check_shape
from corrmask.sources.cutting import Block, check_indptr, csr_blocks
from corrmask.sources.faults import damaged, reading
from corrmask.sources.features import choose_features


def _strings(dataset: h5py.Dataset, start: int | None = None, stop: int | None = None) -> np.ndarray:
    return np.array([value.decode() for value in dataset[start:stop]], dtype=object)


class TenxReader:
    """A 10x .h5 file; its columns are cells, so that its CSC is our CSR."""

    resumable = True

    def __init__(self, path: str, *, gene_column: str | None) -> None:
        self.name = path
        self.obs_columns: list[str] = []
        with reading(path), h5py.File(path, "r") as file:
            self._group = self._find(file)
            group = file[self._group]
            n_features, self.n_cells = (int(size) for size in group["shape"][:])
            v3 = "features" in group
            table = group["features"] if v3 else group
            ids = _strings(table["id" if v3 else "genes"])
            names = _strings(table["name" if v3 else "gene_names"])
            types = _strings(table["feature_type"]) if v3 and "feature_type" in table else None
            check_shape((self.n_cells, n_features), n_cells=len(group["barcodes"]), n_genes=len(ids), name=path)
            self._n_features = n_features
        self._features = choose_features(ids, names, types, gene_column=gene_column, name=path)
        self.genes = self._features.genes

    def _find(self, file: h5py.File) -> str:
        if "matrix" in file:
            groups = ["matrix"]
        else:
            groups = [key for key in file if isinstance(file[key], h5py.Group) and "gene_names" in file[key]]
        if not groups:
            found = ", ".join(file) or "nothing"
            raise InputError(
                f"{self.name}: no 10x matrix ('matrix' or a genome's group) in this HDF5 file, found: {found}; "
                "an AnnData file must end in .h5ad"
            )
        if len(groups) > 1:
            raise InputError(f"{self.name}: holds several genomes ({', '.join(groups)}); write one file for each")
        group = file[groups[0]]
        needed = ["data", "indices", "indptr", "shape", "barcodes"]
        needed += ["features/id", "features/name"] if "features" in group else ["genes", "gene_names"]
        missing = [key for key in needed if key not in group]
        if missing:
            raise damaged(self.name, f"{groups[0]!r} has no {', '.join(missing)}")
        return groups[0]

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """See `corrmask.sources.source.Reader`."""

        @contextmanager
        def opened() -> Iterator[h5py.Group]:
            with h5py.File(self.name, "r") as file:
                yield file[self._group]

        with reading(self.name), opened() as group:
            indptr = check_indptr(group["indptr"][:], self.n_cells, len(group["indices"]), self.name)
        bounds = (self.name, max_nonzeros, max_cells)
        for start, load in csr_blocks(opened, indptr, self._n_features, *bounds):
            yield start, partial(self._features.load, load)

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """See `corrmask.sources.source.Reader`."""
        with reading(self.name), h5py.File(self.name, "r") as file:
            return pd.DataFrame(index=pd.Index(_strings(file[self._group]["barcodes"], start, stop)))
