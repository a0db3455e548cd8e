"""Sums over cells from which the correlation of genes follows, gathered chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch

from corrmask import ops
from corrmask.errors import InputError

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
        float64 tensor [G (G + 1) / 2]: sums of y_i * y_j, the upper triangle row after row.
    sums
        float64 tensor [n_levels, G]: sums of y in each level.
    expressed
        int64 tensor [G]: cells with y > 0.
    level_cells
        Cells of each level, in the order of the rows of `sums`.
    """

    n_genes: int
    gram: torch.Tensor = field(init=False)
    sums: torch.Tensor = field(init=False)
    expressed: torch.Tensor = field(init=False)
    level_cells: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.n_genes * (self.n_genes + 1) // 2
        try:
            self.gram = torch.zeros(size, dtype=torch.float64)
        except RuntimeError:
            raise InputError(
                f"graph of {self.n_genes:,} genes: the triangle of products needs {size * 8 / 1e9:.1f} GB of memory; "
                "use fewer genes or a larger machine"
            ) from None
        self.sums = torch.zeros((0, self.n_genes), dtype=torch.float64)
        self.expressed = torch.zeros(self.n_genes, dtype=torch.int64)

    @property
    def n_cells(self) -> int:
        """Cells seen."""
        return sum(self.level_cells.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the accumulators."""
        return 8 * (self.gram.numel() + self.sums.numel() + self.expressed.numel())

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
        if not values.has_sorted_indices:
            values = values.sorted_indices()
        level_rows = self._level_rows(np.full(values.shape[0], "all") if levels is None else np.asarray(levels))
        ops.covariance_update(
            self.gram,
            self.sums,
            self.expressed,
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
        rows = self._rows_of_levels(list(other.level_cells))
        for name, cells in other.level_cells.items():
            self.level_cells[name] += cells
        self.sums[torch.from_numpy(rows)] += other.sums
        self.gram += other.gram
        self.expressed += other.expressed

    def mean_factors(self) -> torch.Tensor:
        """sqrt(cells) * mean of each gene in each level: float64 [n_levels, G]; their products centre the Gram."""
        cells = torch.tensor(list(self.level_cells.values()), dtype=torch.float64)
        return self.sums / cells.sqrt()[:, None]

    def inverse_sd(self, min_cells: int) -> torch.Tensor:
        """1 / sqrt(centred sum of squares): float64 [G]; 0 for constant genes and those in fewer than `min_cells`."""
        diagonal = np.cumsum(np.arange(self.n_genes, 0, -1)) - np.arange(self.n_genes, 0, -1)
        squares = self.gram[torch.from_numpy(diagonal)]
        centred = squares - self.mean_factors().square().sum(dim=0)
        varies = (centred > _CONSTANT * squares) & (self.expressed >= min_cells)
        return torch.where(varies, centred.clamp_min(0).rsqrt(), 0.0)
