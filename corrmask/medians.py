"""The median of each gene over the corpus, exact while it fits the memory budget and a bounded sketch beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from corrmask.sources.cutting import cut

RELATIVE_ERROR = 1e-3
_LEADING_BITS = 9  # of the mantissa: the middle of a bucket errs by 1 / 1024 of a value at most
_BUCKETS = 1 << _LEADING_BITS  # in an octave
_SHIFT = 52 - _LEADING_BITS
_BLOCK = 1 << 16  # values looked at together: their temporaries stay in the processor's cache


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
        self._sketch = _Sketch(n_genes)
        self._values: list[tuple[np.ndarray, np.ndarray]] | None = []  # genes and values, while they fit
        self._bytes = 0

    @property
    def is_exact(self) -> bool:
        """Whether all values are kept."""
        return self._values is not None

    def update(self, counts: sp.csr_array, columns: np.ndarray) -> None:
        """Add a chunk.

        Parameters
        ----------
        counts
            CSR [n, n_columns], raw counts.
        columns
            int [n_columns]: the gene of each column, 0 .. G - 1, or -1 to leave it out (its counts are in the totals).
        """
        totals, indptr = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), counts.indptr
        for start, stop in cut(indptr, _BLOCK, counts.shape[0]):
            part = slice(indptr[start], indptr[stop])
            genes, values = columns[counts.indices[part]], counts.data[part] * np.float64(10000)
            with np.errstate(invalid="ignore"):  # stored zeros of a cell without counts
                values /= np.repeat(totals[start:stop], np.diff(indptr[start : stop + 1]))
            used = (values > 0) & (genes >= 0)
            self._add(*((genes, values) if used.all() else (genes[used], values[used])))

    def _add(self, genes: np.ndarray, values: np.ndarray) -> None:
        self._sketch.add(genes, values)
        if self._values is not None:
            self._values.append((genes.astype(np.int32), values))
            self._bytes += 12 * len(values)
            if 2 * self._bytes > self.memory_bytes:  # half of the budget is for the sketch and what is picked by it
                self._values, self._bytes = None, 0

    def medians(self) -> np.ndarray:
        """float64 [G], NaN for a gene without counts; of an even number the mean of the two middle values."""
        n, low, high, below = self._sketch.middle()
        counted = n > 0
        medians = np.full(self.n_genes, np.nan)
        if not counted.any():
            return medians
        if self._values is None:
            medians[counted] = (_midpoint(low[counted]) + _midpoint(high[counted])) / 2
            return medians
        picked = []  # the values in the two middle ones' buckets
        for genes, values in self._values:
            buckets = values.view(np.int64) >> _SHIFT
            inside = (buckets >= low[genes]) & (buckets <= high[genes])
            picked.append((genes[inside], values[inside]))
        genes, values = (np.concatenate(part) for part in zip(*picked, strict=True))
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


def _midpoint(buckets: np.ndarray) -> np.ndarray:
    """The middle of each bucket: float64."""
    return ((buckets << _SHIFT) + (1 << (_SHIFT - 1))).view(np.float64)


class _Sketch:
    """How many values of each gene share their exponent and the leading bits of their mantissa.

    One shift of a value's bits gives its bucket, where those of one width in the logarithm (DDSketch: Masson, Rim, Lee,
    VLDB 2019) cost a logarithm. They take 2 KB for each gene and octave between the smallest value and the largest.

    Attributes
    ----------
    counts
        uint32 [G, buckets], from the bucket `first` on, which begins an octave.
    """

    def __init__(self, n_genes: int) -> None:
        self.first = 0
        self.counts = np.zeros((n_genes, 0), dtype=np.uint32)

    def add(self, genes: np.ndarray, values: np.ndarray) -> None:
        """Add float64 values, positive, and the gene of each."""
        if not len(values):
            return
        buckets = values.view(np.int64) >> _SHIFT
        self._reach(int(buckets.min()), int(buckets.max()))
        places = genes * np.int64(self.counts.shape[1])
        places += buckets
        places -= self.first
        np.add.at(self.counts.reshape(-1), places, np.uint32(1))

    def _reach(self, low: int, high: int) -> None:
        """Make room for buckets `low` .. `high`, in whole octaves."""
        n_genes, n = self.counts.shape
        first, last = self.first, self.first + n
        if n and first <= low and high < last:
            return
        low, high = low // _BUCKETS * _BUCKETS, -(-(high + 1) // _BUCKETS) * _BUCKETS
        low, high = (min(first, low), max(last, high)) if n else (low, high)
        counts = np.zeros((n_genes, high - low), dtype=np.uint32)
        counts[:, first - low : last - low] = self.counts
        self.first, self.counts = low, counts

    def middle(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each gene: its values; the buckets of the two middle ones; how many lie below these. int64 [G] each."""
        n, low, high, below = np.zeros((4, len(self.counts)), dtype=np.int64)
        for gene, counts in enumerate(self.counts if self.counts.size else ()):
            cumulative = np.cumsum(counts, dtype=np.int64)
            n[gene] = cumulative[-1]
            low[gene], high[gene] = np.searchsorted(cumulative, [(n[gene] - 1) // 2 + 1, n[gene] // 2 + 1])
            below[gene] = cumulative[low[gene]] - counts[low[gene]] if n[gene] else 0
        return n, low + self.first, high + self.first, below
