"""Accumulation of the Gram matrix of genes over chunks of cells."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import check_csr, check_devices, check_integer, check_tensor

PANEL = 128
_Rank = TypeVar("_Rank", int, np.ndarray)


def panels_size(n_genes: int) -> int:
    """Entries of the Gram matrix of `n_genes` genes in panels: about half of the square."""
    return panel_start(-(-n_genes // PANEL), n_genes)


def panel_start(panel: _Rank, n_genes: int) -> _Rank:
    """Entries of the panels before one."""
    return PANEL * (panel * n_genes - PANEL * (panel * (panel - 1) // 2))


def panels_offset(low: np.ndarray, high: np.ndarray, n_genes: int) -> np.ndarray:
    """Where the entry of the genes of ranks `low` <= `high` stands: int64, of their shape."""
    panel = low // PANEL
    start = panel_start(panel, n_genes)
    return start + (high - PANEL * panel) * PANEL + (low - PANEL * panel)


def panels_within(n_genes: int, bytes_at_most: int) -> list[tuple[int, int]]:
    """Cut the panels of `n_genes` genes into runs (first, behind the last) of at most so many bytes, panels whole."""
    n_panels = -(-n_genes // PANEL)
    starts = [8 * panel_start(panel, n_genes) for panel in range(n_panels + 1)]
    runs, first = [], 0
    for panel in range(1, n_panels + 1):
        if panel == n_panels or starts[panel + 1] - starts[first] > bytes_at_most:
            runs.append((first, panel))
            first = panel
    return runs or [(0, 0)]


def check_gram(op: str, gram: object, n_genes: int, first_panel: int) -> None:
    """Check that `gram` can be panels of `n_genes` genes from `first_panel` on; the kernel sees whether whole."""
    check_integer(op, "first_panel", first_panel, 0, -(-n_genes // PANEL))
    size = panels_size(n_genes)
    whole = first_panel == 0
    check_tensor(op, "gram", gram, (torch.float64,), (None,), f"[panels_size(G)] = [{size}]" if whole else "[panels]")


def covariance_update(
    gram: Tensor,
    sums: Tensor,
    squares: Tensor,
    expressed: Tensor,
    ranks: Tensor,
    indptr: Tensor,
    indices: Tensor,
    counts: Tensor,
    levels: Tensor,
    *,
    target_sum: float | None = None,
    first_panel: int = 0,
) -> None:
    """Add a chunk of cells to the accumulators, in place.

    y = log1p(count * target_sum / total of the cell) in float64, or the values as they are. Bounded: the correlations
    that follow err by at most 1e-5, at any number of cells. Within blocks of 8,192 cells products are summed in
    float32, genes in more than half of them shifted by their mean there; blocks add up in float64. The bytes do not
    depend on the number of threads; between instruction sets (fused multiply-add) the last bits may differ.

    Parameters
    ----------
    gram
        float64 [panels_size(G)]: sums of y_i * y_j, genes by rank, in panels of 128 (csrc/portable/panels.h). Or some
        of the panels, `first_panel` and those behind it: the passes that follow one another where memory is short.
    sums
        float64 [n_levels, G]: sums of y in each level of the cells, genes by rank.
    squares
        float64 [G]: sums of y * y, genes by rank.
    expressed
        int64 [G]: cells in which each gene has y > 0, genes by rank.
    ranks
        int32 [n_columns]: the place of each column's gene in the accumulators, each once; by falling frequency, or it
        takes longer. -1 leaves a column out (but not out of the cell's total).
    indptr, indices, counts
        int64 [N + 1], int32 or int64 [nnz] (unique within a cell, in any order), float32, float64, int32 or int64
        [nnz]: the chunk, cells x columns in compressed rows.
    levels
        int64 [N]: the level of each cell, 0 .. n_levels - 1.
    target_sum
        Counts per cell after normalisation; None takes the values as y.
    first_panel
        First panel in `gram`. Only with 0 are `sums`, `squares` and `expressed` updated, so that passes count once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range, or a column stands twice in a cell.
    """
    op = "covariance_update"
    check_tensor(op, "sums", sums, (torch.float64,), (None, None), "[n_levels, G]")
    n_genes = sums.shape[1]
    check_gram(op, gram, n_genes, first_panel)
    check_tensor(op, "ranks", ranks, (torch.int32,), (None,), "[n_columns]")
    check_tensor(op, "squares", squares, (torch.float64,), (n_genes,), "[G]")
    check_tensor(op, "expressed", expressed, (torch.int64,), (n_genes,), "[G]")
    check_csr(op, indptr, indices, counts, "counts")
    check_tensor(op, "levels", levels, (torch.int64,), (indptr.shape[0] - 1,), "[N]")
    if target_sum is not None and not 0 < target_sum < float("inf"):
        raise ValueError(f"corrmask.{op}: 'target_sum' must be positive and finite, or None, got {target_sum}")
    for name, accumulator in (("gram", gram), ("sums", sums), ("squares", squares), ("expressed", expressed)):
        if not accumulator.is_contiguous():
            raise ValueError(f"corrmask.{op}: {name!r} is updated in place and must be contiguous")
    check_devices(
        op,
        gram,
        sums=sums,
        squares=squares,
        expressed=expressed,
        ranks=ranks,
        indptr=indptr,
        indices=indices,
        counts=counts,
        levels=levels,
    )
    require_device(op, gram)
    chunk = (tensor.contiguous() for tensor in (ranks, indptr, indices, counts, levels))
    call(
        torch.ops.corrmask.covariance_update,
        gram,
        sums,
        squares,
        expressed,
        *chunk,
        target_sum=float(target_sum or 0),
        first_panel=first_panel,
    )


@torch.library.register_fake("corrmask::covariance_update")
def _(
    gram: Tensor,
    sums: Tensor,
    squares: Tensor,
    expressed: Tensor,
    ranks: Tensor,
    indptr: Tensor,
    indices: Tensor,
    counts: Tensor,
    levels: Tensor,
    *,
    target_sum: float,
    first_panel: int,
) -> None:
    return None
