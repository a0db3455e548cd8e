"""The median of each gene over the corpus, exact while it fits the memory budget and a bounded sketch beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

RELATIVE_ERROR = 1e-3
_BASE = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)  # buckets [base**(i-1), base**i]; the middle errs by RELATIVE_ERROR
_BUCKETS = 1 << 24  # room for exponents of any float64 within +-8 million buckets
_ZERO = 1 << 23


class MedianAccumulator:
    """Gathers count * 10000 / total of the non-zero counts of each gene.

    Parameters
    ----------
    n_genes
        Number of genes G.
    memory_bytes
        While the values fit, medians are exact; beyond, they come from a sketch with logarithmic buckets of relative
        error 1e-3 (as DDSketch, Masson, Rim, Lee, VLDB 2019), whose size does not grow with the number of cells.
    """

    def __init__(self, n_genes: int, memory_bytes: int = 2_000_000_000) -> None:
        self.n_genes = n_genes
        self.memory_bytes = memory_bytes
        self._genes: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._bytes = 0
        self._buckets: tuple[np.ndarray, np.ndarray] | None = None  # (gene and bucket in one int64, ascending; counts)

    @property
    def is_exact(self) -> bool:
        """Whether no value has been given to the sketch."""
        return self._buckets is None

    def update(self, counts: sp.csr_array, columns: np.ndarray) -> None:
        """Add a chunk.

        Parameters
        ----------
        counts
            CSR [n, n_columns], raw counts.
        columns
            int [n_columns]: the gene of each column, 0 .. G - 1, or -1 to leave it out (its counts are in the totals).
        """
        totals = np.repeat(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), np.diff(counts.indptr))
        genes = columns[counts.indices].astype(np.int32)
        used = (counts.data > 0) & (genes >= 0)
        values = counts.data[used].astype(np.float64) * 10000 / totals[used]
        self._genes.append(genes[used])
        self._values.append(values)
        self._bytes += 12 * len(values)
        # In the end the values are sorted by gene, beside what was gathered: half of the budget is for that.
        if not self.is_exact or 2 * self._bytes > self.memory_bytes:
            self._compress()

    def _compress(self) -> None:
        genes, values = np.concatenate(self._genes), np.concatenate(self._values)
        self._genes, self._values, self._bytes = [], [], 0
        buckets = np.ceil(np.log(values) / np.log(_BASE)).astype(np.int64)
        keys, counts = np.unique(genes.astype(np.int64) * _BUCKETS + (buckets + _ZERO), return_counts=True)
        if self._buckets is not None:
            keys = np.concatenate([self._buckets[0], keys])
            counts = np.concatenate([self._buckets[1], counts])
            keys, inverse = np.unique(keys, return_inverse=True)
            counts = np.bincount(inverse, weights=counts, minlength=len(keys)).astype(np.int64)
        self._buckets = keys, counts

    def medians(self) -> np.ndarray:
        """float64 [G], NaN for a gene without counts; of an even number the mean of the two middle values."""
        return self._exact() if self._buckets is None else self._from_buckets(*self._buckets)

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

    def _from_buckets(self, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
        genes, buckets = keys // _BUCKETS, keys % _BUCKETS - _ZERO
        middle = 2.0 * np.power(_BASE, buckets) / (_BASE + 1)
        medians = np.full(self.n_genes, np.nan)
        bounds = np.searchsorted(genes, np.arange(self.n_genes + 1))
        for gene in np.unique(genes):
            part = slice(bounds[gene], bounds[gene + 1])
            cumulative = np.cumsum(counts[part])
            n = cumulative[-1]
            low, high = np.searchsorted(cumulative, [(n - 1) // 2 + 1, n // 2 + 1])
            medians[gene] = (middle[part][low] + middle[part][high]) / 2
        return medians
