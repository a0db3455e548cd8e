"""Value binning: each cell's nonzero values in bins of about equal numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import check_csr, check_devices, check_integer, check_tensor, scalar_tensor


def bin_values(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    cell_ids: Tensor,
    *,
    n_bins: int = 51,
    seed: int | Tensor = 0,
    epoch: int | Tensor = 0,
) -> Tensor:
    """Bin the values of cells as scGPT does. Exact.

    Per cell: the edges are the n_bins - 1 quantiles 0 .. 1 of its nonzero values, interpolated linearly in float64. A
    value's bin is the number of edges at or below it; one that equals several edges is in one of the bins that they
    bound, each with the same chance: up_to - bounded(w0, up_to - below), `below` and `up_to` being the edges below it
    and those at or below it, w0 of the Philox draw at index = gene column, stream 5.

    Parameters
    ----------
    indptr
        int64 [N + 1]: where each cell starts (cells x genes in compressed rows).
    indices
        int32 or int64 [nnz]: gene columns, in any order within a cell, none twice.
    values
        float32, float64, int32 or int64 [nnz]: counts or normalised values, 0 or more.
    cell_ids
        int64 [N]: each cell's number, from which its draws come.
    n_bins
        Bins, that of zero included; >= 2.
    seed, epoch
        int, or int64 tensors of one element: 0 .. 2**63 - 1 and 0 .. 2**28 - 1.

    Returns
    -------
    Tensor
        int32 [nnz]: 1 .. n_bins - 1, and 0 for a stored zero.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range.

    References
    ----------
    Cui et al. scGPT: toward building a foundation model for single-cell multi-omics using generative AI. Nature
    Methods, 2024. Where it draws by numpy's generator, here a draw is a function of (seed, epoch, cell, gene).
    """
    op = "bin_values"
    check_csr(op, indptr, indices, values, "values")
    check_tensor(op, "cell_ids", cell_ids, (torch.int64,), (indptr.shape[0] - 1,), "[N]")
    n_bins = check_integer(op, "n_bins", n_bins, 2, 2**20)
    check_devices(op, values, indptr=indptr, indices=indices, cell_ids=cell_ids)
    require_device(op, values)
    tensors = (tensor.contiguous() for tensor in (indptr, indices, values, cell_ids))
    return call(
        torch.ops.corrmask.bin_values,
        *tensors,
        seed=scalar_tensor(op, "seed", seed, 2**63 - 1, values),
        epoch=scalar_tensor(op, "epoch", epoch, 2**28 - 1, values),
        n_bins=n_bins,
    )


@torch.library.register_fake("corrmask::bin_values")
def _(
    indptr: Tensor, indices: Tensor, values: Tensor, cell_ids: Tensor, *, seed: Tensor, epoch: Tensor, n_bins: int
) -> Tensor:
    return indices.new_empty(indices.shape, dtype=torch.int32)
