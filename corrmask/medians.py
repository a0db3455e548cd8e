"""The median of each gene over the corpus, exact while it fits the memory budget and a bounded sketch beyond."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corrmask import ops
from corrmask.sources.cutting import cut
from corrmask.staging import writable

RELATIVE_ERROR = 1e-3
_LEADING_BITS = 9  # of the mantissa: the middle of a bucket errs by 1 / 1024 of a value at most
_BUCKETS = 1 << _LEADING_BITS  # in an octave
_SHIFT = 52 - _LEADING_BITS
_BLOCK = 1 << 16  # values looked at together: their temporaries stay in the processor's cache
_BYTES = 12  # of a kept value, at most: its count and its column

_Part = tuple[sp.csr_array, np.ndarray, np.ndarray]  # counts, totals of the cells, genes of the columns


class MedianAccumulator:
    """Gathers count * 10000 / total of the non-zero counts of each gene.

    Parameters
    ----------
    n_genes
        Number of genes G.
    memory_bytes
        While the values fit, medians are exact; beyond, they come from a sketch of relative error 1e-3, whose size does
        not grow with the number of cells.
    """

    def __init__(self, n_genes: int, memory_bytes: int = 2_000_000_000) -> None:
        self.n_genes = n_genes
        self.memory_bytes = memory_bytes
        self._kept: list[_Part] = []  # chunks as they came, while they fit
        self._n_kept = 0
        self._sketch: _Sketch | None = None  # when they no longer do

    @property
    def is_exact(self) -> bool:
        """Whether all values are kept."""
        return self._sketch is None

    def update(self, counts: sp.csr_array, columns: np.ndarray) -> None:
        """Add a chunk, whose memory may be kept.

        Parameters
        ----------
        counts
            CSR [n, n_columns], raw counts; columns ascend in each cell, none twice.
        columns
            int [n_columns]: the gene of each column, 0 .. G - 1, each once, or -1 to leave it out (its counts are in
            the totals).
        """
        part = counts, _totals(counts), columns.astype(np.int32)
        if self._sketch is not None:
            self._sketch.add(*part)
            return
        part = _without_unused(*part)
        self._kept.append(part)
        self._n_kept += part[0].nnz
        if 2 * _BYTES * self._n_kept > self.memory_bytes:  # half of the budget: the sketch, and what is picked by it
            self._sketch = _Sketch(self.n_genes)
            while self._kept:
                self._sketch.add(*self._kept.pop())

    def medians(self) -> np.ndarray:
        """float64 [G], NaN for a gene without counts; of an even number the mean of the two middle values."""
        sketch = self._sketch
        if sketch is None:
            sketch = _Sketch(self.n_genes)
            for part in self._kept:
                sketch.add(*part)
        n, low, high, below = sketch.middle()
        counted = n > 0
        medians = np.full(self.n_genes, np.nan)
        if not counted.any():
            return medians
        if not self.is_exact:
            medians[counted] = (_midpoint(low[counted]) + _midpoint(high[counted])) / 2
            return medians
        picked = [pair for part in self._kept for pair in _values_between(*part, low, high)]
        genes, values = (np.concatenate(pairs) for pairs in zip(*picked, strict=True))
        values = values[np.lexsort((values, genes))]
        per_gene = np.bincount(genes, minlength=self.n_genes)
        first = (np.cumsum(per_gene) - per_gene - below)[counted]  # where a gene's smallest value would stand
        n = n[counted]
        medians[counted] = (values[first + (n - 1) // 2] + values[first + n // 2]) / 2
        return medians

    def origin(self) -> dict[str, Any]:
        """What the vocabulary file says of them."""
        if self.is_exact:
            return {"kind": "exact", "target_sum": 10000}
        return {"kind": "sketch", "target_sum": 10000, "relative_error": RELATIVE_ERROR}


def _totals(counts: sp.csr_array) -> np.ndarray:
    """float64 [n]: the total of each cell."""
    totals = counts.sum(axis=1)
    if counts.dtype == np.float32 and totals.max(initial=0) >= 1 << 24:  # float32 no longer holds every whole number
        totals = counts.astype(np.float64).sum(axis=1)
    return totals.astype(np.float64)


def _without_unused(counts: sp.csr_array, totals: np.ndarray, genes: np.ndarray) -> _Part:
    """A chunk without stored zeros and columns that are left out."""
    used = counts.data > 0
    if (genes < 0).any():
        used &= genes[counts.indices] >= 0
    if not used.all():
        indptr = np.concatenate([[0], np.cumsum(used)])[counts.indptr]
        counts = sp.csr_array((counts.data[used], counts.indices[used], indptr), shape=counts.shape)
    return counts, totals, genes


def _values_between(
    counts: sp.csr_array, totals: np.ndarray, genes: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Genes and values of a chunk in their genes' buckets `low` .. `high`, block by block."""
    indptr = counts.indptr
    for start, stop in cut(indptr, _BLOCK, counts.shape[0]):
        entries = slice(indptr[start], indptr[stop])
        gene = genes[counts.indices[entries]]
        values = counts.data[entries] * np.float64(10000)
        values /= np.repeat(totals[start:stop], np.diff(indptr[start : stop + 1]))
        buckets = values.view(np.int64) >> _SHIFT
        inside = (buckets >= low[gene]) & (buckets <= high[gene])
        yield gene[inside], values[inside]


def _midpoint(buckets: np.ndarray) -> np.ndarray:
    """The middle of each bucket: float64."""
    return ((buckets << _SHIFT) + (1 << (_SHIFT - 1))).view(np.float64)


class _Sketch:
    """How many values of each gene share their exponent and the leading bits of their mantissa.

    They take 2.5 KB for each gene and octave between the smallest value and the largest.

    Attributes
    ----------
    low, carries
        uint8 and uint32 [G, buckets], from the bucket `first` on, which begins an octave: 256 * carries + low values.
    """

    def __init__(self, n_genes: int) -> None:
        self.first = 0
        self.low = np.zeros((n_genes, 0), dtype=np.uint8)
        self.carries = np.zeros((n_genes, 0), dtype=np.uint32)

    def add(self, counts: sp.csr_array, totals: np.ndarray, genes: np.ndarray) -> None:
        """Add the values of a chunk."""
        chunk = counts.indptr.astype(np.int64, copy=False), counts.indices, counts.data, totals, genes
        tensors = [writable(array) for array in chunk]
        low, high = self._count(tensors)
        if low <= high and self._reach(low, high):
            self._count(tensors)

    def _count(self, chunk: list[torch.Tensor]) -> list[int]:
        """Count where there is room for all buckets; the lowest and the highest."""
        low, carries = torch.from_numpy(self.low), torch.from_numpy(self.carries)
        return ops.sketch_values(low, carries, *chunk, first_bucket=self.first).tolist()

    def _reach(self, low: int, high: int) -> bool:
        """Make room for buckets `low` .. `high`, in whole octaves; whether there was none."""
        n = self.low.shape[1]
        first, last = self.first, self.first + n
        if n and first <= low and high < last:
            return False
        low, high = low // _BUCKETS * _BUCKETS, -(-(high + 1) // _BUCKETS) * _BUCKETS
        self.first, high = (min(first, low), max(last, high)) if n else (low, high)
        for name in ("low", "carries"):
            old = getattr(self, name)
            new = np.zeros((len(old), high - self.first), dtype=old.dtype)
            new[:, first - self.first : last - self.first] = old
            setattr(self, name, new)
        return True

    def middle(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each gene: its values; the buckets of the two middle ones; how many lie below these. int64 [G] each."""
        n, low, high, below = np.zeros((4, len(self.low)), dtype=np.int64)
        for gene in range(len(self.low) if self.low.size else 0):
            counts = self.carries[gene].astype(np.int64) << 8
            counts += self.low[gene]
            cumulative = np.cumsum(counts)
            n[gene] = cumulative[-1]
            low[gene], high[gene] = np.searchsorted(cumulative, [(n[gene] - 1) // 2 + 1, n[gene] // 2 + 1])
            below[gene] = cumulative[low[gene]] - counts[low[gene]] if n[gene] else 0
        return n, low + self.first, high + self.first, below
