"""Cells that another loader reads: any iterable of (CSR, obs) chunks as a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.sources.checks import check_genes, check_shape
from corrmask.sources.cutting import Block, csr_blocks, dense_blocks, held
from corrmask.sources.objects import host_matrix
from corrmask.sources.source import Source


@checked
def from_chunks(
    chunks: Iterable[Any] | Callable[[], Iterable[Any]],
    genes: Sequence[str] | np.ndarray,
    *,
    n_cells: int | None = None,
    name: str = "chunks",
) -> Source:
    """Make a source of chunks, for `corrmask.correlation_graph` and `corrmask.tokenization.tokenize`.

    Parameters
    ----------
    chunks
        Pairs (counts, obs), or mappings with ``"X"`` and ``"obs"`` as a loader of annbatch gives them: counts [n, G] of
        any kind that `open_sources` takes, obs a DataFrame of n rows, or None. An iterable that starts anew each
        time (a list, a loader), or a function that returns one: several passes are made.
    genes
        str [G]: the gene of each column.
    n_cells
        Cells in all; without it they are counted in a pass over the chunks.
    name
        What messages call it.

    Raises
    ------
    InputError
        An iterator that gives its chunks once only, a chunk that is no such pair, or whose shape does not fit.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from corrmask.sources import from_chunks
    >>> counts = sp.csr_array(np.eye(3, dtype=np.float32))
    >>> from_chunks([(counts, None), (counts, None)], ["A", "B", "C"])
    Source('chunks', 6 cells x 3 genes)
    """
    return Source(_StreamReader(chunks, check_genes(genes, name=name, remedy="give each once"), n_cells, name))


class _StreamReader:
    """See `from_chunks`. The obs of the chunks that are being read are kept until they are asked for."""

    resumable = False

    def __init__(self, chunks: Any, genes: np.ndarray, n_cells: int | None, name: str) -> None:
        self._chunks = chunks
        self.name = name
        self.genes = genes
        self._frames: dict[int, pd.DataFrame] = {}
        if isinstance(chunks, Iterator):
            raise InputError(
                f"{name}: an iterator gives its chunks once, and several passes are made; give a list, a loader, or a "
                "function that starts it"
            )
        self.obs_columns: list[str] = []
        counted = 0
        for position, (counts, obs) in enumerate(self._read()):
            if position == 0 and obs is not None:
                self.obs_columns = [str(column) for column in obs.columns]
            counted += counts.shape[0]
            if n_cells is not None:
                break
        self.n_cells = counted if n_cells is None else n_cells

    def _read(self) -> Iterator[tuple[Any, pd.DataFrame | None]]:
        """One pass over the chunks."""
        for chunk in self._chunks() if callable(self._chunks) else self._chunks:
            if isinstance(chunk, Mapping) and "X" in chunk:
                counts, obs = chunk["X"], chunk.get("obs")
            elif isinstance(chunk, (tuple, list)) and len(chunk) == 2:
                counts, obs = chunk
            else:
                raise InputError(
                    f"{self.name}: a chunk is a pair (counts, obs) or a mapping with 'X' and 'obs', got "
                    f"{type(chunk).__name__}"
                )
            counts = host_matrix(counts, self.name)
            n = counts.shape[0]
            check_shape(counts.shape, n_cells=n if obs is None else len(obs), n_genes=len(self.genes), name=self.name)
            yield counts, obs

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """See `corrmask.sources.source.Reader`."""
        start = 0
        for counts, obs in self._read():
            bounds = (self.name, max_nonzeros, max_cells)
            if isinstance(counts, np.ndarray):
                blocks = list(dense_blocks(held(counts), counts.shape, *bounds))
            else:
                blocks = list(csr_blocks(held(counts), counts.indptr, len(self.genes), *bounds))
            stops = [low for low, _ in blocks[1:]] + [counts.shape[0]]
            for (low, load), stop in zip(blocks, stops, strict=True):
                self._frames[start + low] = self._frame(obs, start, low, stop)
                yield start + low, load
            start += counts.shape[0]
            if start > self.n_cells:
                break
        if start != self.n_cells:
            raise InputError(f"{self.name}: {start:,} cells or more were read, {self.n_cells:,} were announced")

    def _frame(self, obs: pd.DataFrame | None, start: int, low: int, stop: int) -> pd.DataFrame:
        if obs is None:
            return pd.DataFrame(index=pd.Index([str(row) for row in range(start + low, start + stop)], dtype=object))
        frame = obs.iloc[low:stop].copy()
        frame.index = pd.Index([str(cell) for cell in frame.index], dtype=object)
        return frame

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """See `corrmask.sources.source.Reader`. Of a block that is being read it is at hand, else a pass is made."""
        frame = self._frames.pop(start, None)
        if frame is not None and len(frame) == stop - start:
            return frame[columns]
        frames, first = [], 0
        for counts, part in self._read():
            frames.append(self._frame(part, first, 0, counts.shape[0])[columns])
            first += counts.shape[0]
        return pd.concat(frames).iloc[start:stop]
