"""Sums over the cells of files that measured the same genes, and the correlation of genes that not every file measured.

Of genes i and j let C be the cells of all files that measured both. Everything in r_ij is over C alone:

    cov_ij = sum y_i y_j - sum over levels (sum y_i) (sum y_j) / n        n, sums: cells of the level in C
    var_i  = sum y_i^2   - sum over levels (sum y_i)^2 / n                var_j likewise
    r_ij   = cov_ij / sqrt(var_i var_j)

which is Pearson's r over C, its means taken within the levels: so -1 <= r <= 1. Nothing is imputed: the products of the
Gram matrix hold nothing where a gene was not measured, and the other sums are kept for each set of genes that was
measured together. Where all files measured the same genes there is one such set, and r is that of `Covariance`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from corrmask.ops.covariance_update import PANEL

# A centred sum of squares below this share of the raw one is rounding: float64 sums of 10**7 equal values, added one
# after another, err by 1e-10 to 1e-9 of themselves. A gene of mean^2 / variance <= 1e4 is far above.
_CONSTANT = 1e-8
_VANISHING = 1e-36  # a cell with y > 0: values below 1e-18, whose products float32 cannot hold
_TILE = 1024  # genes against a panel: 1 MB, so that what is computed of them stays in the cache


class Moments:
    """Sums of the cells of one set of measured genes. Genes stand by rank, as in `corrmask.covariance.Covariance`.

    Attributes
    ----------
    sums
        float64 tensor [n_levels, G]: sums of y in each level.
    squares
        float64 tensor [G]: sums of y * y.
    expressed
        int64 tensor [G]: cells with y > 0.
    level_cells
        Cells of each level, in the order of the rows of `sums`.
    """

    def __init__(self, n_genes: int, device: torch.device | str = "cpu") -> None:
        self.level_cells: dict[str, int] = {}
        self.sums = torch.zeros((0, n_genes), dtype=torch.float64, device=device)
        self.squares = torch.zeros(n_genes, dtype=torch.float64, device=device)
        self.expressed = torch.zeros(n_genes, dtype=torch.int64, device=device)

    def rows_of_levels(self, names: Sequence[str]) -> list[int]:
        """The row of `sums` of each level; a new level gets a new row."""
        new = [name for name in names if name not in self.level_cells]
        self.level_cells.update(dict.fromkeys(new, 0))
        self.sums = torch.cat([self.sums, self.sums.new_zeros((len(new), self.sums.shape[1]))])
        row_of = {name: row for row, name in enumerate(self.level_cells)}
        return [row_of[name] for name in names]

    def add(self, other: Moments, theirs: torch.Tensor) -> None:
        """Add those of other cells, of any device; `theirs` [G] is where the gene of our rank stands with them."""
        device, theirs = self.sums.device, theirs.to(other.sums.device)
        rows = self.rows_of_levels(list(other.level_cells))
        for name, cells in other.level_cells.items():
            self.level_cells[name] += cells
        self.sums[rows] += other.sums[:, theirs].to(device)
        self.squares += other.squares[theirs].to(device)
        self.expressed += other.expressed[theirs].to(device)

    def mean_factors(self) -> torch.Tensor:
        """sqrt(cells) * mean of each gene in each level, whose products centre the Gram: float64 [n_levels, G]."""
        cells = torch.tensor(list(self.level_cells.values()), dtype=torch.float64, device=self.sums.device)
        return self.sums / cells.sqrt()[:, None]

    def inverse_sd(self, min_cells: int) -> torch.Tensor:
        """1 / sqrt(centred sum of squares): float64 [G]; 0 for constant genes and those in fewer than `min_cells`."""
        centred = self.squares - self.mean_factors().square().sum(dim=0)
        varies = (centred > _CONSTANT * self.squares + _VANISHING * self.expressed) & (self.expressed >= min_cells)
        return torch.where(varies, centred.clamp_min(0).rsqrt(), 0.0)


def pairwise_correlation(
    gram: torch.Tensor, moments: Sequence[Moments], measured: torch.Tensor, panel: int, *, min_cells: int
) -> torch.Tensor:
    """r of the genes of one panel with every gene from its first one on, each over the cells that measured both.

    Parameters
    ----------
    gram
        float64 [G - 128 panel, 128]: the panel of the Gram matrix.
    moments, measured
        The sums of each set of genes, and bool [n_sets, G], by rank: the genes in it.
    panel
        Which.
    min_cells
        A pair of which one gene is expressed in fewer of the cells that measured both has no r.

    Returns
    -------
    float64 tensor as `gram`: r, exact up to float64 rounding; NaN where there is none, or one of the genes is constant.
    """
    first, n_genes = panel * PANEL, measured.shape[1]
    own = slice(first, min(first + PANEL, n_genes))
    mask = measured.double()
    parts_of: dict[str, list[int]] = {}  # each level's sets: those with cells of it
    for part, one in enumerate(moments):
        for level in one.level_cells:
            parts_of.setdefault(level, []).append(part)
    levels = []
    for level, parts in parts_of.items():
        rows = [moments[part].rows_of_levels([level])[0] for part in parts]
        sums = torch.stack([moments[part].sums[row] for part, row in zip(parts, rows, strict=True)])
        n_cells = sums.new_tensor([moments[part].level_cells[level] for part in parts])
        levels.append((mask[parts], sums, n_cells[:, None]))
    squares = torch.stack([one.squares for one in moments])
    expressed = torch.stack([one.expressed for one in moments]).double()
    result = torch.full_like(gram, torch.nan)
    for low in range(first, n_genes, _TILE):
        others = slice(low, min(low + _TILE, n_genes))
        tile = slice(others.start - first, others.stop - first), slice(0, own.stop - own.start)
        covariance = gram[tile].clone()
        raw_other, raw_own = squares[:, others].T @ mask[:, own], mask[:, others].T @ squares[:, own]
        centred_other, centred_own = raw_other.clone(), raw_own.clone()
        for inside, sums, n_cells in levels:
            inverse = ((inside * n_cells)[:, others].T @ inside[:, own]).reciprocal_()
            inverse[torch.isinf(inverse)] = 0
            sum_other, sum_own = sums[:, others].T @ inside[:, own], inside[:, others].T @ sums[:, own]
            covariance.addcmul_(sum_other * sum_own, inverse, value=-1)
            centred_other.addcmul_(sum_other.square(), inverse, value=-1)
            centred_own.addcmul_(sum_own.square_(), inverse, value=-1)
        cells_other, cells_own = expressed[:, others].T @ mask[:, own], mask[:, others].T @ expressed[:, own]
        usable = centred_other > _CONSTANT * raw_other + _VANISHING * cells_other
        usable &= centred_own > _CONSTANT * raw_own + _VANISHING * cells_own
        usable &= (cells_other >= min_cells) & (cells_own >= min_cells)
        r = covariance * (centred_other.rsqrt_() * centred_own.rsqrt_())
        result[tile] = torch.where(usable, r, torch.nan)
    return result
