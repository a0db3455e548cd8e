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
        self._genes: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._bytes = 0
        self._sketch: _Sketch | None = None

    @property
    def is_exact(self) -> bool:
        """Whether no value has been given to the sketch."""
        return self._sketch is None

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
        if self._sketch is not None:
            self._sketch.add(genes, values)
            return
        self._genes.append(genes.astype(np.int32))
        self._values.append(values)
        self._bytes += 12 * len(values)
        # In the end the values are sorted by gene, beside what was gathered: half of the budget is for that.
        if 2 * self._bytes > self.memory_bytes:
            self._sketch, self._bytes = _Sketch(self.n_genes), 0
            while self._genes:
                self._sketch.add(self._genes.pop(), self._values.pop())

    def medians(self) -> np.ndarray:
        """float64 [G], NaN for a gene without counts; of an even number the mean of the two middle values."""
        return self._exact() if self._sketch is None else self._sketch.medians()

    def origin(self) -> dict[str, Any]:
        """What the vocabulary file says of them."""
        if self.is_exact:
            return {"kind": "exact", "target_sum": 10000}
        return {"kind": "sketch", "target_sum": 10000, "relative_error": RELATIVE_ERROR}

    def _exact(self) -> np.ndarray:
        medians = np.full(self.n_genes, np.nan)
        if not self._values:
            return medians
        genes, values = np.concatenate(self._genes), np.concatenate(self._values)
        by_gene = sp.csc_array(
            sp.coo_array((values, (np.arange(len(values), dtype=np.int64), genes)), shape=(len(values), self.n_genes))
        )
        for gene in np.flatnonzero(np.diff(by_gene.indptr)):
            medians[gene] = np.median(by_gene.data[by_gene.indptr[gene] : by_gene.indptr[gene + 1]])
        return medians


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

    def medians(self) -> np.ndarray:
        """float64 [G], NaN for a gene without values; the middle of the bucket stands for each value."""
        bits = (np.arange(self.counts.shape[1], dtype=np.int64) + self.first) << _SHIFT
        middle = (bits + (1 << (_SHIFT - 1))).view(np.float64)
        medians = np.full(len(self.counts), np.nan)
        for gene, counts in enumerate(self.counts):
            cumulative = np.cumsum(counts, dtype=np.int64)
            if n := int(cumulative[-1]) if len(cumulative) else 0:
                low, high = np.searchsorted(cumulative, [(n - 1) // 2 + 1, n // 2 + 1])
                medians[gene] = (middle[low] + middle[high]) / 2
        return medians
