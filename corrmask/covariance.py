"""Sums over cells from which the correlation of genes follows, gathered chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corrmask import ops
from corrmask.errors import InputError
from corrmask.ops.covariance_update import PANEL, panel_start, panels_offset, panels_size
from corrmask.staging import Staging, column_counts

# A centred sum of squares below this share of the raw one is rounding: float64 sums of 10**7 equal values, added one
# after another, err by 1e-10 to 1e-9 of themselves. A gene of mean^2 / variance <= 1e4 is far above.
_CONSTANT = 1e-8


def log_normalize(counts: sp.csr_array, target_sum: float) -> np.ndarray:
    """log1p(count * target_sum / total of the cell) for the stored entries: float64 [nnz]. Empty cells stay empty."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    per_entry = np.repeat(totals, np.diff(counts.indptr))
    per_entry[per_entry == 0] = 1  # a cell of stored zeros
    return np.log1p(counts.data.astype(np.float64) * target_sum / per_entry)


def no_edges(n_genes: int, top_k: int, device: torch.device | str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Partners int32 (-1: none) and weights float32, [G, top_k] or less where there are fewer genes."""
    partners = torch.full((n_genes, min(top_k, max(1, n_genes - 1))), -1, dtype=torch.int32, device=device)
    return partners, torch.zeros_like(partners, dtype=torch.float32)


class Covariance:
    """Accumulators (cells, sums, Gram) of log1p-normalised counts. They add up: over chunks, files and machines.

    Genes stand by rank: by falling frequency in the first chunk.

    Parameters
    ----------
    n_genes
        Number of genes G.
    target_sum
        Counts per cell after normalisation; None where the values are log1p-normalised already.
    panels
        Panels of the Gram matrix that are summed, (first, behind the last); None for all.
    device
        Where the accumulators stand (the ranks on the CPU); chunks are copied there while it computes.

    Attributes
    ----------
    gram
        float64 tensor: sums of y_i * y_j, in panels, as `corrmask.ops.covariance_update` keeps them.
    ranks
        int32 tensor [G]: the place of each gene in all that follows.
    sums
        float64 tensor [n_levels, G]: sums of y in each level.
    squares
        float64 tensor [G]: sums of y * y.
    expressed
        int64 tensor [G]: cells with y > 0.
    level_cells
        Cells of each level, in the order of the rows of `sums`.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        target_sum: float | None = 1e4,
        panels: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.n_genes = n_genes
        self._staging = Staging(device)
        self.target_sum = target_sum
        self.level_cells: dict[str, int] = {}
        self.sums = torch.zeros((0, n_genes), dtype=torch.float64, device=device)
        self.ranks = torch.arange(n_genes, dtype=torch.int32)
        self.squares = torch.zeros(n_genes, dtype=torch.float64, device=device)
        self.expressed = torch.zeros(n_genes, dtype=torch.int64, device=device)
        self.select(*(panels or (0, -(-n_genes // PANEL))))

    def select(self, first: int, last: int) -> None:
        """Turn to panels `first` .. `last` - 1 of the Gram matrix; cells that pass by again are not counted again."""
        self.first_panel = first
        self.gram = self.squares[:0]  # what was there goes first
        size = panel_start(last, self.n_genes) - panel_start(first, self.n_genes)
        try:
            self.gram = self.squares.new_zeros(size)
        except RuntimeError:
            raise InputError(
                f"graph of {self.n_genes:,} genes: the products need {size * 8 / 1e9:.1f} GB of memory; give less with "
                "--memory (memory=), or use fewer genes"
            ) from None

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
        self.sums = torch.cat([self.sums, self.sums.new_zeros((len(new), self.n_genes))])
        row_of = {name: row for row, name in enumerate(self.level_cells)}
        return np.array([row_of[name] for name in names], dtype=np.int64)

    def _level_rows(self, levels: np.ndarray) -> np.ndarray:
        """The row of `sums` of each cell, which is counted in its level: int64 [n]."""
        names, inverse, counts = np.unique(levels.astype(str), return_inverse=True, return_counts=True)
        rows = self._rows_of_levels([str(name) for name in names])
        if self.first_panel == 0:
            for name, count in zip(names, counts, strict=True):
                self.level_cells[str(name)] += int(count)
        return rows[inverse]

    def update(self, counts: Any, levels: np.ndarray | None = None, genes: np.ndarray | None = None) -> None:
        """Add a chunk.

        Parameters
        ----------
        counts
            CSR [n, n_columns] of float32, float64, int32 or int64, of scipy or cupy; columns unique within a cell.
        levels
            [n] names of the level of each cell (for correlation within levels); None puts all into one.
        genes
            int [n_columns]: the gene of each column, -1 for one that counts in the cells' totals alone; None where the
            columns are the genes.
        """
        genes = np.arange(self.n_genes) if genes is None else np.asarray(genes)
        if self.n_cells == 0:
            frequency = np.zeros(self.n_genes, dtype=np.int64)
            frequency[genes[genes >= 0]] = column_counts(counts, len(genes))[genes >= 0]
            ranks = np.empty(self.n_genes, dtype=np.int32)
            ranks[np.argsort(-frequency, kind="stable")] = np.arange(self.n_genes, dtype=np.int32)
            self.ranks = torch.from_numpy(ranks)
        level_rows = self._level_rows(np.full(counts.shape[0], "all") if levels is None else np.asarray(levels))
        places = np.append(self.ranks.numpy(), np.int32(-1))[genes]
        indptr, indices, values, levels_there, places_there = self._staging.rows(counts, level_rows, places)
        ops.covariance_update(
            self.gram,
            self.sums,
            self.squares,
            self.expressed,
            places_there,
            indptr,
            indices,
            values,
            levels_there,
            target_sum=self.target_sum,
            first_panel=self.first_panel,
        )

    def add(self, other: Covariance) -> None:
        """Add the accumulators of other cells over the same genes, in place.

        Raises
        ------
        InputError
            The other is over another number of genes, or one of both holds some of the panels alone.
        """
        if other.n_genes != self.n_genes:
            raise InputError(f"covariance: accumulators of {self.n_genes} and {other.n_genes} genes cannot be added")
        if not self.gram.shape == other.gram.shape == (panels_size(self.n_genes),):
            raise InputError("covariance: accumulators of some panels cannot be added; add whole ones")
        if other.n_cells == 0:
            return
        if self.n_cells == 0:
            self.ranks = other.ranks.clone()
        theirs = torch.empty_like(self.ranks, dtype=torch.int64)
        theirs[self.ranks.long()] = other.ranks.long()  # [G]: where the gene of our rank stands with them
        self._add_gram(other, theirs.numpy())
        rows = self._rows_of_levels(list(other.level_cells))
        for name, cells in other.level_cells.items():
            self.level_cells[name] += cells
        self.sums[torch.from_numpy(rows)] += other.sums[:, theirs]
        self.squares += other.squares[theirs]
        self.expressed += other.expressed[theirs]

    def _add_gram(self, other: Covariance, theirs: np.ndarray) -> None:
        """Add the Gram matrix of another order of genes, row by row."""
        if torch.equal(self.ranks, other.ranks):
            self.gram += other.gram
            return
        for low in range(self.n_genes):
            high = np.arange(low, self.n_genes)
            a, b = theirs[low], theirs[high]
            place = panels_offset(np.minimum(a, b), np.maximum(a, b), self.n_genes)
            self.gram[torch.from_numpy(panels_offset(np.full_like(high, low), high, self.n_genes))] += other.gram[
                torch.from_numpy(place)
            ]

    def update_edges(
        self, partners: torch.Tensor, weights: torch.Tensor, *, min_cells: int, min_corr: float, positive: bool = False
    ) -> None:
        """Update the strongest partners of each gene by the panels at hand, once all cells have passed by.

        Parameters
        ----------
        partners, weights, min_corr, positive
            As `corrmask.ops.topk_edges` takes them; `no_edges` gives the first two.
        min_cells
            Genes expressed in fewer cells get no edges.
        """
        ops.topk_edges(
            partners,
            weights,
            self.gram,
            self.ranks.to(self.gram.device),
            self.mean_factors(),
            self.inverse_sd(min_cells),
            min_corr=min_corr,
            positive=positive,
            first_panel=self.first_panel,
        )

    def mean_factors(self) -> torch.Tensor:
        """sqrt(cells) * mean of each gene in each level, whose products centre the Gram: float64 [n_levels, G]."""
        cells = torch.tensor(list(self.level_cells.values()), dtype=torch.float64, device=self.sums.device)
        return self.sums / cells.sqrt()[:, None]

    def inverse_sd(self, min_cells: int) -> torch.Tensor:
        """1 / sqrt(centred sum of squares): float64 [G]; 0 for constant genes and those in fewer than `min_cells`."""
        centred = self.squares - self.mean_factors().square().sum(dim=0)
        varies = (centred > _CONSTANT * self.squares) & (self.expressed >= min_cells)
        return torch.where(varies, centred.clamp_min(0).rsqrt(), 0.0)
