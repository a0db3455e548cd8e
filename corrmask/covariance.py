"""Sums over cells from which the correlation of genes follows, gathered chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch

from corrmask import ops
from corrmask.errors import InputError
from corrmask.ops.covariance_update import panels_offset, panels_size

# A centred sum of squares below this share of the raw one is rounding: float64 sums of 10**7 equal values, added one
# after another, err by 1e-10 to 1e-9 of themselves. A gene of mean^2 / variance <= 1e4 is far above.
_CONSTANT = 1e-8


def log_normalize(counts: sp.csr_array, target_sum: float) -> np.ndarray:
    """log1p(count * target_sum / total of the cell) for the stored entries: float64 [nnz]. Empty cells stay empty."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    per_entry = np.repeat(totals, np.diff(counts.indptr))
    per_entry[per_entry == 0] = 1  # a cell of stored zeros
    return np.log1p(counts.data.astype(np.float64) * target_sum / per_entry)


@dataclass
class Covariance:
    """Accumulators (cells, sums, Gram) of log1p-normalised counts. They add up: over chunks, files and machines.

    Attributes
    ----------
    n_genes
        Number of genes G.
    gram
        float64 tensor: sums of y_i * y_j, genes by rank, in panels, as `corrmask.ops.covariance_update` keeps them.
    ranks
        int32 tensor [G]: the place of each gene in `gram`, by falling frequency in the first chunk.
    sums
        float64 tensor [n_levels, G]: sums of y in each level.
    squares
        float64 tensor [G]: sums of y * y.
    expressed
        int64 tensor [G]: cells with y > 0.
    level_cells
        Cells of each level, in the order of the rows of `sums`.
    """

    n_genes: int
    gram: torch.Tensor = field(init=False)
    ranks: torch.Tensor = field(init=False)
    sums: torch.Tensor = field(init=False)
    squares: torch.Tensor = field(init=False)
    expressed: torch.Tensor = field(init=False)
    level_cells: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = panels_size(self.n_genes)
        try:
            self.gram = torch.zeros(size, dtype=torch.float64)
        except RuntimeError:
            raise InputError(
                f"graph of {self.n_genes:,} genes: the triangle of products needs {size * 8 / 1e9:.1f} GB of memory; "
                "use fewer genes or a larger machine"
            ) from None
        self.sums = torch.zeros((0, self.n_genes), dtype=torch.float64)
        self.ranks = torch.arange(self.n_genes, dtype=torch.int32)
        self.squares = torch.zeros(self.n_genes, dtype=torch.float64)
        self.expressed = torch.zeros(self.n_genes, dtype=torch.int64)

    @property
    def n_cells(self) -> int:
        """Cells seen."""
        return sum(self.level_cells.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the accumulators."""
        return 8 * (self.gram.numel() + self.sums.numel() + 2 * self.n_genes)

    def _rows_of_levels(self, names: Sequence[str]) -> np.ndarray:
        """The row of `sums` of each level; a new level gets a new row."""
        new = [name for name in names if name not in self.level_cells]
        self.level_cells.update(dict.fromkeys(new, 0))
        self.sums = torch.cat([self.sums, torch.zeros((len(new), self.n_genes), dtype=torch.float64)])
        row_of = {name: row for row, name in enumerate(self.level_cells)}
        return np.array([row_of[name] for name in names], dtype=np.int64)

    def _level_rows(self, levels: np.ndarray) -> np.ndarray:
        """The row of `sums` of each cell, which is counted in its level: int64 [n]."""
        names, inverse, counts = np.unique(levels.astype(str), return_inverse=True, return_counts=True)
        rows = self._rows_of_levels([str(name) for name in names])
        for name, count in zip(names, counts, strict=True):
            self.level_cells[str(name)] += int(count)
        return rows[inverse]

    def update(self, values: sp.csr_array, levels: np.ndarray | None = None) -> None:
        """Add a chunk.

        Parameters
        ----------
        values
            float64 CSR [n, G]: log1p-normalised counts; columns unique within a cell.
        levels
            [n] names of the level of each cell (for correlation within levels); None puts all into one.
        """
        if self.n_cells == 0:
            frequency = np.bincount(values.indices, minlength=self.n_genes)
            ranks = np.empty(self.n_genes, dtype=np.int32)
            ranks[np.argsort(-frequency, kind="stable")] = np.arange(self.n_genes, dtype=np.int32)
            self.ranks = torch.from_numpy(ranks)
        level_rows = self._level_rows(np.full(values.shape[0], "all") if levels is None else np.asarray(levels))
        ops.covariance_update(
            self.gram,
            self.sums,
            self.squares,
            self.expressed,
            self.ranks,
            torch.from_numpy(values.indptr.astype(np.int64, copy=False)),
            torch.from_numpy(np.require(values.indices, requirements="W")),  # torch warns of read-only memory
            torch.from_numpy(np.require(values.data, requirements="W")),
            torch.from_numpy(level_rows),
        )

    def add(self, other: Covariance) -> None:
        """Add the accumulators of other cells over the same genes, in place.

        Raises
        ------
        InputError
            The other is over another number of genes.
        """
        if other.n_genes != self.n_genes:
            raise InputError(f"covariance: accumulators of {self.n_genes} and {other.n_genes} genes cannot be added")
        self._add_gram(other)
        rows = self._rows_of_levels(list(other.level_cells))
        for name, cells in other.level_cells.items():
            self.level_cells[name] += cells
        self.sums[torch.from_numpy(rows)] += other.sums
        self.squares += other.squares
        self.expressed += other.expressed

    def _add_gram(self, other: Covariance) -> None:
        """Add the Gram matrix of another order of genes, panel row by panel row."""
        if other.n_cells == 0:
            return
        if self.n_cells == 0:
            self.ranks = other.ranks.clone()
        if torch.equal(self.ranks, other.ranks):
            self.gram += other.gram
            return
        theirs = other.ranks.numpy().astype(np.int64)
        gene_at = np.argsort(self.ranks.numpy())
        for low in range(self.n_genes):
            high = np.arange(low, self.n_genes)
            a, b = theirs[gene_at[low]], theirs[gene_at[high]]
            place = panels_offset(np.minimum(a, b), np.maximum(a, b), self.n_genes)
            self.gram[torch.from_numpy(panels_offset(np.full_like(high, low), high, self.n_genes))] += other.gram[
                torch.from_numpy(place)
            ]

    def mean_factors(self) -> torch.Tensor:
        """sqrt(cells) * mean of each gene in each level: float64 [n_levels, G]; their products centre the Gram."""
        cells = torch.tensor(list(self.level_cells.values()), dtype=torch.float64)
        return self.sums / cells.sqrt()[:, None]

    def inverse_sd(self, min_cells: int) -> torch.Tensor:
        """1 / sqrt(centred sum of squares): float64 [G]; 0 for constant genes and those in fewer than `min_cells`."""
        centred = self.squares - self.mean_factors().square().sum(dim=0)
        varies = (centred > _CONSTANT * self.squares) & (self.expressed >= min_cells)
        return torch.where(varies, centred.clamp_min(0).rsqrt(), 0.0)
