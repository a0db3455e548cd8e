"""Accumulation of the Gram matrix of genes over chunks of cells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import INDEX_DTYPES, check_devices, check_tensor

PANEL = 128


def panels_size(n_genes: int) -> int:
    """Entries of the Gram matrix of `n_genes` genes in panels: about half of the square."""
    panels = -(-n_genes // PANEL)
    return PANEL * (panels * n_genes - PANEL * (panels * (panels - 1) // 2))


def panels_offset(low: np.ndarray, high: np.ndarray, n_genes: int) -> np.ndarray:
    """Where the entry of the genes of ranks `low` <= `high` stands: int64, of their shape."""
    panel = low // PANEL
    start = PANEL * (panel * n_genes - PANEL * (panel * (panel - 1) // 2))
    return start + (high - PANEL * panel) * PANEL + (low - PANEL * panel)


def covariance_update(
    gram: Tensor,
    sums: Tensor,
    squares: Tensor,
    expressed: Tensor,
    ranks: Tensor,
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    levels: Tensor,
) -> None:
    """Add a chunk of cells to the accumulators, in place.

    Bounded: the correlations that follow err by at most 1e-5, at any number of cells. Within blocks of 4,096 cells
    products are summed in float32, genes in more than half of them shifted by their mean there; blocks add up in
    float64. The bytes do not depend on the number of threads.

    Parameters
    ----------
    gram
        float64 [panels_size(G)]: sums of y_i * y_j, genes by rank, in panels of 128 (csrc/portable/panels.h).
    sums
        float64 [n_levels, G]: sums of y in each level of the cells.
    squares
        float64 [G]: sums of y * y.
    expressed
        int64 [G]: cells in which each gene has y > 0.
    ranks
        int32 [G]: the place of each gene in `gram`, a permutation; by falling frequency, or it takes longer.
    indptr, indices, values
        int64 [N + 1], int32 or int64 [nnz] (unique within a cell, in any order), float64 [nnz]: the chunk's
        log1p-normalised counts y, cells x genes in compressed rows.
    levels
        int64 [N]: the level of each cell, 0 .. n_levels - 1.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range, or a column stands twice in a cell.
    """
    op = "covariance_update"
    check_tensor(op, "sums", sums, (torch.float64,), (None, None), "[n_levels, G]")
    n_genes = sums.shape[1]
    size = panels_size(n_genes)
    check_tensor(op, "gram", gram, (torch.float64,), (size,), f"[panels_size(G)] = [{size}]")
    check_tensor(op, "ranks", ranks, (torch.int32,), (n_genes,), "[G]")
    check_tensor(op, "squares", squares, (torch.float64,), (n_genes,), "[G]")
    check_tensor(op, "expressed", expressed, (torch.int64,), (n_genes,), "[G]")
    check_tensor(op, "indptr", indptr, (torch.int64,), (None,), "[N + 1]")
    if indptr.shape[0] == 0:
        raise ValueError(f"corrmask.{op}: 'indptr' must be int64 of shape [N + 1], got none")
    check_tensor(op, "indices", indices, INDEX_DTYPES, (None,), "[nnz]")
    check_tensor(op, "values", values, (torch.float64,), (indices.shape[0],), "[nnz], as 'indices'")
    check_tensor(op, "levels", levels, (torch.int64,), (indptr.shape[0] - 1,), "[N]")
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
        values=values,
        levels=levels,
    )
    require_device(op, gram)
    chunk = (tensor.contiguous() for tensor in (ranks, indptr, indices, values, levels))
    call(torch.ops.corrmask.covariance_update, gram, sums, squares, expressed, *chunk)


@torch.library.register_fake("corrmask::covariance_update")
def _(
    gram: Tensor,
    sums: Tensor,
    squares: Tensor,
    expressed: Tensor,
    ranks: Tensor,
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    levels: Tensor,
) -> None:
    return None
