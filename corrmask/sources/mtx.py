"""Folders with matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, each possibly gzipped, read as a stream."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from corrmask.errors import InputError
from corrmask.sources.checks import check_shape
from corrmask.sources.cutting import (
    BAND,
    Block,
    Entries,
    band_blocks,
    csr_blocks,
    from_entries,
    held,
    nonzeros_per_cell,
)
from corrmask.sources.faults import damaged, reading
from corrmask.sources.features import choose_features

_LINES = 1 << 20  # entries parsed together


def _find(folder: Path, *stems: str) -> Path:
    for stem in stems:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if path.is_file():
                return path
    wanted = " or ".join(f"{stem}[.gz]" for stem in stems)
    raise InputError(
        f"{folder}: no {wanted} in this folder; an .mtx folder holds matrix.mtx, features.tsv, barcodes.tsv"
    )


def _open(path: Path) -> TextIO:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _table(path: Path) -> pd.DataFrame:
    with reading(str(path)):
        try:
            # quoting=3: a quote is a character like any other, as in the names of some antibodies
            return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
        except pd.errors.EmptyDataError:
            return pd.DataFrame({0: []}, dtype=str)
        except pd.errors.ParserError as error:
            raise damaged(str(path), error) from error


class MtxReader:
    """A folder of text files, genes x cells; or cells x genes, where only that fits the two tables."""

    resumable = True

    def __init__(self, folder: str, *, gene_column: str | None) -> None:
        self.name = folder
        self.obs_columns: list[str] = []
        self._path = _find(Path(folder), "matrix.mtx")
        table = _table(_find(Path(folder), "features.tsv", "genes.tsv"))
        self._barcodes = _table(_find(Path(folder), "barcodes.tsv"))[0].to_numpy(dtype=object)
        self.n_cells, self._n_features = len(self._barcodes), len(table)
        with reading(str(self._path)), _open(self._path) as file:
            n_rows, n_columns, self._n_entries, self._type = self._header(file)
        # genes x cells is the rule; where the table fits the other way only, it was written cells x genes
        self._by_cell = (n_rows, n_columns) != (self._n_features, self.n_cells) == (n_columns, n_rows)
        shape = (n_rows, n_columns) if self._by_cell else (n_columns, n_rows)
        check_shape(shape, n_cells=self.n_cells, n_genes=self._n_features, name=folder)
        columns = [table[i].to_numpy(dtype=object) for i in range(min(3, table.shape[1]))]
        self._features = choose_features(
            columns[0],
            columns[1] if len(columns) > 1 else columns[0],
            columns[2] if len(columns) > 2 else None,
            gene_column=gene_column,
            name=folder,
        )
        self.genes = self._features.genes

    def _header(self, file: TextIO) -> tuple[int, int, int, type]:
        words = file.readline().lower().split()
        if words[:1] != ["%%matrixmarket"]:
            raise damaged(str(self._path), "the first line is not '%%MatrixMarket ...'")
        if (
            words[1:3] != ["matrix", "coordinate"]
            or words[3:4] not in (["integer"], ["real"])
            or words[4:] != ["general"]
        ):
            raise InputError(
                f"{self._path}: is {' '.join(words[1:])!r}; counts are 'matrix coordinate integer general' (or real)"
            )
        line = file.readline()
        while line.startswith("%") or line == "\n":
            line = file.readline()
        sizes = line.split()
        if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
            raise damaged(str(self._path), f"the line of sizes is {line.strip()!r}")
        return int(sizes[0]), int(sizes[1]), int(sizes[2]), np.int64 if words[3] == "integer" else np.float64

    def _entries(self) -> Iterator[Entries]:
        """Stretches of (cells, genes, values), numbered from 0, as they stand in the file."""
        name = str(self._path)
        n_read = 0
        with reading(name), _open(self._path) as file:
            self._header(file)
            if self._n_entries:
                try:
                    dtype = {0: np.int64, 1: np.int64, 2: self._type}
                    for frame in pd.read_csv(file, sep=r"\s+", header=None, dtype=dtype, chunksize=_LINES):
                        if frame.shape[1] != 3:
                            raise damaged(name, f"an entry has {frame.shape[1]} fields instead of 3")
                        n_read += len(frame)
                        rows, columns = frame[0].to_numpy() - 1, frame[1].to_numpy() - 1
                        cells, genes = (rows, columns) if self._by_cell else (columns, rows)
                        if (
                            min(cells.min(), genes.min()) < 0
                            or cells.max() >= self.n_cells
                            or genes.max() >= self._n_features
                        ):
                            raise damaged(name, "an entry lies outside the matrix that the header announces")
                        yield cells, genes, frame[2].to_numpy()
                except InputError:
                    raise
                except ValueError as error:  # what pandas raises for text that is no number, and for no line at all
                    raise damaged(name, error) from error
        if n_read != self._n_entries:
            raise damaged(name, f"{n_read} entries but the header announces {self._n_entries}")

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """See `corrmask.sources.source.Reader`. A file ordered by gene is read once for each band of cells."""
        shape = (self.n_cells, self._n_features)
        if self._begins_by_cell():
            blocks = self._ordered(max_nonzeros, max_cells)
        else:
            whole = self._n_entries <= BAND * max_nonzeros
            stored = None if whole else nonzeros_per_cell(self._entries(), self.n_cells, self.name)
            blocks = band_blocks(self._entries, stored, shape, self.name, max_nonzeros, max_cells, first_cell)
        for start, load in blocks:
            yield start, partial(self._features.load, load)

    def _begins_by_cell(self) -> bool:
        """Whether the first stretch is in the order of the cells (and not the long first gene of a file by gene)."""
        for cells, genes, _ in self._entries():
            by_gene = (np.diff(genes) >= 0).all() and cells[0] != cells[-1]
            return bool((np.diff(cells) >= 0).all() and not by_gene)
        return True

    def _ordered(self, max_nonzeros: int, max_cells: int) -> Iterator[Block]:
        """Blocks of a file ordered by cell: one pass, holding one block and the stretch just parsed."""
        start = 0  # cells before it were given out
        pending: list[Entries] = []
        n_pending = 0

        def flush(stop: int) -> Iterator[Block]:
            parts = [(cells - start, genes.astype(np.int32), values) for cells, genes, values in pending]
            csr = from_entries(parts, stop - start, self._n_features, self.name)
            for low, load in csr_blocks(held(csr), csr.indptr, self._n_features, self.name, max_nonzeros, max_cells):
                yield start + low, load

        last = 0
        for cells, genes, values in self._entries():
            if cells[0] < last or (np.diff(cells) < 0).any():
                raise InputError(
                    f"{self._path}: the entries begin in the order of the cells but do not stay in it; sort them "
                    "by cell, or write the matrix as .h5ad"
                )
            last = int(cells[-1])
            ended = int(np.searchsorted(cells, last))  # the last cell may go on in the next stretch
            if n_pending + ended >= max_nonzeros or last - start >= max_cells:
                pending.append((cells[:ended], genes[:ended], values[:ended]))
                yield from flush(last)
                start, pending, n_pending = last, [], 0
                cells, genes, values = cells[ended:], genes[ended:], values[ended:]
            pending.append((cells, genes, values))
            n_pending += len(cells)
        yield from flush(self.n_cells)

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """See `corrmask.sources.source.Reader`."""
        return pd.DataFrame(index=pd.Index(self._barcodes[start:stop]))
