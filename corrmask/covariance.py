"""Sums over cells from which the correlation of genes follows, gathered chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corrmask import ops
from corrmask.arguments import checked
from corrmask.devices import choose_device
from corrmask.errors import InputError
from corrmask.moments import Moments, pairwise_correlation
from corrmask.ops.covariance_update import PANEL, panel_start, panels_offset, panels_size
from corrmask.staging import Staging, column_counts

_SLAB = 8  # panels whose correlations stand in memory, where the files measured different genes


def log_normalize(counts: sp.csr_array, target_sum: float) -> np.ndarray:
    """log1p(count * target_sum / total of the cell) for the stored entries: float64 [nnz]. Empty cells stay empty."""
    values = counts.data.astype(np.float64)
    # As float64 from the start: scipy sums rows of float32 in float32, which holds no odd number above 2**24.
    totals = sp.csr_array((values, counts.indices, counts.indptr), shape=counts.shape).sum(axis=1)
    per_entry = np.repeat(totals, np.diff(counts.indptr))
    per_entry[per_entry == 0] = 1  # a cell of stored zeros
    return np.log1p(values * target_sum / per_entry)


def no_edges(n_genes: int, top_k: int, device: torch.device | str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Partners int32 (-1: none) and weights float32, [G, top_k] or less where there are fewer genes."""
    partners = torch.full((n_genes, min(top_k, max(1, n_genes - 1))), -1, dtype=torch.int32, device=device)
    return partners, torch.zeros_like(partners, dtype=torch.float32)


class Covariance:
    """Accumulators (cells, sums, Gram) of log1p-normalised counts. They add up: over chunks, devices and machines.

    Genes stand by rank: by falling frequency in the first chunk. Sums are kept for each set of genes that was measured.

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
    moments
        Sums of the cells of each set of measured genes, by the set: bytes of bool [G], genes in their own order.

    Examples
    --------
    Several GPUs take chunks in turn; one order of the genes lets their sums be added as they stand.

    >>> sums = [Covariance(n_genes, device=f"cuda:{i}") for i in range(torch.cuda.device_count())]
    >>> for one in sums:
    ...     one.rank(frequency)
    >>> for number, counts in enumerate(chunks):
    ...     sums[number % len(sums)].update(counts)
    >>> for other in sums[1:]:
    ...     sums[0].add(other)
    """

    @checked
    def __init__(
        self,
        n_genes: int,
        *,
        target_sum: float | None = 1e4,
        panels: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.n_genes = n_genes
        self.device = choose_device(device)
        self._staging = Staging(self.device)
        self.target_sum = target_sum
        self.moments: dict[bytes, Moments] = {}
        self.ranks = torch.arange(n_genes, dtype=torch.int32)
        self._ranked = False
        self.select(*(panels or (0, -(-n_genes // PANEL))))

    def select(self, first: int, last: int) -> None:
        """Turn to panels `first` .. `last` - 1 of the Gram matrix; cells that pass by again are not counted again."""
        self.first_panel = first
        self.gram = torch.empty(0, dtype=torch.float64, device=self.device)  # what was there goes first
        size = panel_start(last, self.n_genes) - panel_start(first, self.n_genes)
        try:
            # numpy's zeros stand in large pages, not touched before they are used: a quarter of the time of torch's.
            on_cpu = self.device.type == "cpu"
            self.gram = torch.from_numpy(np.zeros(size)) if on_cpu else self.gram.new_zeros(size)
        except (RuntimeError, MemoryError):
            raise InputError(
                f"graph of {self.n_genes:,} genes: the products need {size * 8 / 1e9:.1f} GB of memory; give less with "
                "--memory (memory=), or use fewer genes"
            ) from None

    @property
    def level_cells(self) -> dict[str, int]:
        """Cells of each level, in the order in which levels came."""
        cells: dict[str, int] = {}
        for moments in self.moments.values():
            for name, count in moments.level_cells.items():
                cells[name] = cells.get(name, 0) + count
        return cells

    @property
    def n_cells(self) -> int:
        """Cells seen."""
        return sum(self.level_cells.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the accumulators."""
        return 8 * (
            self.gram.numel() + sum(moments.sums.numel() + 2 * self.n_genes for moments in self.moments.values())
        )

    def rank(self, frequency: np.ndarray) -> None:
        """Decide on the ranks before the first cells come: by falling frequency [G]."""
        ranks = np.empty(self.n_genes, dtype=np.int32)
        ranks[np.argsort(-frequency, kind="stable")] = np.arange(self.n_genes, dtype=np.int32)
        self.ranks = torch.from_numpy(ranks)
        self._ranked = True

    def _moments_of(self, measured: np.ndarray) -> Moments:
        """The sums of the set of genes that is measured, bool [G]."""
        return self.moments.setdefault(measured.tobytes(), Moments(self.n_genes, self.device))

    def _level_rows(self, moments: Moments, levels: np.ndarray | None, n_cells: int) -> np.ndarray:
        """The row of `moments.sums` of each cell, which is counted in its level: int64 [n]."""
        if levels is None:
            names, inverse, counts = np.array(["all"]), np.zeros(n_cells, dtype=np.int64), np.array([n_cells])
        else:
            names, inverse, counts = np.unique(levels.astype(str), return_inverse=True, return_counts=True)
        rows = moments.rows_of_levels([str(name) for name in names])
        if self.first_panel == 0:
            for name, count in zip(names, counts, strict=True):
                moments.level_cells[str(name)] += int(count)
        return np.array(rows, dtype=np.int64)[inverse]

    def update(self, counts: Any, levels: np.ndarray | None = None, genes: np.ndarray | None = None) -> None:
        """Add a chunk.

        Parameters
        ----------
        counts
            CSR [n, n_columns] of float32, float64, int32 or int64, of scipy, of cupy or
            `corrmask.sources.device.DeviceRows`; columns unique within a cell.
        levels
            [n] names of the level of each cell (for correlation within levels); None puts all into one.
        genes
            int [n_columns]: the gene of each column, -1 for one that counts in the cells' totals alone; None where the
            columns are the genes. Genes that no column has were not measured: these cells count in no pair with them.
        """
        genes = np.arange(self.n_genes) if genes is None else np.asarray(genes)
        if not self._ranked:
            frequency = np.zeros(self.n_genes, dtype=np.int64)
            frequency[genes[genes >= 0]] = column_counts(counts, len(genes))[genes >= 0]
            self.rank(frequency)
        measured = np.zeros(self.n_genes, dtype=bool)
        measured[genes[genes >= 0]] = True
        moments = self._moments_of(measured)
        level_rows = self._level_rows(moments, None if levels is None else np.asarray(levels), counts.shape[0])
        places = np.append(self.ranks.numpy(), np.int32(-1))[genes]
        indptr, indices, values, levels_there, places_there = self._staging.rows(counts, level_rows, places)
        ops.covariance_update(
            self.gram,
            moments.sums,
            moments.squares,
            moments.expressed,
            places_there,
            indptr,
            indices,
            values,
            levels_there,
            target_sum=self.target_sum,
            first_panel=self.first_panel,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All that has been summed, for `restore`; no copies on the CPU."""
        parts = {
            "gram": self.gram.cpu().numpy(),
            "ranks": self.ranks.numpy(),
            "first_panel": np.array(self.first_panel),
        }
        for number, (measured, moments) in enumerate(self.moments.items()):
            parts[f"measured_{number}"] = np.frombuffer(measured, dtype=bool)
            parts[f"levels_{number}"] = np.array(list(moments.level_cells), dtype=str)
            parts[f"cells_{number}"] = np.array(list(moments.level_cells.values()), dtype=np.int64)
            for name in ("sums", "squares", "expressed"):
                parts[f"{name}_{number}"] = getattr(moments, name).cpu().numpy()
        return parts

    def restore(self, parts: Mapping[str, np.ndarray]) -> None:
        """Take up sums where `arrays` left them."""
        self.first_panel, self._ranked = int(parts["first_panel"]), True
        self.gram, self.ranks = torch.from_numpy(parts["gram"]).to(self.device), torch.from_numpy(parts["ranks"])
        self.moments = {}
        for number in range(sum(name.startswith("measured_") for name in parts)):
            moments = self.moments[parts[f"measured_{number}"].tobytes()] = Moments(self.n_genes, self.device)
            names = map(str, parts[f"levels_{number}"])
            moments.level_cells = dict(zip(names, parts[f"cells_{number}"].tolist(), strict=True))
            for name in ("sums", "squares", "expressed"):
                setattr(moments, name, torch.from_numpy(parts[f"{name}_{number}"]).to(self.device))

    def add(self, other: Covariance) -> None:
        """Add the accumulators of other cells over the same genes, in place; they may stand on another device.

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
        if not self._ranked:
            self.ranks, self._ranked = other.ranks.clone(), True
        theirs = torch.empty_like(self.ranks, dtype=torch.int64)
        theirs[self.ranks.long()] = other.ranks.long()  # [G]: where the gene of our rank stands with them
        self._add_gram(other, theirs.numpy())
        for measured, moments in other.moments.items():
            self.moments.setdefault(measured, Moments(self.n_genes, self.device)).add(moments, theirs)

    def _add_gram(self, other: Covariance, theirs: np.ndarray) -> None:
        """Add the Gram matrix of another order of genes, row by row."""
        if torch.equal(self.ranks, other.ranks):
            self.gram += other.gram.to(self.device)
            return
        for low in range(self.n_genes):
            high = np.arange(low, self.n_genes)
            a, b = theirs[low], theirs[high]
            place = panels_offset(np.minimum(a, b), np.maximum(a, b), self.n_genes)
            self.gram[torch.from_numpy(panels_offset(np.full_like(high, low), high, self.n_genes))] += other.gram[
                torch.from_numpy(place)
            ].to(self.device)

    def update_edges(
        self, partners: torch.Tensor, weights: torch.Tensor, *, min_cells: int, min_corr: float, positive: bool = False
    ) -> None:
        """Update the strongest partners of each gene by the panels at hand, once all cells have passed by.

        Parameters
        ----------
        partners, weights, min_corr, positive
            As `corrmask.ops.topk_edges` takes them; `no_edges` gives the first two.
        min_cells
            Genes expressed in fewer cells get no edges; of genes that not all files measured, pairs of which one is
            expressed in fewer of the cells that measured both.
        """
        for first_panel, gram, factors, scale in self._correlations(min_cells):
            ops.topk_edges(
                partners,
                weights,
                gram,
                self.ranks.to(self.device),
                factors,
                scale,
                min_corr=min_corr,
                positive=positive,
                first_panel=first_panel,
            )

    def _correlations(self, min_cells: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """First panel, panels, factors and scale from which `corrmask.ops.topk_edges` reads the correlations."""
        every = list(self.moments.values())
        if len(every) == 1:
            yield self.first_panel, self.gram, every[0].mean_factors(), every[0].inverse_sd(min_cells)
        if len(every) <= 1:
            return
        sets = torch.from_numpy(np.array([np.frombuffer(measured, dtype=bool) for measured in self.moments]))
        measured = sets[:, torch.argsort(self.ranks)].to(self.device)
        nothing = self.gram.new_zeros((1, self.n_genes))  # what stands in the panels is r itself
        ones = self.gram.new_ones(self.n_genes)
        starts = [panel_start(panel, self.n_genes) for panel in range(self.first_panel, -(-self.n_genes // PANEL) + 1)]
        bounds = [start - starts[0] for start in starts if start - starts[0] <= self.gram.numel()]
        panels = list(enumerate(pairwise(bounds), start=self.first_panel))
        for slab in (panels[at : at + _SLAB] for at in range(0, len(panels), _SLAB)):
            parts = [
                pairwise_correlation(self.gram[low:high].view(-1, PANEL), every, measured, panel, min_cells=min_cells)
                for panel, (low, high) in slab
            ]
            yield slab[0][0], torch.cat(parts).view(-1), nothing, ones
