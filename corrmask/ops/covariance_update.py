"""Accumulation of the Gram matrix of genes over chunks of cells."""

from __future__ import annotations

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import INDEX_DTYPES, check_devices, check_tensor


def covariance_update(
    gram: Tensor,
    sums: Tensor,
    expressed: Tensor,
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    levels: Tensor,
) -> None:
    """Add a chunk of cells to the accumulators, in place.

    Bounded: float64 throughout, each entry summed over the cells in their order. The bytes do not depend on the number
    of threads; how cells are cut into chunks does not change the order of the sums either.

    Parameters
    ----------
    gram
        float64 [G (G + 1) / 2], the upper triangle row after row: sums of y_i * y_j.
    sums
        float64 [n_levels, G]: sums of y in each level of the cells.
    expressed
        int64 [G]: cells in which each gene has y > 0.
    indptr, indices, values
        int64 [N + 1], int32 or int64 [nnz] (ascending within a cell), float64 [nnz]: the chunk's log1p-normalised
        counts y, cells x genes in compressed rows.
    levels
        int64 [N]: the level of each cell, 0 .. n_levels - 1.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range, or columns do not ascend.
    """
    op = "covariance_update"
    check_tensor(op, "sums", sums, (torch.float64,), (None, None), "[n_levels, G]")
    n_genes = sums.shape[1]
    size = n_genes * (n_genes + 1) // 2
    check_tensor(op, "gram", gram, (torch.float64,), (size,), f"[G (G + 1) / 2] = [{size}]")
    check_tensor(op, "expressed", expressed, (torch.int64,), (n_genes,), "[G]")
    check_tensor(op, "indptr", indptr, (torch.int64,), (None,), "[N + 1]")
    if indptr.shape[0] == 0:
        raise ValueError(f"corrmask.{op}: 'indptr' must be int64 of shape [N + 1], got none")
    check_tensor(op, "indices", indices, INDEX_DTYPES, (None,), "[nnz]")
    check_tensor(op, "values", values, (torch.float64,), (indices.shape[0],), "[nnz], as 'indices'")
    check_tensor(op, "levels", levels, (torch.int64,), (indptr.shape[0] - 1,), "[N]")
    for name, accumulator in (("gram", gram), ("sums", sums), ("expressed", expressed)):
        if not accumulator.is_contiguous():
            raise ValueError(f"corrmask.{op}: {name!r} is updated in place and must be contiguous")
    check_devices(
        op, gram, sums=sums, expressed=expressed, indptr=indptr, indices=indices, values=values, levels=levels
    )
    require_device(op, gram)
    chunk = (tensor.contiguous() for tensor in (indptr, indices, values, levels))
    call(torch.ops.corrmask.covariance_update, gram, sums, expressed, *chunk)


@torch.library.register_fake("corrmask::covariance_update")
def _(
    gram: Tensor, sums: Tensor, expressed: Tensor, indptr: Tensor, indices: Tensor, values: Tensor, levels: Tensor
) -> None:
    return None
