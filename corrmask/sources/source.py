"""What the rest of the package sees of a file or object: its genes, its obs, its chunks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from corrmask.errors import InputError
from corrmask.sources.ahead import READERS, ahead
from corrmask.sources.checks import check_counts, is_ascending
from corrmask.sources.cutting import Block, Load
from corrmask.sources.device import DeviceRows


class Chunk(NamedTuple):
    """A run of neighbouring cells.

    `counts` may share memory with the object that it came from: read it, do not write to it.
    """

    # sparse.csr_array [n, n_genes] of float32 or float64; each column at most once in a row, in any order. DeviceRows
    # where the cells lie on a device and were opened there.
    counts: Any
    obs: pd.DataFrame  # [n] rows, the columns asked for; its index holds the cells' names
    start: int  # row of the first cell in the source


class Reader(Protocol):
    """One format: what `Source` asks of it. Nothing stays open between calls."""

    name: str
    genes: np.ndarray
    n_cells: int
    obs_columns: list[str]
    resumable: bool  # whether a later process can tell its cells from others: those in memory it cannot

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """Yield (first row, what reads [n, n_genes]) from the first cell to the last, no cell left out.

        Several blocks are read at a time, each on a thread. Those that end before `first_cell` may be left out.
        """
        ...

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """Columns that exist, of rows start .. stop - 1."""
        ...


class Source:
    """One file or object of cells.

    Attributes
    ----------
    name
        What messages call it: the path, or the type of the object.
    genes
        [n_genes] object array of str, each name once.
    n_cells
        Number of cells, those without counts included.
    obs_columns
        Columns of obs that can be asked for.
    normalized
        Whether the values are log1p-normalised, as the caller announced.
    """

    def __init__(self, reader: Reader, *, normalized: bool = False) -> None:
        self.reader = reader
        self.name = reader.name
        self.genes = reader.genes
        self.n_cells = reader.n_cells
        self.obs_columns = reader.obs_columns
        self.normalized = normalized

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.n_cells} cells x {len(self.genes)} genes)"

    def chunks(
        self,
        obs: Sequence[str] = (),
        *,
        first_cell: int = 0,
        share: tuple[int, int] = (0, 1),
        max_nonzeros: int = 16_000_000,
        max_cells: int = 16_384,
        workers: int = READERS,
        then: Callable[[Chunk], Any] | None = None,
    ) -> Iterator[Any]:
        """Read the cells once, in order. Chunks are read and checked on threads while others are in use.

        Parameters
        ----------
        obs
            Columns of obs that come along.
        first_cell
            Start with the chunk that begins with this cell: chunks are cut as from the first cell on.
        share
            (which, of how many): every so many-th chunk alone, for processes that share the cells. Chunks are cut as
            for one, so that all shares together are what one process reads.
        max_nonzeros, max_cells
            Bounds of a chunk (a single cell is never cut). Matrices stored by gene hold twice `max_nonzeros` while they
            are turned, and are read once more for each so many values.
        workers
            Threads that read; so many chunks and two more are held at a time. With 0 the caller's thread reads.
        then
            What is to be made of a chunk by the thread that read it.

        Yields
        ------
        Chunk
            Checked by `check_counts`; entries of one cell and gene that stand twice are summed. With `then`, what that
            makes of it.

        Raises
        ------
        InputError
            A column is missing (at once), a value cannot be a count, or the file is damaged (as it is read).
        """
        if max_nonzeros < 1 or max_cells < 1:
            raise InputError(f"max_nonzeros and max_cells must be at least 1, got {max_nonzeros} and {max_cells}")
        columns = self._check_columns(obs)
        jobs = (
            partial(self._chunk, start, load, columns, then)
            for number, (start, load) in enumerate(self.reader.blocks(max_nonzeros, max_cells, first_cell))
            if start >= first_cell and number % share[1] == share[0]
        )
        return ahead(jobs, workers=workers)

    def read_obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of obs of all cells, [n_cells] rows, the index holding the cells' names as str.

        Raises
        ------
        InputError
            A column is missing; the message names those that exist.
        """
        return self.reader.obs(self._check_columns(columns), 0, self.n_cells)

    @property
    def resumable(self) -> bool:
        """Whether its cells can be told from others by a later process: those in memory cannot."""
        return self.reader.resumable

    def identity(self) -> dict[str, Any]:
        """What tells whether two runs read the same cells: names, sizes and times of its files, cells and genes.

        ``files`` is [number of files, bytes, a hash of name, size and times of change of each], and None for what is no
        file.
        """
        genes = hashlib.blake2b("\0".join(map(str, self.genes)).encode(), digest_size=16).hexdigest()
        return {"name": self.name, "n_cells": self.n_cells, "genes": genes, "files": _files(self.name)}

    def _check_columns(self, columns: Sequence[str]) -> list[str]:
        columns = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
        for column in columns:
            if column not in self.obs_columns:
                available = ", ".join(self.obs_columns) or "none"
                raise InputError(f"{self.name}: obs has no column {column!r}; available: {available}")
        return columns

    def _chunk(self, start: int, load: Load, columns: list[str], then: Callable[[Chunk], Any] | None) -> Any:
        counts = load()
        if isinstance(counts, DeviceRows):
            counts.check(name=self.name, start=start, normalized=self.normalized)
        else:
            check_counts(counts, name=self.name, start=start, normalized=self.normalized)
            if not is_ascending(counts):
                counts = counts.copy()  # summing sorts in place, and this memory may be the user's
                counts.sum_duplicates()
        chunk = Chunk(counts, self.reader.obs(columns, start, start + counts.shape[0]), start)
        return chunk if then is None else then(chunk)


def _files(name: str) -> list[Any] | None:
    """See `Source.identity`."""
    if not os.path.exists(name):
        return None
    paths = [name]
    if os.path.isdir(name):
        paths = sorted(os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files)
    digest, size = hashlib.blake2b(digest_size=16), 0
    for path in paths:
        stat = os.stat(path)
        size += stat.st_size
        digest.update(repr((os.path.relpath(path, name), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())
    return [len(paths), size, digest.hexdigest()]


def check_resumable(sources: Sequence[Source]) -> None:
    """Refuse to take up work on cells that cannot be told from others.

    Raises
    ------
    InputError
        A source is an object in memory.
    """
    for source in sources:
        if not source.resumable:
            raise InputError(f"resume: {source.name} is in memory and cannot be told from other cells; give a path")
